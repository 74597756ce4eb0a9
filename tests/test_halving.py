"""Successive halving on Pareto rank: its ranking, its decisions by hand, and whole searches in virtual time."""

from __future__ import annotations

import heapq
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_search import REFERENCES, TEACHER, a_sampling, a_spec

from search.record.record import FINISHED, Record
from search.record.storage import Storage
from search.study.budget import Budget
from search.study.output import trial_folder
from search.study.searcher import StudySearcher, trial_config
from search.suggest.halving import Rung, dominates, fronts, halving, hopeless
from search.suggest.ladder import Ladder
from search.suggest.sampling import Sampling
from spaces.errors import InputError
from spaces.trial import Measurement, TrialState, WorkItem, WorkResult

RUNGS = (1 / 9, 1 / 3, 1.0)
HALVING = {"rungs": ["1/9", "1/3", 1]}
ROWS = st.integers(2, 3).flatmap(
    lambda width: st.lists(st.tuples(*[st.integers(0, 5)] * width), min_size=1, max_size=40)
)


@given(ROWS)
def test_the_fronts_are_those_of_the_definition(rows: list[tuple[int, ...]]) -> None:
    losses = np.array(rows, float)
    left = set(range(len(losses)))
    for front in fronts(losses):
        assert set(front) == {
            place for place in left if not any(bool(dominates(losses[other], losses[place])) for other in left)
        }
        left -= set(front)
    assert not left


def a_rung(losses: list[tuple[float, float]], promoted: tuple[int, ...] = (), **changes: Any) -> Rung:
    rows, count = np.array(losses, float), len(losses)
    gone = np.isin(np.arange(count), promoted)
    rung: dict[str, Any] = {
        "trials": np.arange(count) + 100, "losses": rows, "violations": np.zeros(count), "waits": ~gone, "promoted": gone,
        "dominators": dominates(rows[:, None], rows[None]).sum(0),
    }  # fmt: skip
    return Rung(**(rung | changes))


EMPTY = a_rung([(0.0, 0.0)] * 0 or np.zeros((0, 2)))  # type: ignore[arg-type]
# Three on the first front (0, 1, 2), two on the second (3, 4), one on the third (5).
SIX = [(0.0, 9.0), (5.0, 5.0), (9.0, 0.0), (6.0, 6.0), (9.0, 4.0), (9.0, 9.0)]


def test_one_in_three_goes_on_and_the_best_of_them() -> None:
    assert halving([a_rung(SIX[:2])], 3) is None  # two are too few for a third of them
    first = halving([a_rung(SIX)], 3)
    assert first is not None
    assert first[1] in (100, 101, 102)
    assert halving([a_rung(SIX, promoted=(0, 2))], 3) is None  # two of six did
    assert halving([a_rung(SIX, promoted=(0,))], 3) == (0, 102)  # of the same front, the farthest from who went on
    assert halving([a_rung(SIX, promoted=(0, 1, 2))], 1.2) == (0, 104)  # the second front, when the first is through


def test_when_no_trial_will_join_somebody_reaches_the_end() -> None:
    assert halving([a_rung(SIX[:2])], 3, last=True) in [(0, 100), (0, 101)]
    assert halving([a_rung(SIX[:4], promoted=(0,))], 3) is None
    assert halving([a_rung(SIX[:4], promoted=(0,))], 3, last=True) == (0, 102)
    assert halving([a_rung(SIX, promoted=(0, 2))], 3, last=True) is None


def test_the_highest_rung_comes_first_and_a_lower_one_when_nothing_is_due_there() -> None:
    assert halving([a_rung(SIX), a_rung(SIX[:3])], 3) in [(1, trial) for trial in (100, 101, 102)]
    below = halving([a_rung(SIX), a_rung(SIX[:3], promoted=(0,))], 3)
    assert below is not None
    assert below[0] == 0
    assert halving([a_rung(SIX, waits=np.zeros(6, bool)), EMPTY], 3) is None  # whoever ended or failed does not go on
    assert halving([], 3) is None


def test_who_breaks_a_bound_goes_on_only_when_nobody_else_is_left() -> None:
    missed = np.array([0.2, 0.1, 0.3, 0.0, 0.0, 0.0])
    assert halving([a_rung(SIX, violations=missed)], 3) in [(0, 103), (0, 104)]
    some = a_rung(SIX, promoted=(3, 4, 5), violations=missed)
    assert halving([some], 1.5) == (0, 101)  # the one that misses by least


