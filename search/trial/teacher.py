"""The teacher: loading it, giving it a task head where it has none, and its outputs over a split."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

from search.trial.context import WorkerContext
from search.trial.data import Split, TransferSet
from search.trial.pooling import MODULES
from spaces.study import FineTune
from spaces.task import TASK_HEADS


@functools.lru_cache(maxsize=1)
def load_teacher(folder: str) -> Any:
    """The teacher with its head, in eval mode; kept by the process, since every trial starts from its weights."""
    return load_with_head(Path(folder)).eval()


def load_with_head(folder: Path, own_code: bool = False) -> Any:
    """The model in a Hugging Face folder with the task head that its config names, or with the pooling that its modules.json does;
    `own_code`: with code from the folder."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    named = [*(config.get("architectures") or ()), *(config.get("auto_map") or ())]
    head = next((head for head, words in TASK_HEADS.items() if any(name.endswith(words) for name in named)), "")
    if not head and (folder / MODULES).is_file():
        from search.trial.embedding import EncoderForSentenceEmbedding

        return EncoderForSentenceEmbedding.of_folder(folder)
    return auto_model(head or "text").from_pretrained(folder, trust_remote_code=own_code, use_safetensors=True)


def auto_model(task_head: str) -> Any:
    """Hugging Face's class that loads any architecture with such a head."""
    import transformers

    return getattr(transformers, f"AutoModelFor{TASK_HEADS[task_head]}")


def fine_tune(
    base: str,
    folder: Path,
    settings: FineTune,
    transfer: TransferSet,
    seed: int,
    context: WorkerContext,
    *,
    start_share: float = 0.0,
    end_share: float = 1.0,
    continues: Path | None = None,
    accumulation_steps: int = 1,
) -> dict[str, float]:
    """Fine-tunes the encoder in `base` on the labels, from `start_share` to `end_share` of the steps; leaves in `folder` the
    model with its metrics, or before the end a checkpoint that the next part `continues`. Whole or not at all."""
    import torch

    from search.trial import checkpoint
    from search.trial.device import told_of_memory
    from search.trial.evaluate import score
    from search.trial.loop import Schedule, fit

    torch.manual_seed(seed)
    names = transfer.label_names
    rate = settings.dropout
    dropouts = {} if rate is None else {"hidden_dropout_prob": rate, "attention_probs_dropout_prob": rate}
    model = auto_model(transfer.task_head).from_pretrained(
        base,
        trust_remote_code=False,
        use_safetensors=True,
        num_labels=len(names),
        problem_type=transfer.problem_type,
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
        **dropouts,
    )
    vocabulary, split = transfer.vocabularies["full"], transfer.splits["train"]
    progress = None
    if continues is not None:
        checkpoint.load_weights(model, continues)
        progress = checkpoint.load_progress(continues)
    with told_of_memory(settings.batch_size, accumulation_steps):
        fitted = fit(
            model,
            split.tokens["full"],
            split.labels,
            None,
            Schedule(
                learning_rate=settings.learning_rate,
                batch_size=settings.batch_size,
                warmup_share=settings.warmup_share,
                epochs=settings.epochs,
            ),
            pad_id=vocabulary.pad_id,
            seed=seed,
            context=context,
            target=transfer.target,
            class_weights=transfer.class_weights,
            start_share=start_share,
            end_share=end_share,
            progress=progress,
            mask_id=vocabulary.mask_id,
            accumulation_steps=accumulation_steps,
        )
    if context.rank:
        return {}
    if end_share < 1:
        checkpoint.save_weights(model, folder, fitted.progress)
        return {}
    metrics = score(model, transfer, "full", ("validation",), context)
    with checkpoint.folder_whole(folder) as temporary:
        model.save_pretrained(temporary)
        for name, content in vocabulary.files.items():
            (temporary / name).write_bytes(content)
        (temporary / "fine_tuned.json").write_text(json.dumps(metrics))
    return metrics


def teach(folder: str, split: Split, rows: np.ndarray, pad_id: int, context: WorkerContext) -> np.ndarray:
    """(len(rows), C) the teacher's logits, or those of the rows' words: in eval mode, without gradients, in the order of `rows`."""
    from search.trial.evaluate import predict

    return predict(load_teacher(folder), split.tokens["full"].taken(rows), pad_id, context)
