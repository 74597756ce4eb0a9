"""A machine to itself for whoever measures: the other lanes of the machine wait between two of their steps.

Two file locks, which the system releases with the process that held them. Who works holds `room`, shared, and looks at `gate` at
every step: two system calls, a few microseconds. Who measures takes `gate`, so that nobody passes it, then `room`, once the last
step has ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PATIENCE_SECONDS = 30.0  # for one step of another lane: some work has no steps
LOOK_SECONDS = 0.002


class Turnstile:
    """One worker's view of the two locks. Where the locks cannot be had (a folder of somebody else's) nobody waits, and `alone`
    says that it was not."""

    def __init__(self, folder: Path | None = None) -> None:
        self._gate = self._room = -1
        self._inside = False
        with contextlib.suppress(OSError):
            folder = folder or _folder_of_user()
            self._gate, self._room = (
                os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o600) for name in ("gate", "room")
            )

    @classmethod
    def open(cls) -> Turnstile:
        """One that lets everybody through."""
        made = cls()
        made.close()
        return made

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """At work."""
        self._enter()
        try:
            yield
        finally:
            self._leave()

    def step(self) -> None:
        """Between two steps of the work: lets whoever wants to measure go first."""
        if not self._inside or _locked(self._gate, fcntl.LOCK_SH | fcntl.LOCK_NB):
            if self._inside:
                fcntl.flock(self._gate, fcntl.LOCK_UN)
            return
        self._leave()
        self._enter()

    @contextlib.contextmanager
    def alone(self, patience_seconds: float = PATIENCE_SECONDS) -> Iterator[bool]:
        """Nobody else who passes this turnstile is at work; False where that could not be had in time. To be used inside."""
        if self._gate < 0:
            yield False
            return
        was_inside = self._inside
        self._leave()
        try:
            fcntl.flock(self._gate, fcntl.LOCK_EX)  # one measures after the other
            deadline = time.monotonic() + patience_seconds
            while not (quiet := _locked(self._room, fcntl.LOCK_EX | fcntl.LOCK_NB)) and time.monotonic() < deadline:
                time.sleep(LOOK_SECONDS)
            yield quiet
        finally:
            fcntl.flock(self._room, fcntl.LOCK_UN)
            fcntl.flock(self._gate, fcntl.LOCK_UN)
            if was_inside:
                self._enter()

    def close(self) -> None:
        self._leave()
        for lock in {self._gate, self._room} - {-1}:
            os.close(lock)
        self._gate = self._room = -1

    def _enter(self) -> None:
        if self._gate < 0:
            return
        fcntl.flock(self._gate, fcntl.LOCK_SH)
        fcntl.flock(self._room, fcntl.LOCK_SH)
        fcntl.flock(self._gate, fcntl.LOCK_UN)
        self._inside = True

    def _leave(self) -> None:
        if self._inside:
            fcntl.flock(self._room, fcntl.LOCK_UN)
            self._inside = False


def _locked(lock: int, how: int) -> bool:
    try:
        fcntl.flock(lock, how)
    except BlockingIOError:
        return False
    return True


def _folder_of_user() -> Path:
    """The user's own, the same for all studies on the machine. Raises OSError where it is somebody else's."""
    folder = Path(tempfile.gettempdir()) / f"distilsearch-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or folder.is_symlink():
        raise PermissionError(f"{folder} belongs to somebody else")
    return folder
