"""Encoders that make one vector of a text: pooled over its pieces, of length 1. Saved as sentence-transformers reads them.

Legend: B batch, T tokens, H hidden, D numbers of a vector.
"""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModel

from search.trial.deliver.student_with_head import StudentWithHead
from search.trial.pooling import pooling_of, write_modules
from spaces.heads import DENSE


class PooledHead(nn.Module):
    """The last hidden states (B, T, H) as vectors of length 1 (B, D): their mean over the pieces that are there, or the first one;
    through a linear layer where D is not H. Of a config's `pooling` and `num_labels`, which is D."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.pooling = getattr(config, "pooling", "mean")
        same = config.hidden_size == config.num_labels
        self.linear = None if same else nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, hidden_BTH: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        hidden_BTH = hidden_BTH.float()
        if self.pooling == "cls":
            pooled = hidden_BTH[:, 0]
        else:
            kept = mask_BT[..., None].to(hidden_BTH.dtype)
            pooled = (hidden_BTH * kept).sum(1) / kept.sum(1).clamp(min=1)
        if self.linear is not None:
            pooled = self.linear(pooled)
        return F.normalize(pooled.float(), dim=-1)


class EncoderForSentenceEmbedding(StudentWithHead):
    """A bare encoder with a PooledHead, teacher or student. What others call logits are its vectors."""

    head_class = PooledHead
    output_name = "sentence_embedding"  # in an ONNX file

    @classmethod
    def of_folder(cls, folder: Path) -> EncoderForSentenceEmbedding:
        """As the folder's modules.json says; any encoder without one is pooled by the mean."""
        pooler = without_pooler(AutoConfig.from_pretrained(folder, trust_remote_code=False))
        encoder = AutoModel.from_pretrained(folder, trust_remote_code=False, use_safetensors=True, **pooler)
        weights = folder / DENSE / "model.safetensors"
        mapped = load_file(weights) if weights.is_file() else {}
        config = encoder.config
        config.pooling = pooling_of(folder, may_map=True)
        config.num_labels = len(mapped["linear.bias"]) if mapped else config.hidden_size
        with torch.device("meta"):
            model = cls(config)
        if config.model_type == "squeezebert":
            encoder.pooler = nn.Identity()
        setattr(model, model.base_model_prefix, encoder)
        model.head = PooledHead(config)
        model.head.load_state_dict(mapped)
        return model

    def save_pretrained(self, folder: Any, **more: Any) -> None:
        """A folder that `SentenceTransformer(folder)` and `AutoModel.from_pretrained(folder)` load: the encoder as it is by itself,
        and what makes a vector of its states."""
        encoder, config = self.base_model, self.config
        plain = copy.deepcopy(config)
        plain.num_labels = 2  # as any encoder without a head has it
        plain.__dict__.pop("pooling", None)
        encoder.config = plain
        try:
            encoder.save_pretrained(folder, **more)
        finally:
            encoder.config = config
        outputs, length = config.num_labels, getattr(config, "max_position_embeddings", None)
        write_modules(
            Path(folder), self.head.pooling, config.hidden_size, outputs, length, without_pooler(config)
        )  # fmt: skip
        if self.head.linear is not None:
            state = {name: tensor.contiguous() for name, tensor in self.head.state_dict().items()}
            save_file(state, Path(folder) / DENSE / "model.safetensors", {"format": "pt"})


def without_pooler(config: Any) -> dict[str, Any]:
    """What loads an encoder of this config without the pooler, which nothing here reads; of one that has none, nothing."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    takes = inspect.signature(MODEL_MAPPING[type(config)].__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in takes else {}
