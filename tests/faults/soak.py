"""The soak: thousands of tiny trials on two lanes; what each process holds, its open files, and the record's size, all along.

    make soak [TRIALS=2000]

Every ten seconds a line of JSON goes into the record: trials measured, and for each kind of process its memory (MB, in no file and
nobody else's), its open files and how many there are; the sizes of study.db and of the output. The summary holds the last tenth of
the trials against the second tenth. Killed, the same command goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import tiny

from faults.harness import TESTS, VICTIMS, processes_of

EVERY = 10.0  # seconds


def write_study(folder: Path, trials: int) -> Path:
    """One small architecture, never exhausted: what is searched are real numbers."""
    return tiny.write_study(
        folder,
        budget={"trials": trials},
        space={"family": "bert", "depth": 1, "hidden_size": "50%", "learning_rate": {"float": [1e-4, 5e-3], "log": True},
               "temperature": {"float": [1, 4]}, "batch_size": 16},
        search={"startup_trials": 10},
        training={"steps": 5},
        confirm={"seeds": 1, "without_distillation": "none"},
        resources={"lanes": 2},
    )  # fmt: skip


def look(folder: Path) -> dict[str, Any]:
    kinds = dict[str, dict[str, float]]()
    for pid, words in processes_of(folder).items():
        kind = next(
            (name for name, word in VICTIMS.items() if word in words), "driver" if "faults.driver" in words else ""
        )
        with contextlib.suppress(OSError):
            smaps = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
            held = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in smaps}
            now = kinds.setdefault(kind or "others", {"processes": 0, "megabytes": 0.0, "files": 0})
            now["processes"] += 1
            now["megabytes"] += held.get("Anonymous", 0.0)
            now["files"] += len(os.listdir(f"/proc/{pid}/fd"))
    sizes = {"record_bytes": sum(path.stat().st_size for path in (folder / "run").glob("study.db*"))}
    with contextlib.suppress(OSError):
        sizes["output_bytes"] = sum(path.stat().st_size for path in (folder / "run").rglob("*") if path.is_file())
        sizes["output_files"] = sum(path.is_file() for path in (folder / "run").rglob("*"))
    return {"trials": measured(folder), "at": round(time.time()), **sizes, "processes": kinds}


def measured(folder: Path) -> int:
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(f"file:{folder / 'run' / 'study.db'}?mode=ro", uri=True)) as link,
    ):
        return int(link.execute("SELECT count(*) FROM trials WHERE state = 'COMPLETE'").fetchone()[0])
    return 0


def summary(lines: list[dict[str, Any]], trials: int) -> list[str]:
    """The medians of the second tenth and of the last; of sizes what they grew by in between (SQLite's log is in both)."""

    def of(tenth: int) -> list[dict[str, Any]]:
        running = [line for line in lines if "broker" in line["processes"] and line["trials"] < trials]
        return [line for line in running if trials * tenth / 10 <= line["trials"] <= trials * (tenth + 1) / 10]

    early, late = of(1), of(9)
    if not early or not late:
        return ["too few lines for a comparison"]
    words = []
    for kind in late[-1]["processes"]:
        row = [kind]
        for what in ("processes", "megabytes", "files"):
            then, now = (
                median(line["processes"].get(kind, {}).get(what, 0) for line in part) for part in (early, late)
            )
            row.append(f"{what} {then:.0f} to {now:.0f}")
        words.append("; ".join(row))
    for what in ("record_bytes", "output_bytes", "output_files"):
        grown = (late[-1].get(what, 0) - early[0].get(what, 0)) / max(1, late[-1]["trials"] - early[0]["trials"])
        words.append(f"{what}: {grown:.1f} a trial")
    seconds = (late[-1]["at"] - early[0]["at"]) / max(1, late[-1]["trials"] - early[0]["trials"])
    return [*words, f"{seconds:.2f} s a trial"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the study and of the record, lines.jsonl")
    parser.add_argument("--trials", type=int, default=2000)
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    path, record = write_study(folder, asked.trials), folder / "lines.jsonl"
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]), "FAULTS_FOLDER": str(folder),
    }  # fmt: skip
    with open(folder / "driver.txt", "a") as printed:
        driver = subprocess.Popen(
            [sys.executable, "-m", "faults.driver", "run", str(path)], env=environment, stdout=printed, stderr=printed
        )
        while driver.poll() is None:
            time.sleep(EVERY)
            line = look(folder)
            with open(record, "a") as file:
                file.write(json.dumps(line) + "\n")
            print(f"\r{line['trials']} of {asked.trials} trials", end="", file=sys.stderr, flush=True)
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    print("\n" + "\n".join(summary(lines, asked.trials)))
    sys.exit(driver.returncode)


if __name__ == "__main__":
    main()
