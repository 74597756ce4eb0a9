"""The forward pass of a classifier, without what its head never reads.

The head reads the first token's last hidden state alone. So the last layer needs keys and values of every token, and
everything else (query, output, feed-forward: five sixths of its products) of the first token only. The logits are the
stock model's to rounding; a test holds that. Other architectures run as they are.

Legend: B batch, T tokens, Q query tokens (T, or 1 in the last layer), H hidden, A heads, D head size, C classes.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from search.trial.layouts import LAYOUTS, PARTS
from spaces.task import TASK_HEADS

MOST_WRITTEN_OUT = 2**25  # weights of attention: 200 MB a layer until the backward pass
SHORT = (
    "bert",
    "albert",
    "distilbert",
    "squeezebert",
    "electra",
    "roberta",
    "xlm-roberta",
)  # whose last layer is run for the first token alone
ATTENTION = "distilsearch"  # the name of `attention` among Hugging Face's


class Classifier(nn.Module):
    """A Hugging Face classifier behind one signature: (ids, mask, types) -> logits (B, C), of tokens (B, T, C), of spans
    (B, T, 2); of masked pieces the last states (B, T, H)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        for part in (model, getattr(model, "base_model", model)):  # of one config in a stock model
            if getattr(part.config, "_attn_implementation", None) == "sdpa":
                _register_attention()
                part.config._attn_implementation = ATTENTION  # of this process alone: it is not saved

    def forward(self, ids_BT: torch.Tensor, mask_BT: torch.Tensor, types_BT: torch.Tensor) -> torch.Tensor:
        return logits_of(self.outputs(ids_BT, mask_BT, types_BT))

    def outputs(self, ids_BT: torch.Tensor, mask_BT: torch.Tensor, types_BT: torch.Tensor | None, **more: Any) -> Any:
        """Hugging Face's own, with a name for each; of who tells masked pieces the encoder's alone (masking.piece_head)."""
        run = self.model.base_model if tells_pieces(self.model) else self.model
        return run(**named_inputs(self.model.config, ids_BT, mask_BT, types_BT), **more)


def logits_of(outputs: Any) -> torch.Tensor:
    """A head for spans has two outputs a piece, under a name each."""
    if "start_logits" in outputs:
        return torch.stack([outputs.start_logits, outputs.end_logits], -1)
    return outputs.logits if "logits" in outputs else outputs.last_hidden_state


def tells_pieces(model: Any) -> bool:
    return type(model).__name__.endswith(TASK_HEADS["masked"])


def named_inputs(config: Any, ids_BT: torch.Tensor, mask_BT: torch.Tensor, types_BT: Any) -> dict[str, torch.Tensor]:
    """What a Hugging Face encoder of this config takes."""
    named = {"input_ids": ids_BT, "attention_mask": mask_BT}
    return {**named, "token_type_ids": types_BT} if getattr(config, "type_vocab_size", 0) > 1 else named


def stored_layers(model: Any) -> list[dict[str, Any]]:
    """The parts of each layer as it is run, of states (..., H): where groups are shared, the same ones again (ALBERT's own index
    rule)."""
    config, layout = model.config, LAYOUTS[model.config.model_type]
    groups = getattr(config, "num_hidden_groups", config.num_hidden_layers)
    stored: list[dict[str, Any]] = [
        {part: model.get_submodule(f"{layout.layer.format(index=index)}.{layout.parts[part]}") for part in PARTS}
        for index in range(groups)
    ]
    if config.model_type == "squeezebert":
        stored = [{part: functools.partial(_squeezed, module) for part, module in layer.items()} for layer in stored]
    if config.model_type == "mobilebert":  # its queries and keys are made of thinner states
        for index, layer in enumerate(stored):
            thin = model.get_submodule(f"{layout.layer.format(index=index)}.bottleneck.attention")
            layer |= {part: nn.Sequential(thin, layer[part]) for part in ("query", "key")}
    return [stored[int(i / (config.num_hidden_layers / groups))] for i in range(config.num_hidden_layers)]


