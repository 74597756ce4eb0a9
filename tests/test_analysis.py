"""How a search went: the hypervolume's course, importances, what the students share; by hand and on trials made up."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from test_results import REFERENCES, a_spec, a_study, an_outcome

from search.results.alike import alike
from search.results.analysis import analyse, duration
from search.results.course import course
from search.results.front import ParetoFront
from search.results.importance import importances
from spaces.space import parse_space
from spaces.study import StudySpec
from spaces.trial import TrialOutcome, TrialState


def timed(outcome: TrialOutcome, *finished_at: float, seconds: float = 10.0) -> TrialOutcome:
    """The outcome with a measurement at each of these times, the shares rising to the last one's."""
    last = outcome.last
    assert last is not None
    measurements = tuple(
        last.model_copy(
            update={
                "share": last.share / 3 ** (len(finished_at) - place),
                "cost": {"train_seconds": seconds, "finished_at": at},
            }
        )
        for place, at in enumerate(finished_at, start=1)
    )
    return outcome.model_copy(update={"measurements": measurements})


# the course


def test_the_course_by_hand() -> None:
    outcomes = [
        timed(an_outcome(0, 0.84, layers=(0,)), 5),
        timed(an_outcome(1, 0.89, layers=(0, 3)), 1, 2, 3),  # three segments, the last before 0's
        timed(an_outcome(2, 0.83, layers=(0, 3)), 6),  # dominated
        timed(an_outcome(3, 0.95, state=TrialState.ENDED), 4),  # spent, and no candidate
        timed(an_outcome(4, 0.99, labels={"kind": "confirm", "of": "1"}), 0),
        an_outcome(5, 0.0, state=TrialState.FAILED),
    ]
    went = course(outcomes, a_spec(), REFERENCES)
    assert [(point.train_seconds, point.finished) for point in went] == [(0, 0), (30, 1), (50, 2), (60, 3)]
    assert went[0].hypervolume == 0
    for point, numbers in zip(went[1:], ([1], [0, 1], [0, 1, 2]), strict=True):
        front = ParetoFront.of([outcomes[number] for number in numbers], a_spec(), REFERENCES)
        assert point.hypervolume == pytest.approx(front.hypervolume)
    assert course(list(reversed(outcomes)), a_spec(), REFERENCES) == went


def test_the_course_ends_at_the_front() -> None:
    chance = random.Random(0)
    outcomes = [
        timed(an_outcome(n, chance.uniform(0.5, 0.95), layers=tuple(range(chance.randint(1, 9)))), chance.random())
        for n in range(60)
    ]
    for spec in (a_spec(), a_spec(bounds={"accuracy": {"min": 0.8}})):
        went = course(outcomes, spec, REFERENCES)
        assert went[-1].hypervolume == pytest.approx(ParetoFront.of(outcomes, spec, REFERENCES).hypervolume)
        volumes = [point.hypervolume for point in went]
        assert volumes == sorted(volumes)
        assert went[-1].train_seconds == 600
        assert len(went) >= 5
    assert len(course([], a_spec(), REFERENCES)) == 1


# importances


SPACE = {
    "family": ["bert", "albert"],
    "depth": {"int": [1, 6]},
    "vocabulary": ["used", "full"],
    "num_hidden_groups": {"int": [1, 3], "when": {"family": "albert"}},
    "temperature": {"float": [1, 8], "log": True},
    "learning_rate": {"float": [1e-4, 1e-3], "log": True},
    "batch_size": [32],
}


def the_spec(**changes: Any) -> StudySpec:
    space, faults = parse_space(SPACE)
    assert not faults
    return a_spec(**changes).model_copy(update={"space": space})


def tried(count: int, seed: int = 0) -> list[TrialOutcome]:
    """Accuracy depends on the learning rate, and of ALBERTs on their groups far more; nothing depends on the temperature."""
    chance, outcomes = random.Random(seed), []
    for number in range(count):
        parameters: dict[str, Any] = {
            "family": "albert" if number % 2 else "bert",
            "depth": chance.randint(1, 6),
            "vocabulary": "used",
            "temperature": chance.uniform(1, 8),
            "learning_rate": 10 ** chance.uniform(-4, -3),
            "batch_size": 32,
        }
        accuracy = 0.5 + 200 * parameters["learning_rate"]
        if number % 2:
            parameters["num_hidden_groups"] = chance.randint(1, 3)
            accuracy += 0.3 * parameters["num_hidden_groups"] - 0.6
        outcome = an_outcome(number, accuracy, layers=tuple(range(parameters["depth"])))
        outcomes.append(outcome.model_copy(update={"parameters": parameters}))
    return outcomes


def test_importance_finds_what_matters_and_looks_at_conditions_apart() -> None:
    found = importances(the_spec(), tried(60))
    by_key = {(one.objective, one.among): one for one in found.found}
    assert by_key.keys() == {(o, a) for o in ("accuracy", "parameters") for a in ("", "family is albert")}
    everyone = by_key["accuracy", ""]
    assert everyone.trials == 60
    assert everyone.shares.keys() == {"family", "depth", "temperature", "learning_rate"}
    assert sum(everyone.shares.values()) == pytest.approx(1)
    assert list(everyone.shares.values()) == sorted(everyone.shares.values(), reverse=True)
    assert everyone.shares["learning_rate"] > 2 * everyone.shares["temperature"]
    assert next(iter(by_key["parameters", ""].shares)) == "depth"
    assert by_key["parameters", ""].shares["depth"] > 0.95
    albert = by_key["accuracy", "family is albert"]
    assert albert.trials == 30
    assert albert.shares.keys() == {"num_hidden_groups"}
    assert albert.shares["num_hidden_groups"] > 0.5
    assert found.left_out == {
        "vocabulary": "the same in all that finished"
    }  # the fixed batch size is not even searched
    assert importances(the_spec(), tried(60)) == found


