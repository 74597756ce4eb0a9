"""Errors a user can act on: what, where, what is allowed, what to do."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

MOST_FAULTS = 50  # told of one file
LONGEST_WHERE, LONGEST_PROBLEM = 200, 5000  # characters of one fault: a file's own words may be megabytes
LONGEST_WORD = 100  # that a near miss is looked for


@dataclass(frozen=True)
class Fault:
    """One thing wrong with the input. `where` is a path in the file, such as `space.temperature.float[0]`."""

    where: str
    problem: str

    def __str__(self) -> str:
        where, problem = cut(self.where, LONGEST_WHERE), cut(self.problem, LONGEST_PROBLEM)
        return f"{where}: {problem}" if where else problem


class InputError(Exception):
    """Bad input: the command line prints every fault and exits with 2."""

    def __init__(self, source: str, faults: Iterable[Fault]) -> None:
        self.source = source
        self.faults = tuple(faults)
        super().__init__(source, self.faults)  # both arguments, so that pickle restores it whole

    @classmethod
    def of(cls, source: str, problem: str, where: str = "") -> InputError:
        return cls(source, [Fault(where, problem)])

    def __str__(self) -> str:
        return "\n".join(f"{self.source}: {fault}" if self.source else str(fault) for fault in self.faults)


class TrialError(Exception):
    """One trial went wrong (its loss became NaN, its model could not be built): the trial fails, the study goes on."""


class OutOfMemory(TrialError):
    """A batch did not fit. In more parts it may: the work is handed out again."""


class StudyError(Exception):
    """The study cannot go on, and the input is not at fault: the command line prints it and exits with 1."""


def near_miss(word: str, allowed: Iterable[str]) -> str:
    """`; did you mean "temperature"?`, or the empty string when nothing is near."""
    if len(word) > LONGEST_WORD:
        return ""
    close = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    return f'; did you mean "{close[0]}"?' if close else ""


def cut(text: str, most: int) -> str:
    """The beginning of what is too long to be told."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def told(faults: list[Fault]) -> list[Fault]:
    """As many as a person reads, each once, and whether there are more."""
    once = list(dict.fromkeys(faults))
    return once if len(once) <= MOST_FAULTS else [*once[:MOST_FAULTS], Fault("", "and more; mend these first")]


def printable(text: str) -> str:
    """For a terminal: what would move its cursor, turn its text, or has no encoding is written out (\\x1b, \\u202e, \\ud800)."""
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(letter.encode("unicode_escape").decode() if _commands(letter) else letter for letter in text)


def _commands(letter: str) -> bool:
    return letter not in "\n\t" and unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
