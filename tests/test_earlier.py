"""Beginning from an earlier study: what it measured, where that counts, and else its best students."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_search import REFERENCES, SPACE, TEACHER, VOCABULARIES, a_sampling, a_spec, done

from search.record.record import Record, open_storage
from search.results.front import ParetoFront
from search.study.budget import Budget
from search.study.earlier import Earlier, earlier_of, read_earlier
from search.study.output import claim_output, fingerprint, spec_of
from search.study.searcher import StudySearcher
from search.suggest.first import first_points
from search.suggest.ladder import Ladder
from search.suggest.sampling import Sampling
from spaces.errors import InputError
from spaces.study import StudySpec
from spaces.trial import Measurement, TrialOutcome, TrialState, WorkItem

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

LENGTH = 6


def record_of(spec: StudySpec, name: str = "") -> Record:
    return Record(open_storage("sqlite", spec.output), name or spec.name, spec.objectives)


@pytest.fixture
def ran(tmp_path: Path) -> Callable[..., StudySpec]:
    """A maker of studies that ran: six trials done, one failed, one measured at a rung and waiting there."""

    def make(length: int = LENGTH, data: str = "the data", **changes: Any) -> StudySpec:
        spec = a_spec(tmp_path / "earlier", name="before", **changes)
        claim_output(spec)
        record, sampling = record_of(spec), a_sampling(spec)
        outcomes: list[TrialOutcome] = []
        for number in range(length):
            outcome = done(spec, *sampling.suggest(outcomes, number), number, accuracy=0.5 + 0.03 * (number * 7 % 11))  # type: ignore[misc]
            outcomes.append(outcome)
            record.adopt(outcome, spec.space)
        parameters, shape = sampling.suggest(outcomes, length)  # type: ignore[misc]
        third = done(spec, parameters, shape, length + 1)
        assert third.last is not None
        third = third.model_copy(update={"measurements": (third.last.model_copy(update={"share": 1 / 3}),)})
        failed = third.model_copy(update={"number": length, "measurements": (), "state": TrialState.FAILED})
        record.adopt(failed, spec.space)
        record.adopt(third.model_copy(update={"state": TrialState.WAITING}), spec.space)
        record.keep("made_from", {"data": data, "study": fingerprint(spec)})
        record.keep("references", [reference.model_dump() for reference in REFERENCES])
        return spec

    return make


def after(spec: StudySpec, **changes: Any) -> StudySpec:
    """A study that begins from that one, like it but for the changes."""
    search = {"startup_trials": 3, "from": str(spec.output)} | changes.pop("search", {})
    return a_spec(spec.output.parent / "now", name="now", search=search, **changes)


def inputs_of(spec: StudySpec, fine_tunes: bool = False) -> Any:
    """As much of a study's inputs as is looked at."""
    transfer = SimpleNamespace(fingerprint="the data")
    return SimpleNamespace(
        spec=spec, teacher=TEACHER, vocabularies=VOCABULARIES, transfer=transfer, fine_tunes=fine_tunes
    )


def taken(spec: StudySpec, record: Record | None = None, **limits: tuple[float, float]) -> Earlier:
    return earlier_of(spec, inputs_of(spec), limits, record)


# the same conditions


def test_measurements_count_under_the_same_conditions(ran: Callable[..., StudySpec]) -> None:
    before = ran()
    earlier = taken(after(before, bounds={"parameters": {"max": 40_000}}, seed=7, budget={"trials": 3}))
    theirs = record_of(before).outcomes()
    assert earlier.first == ()
    assert f"what {LENGTH + 1} trials of {before.output} measured" in earlier.note
    assert [outcome.state for outcome in earlier.outcomes] == [*[TrialState.DONE] * LENGTH, TrialState.ENDED]
    assert [outcome.labels["trial"] for outcome in earlier.outcomes] == [*map(str, range(LENGTH)), str(LENGTH + 1)]
    assert all(outcome.number < 0 for outcome in earlier.outcomes)
    assert [outcome.number for outcome in earlier.outcomes] == sorted({outcome.number for outcome in earlier.outcomes})
    for mine, its in zip(earlier.outcomes, [*theirs[:LENGTH], theirs[-1]], strict=True):
        assert (mine.parameters, mine.config, mine.measurements) == (its.parameters, its.config, its.measurements)


def test_the_sampler_knows_what_the_earlier_study_knew(ran: Callable[..., StudySpec]) -> None:
    """It suggests what the earlier one would have next, were its trials this study's; without them it draws at random."""
    before = ran()
    spec = after(before)
    earlier = taken(spec)
    sampling = Sampling(spec, TEACHER, VOCABULARIES, {}, earlier=earlier.outcomes)
    alone, own = a_sampling(spec), record_of(before).outcomes()
    assert sampling.suggest([], LENGTH) == alone.suggest(own, LENGTH)
    assert sampling.suggest([], LENGTH) != alone.suggest([], LENGTH)
    # and what this study measures adds to it, also for a sampler that lived on
    mine = [done(spec, *sampling.suggest([], 0), 0)]  # type: ignore[misc]
    fresh = Sampling(spec, TEACHER, VOCABULARIES, {}, earlier=earlier.outcomes)
    assert sampling.suggest(mine, 1) == fresh.suggest(mine, 1)
    assert sampling.suggest(mine, 1) != fresh.suggest([], 1)


