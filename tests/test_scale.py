"""Of thousands of trials, and of a thousand lanes: what one more costs is counted, and does not grow with those that are there."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from small_search import REFERENCES, TEACHER, VOCABULARIES, a_spec, done
from sqlalchemy import event, text
from test_ledger import item, result

import search
import spaces
from search.lanes.broker import Broker
from search.record.record import Record, open_storage
from search.record.storage import RDBStorage, Storage
from search.results.trials import _packed
from search.study import budget as budget_module
from search.study.budget import Budget
from search.study.searcher import StudySearcher
from search.suggest import forest
from search.suggest.ladder import Ladder
from search.suggest.sampling import Sampling
from spaces.study import StudySpec
from spaces.trial import Measurement, TrialOutcome, WorkItem, WorkResult

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

OURS = tuple(str(Path(package.__file__).parent) for package in (search, spaces) if package.__file__)
EVERYTHING = {"trials": 9_000, "minutes": 9_000, "training_tokens": 1e12, "flat": {"trials": 5_000, "growth": 0.01}}


def calls(during: Callable[[], Any]) -> int:
    """Calls of our own functions, each step of a generator too; numpy, Optuna and the database do theirs."""
    count = 0

    def note(frame: Any, what: str, _: Any) -> None:
        nonlocal count
        count += what == "call" and frame.f_code.co_filename.startswith(OURS)

    sys.setprofile(note)
    try:
        during()
    finally:
        sys.setprofile(None)
    return count


def drawn(spec: StudySpec, count: int) -> list[TrialOutcome]:
    asks = Sampling(a_spec(search={"sampler": "random"}), TEACHER, VOCABULARIES, {})._asks
    outcomes = []
    for number in range(count):
        values = asks.draw(number, {"family": "bert"})
        shape = spec.space.shape(values, TEACHER, VOCABULARIES)
        outcomes.append(done(spec, values, shape, number, accuracy=0.5 + 0.03 * (number * 7 % 11)))
    return outcomes


def a_searcher(spec: StudySpec, outcomes: list[TrialOutcome], record: Record) -> StudySearcher:
    for outcome in outcomes[record.next_number() :]:
        record.adopt(outcome, spec.space)
    budget = Budget(
        spec, num_lanes=2, tokens_per_text=10.0, deadline=1e12, front_size=lambda: 3, trial_tokens=lambda config: 100.0,
        references=REFERENCES,
    )  # fmt: skip
    return StudySearcher(
        spec, record, Sampling(spec, TEACHER, VOCABULARIES, {}), budget, Ladder(spec, {}), references=REFERENCES,
        teacher_depth=TEACHER.depth, payload={}, told=lambda outcome: None,
    )  # fmt: skip


def a_trial(searcher: StudySearcher) -> None:
    asked = searcher.next_item("any")
    assert isinstance(asked, WorkItem)
    assert asked.trial is not None
    cost, metrics = {"train_seconds": 1.0, "finished_at": 1e6 + asked.trial}, {"validation/accuracy": 0.1}
    measured = Measurement(trial=asked.trial, attempt=1, step=9, share=1.0, metrics=metrics, cost=cost)
    found = WorkResult(key=asked.key, kind=asked.kind, trial=asked.trial, attempt=1, lane=0, measurement=measured)
    searcher.finished(asked.key, found)


@pytest.mark.parametrize("sampler", ["forest", "tpe"])
def test_a_trial_costs_the_driver_as_much_whatever_lies_behind_it(
    sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget_module, "RECENT", 10)  # trials that the rate is taken of
    for name, count in (
        ("POOL", 40),
        ("DRAWN", 20),
        ("NEAR", 10),
    ):  # candidates, which are as many whatever lies behind
        monkeypatch.setattr(forest, name, count)
    spec = a_spec(tmp_path, budget=EVERYTHING, search={"sampler": sampler, "startup_trials": 5, "recipes": False})
    outcomes, found = drawn(spec, 80), list[float]()
    for size in (20, 80):
        record = Record(open_storage("sqlite", tmp_path), f"{spec.name}-{size}", spec.objectives)
        searcher = a_searcher(spec, outcomes[:size], record)
        a_trial(searcher)  # which reads what is there
        found.append(median(calls(lambda its=searcher: a_trial(its)) for _ in range(3)))  # type: ignore[misc]
    few, many = found
    assert few > 100
    assert many - few < 3 * 60  # calls for each trial behind it


def test_a_new_trial_takes_few_statements_and_is_what_optuna_writes(tmp_path: Path) -> None:
    spec = a_spec(tmp_path)
    whole, statements = drawn(spec, 12), list[str]()
    written: dict[str, dict[str, list[Any]]] = {}
    for name, make in (("ours", Storage), ("theirs", type("Theirs", (Storage,), {}))):
        storage = make(f"sqlite:///{tmp_path / name}.db")
        if name == "theirs":
            storage._get_prepared_new_trial = RDBStorage._get_prepared_new_trial.__get__(storage)
        record = Record(storage, "tiny", spec.objectives)
        for outcome in whole[:11]:
            record.adopt(outcome, spec.space)
        event.listen(storage.engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
        record.adopt(whole[11], spec.space)
        if name == "ours":
            assert 6 <= len(statements) <= 8, statements
        with storage.engine.connect() as connection:
            written[name] = {
                table: [row[1:] for row in connection.execute(text(f"SELECT * FROM {table}")).tuples()]
                for table in ("trial_params", "trial_values", "trial_user_attributes", "trial_system_attributes")
            }
            written[name]["trials"] = list(
                connection.execute(text("SELECT trial_id, number, state FROM trials")).tuples()
            )
        assert record.outcomes() == whole
    assert written["ours"] == written["theirs"]
    assert len(written["ours"]["trial_values"]) == 24


def test_of_a_thousand_who_wait_one_is_woken() -> None:
    """Each with a segment of its own: what is posted is nobody else's business, and neither is what is submitted."""

    async def everybody() -> tuple[int, int]:
        broker = Broker()
        asked, plain = list[str](), broker._ledger.result
        broker._ledger.result = lambda key: asked.append(key) or plain(key)  # type: ignore[method-assign, func-returns-value]
        work = [item(f"trial:{number}", trial=number) for number in range(1000)]
        for each in work:
            await broker.submit(each)
        waiting = [asyncio.create_task(broker.settled(each.key, 20)) for each in work]
        await asyncio.sleep(0)
        before = len(asked)
        incarnation = broker._ledger.lane_started(0)
        taken = await broker.next_item(0, incarnation, 0)
        assert isinstance(taken, WorkItem)
        assert await broker.post(result(taken, 0))
        assert await waiting[0]
        one = len(asked) - before
        await broker.give_up("enough")
        ended = await asyncio.gather(*waiting[1:], return_exceptions=True)
        assert {str(each) for each in ended} == {"enough"}
        assert not broker._asking
        return before, one

    assert asyncio.run(everybody()) == (1000, 1)


def test_a_column_of_few_words_is_packed() -> None:
    column: list[Any] = ["used", None, "full", "used"] * 40
    packed = _packed(column)
    assert isinstance(packed, dict)
    assert [packed["words"][place] for place in packed["at"]] == column
    assert _packed([*range(40)]) == [*range(40)]
