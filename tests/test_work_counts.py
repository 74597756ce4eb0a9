"""What a trial costs, counted and not timed: a change that doubles one of these is slower whatever the machine."""

from __future__ import annotations

import pickle
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from small_search import REFERENCES, TEACHER, a_sampling, a_spec, history, reopened
from training_toys import a_config

from search.results.front import ParetoFront
from search.study.budget import Budget
from search.study.searcher import StudySearcher
from search.suggest.ladder import Ladder
from search.trial import loop
from search.trial.data import TransferSet
from search.trial.optimizer import Optimizer
from search.trial.teacher import load_teacher
from spaces.trial import Measurement, TrialConfig, WorkItem, WorkKind, WorkResult

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

EPOCHS, STEPS = 3, 24  # 120 rows in batches of 16
opened: list[str] | None = None


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and opened is not None:
        opened.append(str(arguments[0]))


sys.addaudithook(_note)  # for good: Python has no way to take it back


@contextmanager
def files_opened() -> Iterator[list[str]]:
    global opened
    opened = []
    try:
        yield opened
    finally:
        opened = None


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch, teacher: Path) -> Iterator[Counter[str]]:
    """Teacher's forward passes, student's, steps, and looks at a tensor's value, of what runs from here on."""
    seen: Counter[str] = Counter()

    def counted(owner: Any, name: str, word: str) -> None:
        plain = getattr(owner, name)

        def call(*args: Any, **more: Any) -> Any:
            seen[word] += 1
            return plain(*args, **more)

        monkeypatch.setattr(owner, name, call)

    counted(Optimizer, "step", "steps")
    counted(torch.Tensor, "item", "looks")
    counted(loop, "padded", "batches")
    counted(loop, "training_rows", "epochs drawn")
    hook = load_teacher(str(teacher)).register_forward_hook(lambda *_: seen.update(["teacher"]))
    yield seen
    hook.remove()


def test_a_trial_steps_as_often_as_its_schedule_says_and_never_asks_the_teacher(
    run_item: Any, transfer: TransferSet, counts: Counter[str]
) -> None:
    measurement, _ = run_item(a_config(transfer, epochs=EPOCHS))
    assert (counts["steps"], counts["batches"], counts["epochs drawn"]) == (STEPS, STEPS, EPOCHS)
    assert measurement.cost["optimizer_steps"] == STEPS
    assert counts["teacher"] == 0
    assert counts["looks"] <= STEPS / loop.CHECK_EVERY + 2  # each one waits for a GPU


def test_a_trial_reads_no_files_but_its_own(run_item: Any, transfer: TransferSet, tmp_path: Path) -> None:
    """The teacher, the data and all modules are in memory from the trial before; on a network's disk each file counts."""
    config = a_config(transfer)
    run_item(config, "before")
    with files_opened() as files:
        run_item(config, "counted")
    assert [name for name in files if str(tmp_path) not in name] == []
    assert len(files) <= 4, files


def test_what_a_lane_is_handed_is_small(transfer: TransferSet) -> None:
    """The data goes once into the object store; an item carries its config."""
    config: TrialConfig = a_config(transfer)
    item = WorkItem(
        key="trial:0", kind=WorkKind.TRAIN, trial=0, config=config, folder="/a/folder", payload={"teacher": "/t"}
    )
    assert len(pickle.dumps(item)) < 4096


def test_the_sampler_is_told_of_each_trial_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    plain = optuna.Study.add_trial

    def add(study: optuna.Study, trial: Any) -> None:
        told.append(1)
        plain(study, trial)

    spec = a_spec(search={"startup_trials": 3})
    sampling = a_sampling(spec)
    monkeypatch.setattr(optuna.Study, "add_trial", add)
    history(spec, sampling, 12)
    assert len(told) == 11  # the twelfth is not measured yet


def test_the_front_is_found_among_its_own_points_and_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not among all trials: a study of thousands redraws it thousands of times."""
    sizes: list[int] = []
    plain = ParetoFront.of.__func__  # type: ignore[attr-defined]

    def of(cls: Any, outcomes: Any, *more: Any) -> ParetoFront:
        sizes.append(len(outcomes))
        return plain(cls, outcomes, *more)

    monkeypatch.setattr(ParetoFront, "of", classmethod(of))
    spec = a_spec(tmp_path, budget={"trials": 12}, search={"sampler": "random"})
    budget = Budget(spec, num_lanes=1, tokens_per_text=10.0, deadline=None, front_size=lambda: 1)
    searcher = StudySearcher(
        spec, reopened(tmp_path), a_sampling(spec), budget, Ladder(spec, {}),
        references=REFERENCES, teacher_depth=TEACHER.depth, payload={},
        told=lambda outcome: None,
    )  # fmt: skip
    for number in range(12):
        item = searcher.next_item("any")
        assert isinstance(item, WorkItem)
        metrics = {"validation/accuracy": 0.5 + 0.03 * (number * 7 % 11)}
        measurement = Measurement(trial=number, attempt=1, step=1, share=1.0, metrics=metrics)
        searcher.finished(
            item.key, WorkResult(key=item.key, kind=item.kind, trial=number, attempt=1, lane=0, measurement=measurement)
        )
    whole = plain(ParetoFront, searcher.ordered, spec, REFERENCES)
    assert searcher.front == whole
    assert 1 < len(whole.points) < 12
    assert max(sizes) <= len(whole.points) + 3
