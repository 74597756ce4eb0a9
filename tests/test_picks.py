"""Picks: said in a few words, chosen on validation alone, and answered or refused in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from test_results import REFERENCES, a_spec, an_outcome

from search.results.front import ParetoFront
from search.results.picks import Pick, Picked, choose, costs_of, parse_pick
from search.results.students import StudentRow, student_rows
from spaces.errors import InputError
from spaces.study import StudySpec
from spaces.trial import TrialOutcome, TrialState

DELIVERED = {1: {"test/accuracy": 0.86}, 2: {"test/accuracy": 0.87}, 3: {"test/accuracy": 0.9}}


def outcomes(latencies: Sequence[float] = ()) -> list[TrialOutcome]:
    """Trials 1, 2 and 3 are the front, at 92.4, 95.7 and 97.8 % of the teacher's 0.92; 4 is beaten, 5 failed, 6 runs."""
    made = [
        an_outcome(1, 0.85, layers=(0,)),
        an_outcome(2, 0.88, layers=(0, 3)),
        an_outcome(3, 0.90, layers=(0, 2, 5)),
        an_outcome(4, 0.87, layers=(0, 2, 4, 5)),
        an_outcome(5, 0.0, state=TrialState.FAILED, error="lost"),
        an_outcome(6, 0.5, state=TrialState.WAITING),
    ]
    for place, latency in enumerate(latencies):
        (measured,) = made[place].measurements
        metrics = {**measured.metrics, "deployed/latency_ms": latency}
        made[place] = made[place].model_copy(
            update={"measurements": (measured.model_copy(update={"metrics": metrics}),)}
        )
    return made


def a_study(
    trials: list[TrialOutcome] | None = None, **changes: Any
) -> tuple[StudySpec, ParetoFront, list[StudentRow], list[TrialOutcome]]:
    spec, trials = a_spec(**changes), outcomes() if trials is None else trials
    front = ParetoFront.of(trials, spec, REFERENCES)
    return spec, front, student_rows(spec, front, trials, [], DELIVERED, REFERENCES, {"test": 1000}), trials


def picked(words: str, **more: Any) -> Picked:
    """As the command line has it: `smallest --keep 95% --under parameters=1e7`."""
    pick, *options = words.split()
    named = list(zip(options[::2], options[1::2], strict=True))
    keep = next((value for name, value in named if name == "--keep"), None)
    spec, front, rows, trials = a_study(**more)
    under = [value for name, value in named if name == "--under"]
    return choose(parse_pick(pick, keep, under), spec, front, rows, trials)


def refused(words: str, **more: Any) -> str:
    with pytest.raises(InputError) as caught:
        picked(words, **more)
    (line,) = str(caught.value).splitlines()
    return line


