"""`distilsearch` as the fault tests run it: the lanes write down what they do, and crash points are armed."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import faults.crashes as crashes
import search.study.run as run
from search.cli import main

if __name__ == "__main__":
    crashes.armed("driver", Path(os.environ["FAULTS_FOLDER"]))
    if one_in := int(os.environ.get("FAULTS_REFUSE", "0")):
        crashes.refusing(one_in)
    run.LanePool = functools.partial(run.LanePool, perform="faults.lane:perform")  # type: ignore[misc, assignment]
    main()