def test_too_few_trials_are_said_and_not_guessed_from() -> None:
    spec = the_spec()
    few = importances(spec, tried(9))
    assert few.found == ()
    assert few.left_out["temperature"] == "9 trials finished, and it takes 10"
    some = importances(spec, tried(16))  # 8 ALBERTs
    assert {one.among for one in some.found} == {""}
    assert some.left_out["num_hidden_groups"] == "8 finished trials have it, and it takes 10"
    unfinished = [outcome.model_copy(update={"state": TrialState.ENDED}) for outcome in tried(40)]
    assert importances(spec, unfinished).left_out["depth"] == "0 trials finished, and it takes 10"
    bert = [outcome for outcome in tried(60) if outcome.parameters["family"] == "bert"]
    assert importances(spec, bert).left_out["num_hidden_groups"] == "its condition was never met"


# what the students share


def test_what_the_students_share_by_hand() -> None:
    spec = the_spec()
    outcomes = []
    for number in range(40):
        on_front = number < 4
        parameters = {
            "family": "bert" if on_front or number % 2 else "albert",
            "depth": 1 + number % 6,
            "vocabulary": "used" if on_front or number % 3 == 0 else "full",
            "temperature": 2 + 0.1 * number if on_front else 1 + 7 * number / 40,
            "learning_rate": 1e-4 * (1 + number % 4),
        }
        # each of the front larger and better than the one before; all others worse than the first
        outcome = an_outcome(number, 0.8 + number / 100 if on_front else 0.5, layers=tuple(range(min(number, 5) + 1)))
        outcomes.append(outcome.model_copy(update={"parameters": parameters}))
    front = ParetoFront.of(outcomes, spec, REFERENCES)
    assert front.trials == (0, 1, 2, 3)
    shared = {one.parameter: one for one in alike(spec, front, outcomes)}
    # by hand: 4 * 0.15**3 - 3 * 0.15**4 = 0.012, 0.4**4 = 0.026; the family's 0.55**4 + 0.45**4 = 0.13 is too much
    assert list(shared) == ["temperature", "vocabulary"]
    assert (shared["vocabulary"].low, shared["vocabulary"].like) == ("used", 16)
    temperature = shared["temperature"]
    assert (temperature.low, temperature.high) == (2.0, 2.3)
    assert (temperature.like, temperature.tried, temperature.students) == (6, 40, 4)  # with 2.05 and 2.225
    assert (
        temperature.words == "temperature lies from 2 to 2.3 in all 4; so it does in 6 of the 40 trials that were tried"
    )


def test_a_value_that_many_have_is_shared_by_chance() -> None:
    spec = the_spec()

    def made(rare: int) -> list[TrialOutcome]:
        values = ["used" if number < rare else "full" for number in range(40)]
        return [
            an_outcome(n, 0.8 + n / 100 if n < 4 else 0.5, layers=tuple(range(min(n, 5) + 1))).model_copy(
                update={"parameters": {"vocabulary": value, "family": "bert" if n % 2 else "albert"}}
            )
            for n, value in enumerate(values)
        ]

    for rare, told in ((10, 1), (20, 0), (36, 0)):  # 0.25**4 = 0.004; 2 * 0.5**4 = 0.125; 0.9**4 = 0.66
        outcomes = made(rare)
        assert len(alike(spec, ParetoFront.of(outcomes, spec, REFERENCES), outcomes)) == told
    three = [outcome for outcome in made(20) if outcome.number != 3][:3]
    assert alike(spec, ParetoFront.of(three[:2], spec, REFERENCES), three) == ()


def test_an_analysis_is_text_and_json() -> None:
    spec, outcomes, confirmations, _ = a_study()
    front = ParetoFront.of(outcomes, spec, REFERENCES)
    found = analyse(spec, front, [*outcomes, *confirmations], REFERENCES)
    assert json.loads(found.model_dump_json())["course"][-1]["hypervolume"] == pytest.approx(front.hypervolume)
    text = found.as_text()
    assert "The front has 3 students; its knee is trial 2." in text
    assert f"Hypervolume {front.hypervolume:.4f}, after 60 s of training" in text
    assert "Importance not said of depth: 5 trials finished, and it takes 10." in text
    assert "Nothing that as many trials would not by chance." in text
    nothing = analyse(spec, ParetoFront.of([], spec, REFERENCES), [], REFERENCES).as_text()
    assert "The front has 0 students.\n" in nothing
    assert "too small to say" in nothing
    made_up = analyse(the_spec(), ParetoFront.of(tried(60), the_spec(), REFERENCES), tried(60), REFERENCES)
    assert "What decides accuracy, where family is albert (fANOVA, 30 trials):" in made_up.as_text()
    assert [duration(s) for s in (45, 700, 12_000)] == ["45 s", "12 min", "3.3 h"]
