"""`distilsearch` as the fault tests run it: the lanes write down what they do, and crash points are armed."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import faults.crashes as crashes
from search.cli import guarded, main
from search.lanes.token import give_token


def arm() -> None:
    give_token()  # before Ray is imported, as `run` does
    import search.study.run as run

    crashes.armed("driver", Path(os.environ["FAULTS_FOLDER"]))
    if one_in := int(os.environ.get("FAULTS_REFUSE", "0")):
        crashes.refusing(one_in)
    run.LanePool = functools.partial(run.LanePool, perform="faults.lane:perform")  # type: ignore[misc, assignment]


if __name__ == "__main__":
    raise SystemExit(guarded(arm) or main())
