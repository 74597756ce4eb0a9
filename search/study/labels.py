"""Labels, as files have them: read from a cell, and which there are."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from search.study.tagged import IGNORED, names_in_order
from spaces.errors import cut
from spaces.study import DataSpec
from spaces.task import SPAN_ENDS

WHOLE = r"-?[0-9]{1,18}"  # a class that is a number; str.isdigit holds ² for one, and int takes no 5,000 digits
LARGEST = 3e38  # of a single precision float


def _class_of(cell: Any, data: DataSpec) -> str:
    if cell is None or not str(cell).strip():
        raise ValueError("no label")
    if isinstance(cell, float):
        if not cell.is_integer():
            raise ValueError(f"label {cell!r}, which names no class")
        cell = int(cell)
    plain = str(cell).strip()
    return sys.intern(data.labels.get(plain, plain))  # millions of rows share a few names


def _classes_of(cell: Any, data: DataSpec) -> tuple[str, ...]:
    """A list, or names with a separator between; none is allowed."""
    cells = (
        cell if isinstance(cell, list | tuple) else str(cell if cell is not None else "").split(data.label_separator)
    )
    return tuple(sorted({_class_of(part, data) for part in cells if str(part).strip()}))


def _number_of(cell: Any, data: DataSpec) -> float:
    try:
        number = float(cell)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) <= LARGEST:
        raise ValueError(f"label {cut(repr(cell), 100)}, which is no number that training can hold")
    return number


# By target: the label that a cell of a file holds; ValueError says what is wrong with it.
LABEL_READERS = {"class": _class_of, "classes": _classes_of, "number": _number_of, "vector": _number_of}


def names_of(labels: Sequence[Any], target: str) -> set[str]:
    """The classes or tags among the labels."""
    if target in ("number", "span", "vector", "piece"):
        return set()
    if target == "class":
        return set(labels)
    return {name for names in labels for name in names} - {IGNORED}


def names_in_splits(splits: Mapping[str, Sequence[Any]], target: str, order: list[str]) -> list[str]:
    """In the order of the data set where it gives one, else by number or by alphabet."""
    if target == "number":
        return ["score"]
    if target == "piece":
        return ["piece"]  # its id, whichever
    if target == "vector":
        return []  # the teacher says how many numbers it has
    if target == "span":
        return list(SPAN_ENDS)
    if target == "tags":
        return names_in_order(
            splits.get("train", []),
            (tags for labels in splits.values() for tags in labels),
        )
    names = names_of(splits["train"], target) if "train" in splits else set()
    if names and names <= set(order):
        return [name for name in order if name in names]
    whole = all(re.fullmatch(WHOLE, name) for name in names)
    return sorted(names, key=(lambda name: (int(name), name)) if whole else None)
