"""Records the table that benchmarks/search replays: real trials of the project's own, measured at every rung.

    python benchmarks/search/table.py DATA_FOLDER [trials 400] [again 60] [output runs/trec-table]

DATA_FOLDER holds train.tsv, validation.tsv and test.tsv of TREC. `again`: so many trials once more with another seed. Continues
where it was cut off; writes benchmarks/search/trec.csv.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from search import run_study
from search.study.inputs import read_inputs
from search.study.output import StudyResult
from search.study.progress import Progress
from spaces.trial import derived_seed
from spaces.yaml_io import parse_study, parse_yaml

HERE = Path(__file__).resolve().parent
TABLE = HERE / "trec.csv"


def study(data: Path, output: Path, **changes: Any) -> StudyResult:
    path = HERE / "trec-table.yaml"
    raw = parse_yaml(path.read_text("utf-8"), str(path))
    raw["data"] = {
        **{name: str(data.resolve() / f"{name}.tsv") for name in ("train", "validation", "test")},
        "max_length": raw["data"]["max_length"],
    }
    raw |= {"output": str(output.resolve()), **changes}
    spec = parse_study(raw, str(path), HERE)
    with Progress(Console(), spec.quality) as display:
        return run_study(spec, display)


def main(data: str, trials: int = 400, again: int = 60, output: str = "runs/trec-table") -> None:
    first = study(Path(data), Path(output), budget={"trials": trials})
    chosen = [outcome.parameters for outcome in first.outcomes[:again]]
    halving = {"rungs": [1 / 9, 1 / 3, 1], "reduction": 1}
    second = study(
        Path(data),
        Path(f"{output}-again"),
        name="trec-table-again",
        trial_seeds=[derived_seed(1, "again", number) for number in range(again)],
        budget={"trials": again},
        search={"sampler": "random", "first": chosen, "halving": halving},
    )
    write(TABLE, [(0, first), (1, second)])
    write_about(TABLE.with_suffix(".json"), first)


def write_about(path: Path, result: StudyResult) -> None:
    """What a replay has to know of the study beside its trials."""
    inputs = read_inputs(result.spec, lambda text: None)
    scores = {reference.name: reference.value("accuracy") for reference in result.references}
    about = {
        "teacher": inputs.teacher.model_dump(mode="json"),
        "vocabularies": dict(inputs.vocabularies),
        "majority": scores["majority"],
        "teacher_accuracy": scores["teacher"],
    }
    path.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def write(path: Path, results: list[tuple[int, StudyResult]]) -> None:
    """One line a trial: its parameters, its size, and at each rung its accuracy and the seconds trained since the one before."""
    spec = results[0][1].spec
    names = list(spec.space.parameters)
    rungs = [f"{share:.3f}" for share in spec.search.rungs]
    columns = [f"{what}@{rung}" for what in ("accuracy", "seconds") for rung in rungs]
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["trial", "seed", *names, "parameters", *columns])
        for seed, result in results:
            for outcome in result.outcomes:
                measured = {f"{measurement.share:.3f}": measurement for measurement in outcome.measurements}
                if measured.keys() < set(rungs):
                    continue  # failed
                scores = [round(measured[rung].metrics["validation/accuracy"], 4) for rung in rungs]
                seconds = [round(measured[rung].cost["train_seconds"], 2) for rung in rungs]
                values = [_short(outcome.parameters.get(name, "")) for name in names]
                rows.writerow([outcome.number, seed, *values, outcome.config.shape.num_parameters, *scores, *seconds])
    print(f"wrote {path}")


def _short(value: Any) -> Any:
    return f"{value:.5g}" if isinstance(value, float) else value


if __name__ == "__main__":
    data, *more = sys.argv[1:]
    numbers = [int(number) for number in more[:2]]
    main(data, *numbers, **({"output": more[2]} if len(more) > 2 else {}))