def test_whoever_cannot_be_promoted_any_more_is_named() -> None:
    losses = [(float(place), float(place)) for place in range(30)]  # each dominates those after it
    assert (
        hopeless(a_rung(losses), 3, most=29) == hopeless(a_rung(losses), 3, most=30) == list(range(110, 130))
    )  # of 30 no more than 10 ever go on
    assert hopeless(a_rung(losses), 3, most=10**6) == list(range(120, 130))  # of twice as many 20 would
    assert hopeless(a_rung(losses, waits=np.zeros(30, bool)), 3, most=30) == []
    assert hopeless(EMPTY, 3, most=30) == []


# -- whole searches in virtual time


def a_searcher(record: Record, folder: Path, lanes: int, trials: int, **search: Any) -> StudySearcher:
    spec = a_spec(folder, budget={"trials": trials}, search={"sampler": "random", "halving": HALVING, **search})
    return StudySearcher(
        spec, record, a_sampling(spec), Budget(spec, num_lanes=lanes, tokens_per_text=10.0, deadline=None, front_size=lambda: 1),
        Ladder(spec, {}), references=REFERENCES, teacher_depth=TEACHER.depth, payload={}, told=lambda outcome: None,
    )  # fmt: skip


def result_of(item: WorkItem, rng: np.random.Generator, fails: float, now: float) -> WorkResult:
    assert item.trial is not None
    assert item.config is not None
    error = "the loss is not finite" if rng.random() < fails else ""
    skill = 0.3 + 0.05 * math.log10(item.config.shape.num_parameters) + 0.1 * item.end_share
    measured = Measurement(
        trial=item.trial, attempt=item.attempt, step=9, share=item.end_share,
        metrics={"validation/accuracy": float(np.clip(skill + rng.normal(0, 0.03), 0, 1))},
        cost={"train_seconds": float(item.end_share - item.start_share)},
    )  # fmt: skip
    return WorkResult(
        key=item.key, kind=item.kind, trial=item.trial, attempt=item.attempt, lane=0, error=error,
        measurement=None if error else measured, timing={"finished_at": now},
    )  # fmt: skip


def searched(
    searcher: StudySearcher, lanes: int, rng: np.random.Generator, fails: float, stop_after: int = 10**9
) -> list[WorkItem]:
    """Every segment that was handed out, until the searcher is through or `stop_after` came back."""
    flying: list[tuple[float, int, WorkItem]] = []
    handed: list[WorkItem] = []
    order, now, through, came_back = itertools.count(), 0.0, False, 0
    while not through or flying:
        while not through and len(flying) < lanes + 1:  # as Tune is told to: one more than there are lanes
            item = searcher.next_item("any")
            if item == "finished":
                through = True
            elif item is None:
                assert flying, "nothing runs, and nothing will"
                break
            else:
                assert isinstance(item, WorkItem)
                handed.append(item)
                # A checkpoint as the lane would leave it.
                Path(item.folder, f"attempt-{item.attempt}").mkdir(parents=True, exist_ok=True)
                heapq.heappush(flying, (now + float(rng.exponential(1)), next(order), item))
        if not flying:
            break
        now, _, item = heapq.heappop(flying)
        searcher.finished(item.key, result_of(item, rng, fails, now))
        came_back += 1
        if came_back >= stop_after:
            break
    return handed


