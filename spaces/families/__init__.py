"""The student families: one file each, with its dimensions and its counting rule. The registry is a dict to read."""

from __future__ import annotations

from spaces.families import albert, bert, distilbert
from spaces.families.layout import Family

FAMILIES: dict[str, Family] = {"bert": bert.FAMILY, "albert": albert.FAMILY, "distilbert": distilbert.FAMILY}
