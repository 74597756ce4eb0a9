"""Crash points: `FAULTS_CRASH=lane:7` ends a process by SIGKILL just before its seventh fsync, rename or removal of a file.

Imported by the driver and by the lanes of a study under test; each crash happens once (a marker file), so that whoever runs the
study again gets past it.
"""

from __future__ import annotations

import os
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
