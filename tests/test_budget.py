"""What a study may spend: tokens and GPU hours. Trials and minutes: tests/test_sampling.py; a flat front: tests/test_growth.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import training_toys
from small_search import REFERENCES, TEACHER, TOKENS, Clock, a_point, a_sampling, a_spec, measured, reopened, running
from test_spaces import faults_of, raw_study

from search.study.budget import Budget
from search.study.inputs import read_inputs
from search.study.lane_hours import LaneHours
from search.study.searcher import StudySearcher
from search.study.tokens import fewest_tokens, refuse_too_few_tokens, trial_tokens
from search.suggest.ladder import Ladder
from search.trial.data import TransferSet
from spaces.budget import BudgetSpec, FlatSpec
from spaces.errors import InputError
from spaces.study import StudySpec
from spaces.trial import Measurement, TrialState, WorkItem, WorkResult
from spaces.yaml_io import parse_study, parse_yaml, to_yaml

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

# what a study file may say


@pytest.mark.parametrize(
    ("budget", "where", "words"),
    [
        ({"training_tokens": 0}, "budget.training_tokens", "0 is not allowed"),
        ({"training_tokens": True}, "budget.training_tokens", "True is not allowed; write a number"),
        ({"training_tokens": float("nan")}, "budget.training_tokens", "nan is not allowed"),
        ({"training_tokens": "many"}, "budget.training_tokens", "'many' is not allowed: it should be a valid number"),
        ({"train_tokens": 5}, "budget.train_tokens", 'did you mean "training_tokens"?'),
        ({"gpu_hours": -1}, "budget.gpu_hours", "-1 is not allowed: it should be greater than 0"),
        ({"gpu_hours": 2}, "resources", "gpus_per_worker is 0, and budget.gpu_hours = 2 would never be spent"),
        ({"flat": 30}, "budget.flat", "30 is not allowed; write how many trials to look back, as flat: {trials: 30}"),
        ({"flat": {"growth": "1%"}}, "budget.flat.trials", "is missing"),
        ({"flat": {"trials": 1}}, "budget.flat.trials", "1 is not allowed"),
        ({"flat": {"trials": 9, "growth": 1}}, "budget.flat.growth", "write a share from 0 to below 1, such as 1%"),
        ({"flat": {"trials": 9, "growth": "-1%"}}, "budget.flat.growth", "'-1%' is not allowed"),
        ({"flat": {"trials": 9, "growth": float("nan")}}, "budget.flat.growth", "nan is not allowed"),
    ],
)
def test_nonsense_is_one_fault_that_says_what_to_write(budget: dict[str, Any], where: str, words: str) -> None:
    faults = faults_of(raw_study(budget=budget))
    assert list(faults) == [where]
    assert words in faults[where]


def test_a_budget_of_everything_is_read_and_read_again() -> None:
    text = "{trials: 9, minutes: 5, training_tokens: 1.0e9, gpu_hours: 1.5, flat: {trials: 30, growth: 1%}}"
    raw = raw_study(budget=parse_yaml(text, "budget"), resources={"gpus_per_worker": 0.5})
    spec = parse_study(raw, "study.yaml", Path("/nowhere"))
    flat = FlatSpec(trials=30, growth=0.01)
    assert spec.budget == BudgetSpec(trials=9, minutes=5, training_tokens=10**9, gpu_hours=1.5, flat=flat)
    assert parse_study(parse_yaml(to_yaml(spec.resolved()), "again"), "again", Path("/elsewhere")) == spec
    schema = jsonschema.Draft202012Validator(BudgetSpec.model_json_schema())
    assert schema.is_valid(raw["budget"])
    assert not schema.is_valid({"flat": {"trials": 30, "growth": "1 percent"}})
    assert BudgetSpec().flat is None  # none of it by default
    assert FlatSpec(trials=30).growth == 0


def test_the_readmes_budget_is_one() -> None:
    text = (Path(__file__).parent.parent / "README.md").read_text()
    block = next(part for part in text.split("```yaml\n") if part.startswith("budget:")).split("```")[0]
    raw = parse_yaml(block, "README.md")
    assert raw["budget"].keys() == BudgetSpec.model_fields.keys()
    assert parse_study(raw_study(**raw, resources={"gpus_per_worker": 1}), "README.md", Path()).budget.gpu_hours == 8


def a_budget(budget: dict[str, Any], **more: Any) -> Budget:
    return Budget(
        a_spec(budget=budget), num_lanes=2, tokens_per_text=10.0, deadline=None, front_size=lambda: 1,
        trial_tokens=lambda config: TOKENS, references=REFERENCES, **more,
    )  # fmt: skip


# training tokens


def test_tokens_are_what_was_trained_and_what_is_about_to_be() -> None:
    budget, config = a_budget({"training_tokens": 3500}), a_point(0)[0]
    assert budget.tokens_left([]) == 3500
    begun = [measured(0), running(1)]
    assert budget.tokens_left(begun) == 1500
    assert budget.refuses(config, begun) == ""
    begun.append(running(2))
    assert budget.tokens_left(begun) == 500
    assert budget.refuses(config, begun) == "of the training tokens 500 are left, and the next trial takes 1,000"
    assert budget.refuses(config, begun, share=0.5) == ""
    # at a rung a trial has taken its part of a trial; one that is promoted will have taken up to its next rung
    waits, goes_on = measured(3, 1 / 9), measured(4, 1 / 9, state=TrialState.PROMOTED, until=1 / 3)
    assert budget.tokens_left([waits, goes_on]) == pytest.approx(3500 - 1000 / 9 - 1000 / 3)
    ended = waits.model_copy(update={"state": TrialState.ENDED})
    failed = running(5).model_copy(update={"state": TrialState.FAILED})
    assert budget.tokens_left([ended, failed]) == pytest.approx(3500 - 1000 / 9)
    assert a_budget({"trials": 9}).tokens_left(begun) is None
    assert a_budget({"trials": 9}).refuses(config, begun) == ""


def test_tokens_that_pay_exactly_are_enough() -> None:
    thirds = [measured(number, share) for number, share in enumerate((1 / 9, 1 / 3, 1))]
    budget = a_budget({"training_tokens": round(1000 * (1 / 9 + 1 / 3 + 1)) + 1000 * 8 / 9})
    assert budget.refuses(a_point(0)[0], thirds, share=1 - 1 / 9) == ""


def test_a_trials_tokens_are_known_before_it_begins(run_item: Any, transfer: TransferSet) -> None:
    for number, vocabulary in enumerate(("used", "full")):
        config = training_toys.a_config(transfer, vocabulary=vocabulary, epochs=2.0)
        measurement, _ = run_item(config, f"t{number}")
        assert trial_tokens(transfer, config) == measurement.cost["tokens"] > 0
    part = training_toys.a_config(transfer, steps=11)  # of 8 an epoch: this seed's batches may be longer or shorter
    measurement, _ = run_item(part, "part")
    assert trial_tokens(transfer, part) == pytest.approx(measurement.cost["tokens"], rel=0.1)
    assert trial_tokens(transfer, part) != measurement.cost["tokens"]


def test_text_without_labels_makes_no_trial_longer(transfer: TransferSet) -> None:
    train = transfer.splits["train"]
    more = TransferSet({**transfer.splits, "unlabelled": train}, transfer.vocabularies, transfer.label_names, 32)
    taught = training_toys.a_config(transfer, epochs=2.0, soft_share=0.5)
    alone = training_toys.a_config(transfer, epochs=2.0, soft_share=0.0)
    expected = 2 * len(train.tokens["used"].ids)
    assert trial_tokens(more.joined(), alone) == expected
    # 16 steps, for 8 batches hold the 120 rows and the last of them is half full; 15 hold twice the rows
    assert trial_tokens(more.joined(), taught) == pytest.approx(expected * 16 / 15)


def test_tokens_that_pay_for_no_trial_are_refused_at_once(study_of: Callable[..., StudySpec]) -> None:
    enough = read_inputs(study_of(budget={"training_tokens": 10**9}), lambda text: None)
    refuse_too_few_tokens(enough)
    needed = fewest_tokens(enough)
    train = enough.transfer.splits["train"]
    assert needed == 2 * min(len(tokens.ids) for tokens in train.tokens.values())  # two epochs
    with pytest.raises(InputError, match=r"budget: training_tokens: 100 do not pay for one trial, which takes [\d,]+"):
        refuse_too_few_tokens(read_inputs(study_of(budget={"training_tokens": 100}), lambda text: None))


# GPU hours


def test_gpu_hours_are_counted_over_all_runs_killed_ones_too(tmp_path: Path) -> None:
    """Three lanes of two workers with half a GPU each hold three GPUs."""
    resources = {"workers_per_lane": 2, "gpus_per_worker": 0.5}
    spec = a_spec(tmp_path, budget={"gpu_hours": 4}, resources=resources)
    clock = Clock(500.0)
    first = LaneHours(spec, reopened(tmp_path), num_lanes=3, begun=500.0, clock=clock)
    assert first.deadline == 500 + 4 * 3600 / 3
    clock.now += 1200
    first.keep()
    clock.now += 77  # and killed: what came after the last trial is not known
    second = LaneHours(spec, reopened(tmp_path), num_lanes=1, begun=9000.0, clock=(again := Clock(9000.0)))
    assert second.gpu_hours == 1.0
    assert second.deadline == 9000 + (4 - 1) * 3600 / 1
    again.now += 3600 * 4
    second.keep()
    third = LaneHours(spec, reopened(tmp_path), num_lanes=2, begun=0.0, clock=Clock(0.0))
    assert third.gpu_hours == 5.0
    assert third.deadline is not None
    assert third.deadline < 0  # no trial may start, no confirmation either


def test_money_is_counted_by_currency_over_all_runs_as_lanes_come_and_go(tmp_path: Path) -> None:
    def priced(**price: object) -> StudySpec:
        return a_spec(tmp_path, resources={"price": price})

    clock = Clock(0.0)
    first = LaneHours(priced(per_lane_hour=0.5), reopened(tmp_path), num_lanes=2, begun=0.0, clock=clock)
    clock.now = 1800
    first.of_lanes(4)
    clock.now += 3600
    first.keep()
    assert first.paid == {"USD": 0.5 + 2.0}
    assert first.an_hour == 2.0
    later = LaneHours(
        priced(per_lane_hour=1, currency="EUR"), reopened(tmp_path), num_lanes=1, begun=0.0, clock=Clock(900.0)
    )
    later.keep()
    assert reopened(tmp_path).fact("paid") == {"USD": 2.5, "EUR": 0.25}
    free = LaneHours(a_spec(tmp_path), reopened(tmp_path), num_lanes=9, begun=0.0, clock=Clock(900.0))
    assert (free.paid, free.an_hour) == ({"USD": 2.5, "EUR": 0.25}, 0.0)


def test_lanes_without_gpus_hold_none(tmp_path: Path) -> None:
    record = reopened(tmp_path)
    hours = LaneHours(a_spec(tmp_path), record, num_lanes=3, begun=0.0, clock=Clock(7200.0))
    hours.keep()
    assert (hours.gpu_hours, hours.deadline, record.fact("gpu_hours")) == (0.0, None, None)


# a front that no longer grows

# the searcher spends it


def a_searcher(folder: Path, budget: dict[str, Any], trials: int = 99, since: int = 0, **changes: Any) -> StudySearcher:
    folder.mkdir(exist_ok=True)
    spec = a_spec(folder, budget={"trials": trials, **budget}, **changes)
    limits: dict[str, tuple[float, float]] = {}
    return StudySearcher(
        spec,
        reopened(folder),
        a_sampling(spec),
        Budget(
            spec, num_lanes=2, tokens_per_text=10.0, deadline=None, front_size=lambda: 1,
            trial_tokens=lambda config: TOKENS, references=REFERENCES, since=since,
        ),
        Ladder(spec, limits),
        references=REFERENCES,
        teacher_depth=TEACHER.depth,
        payload={},
        told=lambda outcome: None,
    )  # fmt: skip


def run_two_lanes(searcher: StudySearcher, most: int = 99) -> StudySearcher:
    """Two segments at a time, until it is through or `most` have come back: the rest is cut off."""
    flying: list[WorkItem] = []
    asking, back = True, 0
    while back < most:
        item = searcher.next_item("any") if asking and len(flying) < 2 else None
        if isinstance(item, WorkItem):
            flying.append(item)
            continue
        asking = asking and item != "finished"
        if not flying:
            break
        item, back = flying.pop(0), back + 1
        assert item.trial is not None
        length = item.end_share - item.start_share
        accuracy = 0.5 if item.trial < 4 else 0.4
        measurement = Measurement(
            trial=item.trial, attempt=item.attempt, step=1, share=item.end_share, metrics={"validation/accuracy": accuracy},
            cost={"tokens": TOKENS * length},
        )  # fmt: skip
        timing = {
            "finished_at": float(
                1 + max((m.cost["finished_at"] for o in searcher.ordered for m in o.measurements), default=0)
            )
        }
        result = WorkResult(
            key=item.key, kind=item.kind, trial=item.trial, attempt=item.attempt, lane=0, measurement=measurement, timing=timing,
        )  # fmt: skip
        searcher.finished(item.key, result)
    return searcher


def spent(searcher: StudySearcher) -> float:
    return sum(outcome.train_tokens for outcome in searcher.ordered)


def test_the_search_ends_before_it_would_overrun_its_tokens(tmp_path: Path) -> None:
    searcher = run_two_lanes(a_searcher(tmp_path, {"training_tokens": 5900}))
    assert [outcome.state for outcome in searcher.ordered] == [TrialState.DONE] * 5
    assert searcher.ended == "of the training tokens 900 are left, and the next trial takes 1,000"
    again = run_two_lanes(a_searcher(tmp_path, {"training_tokens": 5900}))
    assert len(again.outcomes) == 5  # counted from the record


def test_tokens_are_counted_over_a_killed_run(tmp_path: Path) -> None:
    run_two_lanes(a_searcher(tmp_path, {"training_tokens": 5900}), most=3)  # and two cut off
    again = run_two_lanes(a_searcher(tmp_path, {"training_tokens": 5900}))
    assert (len(again.outcomes), spent(again)) == (5, 5000)


def test_with_halving_promotions_are_paid_for_too(tmp_path: Path) -> None:
    halving = {"halving": {"rungs": ["1/9", "1/3", 1]}, "sampler": "random"}
    searcher = run_two_lanes(a_searcher(tmp_path, {"training_tokens": 6000}, search=halving))
    assert 6000 - TOKENS <= spent(searcher) <= 6000.5
    states = [outcome.state for outcome in searcher.ordered]
    assert states.count(TrialState.DONE) >= 1
    assert len(states) > 9
    assert set(states) <= {TrialState.DONE, TrialState.ENDED}


def test_a_flat_front_ends_the_search_and_a_resumed_one_there_too(tmp_path: Path) -> None:
    flat = {"flat": {"trials": 5, "growth": "40%"}}  # generous: sizes differ here, and the front with them
    whole = run_two_lanes(a_searcher(tmp_path / "whole", flat))
    assert whole.ended == "the front has not grown by more than 40% for 5 trials"
    assert 5 < len(whole.outcomes) < 99
    run_two_lanes(a_searcher(tmp_path / "cut", flat), most=4)
    cut = run_two_lanes(a_searcher(tmp_path / "cut", flat))
    assert [outcome.parameters for outcome in cut.ordered] == [outcome.parameters for outcome in whole.ordered]
    nothing = run_two_lanes(a_searcher(tmp_path / "whole", flat))
    assert (len(nothing.outcomes), nothing.ended) == (len(whole.outcomes), whole.ended)
    extended = run_two_lanes(
        a_searcher(tmp_path / "whole", flat, trials=len(whole.outcomes) + 2, since=len(whole.outcomes))
    )
    assert len(extended.outcomes) == len(whole.outcomes) + 2
    assert extended.ended.startswith("all ")


def test_an_extended_study_is_the_longer_one(tmp_path: Path) -> None:
    """Trial for trial what a study of as many from the start would have been."""
    longer = run_two_lanes(a_searcher(tmp_path / "longer", {}, trials=8))
    run_two_lanes(a_searcher(tmp_path / "short", {}, trials=5))
    extended = run_two_lanes(a_searcher(tmp_path / "short", {}, trials=8))
    assert len(extended.outcomes) == 8
    assert [outcome.config for outcome in extended.ordered] == [outcome.config for outcome in longer.ordered]
