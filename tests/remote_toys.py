"""The lanes' work as on a machine of its own: in another scratch than the driver's, whose folders are hidden where that can be."""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path
from typing import Any

import study_toys

from search.trial.context import WorkerContext
from spaces.trial import Measurement, WorkItem

NEW_NAMESPACE, RECURSIVE, PRIVATE = 0x00020000, 0x4000, 0x40000  # of Linux's sched.h and mount.h


def perform(item: WorkItem, context: WorkerContext) -> tuple[Measurement | None, dict[str, Any]]:
    hide()
    os.environ["DISTILSEARCH_SCRATCH"] = f"{os.environ['TOYS_LOG']}.lanes/{os.getpid()}"
    return study_toys.perform(item, context)


@functools.cache
def hide() -> None:
    """An empty folder over each of TOYS_HIDDEN, for this thread and those it starts. Takes root, and a machine that allows it."""
    libc = ctypes.CDLL(None)
    done = libc.unshare(NEW_NAMESPACE) or libc.mount(b"none", b"/", None, RECURSIVE | PRIVATE, None)
    for folder in os.environ["TOYS_HIDDEN"].split(os.pathsep):
        done = done or libc.mount(b"tmpfs", folder.encode(), b"tmpfs", 0, None)
    seen = [path.name for folder in os.environ["TOYS_HIDDEN"].split(os.pathsep) for path in Path(folder).iterdir()]
    with open(f"{os.environ['TOYS_LOG']}.hidden", "a") as file:
        file.write(f"{'cannot' if done else 'hidden'} {seen}\n")
