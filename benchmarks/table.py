"""A study's record as a Markdown table: the teacher and the floors, then each student of the front.

python benchmarks/table.py DIR
"""

from __future__ import annotations

import sys
from pathlib import Path

from search.results.students import StudentRow
from search.results.table import SeedScore
from search.study.output import StudyResult, open_study


def score(value: SeedScore | None) -> str:
    if value is None:
        return "-"
    return f"{value.mean:.3f}" + (f" ± {value.std:.3f} ({value.seeds} seeds)" if value.std is not None else " (1 seed)")


def line(row: StudentRow, metric: str) -> str:
    cells = [
        str(row.trial),
        row.architecture,
        f"{row.num_parameters / 1e6:.2f} M",
        f"{row.validation[f'validation/{metric}']:.3f}",
        score(row.test.get(f"test/{metric}")),
        score(row.without_distillation.get(f"test/{metric}")),
        "-" if row.share_of_teacher is None else f"{row.share_of_teacher:.1%}",
        "-" if row.lift_kept is None else f"{row.lift_kept:.0%}",
    ]
    return f"| {' | '.join(cells)} |"


def table(result: StudyResult) -> str:
    metric = result.spec.quality
    lines = [
        f"| | | parameters | validation {metric} | test {metric} | test, no distillation | share of teacher | lift kept |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for reference in result.references:
        size = f"{reference.num_parameters / 1e6:.2f} M" if reference.num_parameters else "-"
        validation, test = reference.value(metric), reference.value(metric, "test")
        lines.append(f"| | {reference.label} | {size} | {validation:.3f} | {test:.3f} | | | |")
    return "\n".join([*lines, *(line(row, metric) for row in result.rows)])


if __name__ == "__main__":
    print(table(open_study(Path(sys.argv[1]))))
