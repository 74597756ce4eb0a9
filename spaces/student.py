"""StudentShape: an architecture that knows its exact size by arithmetic, before anything is built."""

from __future__ import annotations

import functools
import json
import math
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from spaces.families import FAMILIES
from spaces.heads import HEADS, MASKED_HEADS, STOCK, in_files, with_head

SOME_FAMILIES = ("num_conv_groups", "bottleneck_size", "num_feedforwards")
MAY_BE_0 = ("type_vocabulary_size", "bottleneck_size")
BYTES_A_WEIGHT = {"fp32": 4, "fp16": 2}
TELLERS = tuple(name for name in FAMILIES if name in MASKED_HEADS)  # families whose students tell masked pieces
TaskHead = Literal["text", "token", "span", "embedding", "masked"]  # what there is an output for


class Frozen(BaseModel):
    """Base of the nouns: frozen, checked at construction, unknown keys forbidden."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class TeacherShape(Frozen):
    """What arithmetic needs to know of the teacher. `model_type` is Hugging Face's; sizes count units, not bytes."""

    model_type: str
    depth: int
    hidden_size: int
    num_heads: int
    intermediate_size: int
    vocabulary_size: int
    max_positions: int
    type_vocabulary_size: int
    num_labels: int
    num_parameters: int
    embedding_size: int | None = None  # of a teacher that factorises its embeddings
    task_head: TaskHead = "text"

    def as_student(self) -> StudentShape:
        """The teacher as arithmetic sees it, and small enough to be built: an ALBERT is one layer, run again and again."""
        albert = self.model_type == "albert"
        return StudentShape(
            family="albert" if albert else "bert",
            num_hidden_groups=1 if albert else self.depth,
            embedding_size=self.embedding_size or self.hidden_size,
            **self.model_dump(exclude={"model_type", "num_parameters", "embedding_size"}),
        )


class StudentShape(Frozen):
    """An encoder with a head, the family's own unless another is named. `embedding_size` below `hidden_size` means factorised
    embeddings (ALBERT, arXiv:1909.11942, section 3.1); `num_hidden_groups` counts the layers stored (groups shared).
    The last three are of the families that name them in their `keys`; in others they are as they stand here.
    """

    family: str
    depth: int
    hidden_size: int
    num_heads: int
    intermediate_size: int
    embedding_size: int
    num_hidden_groups: int
    vocabulary_size: int
    max_positions: int
    type_vocabulary_size: int
    num_labels: int
    head: str = STOCK
    task_head: TaskHead = "text"
    num_conv_groups: int = 1
    bottleneck_size: int = 0
    num_feedforwards: int = 1

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.family not in FAMILIES:
            raise ValueError(f"family {self.family!r} is not known; the families are {sorted(FAMILIES)}")
        if self.head not in HEADS:
            raise ValueError(f"head {self.head!r} is not known; the heads are {sorted(HEADS)}")
        for name, value in self:
            if isinstance(value, int) and value < (0 if name in MAY_BE_0 else 1):
                raise ValueError(f"{name} = {value} is not allowed; write a whole number of at least 1")
        family = FAMILIES[self.family]
        for name in SOME_FAMILIES:
            default = type(self).model_fields[name].default
            if name not in family.keys and getattr(self, name) != default:
                raise ValueError(f"family {self.family} has no {name}: it must be {default}, not {getattr(self, name)}")
        if (width := self.bottleneck_size or self.hidden_size) % self.num_heads:
            raise ValueError(f"{self.num_heads} heads do not divide a width of {width}")
        if self.task_head == "masked" and family.model_type(self) not in MASKED_HEADS:
            raise ValueError(f"family {self.family} tells no masked pieces; {', '.join(TELLERS)} do")
        if self.embedding_size > self.hidden_size:
            raise ValueError(f"embedding_size {self.embedding_size} is above the width {self.hidden_size}")
        if self.num_hidden_groups > self.depth:
            raise ValueError(f"{self.num_hidden_groups} groups are more than {self.depth} layers")
        if fault := family.fault(self):
            raise ValueError(fault)
        return self

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor stored, as Hugging Face names them."""
        return with_head(FAMILIES[self.family], self)

    def files(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """The same by the file of a delivered folder that holds them, under their names there."""
        return in_files(self.tensors(), self)

    @property
    def num_parameters(self) -> int:
        return _num_parameters(self)

    @property
    def num_bytes(self) -> int:
        """Bytes of the delivered `model.safetensors` in fp32: its header and four bytes a weight; of all of them, where a head has
        its own."""
        return _num_bytes(self, 4)

    def num_bytes_in(self, precision: str) -> int:
        """The same in `fp32` or `fp16`."""
        return _num_bytes(self, BYTES_A_WEIGHT[precision])

    @property
    def sizes(self) -> dict[str, float]:
        """By the names that objectives and bounds have for them."""
        return {"parameters": float(self.num_parameters), "bytes": float(self.num_bytes)}

    def flops(self, num_tokens: int) -> int:
        """Multiply-adds times two of one forward pass over one text of `num_tokens` tokens (matrix products only)."""
        return FAMILIES[self.family].flops(self, num_tokens)


# A front is redrawn over all trials whenever one ends: count each shape once.
@functools.lru_cache(maxsize=65_536)
def _num_parameters(shape: StudentShape) -> int:
    return sum(math.prod(size) for size in shape.tensors().values())


@functools.lru_cache(maxsize=65_536)
def _num_bytes(shape: StudentShape, each: int) -> int:
    return sum(_file_bytes(stored, each) for stored in shape.files().values())


def _file_bytes(stored: dict[str, tuple[int, ...]], each: int) -> int:
    offset, header = 0, {"__metadata__": {"format": "pt"}}
    kind = {4: "F32", 2: "F16"}[each]
    for name, size in sorted(stored.items()):  # safetensors sorts by data type, then name
        end = offset + each * math.prod(size)
        header[name] = {"dtype": kind, "shape": list(size), "data_offsets": [offset, end]}  # type: ignore[dict-item]
        offset = end
    text = len(json.dumps(header, separators=(",", ":")))
    return 8 + text + -text % 8 + offset
