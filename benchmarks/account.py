"""Where a finished study's lane-seconds went, from its own record: gaps between segments, idle time by cause, teacher passes.

    python benchmarks/account.py DIR

A gap runs from one segment's end to the next segment's first training step on the same lane: the broker, the student's
building and initialisation, the first batch.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from statistics import median

from search.record.record import existing_record
from search.study.output import spec_of


def main(folder: Path) -> None:
    spec = spec_of(folder)
    record = existing_record(spec.storage, folder, spec.name, spec.objectives)
    lanes: dict[float, list[dict[str, float]]] = {}
    for times in (record.fact("timing") or {}).values():
        if "first_step_at" in times:
            lanes.setdefault(times["lane"], []).append(times)
    for segments in lanes.values():
        segments.sort(key=lambda times: times["received_at"])
    gaps = sorted(
        later["first_step_at"] - earlier["finished_at"]
        for segments in lanes.values()
        for earlier, later in pairwise(segments)
    )
    if not gaps:
        sys.exit("no lane of this study ran two segments in one go")
    last = max(segments[-1]["finished_at"] for segments in lanes.values())
    first = min(segments[0]["received_at"] for segments in lanes.values())
    total = len(lanes) * (last - first)
    tail = sum(last - segments[-1]["finished_at"] for segments in lanes.values())
    head = sum(segments[0]["first_step_at"] - first for segments in lanes.values())
    print(f"segments {sum(map(len, lanes.values()))} on {len(lanes)} lanes, {last - first:.1f} s of search")
    print(f"gap between segments: median {median(gaps):.3f} s, largest {gaps[-1]:.3f} s, n={len(gaps)}")
    print(
        f"idle lane-seconds of {total:.1f}: first start {head:.1f}, tail {tail:.1f}, "
        f"gaps {sum(gaps):.1f} ({sum(gaps) / total:.1%})"
    )
    print(f"the teacher's passes over the data: {record.fact('teacher_passes'):.2f}")
    status = record.fact("lanes") or {}
    for lane, entry in status.get("status", {}).get("lanes", {}).items():
        print(
            f"lane {lane}, whole command: "
            + ", ".join(f"{name} {value:.1f} s" for name, value in entry["seconds"].items())
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
