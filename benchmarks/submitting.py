"""How long the commands take that a machine runs which only submits, beside a Python that does nothing: wall, and processor time.

    python benchmarks/submitting.py [RUNS]

Each runs in a process of its own, in turn; the medians, and the least. Nothing is launched.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
CLI = [sys.executable, "-m", "search.cli"]
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "submit --dry-run": [*CLI, "submit", "docstrings", "--to", "lab.yaml", "--dry-run"],
    "jobs": [*CLI, "jobs"],
    "status": [*CLI, "status"],
    "--help": [*CLI, "--help"],
}


def main(runs: int) -> None:
    walls, used = ({name: list[float]() for name in COMMANDS} for _ in range(2))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "lab.yaml").write_text("kind: ray-jobs\noutput: /mnt/runs\n")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": folder, "XDG_CONFIG_HOME": folder}
        for _ in range(runs + 1):  # the first fills the caches
            for name, command in COMMANDS.items():
                before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
                subprocess.run(command, cwd=folder, env=environment, capture_output=True)
                walls[name].append(time.perf_counter() - begun)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                used[name].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    for name in COMMANDS:
        wall, processor = sorted(walls[name][1:]), sorted(used[name][1:])
        row = {"wall": wall, "processor": processor}
        told = {key: [round(statistics.median(each), 3), round(each[0], 3)] for key, each in row.items()}
        print(json.dumps({"command": name, **told, "runs": runs}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 10)
