"""The lanes' work in the fault tests: the real one, written down before and after."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import faults.crashes as crashes
from search.trial import work
from search.trial.context import WorkerContext
from spaces.trial import Measurement, WorkItem

FOLDER = Path(os.environ["FAULTS_FOLDER"])
crashes.armed("lane", FOLDER)


def say(word: str, item: WorkItem) -> None:
    with open(FOLDER / "lanes.log", "a") as file:  # short lines that are appended are whole
        file.write(f"{time.time():.3f} {word} {item.key} {item.attempt}\n")


def perform(item: WorkItem, context: WorkerContext) -> tuple[Measurement | None, dict[str, Any]]:
    if context.rank:
        return work.perform(item, context)
    say("begins", item)
    found = work.perform(item, context)
    say("ends", item)
    return found
