"""`distilsearch track`: runs rebuilt from the record alone, and nothing sent twice. And the rows that they are made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commands import results_written
from test_results import REFERENCES, a_spec, a_study, an_outcome
from tracking_toys import KEY, PASSWORD, PROVENANCE, _alone, _server, found_by  # noqa: F401
from wandb_server import WandbServer

from search.record.lease import Lease
from search.results.course import course
from search.results.front import ParetoFront
from search.study.output import claim_output, open_record
from search.study.tracking.again import track_study
from search.study.tracking.rows import History, replay
from search.study.tracking.segments import segments
from spaces.errors import InputError, StudyError
from spaces.study import StudySpec
from spaces.trial import Measurement, TrialOutcome, TrialState

# -- rows


def halved(number: int, accuracy: float, depth: int, at: float) -> TrialOutcome:
    """A trial that was measured after a third and, if it was good enough, at its end."""
    whole = an_outcome(number, accuracy, layers=tuple(range(depth)))
    assert whole.last is not None
    shares = (1 / 3, 1.0) if accuracy > 0.6 else (1 / 3,)
    measured = tuple(
        Measurement(
            trial=number, attempt=1, step=int(900 * share), share=share,
            metrics={"validation/accuracy": accuracy - 0.1 * (1 - share)},
            cost={"train_seconds": 4.0 + place, "tokens": 100.0, "finished_at": at + 5 * place},
        )
        for place, share in enumerate(shares)
    )  # fmt: skip
    state = TrialState.DONE if len(shares) == 2 else TrialState.ENDED
    return whole.model_copy(update={"measurements": measured, "state": state})


def a_search() -> list[TrialOutcome]:
    return [
        *(halved(n, 0.5 + (7 * n % 13) / 30, depth=1 + n * 5 % 6, at=100.0 + 3 * n) for n in range(20)),
        an_outcome(20, 0.0, state=TrialState.FAILED, error="broke"),
    ]


@pytest.mark.parametrize("bounds", [{}, {"accuracy": {"min": 0.7}, "parameters": {"max": "30%"}}])
def test_the_curves_are_what_counting_from_scratch_gives(bounds: dict[str, Any]) -> None:
    spec, outcomes = a_spec(bounds=bounds), a_search()
    history, so_far, volumes = History(spec, REFERENCES), dict[int, TrialOutcome](), set[float]()
    for stood in replay(outcomes):
        row = history.told(stood)
        assert row is not None
        so_far[stood.number] = stood
        values = row.values
        front = ParetoFront.of(list(so_far.values()), spec, REFERENCES)
        assert values["front/hypervolume"] == pytest.approx(front.hypervolume)
        assert values["front/size"] == len(front.points)
        best = max((point.values["accuracy"] for point in front.points), default=None)
        assert values.get("front/best_accuracy") == best
        assert values["spent/train_seconds"] == pytest.approx(sum(each.train_seconds for each in so_far.values()))
        assert values["spent/trainings"] == pytest.approx(sum(each.share for each in so_far.values()))
        assert values["trials/finished"] == sum(each.state is TrialState.DONE for each in so_far.values())
        volumes.add(round(values["front/hypervolume"], 12))
    assert values["trials/failed"] == 1
    assert len(volumes) > 3
    went = course(outcomes, spec, REFERENCES)
    assert went[-1].hypervolume == pytest.approx(values["front/hypervolume"])
    assert went[-1].train_seconds == values["spent/train_seconds"]


def test_each_thing_that_befalls_a_trial_is_one_row() -> None:
    history = History(a_spec(), REFERENCES)
    told = [history.told(outcome) for outcome in replay(a_search())]
    keys = [row.key for row in told if row is not None]
    assert len(keys) == len(set(keys)) == sum(len(outcome.measurements) for outcome in a_search()) + 1
    assert {"0@0.333333", "1@1.000000", "20 failed"} <= set(keys)
    assert [history.told(outcome) for outcome in a_search()] == [None] * 21
    begun = halved(30, 0.9, 1, 500.0).model_copy(update={"measurements": (), "state": TrialState.RUNNING})
    assert history.told(begun) is None


def test_a_continued_search_goes_on_where_its_curves_stood() -> None:
    events = replay(a_search())
    whole = History(a_spec(), REFERENCES)
    expected = [row for event in events if (row := whole.told(event))]
    again = History(a_spec(), REFERENCES)
    known = {event.number: event for event in events[:15]}  # what the record holds after fifteen of them
    for event in replay(known.values()):
        again.told(event)
    assert [again.told(event) for event in events[15:]] == expected[15:]


# -- track: from the record alone


def recorded(folder: Path, **changes: Any) -> StudySpec:
    """A study that ran to its end untracked: its record and its files."""
    spec = a_spec(**{"output": folder, "tracking": {"wandb": "none"}, **changes})
    claim_output(spec)
    record, again = open_record(spec)
    _, outcomes, confirmations, delivered = a_study()
    for outcome in outcomes:
        if outcome.error:
            begun = record.start(outcome.config, outcome.parameters, spec.space)
            record.set_state(begun.number, outcome.state, error=outcome.error)
        else:
            record.adopt(outcome, spec.space)
    for number, outcome in enumerate(confirmations):
        measured = tuple(each.model_copy(update={"trial": number}) for each in outcome.measurements)
        again.adopt(outcome.model_copy(update={"measurements": measured}), spec.space)
    record.keep("references", [reference.model_dump() for reference in REFERENCES])
    record.keep("delivered", {trial: {"metrics": metrics} for trial, metrics in delivered.items()})
    record.keep("provenance", PROVENANCE)
    record.close()
    found_by(spec)
    return spec


@pytest.mark.slow
def test_track_sends_what_the_run_misses_and_nothing_twice(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    spec = recorded(out, storage=f"sqlite:///file:{out}/kept.db?uri=true&password={PASSWORD}")
    results_written(spec)
    here = track_study(spec.output, "offline")
    assert (here.mode, here.rows, here.held) == ("offline", 11, 0)  # six trials, four confirmations, the results
    again = track_study(spec.output, "offline")
    assert (again.rows, again.held) == (0, 11)
    assert server.histories == {}
    sent = track_study(spec.output)
    assert (sent.mode, sent.rows, sent.held) == ("online", 11, 0)
    assert sent.run_id == here.run_id
    rows = server.histories[here.run_id]
    assert len(rows) == len({row["row"] for row in rows}) == 11
    made, uses = [one["artifactCollectionName"] for one in server.artifacts], len(server.uses)
    assert made.count("small-student") == 3
    assert uses == 2  # teacher and data
    assert [part.is_synced for part in segments(spec.output / "wandb", here.run_id) if part.is_offline] == [True]
    server.histories[here.run_id] = rows[:4]  # as if the rest had been lost on the way
    assert (track_study(spec.output).rows, track_study(spec.output).rows) == (7, 0)
    assert len({row["row"] for row in server.histories[here.run_id]}) == len(server.histories[here.run_id]) == 11
    files = [
        path.read_bytes() for path in out.rglob("*") if path.is_file()
    ]  # study.yaml, best-configs and the report among them
    for secret in (KEY, PASSWORD):
        assert not any(secret.encode() in content for content in (*files, *server.bodies))


def test_track_adds_a_run_a_trial_where_they_are_asked_for(server: WandbServer, tmp_path: Path) -> None:
    spec = recorded(tmp_path / "out", tracking={"wandb": {"runs": "trials", "models": False}})
    run_id = track_study(spec.output).run_id
    assert {run for run in server.histories if run != run_id} == {f"{run_id}-{number}" for number in range(6)}
    assert set(server.groups.values()) == {f"small-{run_id}"}
    assert "small-student" not in {one["artifactCollectionName"] for one in server.artifacts}
    track_study(spec.output)
    assert [len(server.histories[f"{run_id}-{number}"]) for number in range(6)] == [1] * 6


def test_track_waits_for_the_driver(tmp_path: Path) -> None:
    spec = recorded(tmp_path / "out")
    with Lease(open_record(spec)[0]), pytest.raises(InputError, match="is being run by process"):
        track_study(spec.output, "offline")


def test_track_says_what_is_wrong(server: WandbServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = recorded(tmp_path / "out")
    server.refuses = True
    with pytest.raises(StudyError, match="401") as failed:
        track_study(spec.output)
    assert "The record has it all" in str(failed.value)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with pytest.raises(InputError, match="leaves nothing to do"):
        track_study(spec.output)
    with pytest.raises(InputError, match=r"holds no study\.yaml"):
        track_study(tmp_path)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from search.cli import app

    spec = recorded(tmp_path / "out")
    app(["track", str(spec.output), "--json"], standalone_mode=False)
    told = json.loads(capsys.readouterr().out)
    assert (told["mode"], told["rows"]) == ("offline", 11)
    app(["track", str(spec.output)], standalone_mode=False)
    said = capsys.readouterr()
    assert f"run {told['run_id']}, offline: 0 new rows, 11 it had" in said.out
    assert "wandb sync" in said.err
