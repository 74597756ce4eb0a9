"""Near the front, intervals and what is distinguishable: by hand, against scipy.stats, and by drawing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from test_results import REFERENCES, a_spec, a_study, an_outcome

from search.record.record import Record, open_storage
from search.results.front import ParetoFront
from search.results.near import near_front
from search.results.scores import SeedScore, chances, standard_error, wilson
from search.results.students import near_rows, student_rows
from search.results.table import distinctions
from search.study.budget import Budget
from search.study.confirm import confirm, num_missing, wanted
from spaces.budget import BudgetSpec
from spaces.errors import StudyError
from spaces.trial import Measurement, TrialConfig, TrialOutcome, TrialState, WorkItem, WorkResult

# intervals


def test_the_interval_over_seeds_is_students() -> None:
    values = [0.87, 0.88, 0.89]
    score = SeedScore.of(values, "accuracy", 872)
    low, high = stats.t.interval(0.95, df=2, loc=np.mean(values), scale=stats.sem(values))
    assert (score.low, score.high) == (pytest.approx(low), pytest.approx(high))
    two = SeedScore.of([0.97, 0.99], "accuracy", 872)
    assert (two.low, two.high) == (pytest.approx(0.98 - 12.7062 * 0.01, abs=1e-5), 1.0)  # no more than all are right
    assert SeedScore.of([-0.9, 0.9], "matthews").low == -1
    assert SeedScore.of([-9.0, 9.0], "saved").high == pytest.approx(12.7062 * 9, abs=1e-2)  # of one's own: no ends


def test_the_interval_of_one_seed_is_of_its_rows() -> None:
    score = SeedScore.of([0.875], "accuracy", 872)
    expected = stats.binomtest(763, 872).proportion_ci(0.95, method="wilson")
    assert (score.low, score.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert wilson(1.0, 20)[1] == 1
    assert wilson(0.0, 20)[0] == pytest.approx(0, abs=1e-12)
    for metric, rows in (("f1", 872), ("spearman", 872), ("accuracy", 0), ("saved", 872)):
        assert SeedScore.of([0.875], metric, rows).low is None


def test_standard_errors_by_hand() -> None:
    assert standard_error("accuracy", 0.9, 900) == pytest.approx(0.01)
    assert standard_error("macro_f1", 0.9, 900) == pytest.approx(0.01)
    assert standard_error("pearson", 0.8, 100) == pytest.approx(0.036)
    assert standard_error("saved", 0.9, 900) is None
    assert standard_error("accuracy", 0.9, 0) is None
    assert standard_error("accuracy", math.nan, 900) is None


# near the front


def near(outcomes: list[TrialOutcome], num_rows: int = 900, **changes: Any) -> tuple[int, ...]:
    spec = a_spec(**changes)
    return near_front(ParetoFront.of(outcomes, spec, REFERENCES), outcomes, spec, REFERENCES, num_rows)


def test_near_is_within_one_standard_error_of_the_front() -> None:
    outcomes = [
        an_outcome(0, 0.80, layers=(0,)),
        an_outcome(1, 0.900, layers=(0, 3)),
        an_outcome(2, 0.895, layers=(0, 3)),  # half an error (0.0102) below 1
        an_outcome(3, 0.889, layers=(0, 3)),  # 1.05 errors (0.0105)
        an_outcome(4, 0.900, layers=(0, 2, 5)),  # as good, and larger
        an_outcome(5, 0.79, layers=(0,)),  # 0.74 errors (0.0136) below 0
        an_outcome(6, 0.899, layers=(0, 3), state=TrialState.ENDED),
        an_outcome(7, 0.899, layers=(0, 3), labels={"kind": "confirm", "of": "1"}),
    ]
    assert ParetoFront.of(outcomes, a_spec(), REFERENCES).trials == (0, 1)
    assert near(outcomes, confirm={"near": 9}) == (4, 2, 5)  # the nearest first
    assert near(outcomes, confirm={"near": 2}) == near(outcomes) == (4, 2)
    assert near(outcomes, confirm={"near": 0}) == ()
    assert near(outcomes, num_rows=0) == ()  # nobody knows the noise
    assert near(outcomes, num_rows=100_000) == (4,)
    assert near(outcomes, bounds={"parameters": {"max": outcomes[1].config.shape.num_parameters}}) == (2, 5)


def test_to_pass_a_point_one_objective_is_enough() -> None:
    def both(number: int, accuracy: float, macro_f1: float) -> TrialOutcome:
        plain = an_outcome(number, accuracy, layers=(0, 3))
        metrics = {"validation/accuracy": accuracy, "validation/macro_f1": macro_f1}
        return plain.model_copy(
            update={"measurements": (plain.measurements[0].model_copy(update={"metrics": metrics}),)}
        )

    outcomes = [both(0, 0.90, 0.90), both(1, 0.895, 0.80), both(2, 0.80, 0.80)]
    objectives = {"accuracy": "maximize", "macro_f1": "maximize", "parameters": "minimize"}
    assert near(outcomes, objectives=objectives) == (1,)


def test_what_is_near_is_confirmed_last_and_by_new_seeds() -> None:
    spec, outcomes, _, _ = a_study()
    front = ParetoFront.of(outcomes, spec, REFERENCES)
    todo = [labels for _, labels in wanted(spec, front, outcomes, (4,))]
    of_front = [labels for _, labels in wanted(spec, front, outcomes)]
    assert todo[: len(of_front)] == of_front
    assert [(labels["kind"], labels["of"]) for labels in todo[len(of_front) :]] == [("confirm", "4")] * 2
    configs = [config for config, _ in wanted(spec, front, outcomes, (4,))][-2:]
    assert len({*(config.seed for config in configs), outcomes[4].config.seed}) == 3
    assert all(config.model_copy(update={"seed": outcomes[4].config.seed}) == outcomes[4].config for config in configs)
    once = a_spec(confirm={"seeds": 1})
    assert wanted(once, front, outcomes, (4,)) == wanted(once, front, outcomes)


def test_missing_is_what_the_front_lacks() -> None:
    spec, outcomes, _, _ = a_study()
    front = ParetoFront.of(outcomes, spec, REFERENCES)
    todo = wanted(spec, front, outcomes)
    settled = [an_outcome(n, 0.8, labels=labels) for n, (_, labels) in enumerate(todo)]
    others = [an_outcome(99, 0.8, labels={"kind": "confirm", "of": "4", "seed": "1"})]  # of a front of yesterday
    assert len(todo) == 3 * 3
    assert num_missing(spec, front, outcomes, settled) == 0
    running = settled[0].model_copy(update={"state": TrialState.RUNNING})
    failed = settled[1].model_copy(update={"state": TrialState.FAILED})
    assert num_missing(spec, front, outcomes, [running, failed, *settled[3:], *others]) == 2


def test_rows_near_the_front_are_marked_and_need_a_score() -> None:
    spec, outcomes, _, _ = a_study()
    confirmations = [an_outcome(9, 0.9, test=0.88, labels={"kind": "confirm", "of": "4"})]
    known = (outcomes, confirmations, {}, REFERENCES, {"test": 872})
    (row,) = near_rows(spec, (4, 1), *known)
    assert (row.trial, row.standing, row.test["test/accuracy"].mean, row.compared) == (4, "near", 0.88, None)


# which points are distinguishable


def scores(*values: float) -> SeedScore:
    return SeedScore.of(values, "accuracy")


def test_without_rows_it_is_welchs_test() -> None:
    smaller, larger = (0.870, 0.874, 0.879), (0.885, 0.881, 0.889)
    expected = stats.ttest_ind(larger, smaller, equal_var=False, alternative="greater").pvalue
    assert chances([(scores(*smaller), scores(*larger))], "saved", 0) == [pytest.approx(expected)]
    (reverse,) = chances([(scores(*larger), scores(*smaller))], "saved", 0)
    assert reverse == pytest.approx(1 - expected)
    (with_rows,) = chances([(scores(*smaller), scores(*larger))], "accuracy", 872)
    assert expected < 0.05 < with_rows  # nine texts of 872


def test_many_rows_and_seeds_that_agree_are_shown() -> None:
    pair = (scores(0.87, 0.87, 0.87), scores(0.90, 0.90, 0.90))
    one, other = 0.87 * 0.13 / 2000, 0.90 * 0.10 / 2000  # the normal test of two shares that go together by a half
    error = math.sqrt(one + other - 2 * 0.5 * math.sqrt(one * other))
    assert chances([pair], "accuracy", 2000) == [pytest.approx(stats.norm.sf(0.03 / error))]
    assert chances([pair], "saved", 2000) == [None]  # no spread anywhere: nothing to hold it against


def test_holms_correction_by_hand() -> None:
    pairs = [(scores(0.80, 0.82), scores(*more)) for more in ((0.90, 0.93), (0.86, 0.89), (0.81, 0.84))]
    alone = [chances([pair], "saved", 0)[0] for pair in pairs]
    assert alone == sorted(alone)  # type: ignore[type-var]
    a, b, c = alone
    assert a is not None
    assert b is not None
    assert c is not None
    untested = (scores(0.8), scores(0.9, 0.91))
    corrected = chances([pairs[2], untested, pairs[0], pairs[1]], "saved", 0)
    assert corrected[1] is None
    expected = [max(3 * a, 2 * b, c), 3 * a, max(3 * a, 2 * b)]
    assert [corrected[0], *corrected[2:]] == pytest.approx([min(value, 1) for value in expected])


def test_chance_is_seldom_called_a_difference() -> None:
    """Two recipes that are equally good on all texts, and differ in which they find hard; three seeds, 872 texts."""
    chance = np.random.default_rng(0)
    shown = 0
    for _ in range(200):
        ease = chance.normal(2.6, 2, 872)
        pair = []
        for _recipe in range(2):
            hard = ease + chance.normal(0, 1.5, 872)
            right = chance.random((3, 872)) < 1 / (1 + np.exp(-2 * (hard + chance.normal(0, 0.9, (3, 872)))))
            pair.append(SeedScore.of(right.mean(1).tolist(), "accuracy", 872))
        (found,) = chances([(pair[0], pair[1])], "accuracy", 872)
        assert found is not None
        shown += found < 0.05
    assert shown <= 10  # seeds alone: about 22


def test_rows_say_what_is_not_shown_to_be_better() -> None:
    spec, outcomes, confirmations, delivered = a_study()
    again = [an_outcome(30 + n, 0.9, test=0.89 + 0.002 * n, labels={"kind": "confirm", "of": "3"}) for n in range(2)]
    front = ParetoFront.of(outcomes, spec, REFERENCES)

    def compared(num_rows: int, of_zero: dict[str, float] | None = None) -> list[Any]:
        known = delivered | ({0: of_zero} if of_zero else {})
        rows = student_rows(spec, front, outcomes, [*confirmations, *again], known, REFERENCES, {"test": num_rows})
        return [row.compared and (row.compared.smaller, row.compared.verdict) for row in rows]

    assert compared(0) == [None, None, (2, "not tested")]  # a record from before the rows were counted
    assert compared(872) == [None, None, (2, "not shown")]  # 0 was not scored on test
    assert compared(872, {"test/accuracy": 0.8}) == [None, (0, "not tested"), (2, "not shown")]
    rows = student_rows(spec, front, outcomes, [*confirmations, *again], delivered, REFERENCES, {"test": 872})
    (said,) = distinctions(rows)
    assert said.startswith("Trial 3 (")
    assert "is not shown to be better than" in said
    assert "(trial 2): +1.2 points, p = 0." in said
    worse = [row.model_copy(update={"compared": None}) for row in rows]
    assert distinctions(worse) == []


# confirming, on a lane that does nothing


class Lane:
    """One lane, which scores what it is handed at once; `seen` is what it was handed, in order."""

    num_lanes = 1

    def __init__(self) -> None:
        self.items: dict[str, WorkItem] = {}
        self.seen: list[TrialConfig] = []

    def submit(self, item: WorkItem) -> None:
        assert item.config is not None
        assert item.evaluate == ("validation", "test")
        assert item.folder == ""  # nothing is kept of it
        self.items[item.key] = item
        self.seen.append(item.config)

    def wait_any(self, keys: list[str]) -> WorkResult:
        item = self.items[keys[0]]
        assert item.trial is not None
        measured = Measurement(
            trial=item.trial, attempt=item.attempt, step=9, share=1.0,
            metrics={"validation/accuracy": 0.9, "test/accuracy": 0.9}, cost={"train_seconds": 12.0},
        )  # fmt: skip
        return WorkResult(key=item.key, kind=item.kind, trial=item.trial, attempt=1, lane=0, measurement=measured)

    def acknowledge(self, key: str) -> None:
        del self.items[key]


def test_minutes_end_before_what_is_near_and_more_minutes_add_it(tmp_path: Path) -> None:
    spec, outcomes, _, _ = a_study()
    spec = spec.model_copy(update={"budget": BudgetSpec(minutes=1)})
    front = ParetoFront.of(outcomes, spec, REFERENCES)
    of_front, everything = wanted(spec, front, outcomes), wanted(spec, front, outcomes, (4,))
    lane = Lane()

    def run(trainings: int, near: tuple[int, ...] = (4,)) -> list[TrialOutcome]:
        """With minutes for so many."""
        before = len(lane.seen)
        budget = Budget(
            spec, num_lanes=1, tokens_per_text=10, deadline=1e6, front_size=lambda: 3,
            clock=lambda: 0 if len(lane.seen) - before < trainings else 2e6,
        )  # fmt: skip
        record = Record(open_storage("sqlite", tmp_path), "small.confirm", spec.objectives)
        return confirm(
            spec, front, near, outcomes, record, lane, budget, {}, lambda outcome: None, lambda: None,  # type: ignore[arg-type]
        )  # fmt: skip

    done = run(len(of_front))
    assert lane.seen == [config for config, _ in of_front]
    assert num_missing(spec, front, outcomes, done) == 0  # nobody is told that something is missing
    assert near_rows(spec, (4,), outcomes, done, {}, REFERENCES, {"test": 872}) == []
    done = run(99)
    assert lane.seen == [config for config, _ in everything]  # the rest, and nothing twice
    (row,) = near_rows(spec, (4,), outcomes, done, {}, REFERENCES, {"test": 872})
    assert (row.trial, row.test["test/accuracy"].seeds) == (4, 2)
    run(99)
    assert len(lane.seen) == len(everything)
    assert {label["of"] for label in (outcome.labels for outcome in done)} == {"0", "2", "3", "4"}


class Refusing(Record):
    """A record that refuses the first state that it is to write."""

    def set_state(self, *asked: Any, **more: Any) -> None:
        raise StudyError("the disk is full")


def test_what_was_measured_before_its_state_could_be_written_is_not_trained_again(tmp_path: Path) -> None:
    spec, outcomes, _, _ = a_study()
    front = ParetoFront.of(outcomes, spec, REFERENCES)
    everything = len(wanted(spec, front, outcomes))
    lane, told = Lane(), []
    budget = Budget(spec, num_lanes=1, tokens_per_text=10, deadline=None, front_size=lambda: 3)

    def run(kind: type[Record]) -> list[TrialOutcome]:
        record = kind(open_storage("sqlite", tmp_path), "small.confirm", spec.objectives)
        return confirm(
            spec, front, (), outcomes, record, lane, budget, {}, told.append, lambda: None,  # type: ignore[arg-type]
        )  # fmt: skip

    with pytest.raises(StudyError, match="the disk is full"):
        run(Refusing)
    (first, *_) = lane.seen
    done = run(Record)
    assert lane.seen.count(first) == 1
    assert {outcome.state for outcome in done} == {TrialState.DONE}
    assert len(told) == len(done) == everything
