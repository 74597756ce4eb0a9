"""How much each head, neuron and hidden dimension of the teacher matters: what narrower students keep.

After DynaBERT (arXiv:2004.04037, section 2.1): the first-order change of the loss when a part's output is taken away, the
size of activation times gradient, summed over texts. DynaBERT ranks heads and feed-forward neurons; hidden dimensions and the
pooler's outputs are ranked here by the same rule, over the outputs of all layers. Vectors have no labels and so no loss: there it
is the change of the vector, in a direction drawn for each text.

Legend: B batch, T tokens, L layers, A heads, D head size, I feed-forward size, H hidden.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from search.trial.batches import evaluation_rows, padded
from search.trial.context import WorkerContext
from search.trial.data import Tokens
from search.trial.device import autocast, device
from search.trial.forward import Classifier, stored_layers
from search.trial.layouts import LAYOUTS
from search.trial.losses import TARGET_LOSSES
from spaces.heads import TOKEN_HEADS
from spaces.yaml_io import write_whole

FILE = "importance.npz"  # in the teacher's folder
MAX_ROWS = 1024  # rows of the training text that are looked at


@dataclass(frozen=True)
class Importance:
    """The larger, the more it matters: heads (L, A), neurons (L, I), hidden (H,), pooled (H,)."""

    heads: np.ndarray
    neurons: np.ndarray
    hidden: np.ndarray
    pooled: np.ndarray

    def save(self, folder: Path) -> None:
        content = io.BytesIO()
        np.savez(content, **vars(self))
        write_whole(folder / FILE, content.getvalue())


def load_importance(folder: str) -> Importance | None:
    """What was ranked for the teacher in `folder`, or None."""
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as kept:
        return Importance(**kept)


def rank(
    model: Any, tokens: Tokens, labels: np.ndarray, target: str, pad_id: int, context: WorkerContext
) -> Importance:
    """Runs the teacher, in eval mode, forwards and backwards over (at most MAX_ROWS of) the labelled rows. Its weights get no
    gradient: that of the activations is all that is asked for."""
    layout, config = LAYOUTS[model.config.model_type], model.config
    chosen = np.random.default_rng(0).permutation(len(tokens))[:MAX_ROWS]
    labels, tokens = labels[tokens.numbers(chosen)], tokens.taken(chosen)
    seen: dict[tuple[str, int], torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            value = output if name == "hidden" else inputs[0]
            value.retain_grad()
            seen[name, sum(known == name for known, _ in seen)] = value  # layers run in order, shared ones again

        return hook

    last = layout.classifier if tokens.places is None else TOKEN_HEADS["span" if target == "span" else "token"]
    last = "head" if target == "vector" else last
    drawn = torch.Generator().manual_seed(0)
    handles = [model.get_submodule(last).register_forward_hook(keep("pooled"))]
    for name, part in (("heads", "attention_output"), ("neurons", "output"), ("hidden", "output_norm")):
        for module in {id(layer[part]): layer[part] for layer in stored_layers(model)}.values():
            handles.append(module.register_forward_hook(keep(name)))
    embeddings = model.get_submodule(layout.embeddings)
    handles.append(embeddings.register_forward_hook(lambda module, inputs, output: output.requires_grad_()))
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in trained:
        weight.requires_grad_(False)
    where = device()
    model.to(where).eval()
    forward = Classifier(model)
    kind = np.int64 if target in ("class", "tags") else np.float32
    sums: dict[str, torch.Tensor] = {}
    done = 0
    try:
        for rows in evaluation_rows(tokens.lengths, max_rows=64):
            batch = padded(tokens, rows, pad_id).to(where)
            seen.clear()
            with torch.enable_grad():
                with autocast():
                    outputs = batch.read(forward(batch.ids_BT, batch.mask_BT, batch.types_BT))
                outputs = batch.compared(target, outputs)
                # num_valid=1: a sum over rows, so that each row's gradient is its own
                known = torch.from_numpy(labels[batch.numbers].astype(kind)).to(where)
                if target == "vector":
                    loss = (outputs * torch.randn(outputs.shape, generator=drawn).to(where)).sum()
                else:
                    loss = TARGET_LOSSES[target].hard(outputs, batch.compared(target, known, elsewhere=0), 1)
                loss.backward()
            for name, index in seen:
                value = seen[name, index]
                assert value.grad is not None
                change = value.detach().float() * value.grad.float()
                if value.ndim == 3:
                    change = change.sum(1)
                if name == "heads":
                    change = change.unflatten(-1, (config.num_attention_heads, -1)).sum(-1)
                key = name if name in ("hidden", "pooled") else f"{name}/{index}"
                sums[key] = sums.get(key, 0) + change.abs().sum(0).cpu()
            done += len(rows)
            context.heartbeat(done, len(tokens))
    finally:
        for handle in handles:
            handle.remove()
        for weight in trained:
            weight.requires_grad_(True)
    each = {
        name: torch.stack([sums[f"{name}/{index}"] for index in range(config.num_hidden_layers)]).numpy()
        for name in ("heads", "neurons")
    }
    return Importance(**each, hidden=sums["hidden"].numpy(), pooled=sums["pooled"].numpy())


def most_important(values: np.ndarray, count: int) -> np.ndarray:
    """The places of the `count` largest values, rising; of equal ones the first."""
    return np.sort(np.argsort(-values, kind="stable")[:count])


def channels_of(heads_A: np.ndarray, head_size: int, count: int) -> np.ndarray:
    """The `count` attention channels to keep, whole heads by importance; where `count` is no multiple of `head_size`, the last
    head is kept in part. In the teacher's order."""
    by_importance = np.argsort(-heads_A, kind="stable")
    channels = (by_importance[:, None] * head_size + np.arange(head_size)).reshape(-1)
    return np.sort(channels[:count])
