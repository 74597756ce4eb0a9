"""The lease: one driver for one study. It is kept in the record, renewed while the driver lives, and expires.

A driver that could not renew it for so long (its machine slept, its line to the storage was cut) may find it another's, and then
writes no more trials.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from search.record.record import Record
from spaces.errors import InputError, StudyError

LEASE_SECONDS = 60.0


def _alive_here(holder: dict[str, Any]) -> bool | None:
    """Whether the holder's process lives; None where that cannot be known from this host."""
    if holder["host"] != socket.gethostname():
        return None
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return _started(holder["pid"]) == holder.get("started")


def _started(pid: int) -> str:
    """When a process began, as Linux counts; tells a reused process id from the same process."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return ""


def holder_of(record: Record, clock: Callable[[], float] = time.time) -> dict[str, Any] | None:
    """Who runs the study now: host, pid and when the lease expires; None where nobody does."""
    holder: dict[str, Any] | None = record.fact("lease")
    return holder if holder and holder["expires"] > clock() and _alive_here(holder) is not False else None


class Lease:
    """A context manager. A second driver is refused with the first one's host and process."""

    def __init__(self, record: Record, clock: Callable[[], float] = time.time, seconds: float = LEASE_SECONDS) -> None:
        self._record, self._clock, self._seconds = record, clock, seconds
        self._me = {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}
        self._expires = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Lease:
        if holder := self._take(first=True):
            raise InputError.of(
                "output",
                f"this study is being run by process {holder['pid']} on {holder['host']}; wait for it, stop it, or give "
                f"this study another name and output (its lease expires in {holder['expires'] - self._clock():.0f} s)",
            )
        self._record.guard(self._check)
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join(timeout=5)
        self._record.guard(lambda: None)
        with suppress(Exception):
            if self._is_mine(self._record.fact("lease")):
                self._record.keep("lease", None)

    def _is_mine(self, holder: dict[str, Any] | None) -> bool:
        return holder is not None and self._me == {name: holder.get(name) for name in self._me}

    def _take(self, first: bool = False) -> dict[str, Any] | None:
        """Takes the lease, or renews it. None, or who has it instead; nobody's (`{}`) where another had it and is through."""
        with self._record.alone():
            kept, now = self._record.fact("lease") or {}, self._clock()
            if holder_of(self._record, self._clock) if first else not self._is_mine(kept):
                return kept
            self._record.keep("lease", {**self._me, "expires": now + self._seconds})
        self._expires = now + self._seconds
        return None

    def _check(self) -> None:
        """Raises StudyError where the lease went to another driver. Asks the record only when it should have been renewed."""
        if self._clock() < self._expires or (holder := self._take()) is None:
            return
        who = f"by process {holder['pid']} on {holder['host']}" if holder else "by another process meanwhile"
        raise StudyError(
            f"this study is run {who}: for more than {self._seconds:.0f} s this one could not say that it lives. What was recorded "
            "stays; `distilsearch show` says where the study stands, and the same command continues it when nobody else does"
        )

    def _keep(self) -> None:
        while not self._stop.wait(self._seconds / 4):
            with suppress(Exception):  # a locked storage for a moment is no reason to stop
                self._take()
