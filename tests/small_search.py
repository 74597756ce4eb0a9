"""A small search without a lane: its study, its teacher's shape, its record, and a clock to turn by hand."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import tiny

from search.record.record import Record, open_storage
from search.results.front import Reference
from search.study.searcher import trial_config
from search.suggest.sampling import Sampling
from spaces.student import StudentShape
from spaces.study import StudySpec
from spaces.trial import Measurement, TrialConfig, TrialOutcome, TrialState
from spaces.yaml_io import parse_study

TEACHER = tiny.teacher_shape(
    hidden_size=32, intermediate_size=64, vocabulary_size=143, max_positions=48, num_labels=3, num_parameters=50_000
)
TOKENS = 1000.0  # of a whole trial that was `measured`
VOCABULARIES = {"full": 143, "used": 90}
SPACE = {
    "family": ["bert", "albert"],
    "depth": {"int": [1, 4]},
    "vocabulary": ["used", "full"],
    "embedding_size": [8, "full"],
    "num_hidden_groups": {"int": [1, 3], "when": {"family": "albert"}},
    "temperature": {"float": [1, 4], "log": True},
    "learning_rate": {"float": [1e-3, 5e-3], "log": True},
    "batch_size": [16],
}
REFERENCES = [
    Reference(name="teacher", label="teacher", num_parameters=50_000, num_bytes=200_000, metrics={"validation/accuracy": 0.9})
]  # fmt: skip


def a_spec(output: Path = Path("/nowhere/run"), **changes: Any) -> StudySpec:
    raw = {"name": "tiny", "data": {"builtin": "docstrings"}, "teacher": "x/y", "space": SPACE, "output": str(output)}
    return parse_study({**raw, **changes}, "study.yaml", Path("/nowhere"))


def a_sampling(spec: StudySpec, **limits: tuple[float, float]) -> Sampling:
    return Sampling(spec, TEACHER, VOCABULARIES, limits)


def done(
    spec: StudySpec, parameters: dict[str, Any], shape: StudentShape, number: int, accuracy: float = 0.8, seconds: float = 4.0
) -> TrialOutcome:  # fmt: skip
    measurement = Measurement(
        trial=number, attempt=1, step=9, share=1.0, metrics={"validation/accuracy": accuracy},
        cost={"train_seconds": seconds},
    )  # fmt: skip
    return TrialOutcome(
        number=number, config=trial_config(spec, parameters, shape, TEACHER.depth, number), parameters=parameters,
        state=TrialState.DONE, measurements=(measurement,),
    )  # fmt: skip


def history(spec: StudySpec, sampling: Sampling, length: int) -> list[TrialOutcome]:
    outcomes: list[TrialOutcome] = []
    for number in range(length):
        parameters, shape = sampling.suggest(outcomes, number)
        outcomes.append(done(spec, parameters, shape, number, accuracy=0.5 + 0.03 * (number * 7 % 11)))
    return outcomes


def reopened(folder: Path, name: str = "tiny") -> Record:
    return Record(open_storage("sqlite", folder), name, a_spec().objectives)


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def a_point(number: int = 0, **changes: Any) -> tuple[TrialConfig, dict[str, Any]]:
    spec = a_spec(**changes)
    parameters, shape = a_sampling(spec).suggest([], number)
    return trial_config(spec, parameters, shape, TEACHER.depth, number), parameters


@functools.cache
def _one_point() -> tuple[TrialConfig, dict[str, Any]]:
    return a_point(0)


def measured(number: int, share: float = 1.0, accuracy: float = 0.5, at: float = 0.0, **changes: Any) -> TrialOutcome:
    """Made by hand: all are of one size, so that the hypervolume grows as the best accuracy does."""
    config, parameters = _one_point()
    measurement = Measurement(
        trial=number, attempt=1, step=9, share=share, metrics={"validation/accuracy": accuracy},
        cost={"train_seconds": 1.0, "tokens": TOKENS * share, "finished_at": at},
    )  # fmt: skip
    plain = {"state": TrialState.DONE if share >= 1 else TrialState.WAITING, "until": share}
    return TrialOutcome(
        number=number, config=config, parameters=dict(parameters), measurements=(measurement,), **{**plain, **changes}
    )


def running(number: int, until: float = 1.0) -> TrialOutcome:
    return measured(number).model_copy(update={"state": TrialState.RUNNING, "measurements": (), "until": until})
