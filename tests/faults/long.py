"""The long pass: many studies, each struck until it ends, with a record that is continued.

    make faults [KILLS=200] [MINUTES=60]

Each line of the record is one run of the command: which study, which blows, what came of them. Begun again it goes on after the
last study that came to its end. Ends with status 1 if anything was found.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from faults.harness import CRASHES, KILLS, Blow, Run, Study

BLOWS_A_STUDY = 10
RUNS_A_STUDY = 12  # in which blows fall


def one_study(folder: Path, seed: int) -> Iterator[Run]:
    """Struck ten times or until its end, and then run to its end. A blow that found nobody does not count."""
    study, left = Study(folder, seed), BLOWS_A_STUDY
    for _ in range(RUNS_A_STUDY):
        found = study.run(study.blows(left))
        yield found
        left -= sum(blow.landed for blow in found.blows)
        if found.exit_status == 0:
            return
        if left <= 0:
            break
    yield study.run()


def every_write(folder: Path, seed: int, who: str, first: int) -> Iterator[Run]:
    """A process dies just before its `first` fsync, rename or removal, then before the next, and so on. A driver's death ends the
    run, and the next goes on, until one has not as many. A lane's ends no run: each is a study of its own, of one lane, until
    one has not as many."""
    if who == "driver":
        study = Study(folder, seed)
        for nth in itertools.count(first):
            found = study.run([Blow("driver write", nth=nth)])
            yield found
            if found.exit_status == 0:
                return
    for nth in itertools.count(first):
        (place := folder / str(nth)).mkdir()
        found = Study(place, seed, resources={"lanes": 1}).run([Blow("lane write", nth=nth)])
        yield found
        if not found.blows[0].landed:
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no study after so many")
    parser.add_argument(
        "--first", type=int, default=1, help="the first study's seed, for several that go on side by side"
    )
    parser.add_argument(
        "--writes", choices=["lane", "driver"], help="no blows at random: these die before each of their writes in turn"
    )
    parser.add_argument("--write", type=int, default=1, help="the first of them, to go on where another pass ended")
    asked = parser.parse_args()
    asked.record.touch()
    lines = [json.loads(line) for line in asked.record.read_text().splitlines()]
    ended = {line["study"] for line in lines if line["exit_status"] == 0}
    lines = [line for line in lines if line["study"] in ended]
    begun, seed = time.monotonic(), max(ended, default=asked.first - 1)
    while _kills(lines) < asked.kills and time.monotonic() - begun < 60 * asked.minutes:
        seed += 1
        folder = Path(tempfile.mkdtemp(prefix=f"faults-{seed}-"))
        runs = every_write(folder, seed, asked.writes, asked.write) if asked.writes else one_study(folder, seed)
        for found in runs:
            line = {"study": seed, **asdict(found)}
            lines.append(line)
            with open(asked.record, "a") as file:
                file.write(json.dumps(line) + "\n")
            faults = "; ".join(found.faults) or "nothing lost"
            blows = ", ".join(blow.kind if blow.landed else f"({blow.kind})" for blow in found.blows) or "none"
            print(f"study {seed}: {blows}; {found.seconds:.0f} s, status {found.exit_status}: {faults}", flush=True)
        if any(line["faults"] for line in lines if line["study"] == seed):
            print(f"kept for a look: {folder}", flush=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print(summary(lines))
    sys.exit(any(line["faults"] for line in lines))


def _kills(lines: list[dict[str, Any]]) -> int:
    return sum(blow["landed"] and blow["kind"] in (*KILLS, *CRASHES) for line in lines for blow in line["blows"])


def summary(lines: list[dict[str, Any]]) -> str:
    blows = [blow for line in lines for blow in line["blows"] if blow["landed"]]
    back = sorted(blow["back"] for blow in blows if blow["kind"] == "worker" and blow["back"] is not None)
    restarts = sorted(line["first_step"] for line in lines if line["first_step"] is not None)
    num_studies, num_faulty = len({line["study"] for line in lines}), sum(bool(line["faults"]) for line in lines)
    words = [f"{_kills(lines)} kills over {num_studies} studies, {len(lines)} runs, {num_faulty} of them with faults"]
    gone = sorted(line["gone"] for line in lines)
    for what, found in (
        ("from a worker's death to the next item", back),
        ("from the start to the first training", restarts),
        ("from the driver's end until its last process was gone", gone),
    ):
        if found:
            words.append(f"{what}: median {median(found):.0f} s, most {found[-1]:.0f}, n = {len(found)}")
    words.append(", ".join(f"{kind} {count}" for kind, count in Counter(blow["kind"] for blow in blows).most_common()))
    return "\n".join(words)


if __name__ == "__main__":
    main()
