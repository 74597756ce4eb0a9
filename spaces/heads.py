"""Task heads: the stock one of each family, and a study's own, which join the registry in every process that works for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from spaces.errors import Fault
from spaces.families.layout import Tensors
from spaces.named import function_named

if TYPE_CHECKING:
    from spaces.student import StudentShape

STOCK = "stock"


class Head(Protocol):
    """A torch.nn.Module of the user's: built from a Hugging Face config, called with the last hidden states (B, T, H) and the
    mask (B, T), it returns the outputs (B, C). `tensors` says what it stores, before anything is built."""

    tensors: Callable[[StudentShape], Tensors]

    def __call__(self, hidden_BTH: Any, mask_BT: Any) -> Any: ...


HEADS: dict[str, type[Head] | None] = {STOCK: None}


def register_heads(own: Mapping[str, str]) -> list[Fault]:
    """Imports the heads that a study names (name -> "file.py:Class") into the registry; what is wrong with them."""
    faults = []
    for name, path in own.items():
        try:
            head = function_named(path)
        except Exception as error:
            faults.append(Fault(f"heads.{name}", f"{path} cannot be imported: {type(error).__name__}: {error}"))
            continue
        if name == STOCK:
            faults.append(Fault(f"heads.{name}", "is every family's own head; choose another name"))
        elif not isinstance(head, type) or not callable(getattr(head, "tensors", None)):
            faults.append(
                Fault(f"heads.{name}", f"{path} is no class with a static method `tensors` (docs/extending.md)")
            )
        else:
            HEADS[name] = head
    return faults


def with_head(stored: Tensors, shape: StudentShape) -> Tensors:
    """What a family stores, with the shape's own head in place of its stock one."""
    head = HEADS[shape.head]
    if head is None:
        return stored
    encoder = {name: size for name, size in stored.items() if not is_stock_head(name)}
    return encoder | {f"head.{name}": tuple(size) for name, size in head.tensors(shape).items()}


def is_stock_head(name: str) -> bool:
    """Whether a tensor belongs to the pooler or the classifier, as Hugging Face names them."""
    return name.split(".")[0] in ("classifier", "pre_classifier") or ".pooler." in name
