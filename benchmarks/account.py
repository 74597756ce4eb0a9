"""Where a study's lane-seconds went, from its own record: stages, gaps between segments, idle time by cause.

    python benchmarks/account.py DIR

A gap runs from one segment's end to the next segment's first training step on the same lane: the broker, the student's
building and initialisation, the first batch. Runs of a study that was continued are taken apart: between them no lane lives.
"""

from __future__ import annotations

import sys
from bisect import bisect
from itertools import pairwise
from pathlib import Path
from statistics import median

from search.study.output import open_record, spec_of

Segment = dict[str, float]


def main(folder: Path) -> None:
    record, again = open_record(spec_of(folder))
    runs = record.fact("runs") or []
    for name, kept in (("search", record), ("confirmation", again)):
        segments = [o.last.cost for o in kept.outcomes() if o.last and "first_step_at" in o.last.cost]
        for run in sorted({bisect(runs, segment["received_at"]) for segment in segments}):
            account(f"{name}, run {run}", [s for s in segments if bisect(runs, s["received_at"]) == run])
    stages = record.fact("stages") or {}
    whole = sum(stages.values())
    for name, seconds in stages.items():
        print(f"{name}: {seconds:.1f} s ({seconds / whole:.0%})")
    print(f"the teacher's passes over the data: {record.fact('teacher_passes'):.2f}")
    status = record.fact("lanes") or {}
    for lane, entry in status.get("status", {}).get("lanes", {}).items():
        seconds = ", ".join(f"{name} {value:.1f} s" for name, value in entry["seconds"].items())
        print(f"lane {lane}, whole last command: {seconds}")


def account(name: str, segments: list[Segment]) -> None:
    lanes: dict[float, list[Segment]] = {}
    for segment in sorted(segments, key=lambda times: times["received_at"]):
        lanes.setdefault(segment["lane"], []).append(segment)
    first = min(own[0]["received_at"] for own in lanes.values())
    last = max(own[-1]["finished_at"] for own in lanes.values())
    gaps = sorted(
        later["first_step_at"] - earlier["finished_at"] for own in lanes.values() for earlier, later in pairwise(own)
    )
    total = len(lanes) * (last - first)
    head = sum(own[0]["first_step_at"] - first for own in lanes.values())
    tail = sum(last - own[-1]["finished_at"] for own in lanes.values())
    print(f"{name}: {len(segments)} segments on {len(lanes)} lanes in {last - first:.1f} s, {total:.1f} lane-seconds")
    print(
        f"  idle: first start {head:.1f} s, tail {tail:.1f} s, gaps {sum(gaps):.1f} s ({sum(gaps) / max(total, 1e-9):.1%})"
    )
    if gaps:
        print(f"  gap between segments: median {median(gaps):.3f} s, largest {gaps[-1]:.3f} s, n={len(gaps)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