def test_they_are_no_trials_of_this_study(ran: Callable[..., StudySpec]) -> None:
    spec = after(ran(), budget={"trials": 2})
    claim_output(spec)
    record = record_of(spec)
    earlier = taken(spec, record)
    assert len(earlier.outcomes) == LENGTH + 1
    searcher = StudySearcher(
        spec, record, Sampling(spec, TEACHER, VOCABULARIES, {}, earlier=earlier.outcomes),
        Budget(spec, num_lanes=1, tokens_per_text=10.0, deadline=None, front_size=lambda: 1), Ladder(spec, {}),
        references=REFERENCES, teacher_depth=TEACHER.depth, payload={}, told=lambda outcome: None,
    )  # fmt: skip
    assert searcher.front.points == ()
    items = [searcher.next_item("any") for _ in range(3)]
    assert [item.trial for item in items if isinstance(item, WorkItem)] == [0, 1]
    assert items[2] == "finished"
    assert [outcome.number for outcome in record.outcomes()] == [0, 1]


def test_what_was_taken_over_is_kept_and_the_folder_may_go(ran: Callable[..., StudySpec]) -> None:
    before = ran()
    spec = after(before)
    claim_output(spec)
    found = taken(spec, record_of(spec))
    shutil.rmtree(before.output)
    again = taken(spec, record_of(spec))
    assert again == found
    assert len(again.outcomes) == LENGTH + 1
    once, twice = (Sampling(spec, TEACHER, VOCABULARIES, {}, earlier=each.outcomes) for each in (found, again))
    assert once.suggest([], 4) == twice.suggest([], 4)


def test_a_copy_that_was_cut_off_is_completed(ran: Callable[..., StudySpec]) -> None:
    spec = after(ran())
    claim_output(spec)
    record, whole = record_of(spec), taken(spec)
    for outcome in whole.outcomes[:2]:
        record_of(spec, "now.earlier").adopt(outcome, spec.space)
    assert [(outcome.labels, outcome.parameters, outcome.measurements) for outcome in taken(spec, record).outcomes] == [
        (outcome.labels, outcome.parameters, outcome.measurements) for outcome in whole.outcomes
    ]


def test_nothing_is_taken_over_unasked(tmp_path: Path) -> None:
    spec = a_spec(tmp_path)
    record = record_of(spec)
    assert taken(spec) == taken(spec, record) == Earlier()
    assert record.fact("earlier") is None


# other conditions


OTHER_SPACE = {
    "family": ["bert", "distilbert"],
    "depth": {"int": [2, 3]},
    "temperature": {"float": [2, 8], "log": True},
    "learning_rate": SPACE["learning_rate"],
}


@pytest.mark.slow
def test_of_another_space_the_best_students_come_first(ran: Callable[..., StudySpec]) -> None:
    before = ran()
    spec = after(before, space=OTHER_SPACE)
    earlier = taken(spec)
    assert earlier.outcomes == ()
    front = ParetoFront.of(record_of(before).outcomes(), before, REFERENCES)
    assert "had another space: its measurements do not count here" in earlier.note
    assert f"of the {len(front.points)} students on its front" in earlier.note
    theirs = [record_of(before).outcomes()[trial].parameters for trial in front.trials]
    assert 1 <= len(earlier.first) <= len(theirs)
    for point in earlier.first:
        assert spec.space.fault_of(point) == ""
        assert {"depth", "temperature", "learning_rate"} <= point.keys() <= OTHER_SPACE.keys()
        (one,) = [its for its in theirs if its["learning_rate"] == point["learning_rate"]]
        assert point["depth"] == min(max(one["depth"], 2), 3)
        assert point.get("family", "left open") == ("bert" if one["family"] == "bert" else "left open")
    # first trials they are
    first = first_points(spec, TEACHER, VOCABULARIES, {}, earlier.first)
    assert first == earlier.first
    values, _ = Sampling(spec, TEACHER, VOCABULARIES, {}, first=first).suggest([], 0)  # type: ignore[misc]
    assert earlier.first[0].items() <= values.items()
    # and kept
    claim_output(spec)
    kept = taken(spec, record_of(spec))
    shutil.rmtree(before.output)
    assert kept == earlier == taken(spec, record_of(spec))


@pytest.mark.parametrize(
    ("theirs", "ours", "words"),
    [
        ({}, {"training": {"epochs": 5}}, "another training"),
        ({"training": {"steps": 9}}, {}, "another training"),
        ({}, {"objectives": {"accuracy": "maximize", "bytes": "minimize"}}, "other objectives"),
        ({}, {"teacher": {"model": "x/y", "fine_tune": {"epochs": 1}}}, "another fine-tuning of its teacher"),
        ({}, {"data": {"builtin": "docstrings", "class_weights": "balanced"}}, "other class weights"),
        ({"data": "older data"}, {}, "other data or another teacher"),
        ({"data": "older data"}, {"training": {"steps": 9}}, "another training and other data or another teacher"),
    ],
)
def test_measurements_made_otherwise_do_not_count(
    ran: Callable[..., StudySpec], theirs: dict[str, Any], ours: dict[str, Any], words: str
) -> None:
    earlier = taken(after(ran(**theirs), **ours))
    assert earlier.outcomes == ()
    assert earlier.first
    assert f"had {words}: its measurements do not count" in earlier.note


