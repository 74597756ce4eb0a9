"""Real training on Ray: distilsearch, and Ray's OptunaSearch in Ray Tune, on the table's space for the same wall time.

    python benchmarks/search/on_ray.py DATA_FOLDER [minutes 8] [seed 0] [output runs/search-on-ray]

Both have the fine-tuned teacher and its outputs before the clock starts. OptunaSearch's trials train with distilsearch's own code,
in Tune actors that are used again, a core each: what differs is the search alone. Every trial of it is scored on test too;
of distilsearch the front's students are, when they are delivered. Adds a line a side to benchmarks/records/search.on_ray.jsonl.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray import tune

from search import run_study
from search.lanes.pool import LanePool
from search.lanes.quiet import start_ray
from search.results.front import hypervolume, non_dominated
from search.study.inputs import Inputs, read_inputs
from search.study.prepare import Prepared, prepare
from search.study.progress import Silent
from search.study.searcher import trial_config
from search.trial import work
from search.trial.context import WorkerContext
from spaces.architecture import InvalidStudent
from spaces.parameters import Choice, IntRange
from spaces.student import StudentShape
from spaces.study import StudySpec
from spaces.trial import WorkItem, WorkKind
from spaces.yaml_io import parse_study, parse_yaml

HERE = Path(__file__).resolve().parent
RECORDS = HERE.parent / "records" / "search.on_ray.jsonl"
Row = tuple[float, float, int]  # accuracy on validation, on test, parameters


def the_study(data: Path, output: Path, seed: int, **changes: Any) -> StudySpec:
    path = HERE / "trec-table.yaml"
    raw = parse_yaml(path.read_text("utf-8"), str(path))
    raw["data"] = {name: str(data.resolve() / f"{name}.tsv") for name in ("train", "validation", "test")}
    raw["data"]["max_length"] = 64
    raw |= {"name": "on-ray", "output": str(output.resolve()), "seed": seed, **changes}
    return parse_study(raw, str(path), HERE)


def prepared_by(spec: StudySpec) -> tuple[Inputs, Prepared]:
    """The teacher with its head and its outputs; from the cache, if they were made before. Ray stays up."""
    start_ray(num_cpus=2)
    inputs = read_inputs(spec, lambda text: None)
    reference = ray.put(inputs.transfer)
    inputs = replace(inputs, transfer=ray.get(reference))
    with LanePool(spec.resources, 1, {}, Path(tempfile.mkdtemp())) as pool:
        return inputs, prepare(inputs, reference, pool, 2, print)


def ours(spec: StudySpec) -> tuple[list[Row], dict[str, Any]]:
    begun = time.monotonic()
    result = run_study(spec, Silent())
    seconds = time.monotonic() - begun
    outcomes = {outcome.number: outcome for outcome in result.outcomes}
    rows = [
        (
            outcomes[row.trial].values()["accuracy"],
            float(json.loads(_delivered(spec))[str(row.trial)]["metrics"]["test/accuracy"]),
            row.num_parameters,
        )
        for row in result.rows
    ]
    whole = sum(outcome.state.value == "done" for outcome in result.outcomes)
    return rows, {"searcher": "ours", "wall_seconds": seconds, "trials": len(outcomes), "whole": whole}


def _delivered(spec: StudySpec) -> str:
    from search.study.output import open_record

    return json.dumps(open_record(spec)[0].fact("delivered"))


class Student(tune.Trainable):
    """One whole training, as distilsearch's lanes do it."""

    def setup(self, config: dict[str, Any], held: list[Any], spec: StudySpec, inputs: Any, teacher: str) -> None:  # type: ignore[override]
        self._spec, self._inputs, self._teacher = spec, inputs, teacher
        self._context = WorkerContext(
            rank=0, world_size=1, lane=0, threads=1, heartbeat=lambda done, total: None, mark_first_step=lambda: None,
            data={"transfer": ray.get(held[0])},
        )  # fmt: skip
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._point = new_config
        return True

    def step(self) -> dict[str, Any]:
        teacher, vocabularies = self._inputs
        point, shape = repaired(
            self._spec, {k: v for k, v in self._point.items() if k != "number"}, teacher, vocabularies
        )
        number = int(self._point["number"])
        config = trial_config(self._spec, point, shape, teacher.depth, number)
        item = WorkItem(
            key=f"trial:{number}", kind=WorkKind.TRAIN, trial=number, config=config, evaluate=("validation", "test"),
            payload={"teacher": self._teacher},
        )  # fmt: skip
        measurement, _ = work.perform(item, self._context)
        assert measurement is not None
        accuracy = measurement.metrics["validation/accuracy"]
        return {
            "error": 1 - accuracy, "size": math.log10(shape.num_parameters), "accuracy": accuracy,
            "test": measurement.metrics["test/accuracy"], "parameters": shape.num_parameters, "done": True,
        }  # fmt: skip

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        return None


