"""When a front counts as flat: it has not grown for so many trials."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_search import REFERENCES, a_spec, measured, running

from search.results.front import ParetoFront
from search.study.growth import Growth
from spaces.budget import FlatSpec
from spaces.trial import TrialOutcome, TrialState

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def a_growth(trials: int, growth: float = 0.0, since: int = 0) -> Growth:
    return Growth(a_spec(), FlatSpec(trials=trials, growth=growth), REFERENCES, since)


def in_order(*accuracies: float) -> list[TrialOutcome]:
    return [measured(number, accuracy=value, at=float(number)) for number, value in enumerate(accuracies)]


def flat_after(growth: Growth, outcomes: Sequence[TrialOutcome]) -> int | None:
    """After how many trials it is flat for the first time."""
    return next((count for count in range(len(outcomes) + 1) if growth.is_flat(outcomes[:count])), None)


def test_flat_by_hand() -> None:
    outcomes = in_order(0.4, 0.5, 0.3, 0.5, 0.49, 0.6, 0.6, 0.6)
    assert flat_after(a_growth(3), outcomes) == 5  # none of trials 2, 3, 4 is better than trial 1
    assert flat_after(a_growth(4), outcomes) is None  # trial 5 is
    assert flat_after(a_growth(2), outcomes) == 4
    rising = in_order(0.5, 0.502, 0.504, 0.506, 0.508)  # by 0.4 % a trial
    assert flat_after(a_growth(2), rising) is None
    assert flat_after(a_growth(2, growth=0.007), rising) is None
    assert flat_after(a_growth(2, growth=0.009), rising) == 3
    assert flat_after(a_growth(9), in_order(*[0.5] * 9)) is None  # nine, but no nine after the first
    assert flat_after(a_growth(9), in_order(*[0.5] * 10)) == 10
    assert a_growth(30).in_words == "the front has not grown for 30 trials"
    assert a_growth(30, 0.01).in_words == "the front has not grown by more than 1% for 30 trials"


def test_flat_once_is_flat_for_good() -> None:
    """The trial that ran when the search ended is no reason to go on: the study that was not cut off did not."""
    outcomes = in_order(0.5, 0.5, 0.5, 0.9)
    growth = a_growth(2)
    assert growth.is_flat(outcomes[:3])
    assert growth.is_flat(outcomes)
    assert a_growth(2).is_flat(outcomes)


def test_what_is_no_front_is_not_flat() -> None:
    assert not a_growth(2).is_flat(in_order(*[0.0] * 5))  # no better than the floor
    failed = [running(number).model_copy(update={"state": TrialState.FAILED}) for number in range(1, 9)]
    assert not a_growth(2).is_flat([*in_order(0.5), *failed])  # what failed was not measured
    assert not a_growth(2).is_flat([])


def test_with_halving_a_trial_counts_where_it_is_measured_first() -> None:
    outcomes = [*in_order(0.5), *(measured(number, 1 / 9, at=float(number)) for number in (1, 2))]
    goes_on = outcomes[1].model_copy(
        update={
            "state": TrialState.DONE,
            "measurements": (*outcomes[1].measurements, *measured(1, accuracy=0.7, at=9.0).measurements),
        }
    )
    assert a_growth(2).is_flat(outcomes)
    assert not a_growth(3).is_flat(outcomes)
    later = [measured(number, 1 / 9, at=10.0 + number) for number in (3, 4)]
    assert not a_growth(3).is_flat(
        [outcomes[0], goes_on, outcomes[2], *later]
    )  # it grew at 9.0, one trial counted once


def test_what_is_extended_is_looked_at_anew() -> None:
    outcomes = in_order(0.5, 0.5, 0.5, 0.4, 0.5, 0.5)
    assert flat_after(a_growth(2), outcomes) == 3
    assert flat_after(a_growth(2, since=3), outcomes) == 5  # two more, against the front as it was
    better = in_order(0.5, 0.5, 0.5, 0.6, 0.6, 0.6)
    assert flat_after(a_growth(2, since=3), better) == 6


@settings(max_examples=30)
@given(
    accuracies=st.lists(st.sampled_from([0.0, 0.4, 0.5, 0.6, 0.7]), max_size=14),
    trials=st.integers(2, 5),
    seed=st.integers(0, 999),
)
def test_the_order_in_which_it_is_heard_is_of_no_matter(accuracies: list[float], trials: int, seed: int) -> None:
    """Beside the definition, written down plainly: the best of the first n against the best of the first n - trials."""
    outcomes = in_order(*accuracies)
    best = [max(accuracies[:count], default=0.0) for count in range(len(accuracies) + 1)]
    expected = any(0 < best[n] <= best[n - trials] for n in range(trials, len(best)))
    shuffled = random.Random(seed).sample(outcomes, len(outcomes))
    growth = a_growth(trials)
    for count in range(len(outcomes)):
        growth.is_flat(shuffled[: count + 1])
    assert growth.is_flat(shuffled) == a_growth(trials).is_flat(outcomes) == expected


def test_thousands_of_trials_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    plain = ParetoFront.of.__func__  # type: ignore[attr-defined]

    def of(cls: Any, outcomes: Any, *more: Any) -> ParetoFront:
        sizes.append(len(outcomes))
        return plain(cls, outcomes, *more)

    monkeypatch.setattr(ParetoFront, "of", classmethod(of))
    one = measured(0)
    outcomes = [
        one.model_copy(
            update={
                "number": number,
                "measurements": (
                    one.measurements[0].model_copy(update={"trial": number, "cost": {"finished_at": number}}),
                ),
            }
        )
        for number in range(2000)
    ]
    growth = a_growth(5000)
    for count in range(1990, 2001):
        assert not growth.is_flat(outcomes[:count])
    assert len(sizes) == 2000
    assert max(sizes) == 2
