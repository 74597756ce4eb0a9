"""What changed among a study's outcomes since they were looked at last: deciding about a trial must not cost more with each that
is over."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from spaces.trial import TrialOutcome


class Changes:
    """Outcomes are frozen: whatever befalls a trial, another object stands at its place."""

    def __init__(self) -> None:
        self._seen: list[TrialOutcome] = []

    def of(self, outcomes: Sequence[TrialOutcome]) -> list[int]:
        """The places, rising, at which another outcome stands than the last time."""
        both = zip(self._seen, outcomes, strict=False)
        changed = [place for place, (old, new) in enumerate(both) if old is not new]
        changed.extend(range(len(self._seen), len(outcomes)))
        self._seen = list(outcomes)
        return changed


class Columns:
    """Values of each outcome, a list a name in the outcomes' order; only what changed is read again. For several threads."""

    def __init__(self, **read: Callable[[TrialOutcome], Any]) -> None:
        self._read, self._changes, self._lock = read, Changes(), threading.Lock()
        self._columns: dict[str, list[Any]] = {name: [] for name in read}

    def of(self, outcomes: Sequence[TrialOutcome]) -> dict[str, list[Any]]:
        with self._lock:
            changed = self._changes.of(outcomes)
            for name, column in self._columns.items():
                read = self._read[name]
                del column[len(outcomes) :]
                for place in changed:
                    column[place : place + 1] = [read(outcomes[place])]
            return {name: column.copy() for name, column in self._columns.items()}
