"""The lanes' work in the tests of a whole study: the real one, written down, slowed, and failing where it is told to."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import ray
from ray.experimental import get_object_locations

from search.trial import work
from search.trial.context import WorkerContext
from spaces.errors import TrialError
from spaces.trial import Measurement, WorkItem, WorkKind

FAILS_AT = 3.21  # a temperature


def perform(item: WorkItem, context: WorkerContext) -> tuple[Measurement | None, dict[str, Any]]:
    with open(os.environ["TOYS_LOG"], "a") as file:
        file.write(f"{item.key.split(':')[0]} {item.trial} {item.attempt}\n")
    if item.kind is WorkKind.TRAIN and item.key.startswith("trial:"):
        assert item.config is not None
        if item.config.temperature == FAILS_AT:
            raise TrialError("this one is to fail")
        time.sleep(0.5)  # time enough to be killed in the middle
        (Path(item.folder) / ".attempt-0.1.writing").mkdir(
            parents=True, exist_ok=True
        )  # as of a lane that died as it wrote
    return work.perform(item, context)


def count_puts() -> None:
    """Writes down the kind and the size of whatever this process puts into the object store."""
    plain = ray.put

    def put(value: Any, **more: Any) -> ray.ObjectRef:
        reference = plain(value, **more)
        with open(os.environ["TOYS_LOG"] + ".puts", "a") as file:
            file.write(f"{type(value).__name__} {get_object_locations([reference])[reference]['object_size']}\n")
        return reference

    ray.put = put
