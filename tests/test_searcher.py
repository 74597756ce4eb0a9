"""The searcher between the sampler, the record and the lanes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from small_search import REFERENCES, TEACHER, VOCABULARIES, a_point, a_spec, reopened

from search.record.record import Record
from search.study.budget import Budget
from search.study.output import trial_folder
from search.study.searcher import StudySearcher
from search.suggest.first import first_points
from search.suggest.ladder import Ladder
from search.suggest.recipes import recipes_of
from search.suggest.sampling import Sampling
from spaces.parameters import Value
from spaces.trial import Measurement, TrialOutcome, TrialState, WorkItem, WorkResult

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def a_searcher(
    folder: Path,
    told: list[TrialOutcome] | None = None,
    first: Sequence[dict[str, Value]] | None = None,
    **changes: Any,
) -> tuple[StudySearcher, Record]:
    spec = a_spec(folder, budget={"trials": 3}, **changes)
    record = reopened(folder)
    searcher = StudySearcher(
        spec,
        record,
        Sampling(spec, TEACHER, VOCABULARIES, {}, first=first),
        Budget(spec, num_lanes=1, tokens_per_text=10.0, deadline=None, front_size=lambda: 1),
        Ladder(spec, {}),
        references=REFERENCES,
        teacher_depth=TEACHER.depth,
        payload={"teacher": "folder"},
        told=(told if told is not None else []).append,
    )
    return searcher, record


def result_of(item: WorkItem, accuracy: float = 0.8, error: str = "") -> WorkResult:
    assert item.trial is not None
    measured = Measurement(
        trial=item.trial, attempt=item.attempt, step=9, share=1.0, metrics={"validation/accuracy": accuracy},
        cost={"train_seconds": 1.0},
    )  # fmt: skip
    return WorkResult(
        key=item.key, kind=item.kind, trial=item.trial, attempt=item.attempt, lane=0, error=error,
        measurement=None if error else measured, timing={"received_at": 1.0},
    )  # fmt: skip


def asked(searcher: StudySearcher) -> WorkItem:
    item = searcher.next_item("any")
    assert isinstance(item, WorkItem)
    return item


def test_the_searcher_writes_everything_down_and_ends_with_the_budget(tmp_path: Path) -> None:
    told: list[TrialOutcome] = []
    searcher, record = a_searcher(tmp_path, told)
    items = [asked(searcher) for _ in range(3)]
    assert [(item.key, item.trial, item.attempt) for item in items] == [(f"trial:{i}", i, 1) for i in range(3)]
    assert searcher.next_item("any") == "finished"
    searcher.finished(items[0].key, result_of(items[0]))
    searcher.finished(items[1].key, result_of(items[1], error="the loss is not finite"))
    states = [TrialState.DONE, TrialState.FAILED, TrialState.RUNNING]
    assert [outcome.state for outcome in record.outcomes()] == states
    assert record.outcomes() == searcher.ordered
    assert [outcome.state for outcome in told] == [TrialState.RUNNING] * 3 + states[:2]
    assert told[-1].error == "the loss is not finite"


def test_what_was_cut_off_is_suggested_first_with_a_new_attempt(tmp_path: Path) -> None:
    searcher, _ = a_searcher(tmp_path)
    items = [asked(searcher) for _ in range(2)]
    searcher.finished(items[0].key, result_of(items[0]))
    # killed here; trial 0 is done, trial 1 runs, trial 2 never was
    again, record = a_searcher(tmp_path)
    kept = record.outcomes()[0].last
    assert kept is not None
    assert (kept.cost["lane"], kept.cost["received_at"]) == (0, 1.0)  # the account of where the time went is kept too
    resumed, fresh = asked(again), asked(again)
    assert (resumed.key, resumed.attempt, resumed.config) == (items[1].key, 2, items[1].config)
    assert (fresh.key, fresh.attempt) == ("trial:2", 1)
    assert again.next_item("any") == "finished"
    assert record.attempts() == {0: 1, 1: 2, 2: 1}
    # killed once more
    third, _ = a_searcher(tmp_path)
    assert [(item.key, item.attempt) for item in (asked(third), asked(third))] == [("trial:1", 3), ("trial:2", 2)]


def test_a_trial_measured_but_not_yet_named_done_is_not_run_again(tmp_path: Path) -> None:
    searcher, record = a_searcher(tmp_path)
    item = asked(searcher)
    measured = result_of(item).measurement
    assert measured is not None
    record.measured(measured)
    again, record = a_searcher(tmp_path)
    assert record.outcomes()[0].state is TrialState.DONE
    assert asked(again).key == "trial:1"


def test_weights_are_kept_for_the_front_alone(tmp_path: Path) -> None:
    first = [{"family": "bert", "depth": depth, "embedding_size": "full", "vocabulary": "full"} for depth in (1, 2, 3)]
    searcher, _ = a_searcher(tmp_path, search={"first": first})
    items = [asked(searcher) for _ in range(3)]
    folders = [trial_folder(a_spec(tmp_path), number) for number in range(3)]
    for folder in folders:
        (folder / "attempt-1").mkdir(parents=True)
    for item, accuracy in zip(items, (0.5, 0.8, 0.7), strict=True):  # the largest is worse than the middle one
        searcher.finished(item.key, result_of(item, accuracy))
    assert [folder.exists() for folder in folders] == [True, True, False]


def trial_seeds(outcomes: Sequence[TrialOutcome]) -> list[int]:
    return [outcome.config.seed for outcome in outcomes]


def test_each_trial_has_its_seed_and_a_study_may_name_the_first(tmp_path: Path) -> None:
    searcher, _ = a_searcher(tmp_path, trial_seeds=[77])
    for _ in range(3):
        asked(searcher)
    seeds = trial_seeds(searcher.ordered)
    assert seeds[0] == 77
    assert len(set(seeds)) == 3
    assert seeds[1:] == [a_point(number)[0].seed for number in (1, 2)]


def test_the_record_says_which_trials_began_with_a_recipe(tmp_path: Path) -> None:
    spec = a_spec(tmp_path)
    first = first_points(spec, TEACHER, VOCABULARIES, {})
    searcher, record = a_searcher(tmp_path, first=first[:2])
    for _ in range(3):
        asked(searcher)
    starts = [outcome.labels.get("start", "") for outcome in record.outcomes()]
    assert starts == [" / ".join(recipes_of(point, TEACHER, spec.space, VOCABULARIES)) for point in first[:2]] + [""]
    assert all(starts[:2])
