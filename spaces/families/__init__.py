"""The student families: one file each, with its dimensions and its counting rule. The registry is a dict to read; a study's
own families join it, in every process that works for the study.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spaces.errors import Fault
from spaces.families import albert, bert, distilbert, electra, mobilebert, roberta, squeezebert
from spaces.families.layout import Family
from spaces.named import all_named

FAMILIES: dict[str, Family] = {
    "bert": bert.FAMILY,
    "albert": albert.FAMILY,
    "distilbert": distilbert.FAMILY,
    "mobilebert": mobilebert.FAMILY,
    "squeezebert": squeezebert.FAMILY,
    "electra": electra.FAMILY,
    "roberta": roberta.FAMILY,
}
OURS = tuple(FAMILIES)


def register(own: Mapping[str, str]) -> list[Fault]:
    """Imports the families that a study names (name -> "file.py:FAMILY") into the registry; what is wrong with them."""
    found, faults = all_named(own, "families", _fault_of)
    FAMILIES.update(found)
    return faults


def families_with(key: str) -> tuple[str, ...]:
    """Which of them have a parameter that only some have."""
    return tuple(name for name, family in FAMILIES.items() if key in family.keys)


def _fault_of(name: str, path: str, family: Any) -> str:
    if name in OURS:
        return "is a family already; choose another name"
    kind = type(family).__name__
    return "" if isinstance(family, Family) else f"{path} is {kind}, not a spaces.families.layout.Family"
