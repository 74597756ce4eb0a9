"""The lease: one driver for one study. It is kept in the record, renewed while the driver lives, and expires."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from search.record.record import Record
from spaces.errors import InputError

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
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Lease:
        holder = holder_of(self._record, self._clock)
        if holder:
            raise InputError.of(
                "output",
                f"this study is being run by process {holder['pid']} on {holder['host']}; wait for it, stop it, or give "
                f"this study another name and output (its lease expires in {holder['expires'] - self._clock():.0f} s)",
            )
        self._renew()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join(timeout=5)
        with suppress(Exception):
            self._record.keep("lease", None)

    def _renew(self) -> None:
        self._record.keep(
            "lease",
            {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "started": _started(os.getpid()),
                "expires": self._clock() + self._seconds,
            },
        )

    def _keep(self) -> None:
        while not self._stop.wait(self._seconds / 4):
            with suppress(Exception):  # a locked storage for a moment is no reason to stop
                self._renew()