@settings(max_examples=8, deadline=None)
@given(
    lanes=st.sampled_from([1, 2, 3, 8, 64]), trials=st.integers(1, 40), seed=st.integers(0, 10**6),
    fails=st.sampled_from([0.0, 0.1, 0.5, 1.0]), killed_after=st.one_of(st.none(), st.integers(1, 40)),
)  # fmt: skip
def test_every_search_ends_with_every_trial_accounted_for(
    tmp_path_factory: pytest.TempPathFactory, lanes: int, trials: int, seed: int, fails: float, killed_after: int | None
) -> None:
    folder, rng = tmp_path_factory.mktemp("searched"), np.random.default_rng(seed)
    storage = Storage("sqlite://")
    spec = a_spec(folder)
    searcher = a_searcher(Record(storage, "tiny", spec.objectives), folder, lanes, trials)
    if killed_after is not None:
        searched(searcher, lanes, rng, fails, stop_after=killed_after)
        searcher = a_searcher(Record(storage, "tiny", spec.objectives), folder, lanes, trials)
    searched(searcher, lanes, rng, fails)
    assert searcher.next_item("any") == "finished"
    record = Record(storage, "tiny", spec.objectives)
    outcomes = record.outcomes()
    assert outcomes == searcher.ordered
    assert len(outcomes) == trials
    assert {outcome.state for outcome in outcomes} <= FINISHED
    for outcome in outcomes:
        shares = [measurement.share for measurement in outcome.measurements]
        assert shares == pytest.approx(RUNGS[: len(shares)])  # each rung once, in order
        assert (outcome.state is TrialState.DONE) == (len(shares) == 3)
        kept = trial_folder(spec, outcome.number)
        assert kept.exists() == (outcome.number in searcher.front.trials)  # nothing of the others is left on the disk
        if kept.exists():
            assert [path.name for path in kept.iterdir()] == ["1.000"]
    reached = [sum(len(outcome.measurements) > rung for outcome in outcomes) for rung in range(3)]
    tried = [
        sum(len(outcome.measurements) + (outcome.state is TrialState.FAILED) > rung for outcome in outcomes)
        for rung in range(3)
    ]
    for rung in (1, 2):
        assert tried[rung] <= math.ceil(reached[rung - 1] / 3)
        if not fails:  # and as many as there is room for
            assert tried[rung] == math.ceil(reached[rung - 1] / 3)


def test_a_segment_goes_on_from_the_checkpoint_of_the_one_before(tmp_path: Path) -> None:
    spec = a_spec(tmp_path)
    searcher = a_searcher(Record(Storage("sqlite://"), "tiny", spec.objectives), tmp_path, 1, 9)
    handed = searched(searcher, 1, np.random.default_rng(0), 0.0)
    for item in handed:
        trial = trial_folder(spec, item.trial or 0)
        assert item.folder == str(trial / f"{item.end_share:.3f}")
        before = [other for other in handed if other.trial == item.trial and other.end_share == item.start_share]
        assert len(before) == (item.start_share > 0)
        for other in before:
            assert item.payload["continues"] == f"{other.folder}/attempt-{other.attempt}"
    assert len({item.key for item in handed}) == len(handed) == 9 + 3 + 1


def test_what_was_promoted_and_cut_off_goes_on_where_it_was_going(tmp_path: Path) -> None:
    storage, spec = Storage("sqlite://"), a_spec(tmp_path)
    rng = np.random.default_rng(0)
    searcher = a_searcher(Record(storage, "tiny", spec.objectives), tmp_path, 1, 9)
    for number in range(3):
        item = searcher.next_item("any")
        assert isinstance(item, WorkItem)
        searcher.finished(item.key, result_of(item, rng, 0.0, float(number)))
    promoted = searcher.next_item("any")
    assert isinstance(promoted, WorkItem)
    assert promoted.start_share == pytest.approx(1 / 9)
    # killed here
    again = a_searcher(Record(storage, "tiny", spec.objectives), tmp_path, 1, 9)
    resumed = again.next_item("any")
    assert isinstance(resumed, WorkItem)
    assert (resumed.key, resumed.attempt) == (promoted.key, 2)
    assert (resumed.start_share, resumed.end_share, resumed.payload) == (
        promoted.start_share, promoted.end_share, promoted.payload,
    )  # fmt: skip
    # Killed between the measurement and the word for it: it waits at its second rung, and is not promoted for nothing.
    record = Record(storage, "tiny", spec.objectives)
    record.measured(result_of(resumed, rng, 0.0, 9.0).timed_measurement)
    third = a_searcher(Record(storage, "tiny", spec.objectives), tmp_path, 1, 9)
    assert third.outcomes[resumed.trial or 0].state is TrialState.WAITING
    fresh = third.next_item("any")
    assert isinstance(fresh, WorkItem)
    assert fresh.trial == 3