def _squeezed(module: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """SqueezeBERT's convolutions in groups, and its norms, over (..., H); the stock ones want (B, H, T). A product for each group
    takes half the time of PyTorch's convolution on a processor, and can be quantised (decision 0028)."""
    if isinstance(module, nn.LayerNorm):
        return F.layer_norm(rows, module.normalized_shape, module.weight, module.bias, module.eps)
    assert isinstance(module, nn.Conv1d)
    assert module.bias is not None
    parts = (
        rows.chunk(module.groups, -1),
        module.weight[..., 0].chunk(module.groups),
        module.bias.chunk(module.groups),
    )
    return torch.cat([F.linear(*part) for part in zip(*parts, strict=True)], -1)


class FirstTokenClassifier(Classifier):
    """The same logits for the families in SHORT, computing in the last layer what the head reads and no more."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        from transformers.activations import ACT2FN  # four seconds of imports that the driver never needs

        config = model.config
        layout = LAYOUTS[config.model_type]
        # Plain lists: the parameters belong to `model`, and are not to be registered twice.
        self._layers = stored_layers(model)
        modules = dict(model.named_modules())
        self._embeddings = [modules[name] for name in (layout.embeddings, layout.mapping) if name in modules and name]
        self._pooler = [] if layout.pooler.startswith("classifier.") else [model.get_submodule(layout.pooler)]
        distilbert = config.model_type == "distilbert"
        self._act = ACT2FN[config.activation if distilbert else config.hidden_act]
        self._pooled = torch.relu if distilbert else torch.tanh
        self._token_types = layout.token_types and config.type_vocab_size > 1
        self._num_heads = config.num_attention_heads
        # DistilBERT names its dropouts otherwise, and has none between attention and the residual.
        self._dropout = config.dropout if distilbert else config.hidden_dropout_prob
        self._attention_dropout = config.attention_dropout if distilbert else config.attention_probs_dropout_prob
        self._dropout_after_attention = 0.0 if distilbert else self._dropout

    def forward(self, ids_BT: torch.Tensor, mask_BT: torch.Tensor, types_BT: torch.Tensor) -> torch.Tensor:
        hidden_BTH = (
            self._embeddings[0](ids_BT, token_type_ids=types_BT) if self._token_types else self._embeddings[0](ids_BT)
        )
        for module in self._embeddings[1:]:
            hidden_BTH = module(hidden_BTH)
        mask_BQT = mask_BT.bool()[:, None, None, :]
        for layer in self._layers[:-1]:
            hidden_BTH = self._layer(layer, hidden_BTH, hidden_BTH, mask_BQT)
        first_B1H = self._layer(self._layers[-1], hidden_BTH[:, :1], hidden_BTH, mask_BQT)
        if not self._pooler:  # the head reads the first token itself
            return self.model.classifier(first_B1H)
        pooled_BH = self._pooled(self._pooler[0](first_B1H[:, 0]))
        return self.model.classifier(self.model.dropout(pooled_BH))

    def _layer(
        self, parts: dict[str, Any], query_BQH: torch.Tensor, hidden_BTH: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        def heads(rows: torch.Tensor) -> torch.Tensor:  # (B, A, rows, D)
            return rows.unflatten(-1, (self._num_heads, -1)).transpose(1, 2)

        def dropped(rows: torch.Tensor, rate: float) -> torch.Tensor:
            return F.dropout(rows, rate, self.training) if rate else rows

        mixed_BAQD = attention(
            heads(parts["query"](query_BQH)),
            heads(parts["key"](hidden_BTH)),
            heads(parts["value"](hidden_BTH)),
            mask,
            self._attention_dropout if self.training else 0.0,
        )
        attended = parts["attention_output"](mixed_BAQD.transpose(1, 2).flatten(-2))
        attended = parts["attention_norm"](dropped(attended, self._dropout_after_attention) + query_BQH)
        widened = parts["output"](self._act(parts["intermediate"](attended)))
        return parts["output_norm"](dropped(widened, self._dropout) + attended)


def attention(
    query_BAQD: torch.Tensor,
    key_BATD: torch.Tensor,
    value_BATD: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float,
) -> torch.Tensor:
    """softmax(query key' / sqrt(D)) value over the tokens that `mask` keeps (None: all), (B, A, Q, D).

    PyTorch's fused attention multiplies each head of each text by itself on a processor in bf16: of a step its backward pass
    alone took half. There it is written out, unless the table of weights would take too much memory (decision 0012)."""
    on_cpu_in_bf16 = query_BAQD.dtype == torch.bfloat16 and query_BAQD.device.type == "cpu"
    if not on_cpu_in_bf16 or query_BAQD.shape[:3].numel() * key_BATD.shape[2] > MOST_WRITTEN_OUT:
        return F.scaled_dot_product_attention(query_BAQD, key_BATD, value_BATD, attn_mask=mask, dropout_p=dropout)
    scores_BAQT = (query_BAQD * query_BAQD.shape[-1] ** -0.5) @ key_BATD.transpose(-1, -2)
    # In fp32 from here on: the sum takes the wider type of the two.
    seen = scores_BAQT.float() if mask is None else scores_BAQT + torch.zeros(mask.shape).masked_fill(~mask, -math.inf)
    weights_BAQT = seen.softmax(-1).to(value_BATD.dtype)
    return (F.dropout(weights_BAQT, dropout) if dropout else weights_BAQT) @ value_BATD


@functools.cache
def _register_attention() -> None:
    """`attention` as one of Hugging Face's implementations, with the mask of theirs that it stands in for."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def ours(
        module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None,
        dropout: float = 0.0, scaling: float | None = None, **more: Any,
    ) -> tuple[torch.Tensor, None]:  # fmt: skip
        plain = scaling is None or math.isclose(scaling, query.shape[-1] ** -0.5)
        causal = mask is None and getattr(module, "is_causal", True)
        known = mask is None or mask.dtype == torch.bool
        if causal or not (plain and known) or any(value is not None for value in more.values()):
            return sdpa_attention_forward(module, query, key, value, mask, dropout=dropout, scaling=scaling, **more)
        return attention(query, key, value, mask, dropout).transpose(1, 2).contiguous(), None

    AttentionInterface.register(ATTENTION, ours)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def classifier(model: Any) -> Classifier:
    """The model behind the one signature, in the quickest form that gives its logits."""
    config = model.config
    known = config.model_type in SHORT and not getattr(config, "is_decoder", False)
    known = known and type(model).__name__.endswith(
        TASK_HEADS["text"]
    )  # other heads, or one's own, may read every token
    plain = (
        getattr(config, "position_embedding_type", "absolute") == "absolute"
        and getattr(config, "inner_group_num", 1) == 1
    )
    return FirstTokenClassifier(model) if known and plain else Classifier(model)
