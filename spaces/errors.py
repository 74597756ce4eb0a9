"""Errors a user can act on: what, where, what is allowed, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One thing wrong with the input. `where` is a path in the file, such as `space.temperature.float[0]`."""

    where: str
    problem: str

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}" if self.where else self.problem


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
    close = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    return f'; did you mean "{close[0]}"?' if close else ""
