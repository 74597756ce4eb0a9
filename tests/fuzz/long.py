"""`make fuzz`: many hostile inputs, in chunks that are each drawn from their own seed. What is done is written down after each,
so that the same command goes on where it was stopped; a finding ends it with the input and the traceback.

    python tests/fuzz/long.py FILE.json [--inputs 100000]
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import logging
import platform
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

sys.path.insert(0, str(Path(__file__).parent))
import hostile

SHARES = {"study": 0.35, "best-config": 0.15, "profile": 0.25, "change": 0.15, "texts": 0.10}
CHUNK = 500
HANG_SECONDS = 60  # after which the process ends itself with a traceback
MEMORY_BYTES = 6 * 2**30  # above which an allocation fails, which is a finding


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def chunk(kind: str, number: int, folder: Path, done: dict[str, Any]) -> None:
    """CHUNK inputs, counted into `done`. Hypothesis draws the same ones from the same number."""

    @seed(number)
    @settings(
        max_examples=CHUNK,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(hostile.KINDS[kind])
    def one(drawn: Any) -> None:
        before, begun = peak_mb(), time.perf_counter()
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
        result = hostile.drive(kind, drawn, folder)
        faulthandler.cancel_dump_traceback_later()
        seconds, grown = time.perf_counter() - begun, peak_mb() - before
        done[result] += 1
        done["seconds"] += seconds
        if seconds > done["slowest_seconds"]:
            done["slowest_seconds"], done["slowest_seed"] = seconds, number
        done["most_grown_mb"] = max(done["most_grown_mb"], grown)

    one()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--inputs", type=int, default=100_000)
    asked = parser.parse_args()
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    empty = {
        "chunks": 0,
        "taken": 0,
        "refused": 0,
        "seconds": 0.0,
        "slowest_seconds": 0.0,
        "slowest_seed": 0,
        "most_grown_mb": 0.0,
    }
    record: dict[str, Any] = {
        "kinds": {kind: dict(empty) for kind in SHARES},
        "peak_mb": 0.0,
        "python": platform.python_version(),
    }
    if asked.file.is_file():
        record = json.loads(asked.file.read_text())
    with tempfile.TemporaryDirectory() as scratch:
        while True:
            kinds = record["kinds"]
            left = {
                kind: SHARES[kind] * asked.inputs - kinds[kind]["taken"] - kinds[kind]["refused"] for kind in SHARES
            }
            kind = max(left, key=lambda name: left[name] / SHARES[name])
            if left[kind] <= 0:
                break
            done = dict(kinds[kind])
            chunk(kind, done["chunks"], Path(scratch) / "in", done)
            done["chunks"] += 1
            kinds[kind] = done
            record["peak_mb"] = max(record["peak_mb"], peak_mb())
            record["inputs"] = sum(each["taken"] + each["refused"] for each in kinds.values())
            asked.file.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
