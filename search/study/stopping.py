"""Ctrl-C. Once: nothing new begins, and what the lanes hold may end within a grace. Twice: now. Either way the record has all
that was measured, and the same command continues."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Protocol, Self

from search.study.progress import doing

GRACE_SECONDS = 30.0  # for what runs; a trial that takes longer begins again from its last checkpoint
LOOK_SECONDS = 0.3


class Holdable(Protocol):
    def hold(self) -> None: ...
    def status(self) -> dict[str, Any]: ...


@contextmanager
def ended_in_order() -> Iterator[None]:
    """Around all that is closed after a Ctrl-C, or being told to end. One more does not cut the closing short, which is a matter of
    seconds: Ray crashes where it is left while lanes are starting."""
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is signal.SIG_IGN:
                    signal.signal(number, signal.default_int_handler)


class Stopping:
    """A context manager around the time in which lanes work. It raises KeyboardInterrupt in the main thread: as soon as nothing
    runs any more and all of it is recorded, when the grace is over, or at the second Ctrl-C, whichever is first.

    Elsewhere (another thread's study, a caller with a handler of its own) signals are left alone.
    """

    def __init__(self, pool: Holdable, say: Callable[[str], None], grace_seconds: float = GRACE_SECONDS) -> None:
        self._pool, self._say, self._grace = pool, say, grace_seconds
        self._asked, self._over = False, threading.Event()
        self._listens = False

    def __enter__(self) -> Self:
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._heard)
            self._listens = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._listens:
            stopped = kind is not None and issubclass(kind, KeyboardInterrupt)
            signal.signal(signal.SIGINT, signal.SIG_IGN if stopped else signal.default_int_handler)
            if (
                stopped and signal.getsignal(signal.SIGTERM) is signal.default_int_handler
            ):  # start_ray's: schedulers say it twice
                signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        # Not here: the handler may have interrupted whoever holds the display's lock, or a call to Ray.
        threading.Thread(target=self._see_out, name="stopping", daemon=True).start()

    def _see_out(self) -> None:
        try:
            self._pool.hold()
            deadline = time.monotonic() + self._grace
            status = self._pool.status()
            if held := [doing(lane) for lane in status["lanes"].values() if lane["key"]]:
                shown = ", ".join(held[:4]) + (f" and {len(held) - 4} more" if len(held) > 4 else "")
                self._say(f"stopping: {shown} may end within {self._grace:.0f} s; Ctrl-C again stops now")
            while (status["held"] or status["unrecorded"]) and time.monotonic() < deadline:
                if self._over.wait(LOOK_SECONDS):
                    return
                status = self._pool.status()
            if status["held"]:
                self._say(
                    f"stopping: {status['held']} did not end within {self._grace:.0f} s, and begin again next time"
                )
        except Exception:  # the pool is closing, or Ray is gone
            pass
        if not self._over.is_set():  # a real signal: it wakes the main thread, whatever it waits for
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
