"""Task heads: the stock one of each family, and a study's own, which join the registry in every process that works for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from spaces.errors import Fault
from spaces.families.layout import Family, Tensors, linear, norm
from spaces.named import all_named

if TYPE_CHECKING:
    from spaces.student import StudentShape

STOCK = "stock"
TOKEN_HEADS = {"token": "classifier", "span": "qa_outputs"}  # one linear layer, of the same name in every architecture
_CLS = ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias")
_LM_HEAD = ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias")
# Of heads that tell masked pieces, by architecture: a layer, its norm, and biases; their last product is with the word embeddings.
MASKED_HEADS = {
    "bert": _CLS,
    "albert": ("predictions.dense", "predictions.LayerNorm", "predictions.bias"),
    "distilbert": ("vocab_transform", "vocab_layer_norm", "vocab_projector.bias"),
    "electra": ("generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head.bias"),
    "roberta": _LM_HEAD,
    "xlm-roberta": _LM_HEAD,  # of teachers alone: their students are of family roberta
    "squeezebert": _CLS,
}
DENSE = (
    "2_Dense"  # the folder in a delivered one where sentence-transformers looks for a linear layer behind the pooling
)


class Head(Protocol):
    """A torch.nn.Module of the user's: built from a Hugging Face config, called with the last hidden states (B, T, H) and the
    mask (B, T), it returns the outputs: (B, C) for texts, (B, T, C) for tokens, (B, T, 2) for spans. `tensors` says what it
    stores, before anything is built."""

    tensors: Callable[[StudentShape], Tensors]

    def __call__(self, hidden_BTH: Any, mask_BT: Any) -> Any: ...


HEADS: dict[str, type[Head] | None] = {STOCK: None}


def register_heads(own: Mapping[str, str]) -> list[Fault]:
    """Imports the heads that a study names (name -> "file.py:Class") into the registry; what is wrong with them."""
    found, faults = all_named(own, "heads", _fault_of)
    HEADS.update(found)
    return faults


def _fault_of(name: str, path: str, head: Any) -> str:
    if name == STOCK:
        return "is every family's own head; choose another name"
    known = isinstance(head, type) and callable(getattr(head, "tensors", None))
    return "" if known else f"{path} is no class with a static method `tensors` (docs/extending.md)"


def with_head(family: Family, shape: StudentShape) -> Tensors:
    """What a family stores, with the shape's own head in place of its stock one. That of tokens and spans is one linear layer, in
    every family: it reads no first token through a pooler, which stays where the family's stock model has it all the same."""
    stored, head = family.tensors(shape), HEADS[shape.head]
    if head is None and shape.task_head == "text":
        return stored
    encoder = {name: size for name, size in stored.items() if not is_stock_head(name)}
    if (
        shape.task_head == "embedding"
    ):  # what is pooled is the vector, or a linear layer makes it as wide as the teacher's
        same = shape.hidden_size == shape.num_labels
        return encoder if same else encoder | linear("head.linear", shape.num_labels, shape.hidden_size)
    if head is None:
        encoder |= {name: size for name, size in stored.items() if family.always_pools and ".pooler." in name}
    if shape.task_head == "masked":
        dense, normed, bias = MASKED_HEADS[family.model_type(shape)]
        width = shape.embedding_size
        return (
            encoder | linear(dense, width, shape.hidden_size) | norm(normed, width) | {bias: (shape.vocabulary_size,)}
        )
    if head is None:
        return encoder | linear(TOKEN_HEADS[shape.task_head], shape.num_labels, shape.hidden_size)
    return encoder | {f"head.{name}": tuple(size) for name, size in head.tensors(shape).items()}


def in_files(stored: Tensors, shape: StudentShape) -> dict[str, Tensors]:
    """The tensors by the file that holds them in a delivered folder. Of sentence embeddings that is as sentence-transformers has
    it: the bare encoder, whose names lack its prefix, and what follows the pooling in a folder of its own."""
    if shape.task_head != "embedding":
        return {"model.safetensors": stored}
    files: dict[str, Tensors] = {}
    for name, size in stored.items():
        part, _, inside = name.partition(".")
        files.setdefault(f"{DENSE}/model.safetensors" if part == "head" else "model.safetensors", {})[inside] = size
    return files


def is_stock_head(name: str) -> bool:
    """Whether a tensor belongs to the pooler or the classifier, as Hugging Face names them."""
    return name.split(".")[0] in ("classifier", "pre_classifier") or ".pooler." in name