def test_scores_below_a_bound_are_held_against_what_they_will_be(tmp_path: Path) -> None:
    """At the first rung all scores are below the bound. Trials gained 0.2 from there to the end: 0.75 and more will keep it."""
    spec = a_spec(tmp_path, search={"sampler": "random", "halving": HALVING})
    ladder = Ladder(spec, {"accuracy": (0.95, math.inf)})
    record = Record(Storage("sqlite://"), "tiny", spec.objectives)
    sampling = a_sampling(spec)
    for number, (first, last) in enumerate(
        [(0.7, 0.9), (0.76, 0.96), (0.78, None), (0.6, None), (0.62, None), (0.61, None)]
    ):
        parameters, shape = sampling.suggest([], number)  # type: ignore[misc]
        outcome = record.start(trial_config(spec, parameters, shape, TEACHER.depth, number), parameters, spec.space)
        for share, score in ((RUNGS[0], first), (RUNGS[1], last), (1.0, last)):
            if score is not None:
                measured = Measurement(
                    trial=number, attempt=1, step=1, share=share, metrics={"validation/accuracy": score}
                )
                ladder.measured(outcome, measured)
        if last is not None:
            ladder.promote(number, RUNGS[0])
            ladder.promote(number, RUNGS[1])
    assert ladder.due() is None  # two of six went on
    ladder._reduction = 2.0
    assert ladder.due() == (2, RUNGS[0])  # the only one that will keep the bound, whatever the others' sizes


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"rungs": ["1/3", "1/9", 1]}, "do not rise to 1"),
        ({"rungs": ["1/9", "1/3"]}, "do not rise to 1"),
        ({"rungs": [0, 1]}, "greater than 0"),
        ({"rungs": ["a third", 1]}, "number"),
        ({"rungs": [1]}, "write two to 20 shares"),
        ({"reduction": 0.5}, "greater than or equal to 1"),
        ({"rung": [1]}, r"search.halving.rung: unknown key; did you mean \"rungs\"\?"),
        ("sometimes", "it should be 'none', or have keys: rungs, reduction"),
    ],
)
def test_a_ladder_that_is_none_is_refused(written: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        a_spec(search={"halving": written})
    assert len(caught.value.faults) == 1  # not one more for the word that was not written


def test_rungs_are_written_as_fractions() -> None:
    assert a_spec(search={"halving": HALVING}).search.rungs == pytest.approx(RUNGS)
    assert a_spec(search={"halving": "none"}).search.rungs == (1.0,)


def test_what_a_trial_takes_on_average() -> None:
    assert a_spec().search.mean_share == 1.0
    assert a_spec(search={"halving": HALVING}).search.mean_share == pytest.approx(1 / 9 + 2 / 9 / 3 + 6 / 9 / 9)


def test_what_could_not_reach_the_front_is_not_run(tmp_path: Path) -> None:
    """A student as good as the teacher ends the search among larger ones."""
    spec = a_spec(tmp_path, budget={"trials": 30}, search={"sampler": "random"})
    sampling = Sampling(spec, TEACHER, {"full": 143, "used": 90}, {}, {"accuracy": 0.9})
    record = Record(Storage("sqlite://"), "tiny", spec.objectives)
    searcher = StudySearcher(
        spec, record, sampling, Budget(spec, num_lanes=1, tokens_per_text=10.0, deadline=None, front_size=lambda: 1),
        Ladder(spec, {}), references=REFERENCES, teacher_depth=TEACHER.depth, payload={}, told=lambda outcome: None,
    )  # fmt: skip
    sizes = []
    for number in range(30):
        item = searcher.next_item("any")
        if item == "finished":
            break
        assert isinstance(item, WorkItem)
        assert item.config is not None
        sizes.append(item.config.shape.num_parameters)
        measured = Measurement(
            trial=number,
            attempt=1,
            step=9,
            share=1.0,
            metrics={"validation/accuracy": 0.91},
            cost={"train_seconds": 1.0},
        )
        searcher.finished(
            item.key, WorkResult(key=item.key, kind=item.kind, trial=number, attempt=1, lane=0, measurement=measured)
        )
    assert len(sizes) > 1
    assert sizes == sorted(sizes, reverse=True), "each is smaller than the one before, which was as good as the teacher"
    smallest = min(shape.num_parameters for shape in sampling.shapes)
    assert all(size > smallest for size in sizes[:-1])


# on real lanes