def repaired(
    spec: StudySpec, point: dict[str, Any], teacher: Any, vocabularies: Any
) -> tuple[dict[str, Any], StudentShape]:
    """As in the replays: a point that makes no student is mended, as OptunaSearch knows no rules between parameters."""
    try:
        return point, spec.space.shape(point, teacher, vocabularies)
    except InvalidStudent:
        mended = {**point, "layers": "even-with-last"}
        if "num_hidden_groups" in point:
            mended["num_hidden_groups"] = min(point["num_hidden_groups"], point["depth"])
        return mended, spec.space.shape(mended, teacher, vocabularies)


class DefinedByRun:
    """The space as OptunaSearch takes one with conditions. It pickles it."""

    def __init__(self, spec: StudySpec) -> None:
        self._spec = spec

    def __call__(self, trial: Any) -> dict[str, Any]:
        def value(name: str, parameter: Any) -> Any:
            if isinstance(parameter, Choice):
                return trial.suggest_categorical(name, list(parameter.values))
            if isinstance(parameter, IntRange):
                return trial.suggest_int(name, parameter.low, parameter.high)
            return trial.suggest_float(name, parameter.low, parameter.high, log=parameter.log)

        return {**self._spec.space.point(value), "number": trial.number}


def optunasearch(
    spec: StudySpec, inputs: Inputs, prepared: Prepared, seconds: float
) -> tuple[list[Row], dict[str, Any]]:
    from ray.tune.search.optuna import OptunaSearch

    begun = time.monotonic()
    trainable = tune.with_parameters(
        Student, held=[prepared.transfer], spec=spec, inputs=(inputs.teacher, inputs.vocabularies),
        teacher=str(prepared.teacher_folder),
    )  # fmt: skip
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(DefinedByRun(spec), metric=["error", "size"], mode=["min", "min"], seed=spec.seed),
            num_samples=-1, max_concurrent_trials=2, reuse_actors=True, time_budget_s=seconds,
        ),
        run_config=tune.RunConfig(storage_path=tempfile.mkdtemp(), verbose=0),
    )  # fmt: skip
    found = [result.metrics for result in tuner.fit() if result.metrics and "accuracy" in result.metrics]
    rows = [(each["accuracy"], each["test"], each["parameters"]) for each in found]
    return rows, {
        "searcher": "optunasearch", "wall_seconds": time.monotonic() - begun, "trials": len(rows), "whole": len(rows),
    }  # fmt: skip


def main(data: str, minutes: float = 8, seed: int = 0, output: str = "runs/search-on-ray") -> None:
    halving = {"rungs": ["1/9", 1], "reduction": 3}
    spec = the_study(
        Path(data),
        Path(f"{output}-{seed}"),
        seed,
        budget={"trials": 10_000, "minutes": minutes},
        search={"halving": halving},
    )
    inputs, prepared = prepared_by(spec.model_copy(update={"output": Path(tempfile.mkdtemp())}))
    majority = next(reference for reference in prepared.references if reference.name == "majority")
    largest = max(shape.num_parameters for _, shape in spec.space.architectures(inputs.teacher, inputs.vocabularies))
    theirs, told = optunasearch(spec, inputs, prepared, 60 * minutes)
    ray.shutdown()
    mine, said = ours(spec)
    for rows, about in ((theirs, told), (mine, said)):
        front = [rows[at] for at in non_dominated([(row[0], row[2]) for row in rows], ["maximize", "minimize"])]
        for name, place in (("validation", 0), ("test", 1)):
            corner = (1 - majority.value("accuracy", name), math.log10(largest))
            points = [(1 - row[place], math.log10(row[2])) for row in front]
            about[f"hypervolume_{name}"] = round(hypervolume(points, corner, ["minimize", "minimize"]), 4)
        about |= {"minutes": minutes, "seed": seed, "front": sorted((row[2], row[0], row[1]) for row in front)}
        with open(RECORDS, "a") as file:
            print(json.dumps(about), file=file)
        print(json.dumps(about))


if __name__ == "__main__":
    data, *more = sys.argv[1:]
    kinds = (float, int, str)
    main(data, *(kind(value) for kind, value in zip(kinds, more, strict=False)))