@pytest.mark.parametrize(
    ("words", "trial"),
    [
        ("smallest --keep 97%", 3),
        ("smallest", 3),
        ("smallest --keep 0.95", 2),
        ("smallest --keep 92%", 1),
        ("best", 3),
        ("best --under flops=1e9", 2),
        ("best --under parameters=17000000 --under flops=1e12", 1),
        ("best --keep 95% --under parameters=3e7", 2),
        ("smallest --keep 90% --under parameters=3e7", 1),
        ("trial=2", 2),
    ],
)
def test_the_student_that_answers(words: str, trial: int) -> None:
    spec, front, rows, _ = a_study()
    assert front.trials == (1, 2, 3)
    assert [round(costs_of(spec, row)["flops"] / 1e8) for row in rows] == [
        5,
        9,
        14,
    ]  # so that the limits above say something
    assert [row.num_parameters // 10**6 for row in rows] == [16, 24, 31]
    assert picked(words).row.trial == trial


def test_the_knee_is_the_fronts() -> None:
    _, front, _, _ = a_study()
    assert picked("knee").row.trial == front.knee


def test_the_fastest_is_by_what_was_measured() -> None:
    timed = outcomes(latencies=(9.0, 4.0, 5.0))
    objectives = {"accuracy": "maximize", "parameters": "minimize", "latency_ms": "minimize"}
    assert picked("fastest --keep 90%", trials=timed, objectives=objectives).row.trial == 2
    assert picked("fastest", trials=timed, objectives=objectives).row.trial == 3
    assert picked("best --under latency_ms=4.5", trials=timed, objectives=objectives).row.trial == 2
    told = refused("best --under latency_ms=3", trials=timed, objectives=objectives)
    assert told == "--under: no student has at most 3 ms of latency: the nearest, trial 2, has 4 ms of latency"


def test_validation_chooses_and_test_is_told() -> None:
    found = picked("smallest --keep 97%")
    assert found.on_validation == "Chosen on validation: accuracy 90.0 %, 97.8 % of the teacher's."
    assert found.on_test.startswith("On test: accuracy 90.0 % (95 % interval 88.0 to 91.7 %), 99.1 % of the teacher's.")
    smaller = picked("smallest --keep 95.6%")
    assert smaller.row.trial == 2
    assert smaller.on_test.endswith(", 95.8 % of the teacher's.")


def test_a_promise_that_test_does_not_keep_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DELIVERED, 3, {"test/accuracy": 0.80})
    monkeypatch.setitem(DELIVERED, 2, {"test/accuracy": 0.99})
    found = picked("smallest --keep 97%")
    assert found.row.trial == 3  # chosen on validation all the same
    assert found.on_test.endswith("88.1 % of the teacher's: less than the 97 % asked for.")
    monkeypatch.setattr("test_picks.DELIVERED", {})
    assert picked("best").on_test == "Nothing was scored on test yet: run the study to its end for that."


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("smalest", '\'smalest\' is no pick; did you mean "smallest"?; write knee, smallest, fastest, best, or trial=N'),
        ("trial=x", "trial=x names no trial; write a number, such as trial=7"),
        ("trial", "'trial' is no pick"),
        ("trial=2 --keep 90%", "one trial already; leave --keep and --under out"),
        ("knee --under parameters=3", "knee is one student already; for --keep and --under write smallest, fastest or best"),
        ("smallest --keep 97", "'97' is not allowed; did you mean 97%?; write a share of the teacher's score, such as 97%"),
        ("smallest --keep nan%", "'nan%' is not allowed; write a share"),
        ("best --under paramters=3", '\'paramters\' is no cost; did you mean "parameters"?; there are parameters, flops'),
        ("best --under parameters", "'parameters' is not allowed; write parameters=NUMBER, a number above 0"),
        ("best --under parameters=-1", "'parameters=-1' is not allowed"),
        ("smallest --keep 99%", "nothing keeps 99 % of the teacher's accuracy on validation: the nearest, trial 3, keeps 97.8 %"),
        (
            "smallest --keep 97% --under flops=1e9",
            "nothing with at most 1,000,000,000 FLOPs keeps 97 % of the teacher's accuracy on validation: the nearest, trial 2, "
            "keeps 95.7 %",
        ),
        ("best --under parameters=1000", "no student has at most 1,000 parameters: the nearest, trial 1, has "),
        ("fastest", "this study did not measure latency_ms: add it to the study's objectives or bounds"),
        ("best --under peak_memory_bytes=9", "this study did not measure peak_memory_bytes"),
        ("trial=9", "there is no trial 9, and weights are kept of the front alone: trials 1, 2, 3"),
        ("trial=4", "trial 4 is not on the front (others beat it)"),
        ("trial=5", "trial 5 is not on the front (it failed)"),
        ("trial=6", "trial 6 is not on the front (it is waiting)"),
    ],
)  # fmt: skip
def test_what_nothing_answers_is_told(words: str, told: str) -> None:
    assert told in refused(words)


def test_a_study_without_a_finished_trial_is_told() -> None:
    waiting = [an_outcome(6, 0.5, state=TrialState.WAITING)]
    assert "nothing to pick from yet: no trial has finished its training" in refused("best", trials=waiting)
    told = refused("best", trials=[an_outcome(1, 0.2)], bounds={"accuracy": {"min": "90%"}})
    assert "1 trials finished their training, and none keeps the study's bounds (accuracy)" in told


def test_a_pick_says_itself() -> None:
    assert str(parse_pick("smallest", None, ["parameters=5000000"])) == "smallest --keep 97% --under parameters=5000000"
    assert str(parse_pick("trial=7")) == "trial=7"
    assert parse_pick("best") == Pick(kind="best")
