"""Our own sampler: its curves, what it expects a point to add to the front, and what bounds and trials in play do to it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from small_search import TEACHER, VOCABULARIES, a_sampling, a_spec

from search.results.front import hypervolume
from search.study.searcher import trial_config
from search.suggest.curves import Curves
from search.suggest.forest import _step_below, expected_gain
from search.suggest.sampling import Sampling
from spaces.study import StudySpec
from spaces.trial import Measurement, TrialOutcome, TrialState

HALVING = {"rungs": ["1/9", "1/3", 1]}


def test_the_expected_gain_is_the_mean_of_what_hypervolume_says() -> None:
    rng = np.random.default_rng(0)
    front = np.array([[0.5, 1.0], [0.3, 2.0], [0.1, 4.0]])
    corner = np.array([1.0, 5.0])
    mean, spread, sizes = (
        np.array([0.4, 0.2, 0.05, 0.9, 0.3]),
        np.array([0.2, 0.1, 0.02, 0.05, 0.1]),
        np.array([1.5, 3.0, 4.5, 0.5, 6.0]),
    )
    found = expected_gain(front, corner, mean, spread, sizes)
    both, before = ["minimize", "minimize"], hypervolume(front.tolist(), corner.tolist(), ["minimize", "minimize"])
    for place in range(len(mean)):
        draws = rng.normal(mean[place], spread[place], 4000)
        gains = [hypervolume([*front.tolist(), [draw, sizes[place]]], corner.tolist(), both) - before for draw in draws]
        assert found[place] == pytest.approx(np.mean(gains), abs=4 * np.std(gains) / math.sqrt(len(gains)) + 1e-9)
    assert found[-1] == 0  # larger than anything counts
    alone = expected_gain(np.zeros((0, 2)), corner, np.array([0.25]), np.array([1e-9]), np.array([1.0]))
    assert alone == pytest.approx([0.75 * 4])


def test_curves_use_every_measurement_and_take_no_rung_for_another() -> None:
    """Scores at the end are 0.3 above those half-way. Most trials are measured half-way alone."""
    rng = np.random.default_rng(0)
    features = rng.uniform(size=(80, 2))
    scores = np.stack([0.5 * features[:, 0], 0.5 * features[:, 0] + 0.3], axis=1)
    scores[20:, 1] = np.nan
    curves = Curves(features, scores, seed=0)
    new = rng.uniform(size=(50, 2))
    mean, spread = curves.predict(new)
    assert np.abs(mean - (0.5 * new[:, 0] + 0.3)).mean() < 0.04
    assert (spread > 0).all()
    few = Curves(features[:20], scores[:20], seed=0).predict(new)[0]
    assert (
        np.abs(mean - (0.5 * new[:, 0] + 0.3)).mean() < np.abs(few - (0.5 * new[:, 0] + 0.3)).mean()
    )  # the others helped
    known, sure = curves.predict(new[:2], np.array([[0.9, np.nan], [0.1, 0.77]]))
    assert known[0] == pytest.approx(1.2, abs=0.03)  # from what it scored half-way, not from its features
    assert (known[1], sure[1]) == (0.77, 0.0)


def test_curves_begin_with_one_measurement() -> None:
    curves = Curves(np.zeros((1, 3)), np.array([[0.4, np.nan, np.nan]]), seed=0)
    assert curves.predict(np.ones((2, 3)))[0] == pytest.approx([0.4, 0.4])


def test_a_forest_is_grown_anew_in_steps() -> None:
    steps = [_step_below(count) for count in range(1, 60)]
    assert steps[:24] == list(range(1, 25))
    assert all(count / 1.05 - 1 <= step <= count for count, step in enumerate(steps, start=1))


def measured(
    spec: StudySpec, sampling: Sampling, number: int, score: Any, outcomes: list[TrialOutcome], share: float = 1.0
) -> TrialOutcome:
    suggested = sampling.suggest(outcomes, number)
    assert suggested is not None
    parameters, shape = suggested
    config = trial_config(spec, parameters, shape, TEACHER.depth, number)
    measurement = Measurement(
        trial=number, attempt=1, step=9, share=share, metrics={"validation/accuracy": score(config)},
        cost={"finished_at": float(number)},
    )  # fmt: skip
    state = TrialState.DONE if share == 1 else TrialState.WAITING
    return TrialOutcome(number=number, config=config, parameters=parameters, state=state, measurements=(measurement,))


def skill(config: Any) -> float:
    """Best at a learning rate of 2e-3, and better when larger."""
    size = math.log10(config.shape.num_parameters)
    return 0.2 + 0.12 * size - 0.5 * abs(math.log10(config.learning_rate / 2e-3))


def test_it_finds_what_makes_students_good() -> None:
    spec = a_spec(search={"startup_trials": 6})
    sampling = a_sampling(spec)
    outcomes: list[TrialOutcome] = []
    for number in range(30):
        outcomes.append(measured(spec, sampling, number, skill, outcomes))
    off = [abs(math.log10(outcome.config.learning_rate / 2e-3)) for outcome in outcomes]
    assert np.mean(off[-10:]) < 0.5 * np.mean(off[:6])


@pytest.mark.slow
def test_a_bound_on_a_score_draws_it_to_students_that_keep_it() -> None:
    """Only the larger half can. Without the bound most trials go to smaller ones, which the front holds too."""
    spec, bound = a_spec(search={"startup_trials": 6}), 0.72
    shapes = {}
    for name, limits in (("free", {}), ("bounded", {"accuracy": (bound, math.inf)})):
        sampling, outcomes = a_sampling(spec, **limits), list[TrialOutcome]()
        for number in range(26):
            outcomes.append(measured(spec, sampling, number, skill, outcomes))
        shapes[name] = [outcome.config.shape.num_parameters for outcome in outcomes[-12:]]
    can = 10 ** ((bound - 0.2) / 0.12)
    large = {name: sum(size >= can for size in sizes) for name, sizes in shapes.items()}
    assert large["bounded"] >= large["free"] + 3, large


def test_three_objectives_and_rungs_of_another_study() -> None:
    """No closed form, and measurements at shares that this study does not have count only where they are of whole trainings."""
    spec = a_spec(
        search={"startup_trials": 4, "halving": HALVING},
        objectives={"accuracy": "maximize", "macro_f1": "maximize", "parameters": "minimize"},
    )
    outcomes: list[TrialOutcome] = []
    plain = Sampling(spec, TEACHER, VOCABULARIES, {})

    def with_f1(outcome: TrialOutcome) -> TrialOutcome:
        (one,) = outcome.measurements
        metrics = {**one.metrics, "validation/macro_f1": one.metrics["validation/accuracy"] - 0.1}
        return outcome.model_copy(update={"measurements": (one.model_copy(update={"metrics": metrics}),)})

    for number in range(8):
        share = 1 / 9 if number % 2 else 0.5
        outcomes.append(with_f1(measured(spec, plain, number, skill, outcomes, share)))
    assert plain.suggest(outcomes, 8) is not None
    scores = np.stack([plain._forest._trial(outcome).scores for outcome in outcomes])
    assert np.isfinite(scores).sum() == 2 * 4  # of the four at 1/9, two metrics
