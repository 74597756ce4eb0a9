"""What is tried next, and what may still be spent: sampling and budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.samplers import TPESampler
from small_search import TEACHER, VOCABULARIES, Clock, a_sampling, a_spec, done, history, reopened

from search.results.front import non_dominated
from search.study.budget import Budget
from search.suggest import samplers as samplers_module
from search.suggest import sampling as sampling_module
from search.suggest.samplers import AtRungs
from search.suggest.sampling import Sampling
from spaces.errors import InputError
from spaces.trial import TrialOutcome, TrialState

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


SMALL = {"parameters": (0.0, 24_000.0)}


@pytest.fixture(scope="module")
def bounded() -> Sampling:
    sampling = a_sampling(a_spec(search={"sampler": "tpe", "startup_trials": 2}), **SMALL)
    every = len(a_sampling(a_spec(search={"sampler": "tpe", "startup_trials": 2})).shapes)
    assert 0 < len(sampling.shapes) < every  # the bound leaves out some
    return sampling


@given(number=st.integers(0, 500))
def test_suggestions_are_valid_and_within_the_bounds(bounded: Sampling, number: int) -> None:
    spec = a_spec()
    values, shape = bounded.suggest([], number)
    assert spec.space.fault_of(values) == ""
    assert spec.space.shape(values, TEACHER, VOCABULARIES) == shape
    assert shape.num_parameters <= 24_000
    assert ("num_hidden_groups" in values) == (values["family"] == "albert")
    assert 1e-3 <= values["learning_rate"] <= 5e-3
    assert bounded.suggest([], number) == (values, shape)


def test_suggestions_depend_on_seed_and_number() -> None:
    def values(seed: int, number: int) -> dict[str, Any]:
        return a_sampling(a_spec(seed=seed)).suggest([], number)[0]

    found = [values(seed, number) for seed in (0, 1) for number in range(4)]
    assert all(found.count(one) == 1 for one in found)


def test_with_history_suggestions_stay_valid_and_new(bounded: Sampling) -> None:
    spec = a_spec(search={"startup_trials": 2})
    outcomes = history(spec, bounded, 8)
    parameters = [outcome.parameters for outcome in outcomes]
    assert all(parameters.count(one) == 1 for one in parameters)
    assert all(outcome.config.shape.num_parameters <= 24_000 for outcome in outcomes)
    assert {outcome.parameters["family"] for outcome in outcomes} == {"bert", "albert"}


def test_an_interrupted_study_suggests_what_an_uninterrupted_one_would(tmp_path: Path) -> None:
    spec = a_spec(search={"sampler": "tpe", "startup_trials": 3})
    outcomes = history(spec, a_sampling(spec), 6)
    record = reopened(tmp_path)
    for outcome in outcomes:
        record.start(outcome.config, outcome.parameters, spec.space)
        record.measured(outcome.measurements[0])
        record.set_state(outcome.number, TrialState.DONE, [outcome.values()[name] for name in spec.objectives])
    again = a_sampling(spec).suggest(reopened(tmp_path).outcomes(), 6)
    assert again == a_sampling(spec).suggest(outcomes, 6)
    assert again != a_sampling(spec).suggest(outcomes[:3], 6)  # what was measured counts


def test_a_sampler_that_lived_on_suggests_what_a_new_one_would() -> None:
    """Trials finish in another order than they began; what an ask leaves behind counts for nothing."""
    spec = a_spec(search={"sampler": "tpe", "startup_trials": 3})
    lived = a_sampling(spec)
    outcomes: list[TrialOutcome] = []
    for number in range(10):
        finished = [
            outcome for outcome in outcomes if outcome.number != number - 1 or number % 3
        ]  # one is late now and then
        suggested = lived.suggest(finished, number)
        assert suggested == a_sampling(spec).suggest(finished, number)
        late = 10.0 * number + (15.0 if number % 3 == 2 else 0.0)
        outcome = done(spec, *suggested, number, accuracy=0.5 + 0.03 * (number * 7 % 11))
        assert outcome.last is not None
        cost = {**outcome.last.cost, "finished_at": late}
        outcomes.append(outcome.model_copy(update={"measurements": (outcome.last.model_copy(update={"cost": cost}),)}))


def test_of_many_trials_the_latest_and_some_older_ones_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers_module, "TPESampler", Spy)
    monkeypatch.setattr(Spy, "seen", [])
    monkeypatch.setattr(samplers_module, "MOST_SEEN", 20)
    monkeypatch.setattr(samplers_module, "BLOCK", 10)
    spec = a_spec(search={"sampler": "tpe", "startup_trials": 3})
    lived = a_sampling(spec)
    outcomes = history(spec, lived, 43)
    assert lived.suggest(outcomes, 43) == a_sampling(spec).suggest(outcomes, 43)
    rows = [[outcome.values()[name] for name in spec.objectives] for outcome in outcomes]
    known = [
        next(o.number for o in outcomes if params.items() <= o.parameters.items()) for params, _, _ in Spy.seen[-1]
    ]
    assert known[10:] == list(range(30, 43))  # the latest, all of them
    old = known[:10]
    assert old == sorted(set(old))
    front = non_dominated(rows[:30], list(spec.objectives.values()))
    assert front
    assert set(front[:2]) <= set(old)  # a fifth are the best,
    assert min(old) < 8  # and the others from everywhere
    assert 20 < max(old) < 30


class Spy(TPESampler):
    seen: list[list[Any]] = []

    def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
        Spy.seen.append([(dict(t.params), t.values, t.constraints) for t in study.get_trials()[:-1]])
        return super().infer_relative_search_space(study, trial)


def test_tpe_takes_over_once_enough_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers_module, "TPESampler", Spy)
    monkeypatch.setattr(Spy, "seen", [])
    spec = a_spec(search={"sampler": "tpe", "startup_trials": 3})
    sampling = a_sampling(spec, accuracy=(0.7, float("inf")), **SMALL)
    Spy.seen.clear()  # it was asked once, whether it can
    outcomes = history(spec, sampling, 3)
    assert Spy.seen == []  # numbers 0, 1 and 2 were drawn at random
    running = outcomes[0].model_copy(update={"number": 3, "state": TrialState.RUNNING, "measurements": ()})
    sampling.suggest([*outcomes, running], 4)
    assert Spy.seen
    (first, *_) = Spy.seen
    assert [values for _, values, _ in first] == [
        [outcome.values()["accuracy"], outcome.values()["parameters"]] for outcome in outcomes
    ]  # the running one is not among them
    for (params, (accuracy, parameters), constraints), outcome in zip(first, outcomes, strict=True):
        assert params.items() <= outcome.parameters.items()
        assert constraints == pytest.approx(
            {"accuracy.min": 0.7 - accuracy, "parameters.min": -parameters, "parameters.max": parameters - 24_000}
        )
    assert any(
        constraints["accuracy.min"] > 0 for _, _, constraints in first
    )  # one is below the bound, and told as such

    random = a_spec(search={"sampler": "random", "startup_trials": 1})
    Spy.seen.clear()
    a_sampling(random).suggest(outcomes, 3)
    assert Spy.seen == []


def test_what_is_put_first_and_makes_no_student_is_told() -> None:
    with pytest.raises(InputError, match=r"first\[1\].*no student"):
        a_sampling(a_spec(search={"first": [{"depth": 1}, {"family": "albert", "depth": 1, "num_hidden_groups": 2}]}))


def test_what_the_user_puts_first_is_tried_first() -> None:
    first = [{"family": "bert", "depth": 1}, {"depth": 3, "temperature": 2.5, "family": "albert"}]
    sampling = a_sampling(a_spec(search={"first": first}))
    for number, given_values in enumerate(first):
        values, shape = sampling.suggest([], number)
        assert given_values.items() <= values.items()
        assert (shape.family, shape.depth) == (given_values["family"], given_values["depth"])
    assert sampling.suggest([], 2) == a_sampling(a_spec()).suggest([], 2)


def test_where_the_sampler_keeps_missing_a_valid_shape_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling_module, "TRIES", 1)
    largest = max(shape.num_parameters for shape in a_sampling(a_spec()).shapes)
    sampling = a_sampling(a_spec(), parameters=(largest, largest))
    (only,) = sampling.shapes  # one of 52: a single draw misses it nearly always
    suggested = [sampling.suggest([], number) for number in range(6)]
    assert [shape for _, shape in suggested] == [only] * 6
    assert len({values["learning_rate"] for values, _ in suggested}) == 6  # the rest is still drawn


@pytest.mark.parametrize(
    ("changes", "limits", "words"),
    [
        ({"space": {"depth": {"int": [5, 6]}}}, {}, "depth 5 is more than the teacher's 4 layers"),
        ({"space": {"embedding_size": 64}}, {}, "embedding_size 64 is above the width 32"),
        ({"space": {"layers": [[0, 9]], "depth": 2}}, {}, "the teacher's last layer is 3"),
        ({}, {"parameters": (0.0, 10.0)}, "no student is within the bounds: the space reaches from"),
    ],
)
def test_an_empty_space_is_refused_with_its_reason(changes: dict[str, Any], limits: Any, words: str) -> None:
    with pytest.raises(InputError) as caught:
        a_sampling(a_spec(**changes), **limits)
    assert words in str(caught.value)


# the budget


def a_budget(clock: Clock, front: int = 2, deadline: float | None = 1100.0, **changes: Any) -> Budget:
    return Budget(
        a_spec(**changes),
        num_lanes=2,
        tokens_per_text=10.0,
        deadline=deadline,
        front_size=lambda: front,
        scoring_share=0.5,
        clock=clock,
    )


def timed(*seconds: float) -> list[TrialOutcome]:
    spec = a_spec()
    parameters, shape = a_sampling(spec).suggest([], 0)
    return [done(spec, parameters, shape, number, seconds=value) for number, value in enumerate(seconds)]


def test_the_number_of_trials_is_a_bound() -> None:
    budget = a_budget(Clock(), deadline=None, budget={"trials": 3})
    assert budget.allows(timed(4, 8))
    assert not budget.allows(timed(4, 8, 12))
    assert budget.seconds_left() is None
    assert budget.has_time_for(timed(4)[0].config.shape, timed(4, 8))


def test_time_is_kept_back_for_what_comes_after() -> None:
    clock = Clock(1059.0)
    budget, outcomes = a_budget(clock), timed(12, 4, 8)
    # 12 s; for 2 points 2 more seeds and one without distillation each: 6 trainings of 8 s on 2 lanes; and scoring
    # both points at half a training each
    assert budget.kept_back(outcomes) == 12 + 6 * 8 / 2 + 2 * 4 / 2
    assert budget.allows(outcomes)
    clock.now = 1060.0
    assert not budget.allows(outcomes)
    assert budget.seconds_left() == 40.0
    no_front_yet = a_budget(clock, front=0)  # five points are assumed
    assert no_front_yet.kept_back(outcomes) == 12 + 15 * 8 / 2 + 5 * 4 / 2
    only_best = a_budget(clock, confirm={"seeds": 1, "without_distillation": "best"})
    assert only_best.kept_back(outcomes) == 12 + 12 + 2 * 4 / 2  # one training, and it may be the longest
    nothing = a_budget(clock, confirm={"seeds": 1, "without_distillation": "none"})
    assert nothing.kept_back(outcomes) == 12 + 2 * 4 / 2
    assert budget.kept_back([]) == 12


def test_a_trial_that_would_not_end_in_time_is_not_begun() -> None:
    clock = Clock(1000.0)
    budget, outcomes = a_budget(clock), timed(12, 4, 8)
    shape = outcomes[0].config.shape
    assert budget.seconds_for(shape, outcomes) == pytest.approx(8.0)
    assert budget.seconds_for(shape, []) is None
    deeper = shape.model_copy(update={"depth": 4, "num_hidden_groups": 4 if shape.family == "bert" else 1})
    ratio = deeper.flops(10) / shape.flops(10)
    assert budget.seconds_for(deeper, outcomes) == pytest.approx(8.0 * ratio)
    clock.now = 1100.0 - 40.0 - 8.5
    assert budget.has_time_for(shape, outcomes)
    running = [
        outcomes[0].model_copy(update={"number": number, "state": TrialState.RUNNING, "measurements": ()})
        for number in (3, 4)
    ]
    assert not budget.has_time_for(shape, [*outcomes, *running])  # both lanes are busy for some seconds yet
    clock.now += 1.0
    assert not budget.has_time_for(shape, outcomes)


# samplers by name


@pytest.mark.parametrize(
    "sampler", ["forest", "tpe", "nsga2", "nsga3", "qmc", "random", "optuna.samplers:NSGAIISampler"]
)
def test_every_sampler_suggests_valid_points_and_the_same_again(sampler: str) -> None:
    spec = a_spec(search={"sampler": sampler, "startup_trials": 3})
    sampling = a_sampling(spec, **SMALL)
    outcomes = history(spec, sampling, 8)
    assert len({tuple(outcome.parameters.items()) for outcome in outcomes}) == 8
    assert all(outcome.config.shape.num_parameters <= 24_000 for outcome in outcomes)
    assert a_sampling(spec, **SMALL).suggest(outcomes, 8) == sampling.suggest(outcomes, 8)


@pytest.mark.parametrize(("sampler", "enough"), [("forest", 10), ("tpe", 3), ("nsga2", 20), ("nsga3", 20)])
def test_every_sampler_learns_from_what_was_measured(sampler: str, enough: int) -> None:
    """Genetic ones once a generation is full."""
    spec = a_spec(search={"sampler": sampler, "startup_trials": 3})
    outcomes = history(spec, a_sampling(spec), enough + 2)
    turned = [worse_for_better(outcome) for outcome in outcomes]
    numbers = range(enough + 2, enough + 7)
    learnt, other = ([a_sampling(spec).suggest(seen, number) for number in numbers] for seen in (outcomes, turned))
    assert learnt != other


def worse_for_better(outcome: TrialOutcome) -> TrialOutcome:
    assert outcome.last is not None
    metrics = {name: 1 - value for name, value in outcome.last.metrics.items()}
    return outcome.model_copy(update={"measurements": (outcome.last.model_copy(update={"metrics": metrics}),)})


@pytest.mark.slow
def test_the_gaussian_process_suggests_too() -> None:
    spec = a_spec(search={"sampler": "gp", "startup_trials": 3})
    assert len(history(spec, a_sampling(spec, **SMALL), 5)) == 5


@pytest.mark.parametrize(
    ("sampler", "words"),
    [
        ("tpee", "did you mean"),
        ("cmaes", "there are forest, tpe, nsga2, nsga3, gp, qmc, random"),
        ("optuna.samplers:CmaEsSampler", "cannot choose for 2 objectives in this space"),
        ("optuna.samplers:GridSampler", "There are forest, qmc, tpe"),
        ("optuna.samplers:NoSampler", "cannot be imported"),
        ("nowhere.at.all:Sampler", "cannot be imported"),
    ],
)
def test_a_sampler_that_cannot_is_refused_by_name(sampler: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        a_sampling(a_spec(search={"sampler": sampler}))
    assert words in str(caught.value)
    assert "sampler" in str(caught.value)


def test_a_sampler_is_asked_about_one_rung_alone() -> None:
    """Scores half-way are not held against scores at the end: all it sees are of the highest rung that has enough."""
    spec = a_spec(search={"startup_trials": 3, "halving": {"rungs": ["1/9", "1/3", 1]}})
    outcomes = history(spec, a_sampling(spec), 9)

    def at_rungs(outcome: TrialOutcome, count: int) -> TrialOutcome:
        assert outcome.last is not None
        last = outcome.last
        steps = [last.model_copy(update={"share": share}) for share in spec.search.rungs[:count]]
        return outcome.model_copy(update={"measurements": tuple(steps)})

    some = [at_rungs(outcome, 1 + (outcome.number < 4) + (outcome.number < 1)) for outcome in outcomes]
    seen = AtRungs(spec).at_one(some)
    assert [(outcome.number, outcome.share) for outcome in seen] == [(number, 1 / 3) for number in range(4)]
    fewer = [at_rungs(outcome, 1 + (outcome.number < 2)) for outcome in outcomes]
    assert {outcome.share for outcome in AtRungs(spec).at_one(fewer)} == {1 / 9}
    assert len(AtRungs(spec).at_one(fewer)) == 9


def test_a_space_that_is_used_up_ends_the_suggestions() -> None:
    space = {"depth": {"int": [1, 3]}, "vocabulary": ["used", "full"], "batch_size": [16, 32]}
    spec = a_spec(space=space, search={"sampler": "random"})
    outcomes = history(spec, a_sampling(spec), 12)
    assert len({tuple(outcome.parameters.items()) for outcome in outcomes}) == 12
    assert a_sampling(spec).suggest(outcomes, 12) is None
