"""The student families: one file each, with its dimensions and its counting rule. The registry is a dict to read; a study's
own families join it, in every process that works for the study.
"""

from __future__ import annotations

from collections.abc import Mapping

from spaces.errors import Fault
from spaces.families import albert, bert, distilbert
from spaces.families.layout import Family
from spaces.named import function_named

FAMILIES: dict[str, Family] = {"bert": bert.FAMILY, "albert": albert.FAMILY, "distilbert": distilbert.FAMILY}
OURS = tuple(FAMILIES)


def register(own: Mapping[str, str]) -> list[Fault]:
    """Imports the families that a study names (name -> "file.py:FAMILY") into the registry; what is wrong with them."""
    faults = []
    for name, path in own.items():
        try:
            family = function_named(path)
        except Exception as error:
            faults.append(Fault(f"families.{name}", f"{path} cannot be imported: {type(error).__name__}: {error}"))
            continue
        if name in OURS:
            faults.append(Fault(f"families.{name}", "is a family already; choose another name"))
        elif not isinstance(family, Family):
            faults.append(
                Fault(f"families.{name}", f"{path} is {type(family).__name__}, not a spaces.families.layout.Family")
            )
        else:
            FAMILIES[name] = family
    return faults
