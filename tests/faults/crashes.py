"""Faults from within: `FAULTS_CRASH=lane:7` ends a process by SIGKILL just before its seventh fsync, rename or removal of a file;
`FAULTS_REFUSE=50` has SQLite refuse one write in fifty.

Imported by the driver and by the lanes of a study under test; each crash happens once (a marker file), so that whoever runs the
study again gets past it.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

CALLS = ("fsync", "replace", "rename", "unlink")


def armed(who: str, folder: Path) -> None:
    """Arms this process, if the crash is meant for it: `who` is driver or lane."""
    asked = os.environ.get("FAULTS_CRASH", "")  # such as lane:7
    if not asked.startswith(f"{who}:"):
        return
    left, marker = [int(asked.partition(":")[2])], folder / "crashed"

    def watched(plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            # Of files of the study alone: others are Ray's and torch's business.
            if arguments and (isinstance(arguments[0], int) or str(arguments[0]).startswith(str(folder))):
                left[0] -= 1
                if left[0] <= 0 and not marker.exists():
                    marker.write_text(f"{plain.__name__} {arguments[:2]}\n")
                    os.kill(os.getpid(), signal.SIGKILL)
            return plain(*arguments, **named)

        return call

    for name in CALLS:
        setattr(os, name, watched(getattr(os, name)))


def refusing(one_in: int) -> None:
    """From now on every connection to SQLite breaks off one write in so many, by chance, as a disk does that errs."""
    from sqlalchemy import Engine, event

    broken = [False]

    @event.listens_for(Engine, "connect")
    def connect(connection: Any, _: Any) -> None:
        connection.set_progress_handler(lambda: broken[0], 1)

    @event.listens_for(Engine, "before_cursor_execute")
    def before(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        broken[0] = statement.startswith(("INSERT", "UPDATE", "DELETE")) and random.random() < 1 / one_in

    @event.listens_for(Engine, "handle_error")
    def after(_: Any) -> None:
        broken[0] = False
