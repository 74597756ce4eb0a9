"""Where a run's wall time goes, stage by stage: kept in the record, printed by `benchmarks/account.py`."""

from __future__ import annotations

import time


class Stages:
    """Seconds of each stage, which begins where the one before ended."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self.seconds: dict[str, float] = {}

    def ended(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name], self._since = now - self._since, now