@pytest.mark.slow
def test_a_teacher_fine_tuned_with_another_seed_is_another(ran: Callable[..., StudySpec]) -> None:
    before = ran()
    other, same = after(before, seed=1), after(before)
    assert earlier_of(same, inputs_of(same, fine_tunes=True), {}).outcomes
    assert earlier_of(other, inputs_of(other), {}).outcomes
    taken_over = earlier_of(other, inputs_of(other, fine_tunes=True), {})
    assert taken_over.outcomes == ()
    assert "had other data or another teacher" in taken_over.note


def test_a_random_search_begins_with_the_best_students(ran: Callable[..., StudySpec]) -> None:
    earlier = taken(after(ran(), search={"sampler": "random"}))
    assert earlier.outcomes == ()
    assert earlier.first
    assert "a random search learns nothing" in earlier.note


def test_best_students_that_make_none_here_are_told(ran: Callable[..., StudySpec]) -> None:
    spec = after(
        ran(),
        space={"family": "bert", "depth": {"int": [1, 3]}, "layers": [[0, 1, 2]]},
        bounds={"parameters": {"max": 99}},
    )
    with pytest.raises(InputError, match=r"search\.from: .* had another space.*Widen space or bounds, or leave it out"):
        taken(spec, parameters=(0.0, 99.0))


# what is no study


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda spec: shutil.rmtree(spec.output), "holds no study.yaml, so it is no study's output"),
        (lambda spec: (spec.output / "study.db").unlink(), "there is no study.db"),
        (lambda spec: (spec.output / "study.db").write_text("not a database" * 99), "cannot be opened"),
        (lambda spec: (spec.output / "study.yaml").write_text("just: words"), "holds no resolved study"),
        (lambda spec: (spec.output / "study.yaml").write_text("name: ["), "is not valid YAML"),
        (lambda spec: record_of(spec).keep("references", []), "references hold none of that name"),
        (lambda spec: record_of(spec).keep("made_from", None), "Name the output folder of a study"),
    ],
)
def test_a_folder_that_is_no_study_is_one_clear_error(
    ran: Callable[..., StudySpec], spoil: Callable[[StudySpec], Any], words: str
) -> None:
    before = ran()
    spec = after(before)
    spoil(before)
    with pytest.raises(InputError) as caught:
        read_earlier(spec)
    message = str(caught.value)
    assert message.startswith(f"search.from: no study can be taken over from {before.output}: ")
    assert words in message
    assert "\n" not in message


def test_a_study_that_finished_nothing_is_refused(ran: Callable[..., StudySpec]) -> None:
    with pytest.raises(InputError, match="none of its trials has finished"):
        read_earlier(after(ran(length=0)))


def test_a_study_does_not_begin_from_itself(tmp_path: Path) -> None:
    spec = a_spec(tmp_path, search={"from": str(tmp_path)})
    with pytest.raises(InputError, match="is this study's own output"):
        read_earlier(spec)


# the study file


def test_what_it_begins_from_is_part_of_a_study(tmp_path: Path) -> None:
    plain, begun = a_spec(tmp_path / "run"), a_spec(tmp_path / "run", search={"from": "earlier"})
    assert begun.search.from_ == Path("/nowhere/earlier")  # relative to the file
    assert begun.resolved()["search"]["from"] == "/nowhere/earlier"
    assert fingerprint(begun) != fingerprint(plain)
    claim_output(begun)
    assert spec_of(tmp_path / "run").search == begun.search
    with pytest.raises(InputError, match="holds another study"):
        claim_output(plain)
    with pytest.raises(InputError, match=r"search\.form: unknown key; did you mean \"from\"\?"):
        a_spec(search={"form": "x"})
    with pytest.raises(InputError, match=r"search\.from: .* is no path"):
        a_spec(search={"from": "a\0b"})


def test_studies_without_the_new_keys_are_who_they_were() -> None:
    assert a_spec().resolved()["search"].keys() == {"sampler", "startup_trials", "halving", "first"}


# the record


def test_a_trial_is_adopted_whole(tmp_path: Path) -> None:
    spec = a_spec(tmp_path)
    outcome = done(spec, *a_sampling(spec).suggest([], 0), 0)  # type: ignore[misc]
    third = Measurement(trial=0, attempt=1, step=3, share=1 / 3, metrics={"validation/accuracy": 0.5})
    outcome = outcome.model_copy(update={"measurements": (third, *outcome.measurements), "labels": {"trial": "7"}})
    assert record_of(spec).adopt(outcome, spec.space) == outcome
    ended = outcome.model_copy(update={"number": 1, "state": TrialState.ENDED, "measurements": (third,)})
    record_of(spec).adopt(ended, spec.space)
    assert record_of(spec).outcomes() == [outcome, ended]
