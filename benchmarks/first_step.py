"""From `submit` to the first training step on a warm Ray cluster, and what the time is spent on.

    python benchmarks/first_step.py ADDRESS STUDY.yaml OUTPUTS [--times 4]

ADDRESS is a running cluster's dashboard (`http://127.0.0.1:8265`), OUTPUTS a folder that it and this machine see. The study is run
to its end each time, into a new output beside one cache; make it a short one. From the second time on the cluster has its teacher
and data already: the first is told, and is in no median.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from search.study.output import open_record, spec_of

COMMAND = [sys.executable, "-m", "search.cli"]


def once(address: str, study: Path, outputs: Path, name: str) -> dict[str, float]:
    """Seconds of each part, in order."""
    outputs.mkdir(parents=True, exist_ok=True)
    profile = outputs / "there.yaml"
    profile.write_text(
        json.dumps({"kind": "ray-jobs", "address": address, "python": sys.executable, "output": str(outputs)})
    )
    begun = time.time()
    done = subprocess.run(
        [*COMMAND, "submit", str(study), "--to", str(profile), "--set", f"name={name}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    submitted, job = time.time(), done.stdout.strip()
    while (found := _status(job))["state"] in ("pending", "running"):
        time.sleep(10)  # each look takes half a second of a processor
    assert found["state"] == "succeeded", subprocess.run([*COMMAND, "logs", job], capture_output=True, text=True).stdout
    record, _ = open_record(spec_of(outputs / name))
    stages, opened = record.fact("stages"), record.fact("runs")[-1]
    first = min(
        (outcome.measurements[0] for outcome in record.outcomes() if outcome.measurements),
        key=lambda measured: measured.cost["first_step_at"],
    )
    read = opened - stages["reading"]  # the study's clock begins once its modules are there
    ray = opened + stages["starting Ray"]
    search = ray + stages["preparation, and the lanes' start"]
    first_step = first.cost["first_step_at"]
    record.close()
    return {
        "`submit`, from the shell and back": submitted - begun,
        "Ray's job: its supervisor, the bundle's unpacking, Python with torch": read - submitted,
        "data and teacher are read, tokenised": stages["reading"],
        "Ray is joined, room is looked for": stages["starting Ray"],
        "the lanes start, the teacher reads once": search - ray,
        "the first trial's student is built": first_step - search,
        "in all": first_step - begun,
    }


def _status(job: str) -> dict[str, object]:
    found = subprocess.run([*COMMAND, "status", job, "--json"], capture_output=True, text=True, check=True)
    return json.loads(found.stdout)  # type: ignore[no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("study", type=Path)
    parser.add_argument("outputs", type=Path)
    parser.add_argument("--times", type=int, default=4)
    asked = parser.parse_args()
    found = []
    for number in range(asked.times):
        found.append(once(asked.address, asked.study, asked.outputs.resolve(), f"time-{number}"))
        print(json.dumps(found[-1]), flush=True)
    first, *warm = found
    print(f"| part | seconds, median of {len(warm)} | each | the first time |\n|---|---|---|---|")
    for name in first:
        each = [one[name] for one in warm]
        print(f"| {name} | {median(each):.1f} | {', '.join(f'{value:.1f}' for value in each)} | {first[name]:.1f} |")


if __name__ == "__main__":
    main()
