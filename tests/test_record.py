"""What is kept and who may write it: record, lease, sampling, budget, and the searcher between them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.samplers import TPESampler
from optuna.trial import TrialState as OptunaState

from search.record.lease import Lease
from search.record.record import Record, distribution, existing_record, open_storage
from search.results.front import Reference
from search.study import sampling as sampling_module
from search.study.budget import Budget
from search.study.output import trial_folder
from search.study.sampling import Sampling
from search.study.searcher import StudySearcher, trial_config
from spaces.errors import InputError, StudyError
from spaces.parameters import Choice, FloatRange, IntRange
from spaces.student import StudentShape, TeacherShape
from spaces.study import StudySpec
from spaces.trial import Measurement, TrialConfig, TrialOutcome, TrialState, WorkItem, WorkResult
from spaces.yaml_io import parse_study

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

TEACHER = TeacherShape(
    model_type="bert",
    depth=4,
    hidden_size=32,
    num_heads=4,
    intermediate_size=64,
    vocabulary_size=143,
    max_positions=48,
    type_vocabulary_size=2,
    num_labels=3,
    num_parameters=50_000,
)
VOCABULARIES = {"full": 143, "used": 90}
SPACE = {
    "family": ["bert", "albert"],
    "depth": {"int": [1, 4]},
    "vocabulary": ["used", "full"],
    "embedding_size": [8, "full"],
    "num_hidden_groups": {"int": [1, 3], "when": {"family": "albert"}},
    "temperature": {"float": [1, 4], "log": True},
    "learning_rate": {"float": [1e-3, 5e-3], "log": True},
    "batch_size": [16],
}
REFERENCES = [
    Reference(name="teacher", label="teacher", num_parameters=50_000, num_bytes=200_000, metrics={"validation/accuracy": 0.9})
]  # fmt: skip


def a_spec(output: Path = Path("/nowhere/run"), **changes: Any) -> StudySpec:
    raw = {"name": "tiny", "data": {"builtin": "docstrings"}, "teacher": "x/y", "space": SPACE, "output": str(output)}
    return parse_study({**raw, **changes}, "study.yaml", Path("/nowhere"))


def a_sampling(spec: StudySpec, **limits: tuple[float, float]) -> Sampling:
    return Sampling(spec, TEACHER, VOCABULARIES, limits)


def done(
    spec: StudySpec, parameters: dict[str, Any], shape: StudentShape, number: int, accuracy: float = 0.8, seconds: float = 4.0
) -> TrialOutcome:  # fmt: skip
    measurement = Measurement(
        trial=number, attempt=1, step=9, share=1.0, metrics={"validation/accuracy": accuracy},
        cost={"train_seconds": seconds},
    )  # fmt: skip
    return TrialOutcome(
        number=number, config=trial_config(spec, parameters, shape, TEACHER.depth, number), parameters=parameters,
        state=TrialState.DONE, measurements=(measurement,),
    )  # fmt: skip


def history(spec: StudySpec, sampling: Sampling, length: int) -> list[TrialOutcome]:
    outcomes: list[TrialOutcome] = []
    for number in range(length):
        parameters, shape = sampling.suggest(outcomes, number)
        outcomes.append(done(spec, parameters, shape, number, accuracy=0.5 + 0.03 * (number * 7 % 11)))
    return outcomes


# the record


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return reopened(tmp_path)


def reopened(folder: Path, name: str = "tiny") -> Record:
    return Record(open_storage("sqlite", folder), name, a_spec().objectives)


def a_point(number: int = 0, **changes: Any) -> tuple[TrialConfig, dict[str, Any]]:
    spec = a_spec(**changes)
    parameters, shape = a_sampling(spec).suggest([], number)
    return trial_config(spec, parameters, shape, TEACHER.depth, number), parameters


def measurement(trial: int, share: float = 1.0, accuracy: float = 0.75) -> Measurement:
    return Measurement(trial=trial, attempt=2, step=6, share=share, metrics={"validation/accuracy": accuracy})


def test_a_trial_comes_back_as_it_was(record: Record, tmp_path: Path) -> None:
    config, parameters = a_point()
    outcome = record.start(config, parameters, a_spec().space, {"kind": "confirm", "of": "3"})
    record.measured(measurement(0, share=1 / 3, accuracy=0.5))
    record.measured(measurement(0))
    record.set_attempt(0, 2)
    assert outcome.number == 0
    assert record.next_number() == 1
    again = reopened(tmp_path)
    (found,) = again.outcomes()
    assert found == outcome.model_copy(update={"measurements": (measurement(0, 1 / 3, 0.5), measurement(0))})
    assert found.config == config
    assert again.attempts() == {0: 2}
    assert again.next_number() == 1


def test_our_word_and_optunas_state_stand_side_by_side(record: Record, tmp_path: Path) -> None:
    expected = {
        TrialState.RUNNING: OptunaState.RUNNING,
        TrialState.WAITING: OptunaState.RUNNING,
        TrialState.PROMOTED: OptunaState.RUNNING,
        TrialState.ENDED: OptunaState.PRUNED,
        TrialState.FAILED: OptunaState.FAIL,
        TrialState.DONE: OptunaState.COMPLETE,
    }
    assert set(expected) == set(TrialState)
    for number, state in enumerate(expected):
        record.start(*a_point(number), a_spec().space)
        record.measured(measurement(number))
        values = [0.75, 1000.0] if state is TrialState.DONE else None
        record.set_state(number, state, values, error="no luck" if state is TrialState.FAILED else "")
    outcomes = reopened(tmp_path).outcomes()
    assert [outcome.state for outcome in outcomes] == list(expected)
    assert [outcome.error for outcome in outcomes if outcome.error] == ["no luck"]
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert [trial.state for trial in study.trials] == list(expected.values())
    assert [trial.values for trial in study.best_trials] == [[0.75, 1000.0]]
    assert study.metric_names == ["accuracy", "parameters"]
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    for trial, outcome in zip(study.trials, outcomes, strict=True):
        searched = {name: outcome.parameters[name] for name in trial.params}
        assert trial.params == searched
        assert "batch_size" not in trial.params  # one value is no choice
        assert ("num_hidden_groups" in trial.params) == (outcome.parameters["family"] == "albert")


def test_a_measurement_told_twice_is_kept_once(record: Record) -> None:
    record.start(*a_point(), a_spec().space)
    for _ in range(2):
        record.measured(measurement(0))
    (outcome,) = record.outcomes()
    assert outcome.measurements == (measurement(0),)


def test_what_was_cut_off_comes_back_running(record: Record, tmp_path: Path) -> None:
    record.start(*a_point(), a_spec().space)
    storage = open_storage("sqlite", tmp_path)
    (trial,) = storage.get_all_trials(storage.get_study_id_from_name("tiny"))
    storage.set_trial_user_attr(trial._trial_id, "state", "done")  # our word is written; Optuna's is not
    assert reopened(tmp_path).outcomes()[0].state is TrialState.RUNNING


def test_a_finished_trial_stays_finished(record: Record) -> None:
    record.start(*a_point(), a_spec().space)
    record.set_state(0, TrialState.FAILED, error="first")
    record.set_state(0, TrialState.DONE, [0.5, 1.0])
    record.set_state(0, TrialState.RUNNING)
    assert (record.outcomes()[0].state, record.outcomes()[0].error) == (TrialState.FAILED, "first")


def test_facts_and_two_studies_in_one_storage(record: Record, tmp_path: Path) -> None:
    other = reopened(tmp_path, "tiny.confirm")
    record.keep("floors", {"ngrams": [1, None, "x"]})
    record.start(*a_point(), a_spec().space)
    assert reopened(tmp_path).fact("floors") == {"ngrams": [1, None, "x"]}
    record.keep("floors", 2)
    assert record.fact("floors") == 2
    assert other.fact("floors") is None
    assert other.outcomes() == []
    assert record.fact("never kept") is None


def test_a_storage_that_does_not_open(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="storage: cannot be opened"):
        open_storage("sqlite:////proc/no/such/folder.db", tmp_path)
    with pytest.raises(InputError, match="storage: cannot be opened"):
        open_storage("nonsense", tmp_path)
    with pytest.raises(StudyError, match="holds no study yet"):
        existing_record("sqlite", tmp_path, "tiny", a_spec().objectives)
    assert list(tmp_path.iterdir()) == []  # looking made nothing


@given(st.integers(1, 50), st.integers(0, 50), st.booleans())
def test_distributions_include_both_bounds(low: int, more: int, log: bool) -> None:
    whole = distribution(IntRange(low=low, high=low + more, log=log))
    real = distribution(FloatRange(low=low, high=low + more, log=log))
    assert (whole.low, whole.high, real.low, real.high) == (low, low + more, low, low + more)
    stepped = distribution(IntRange(low=low, high=low + 3 * more, step=3))
    assert (stepped.high, stepped.step) == (low + 3 * more, 3)
    assert distribution(Choice(values=("a", 1, 2.5))).choices == ("a", 1, 2.5)


# the lease


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def started(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]


def test_a_second_driver_is_refused_and_the_name_of_the_first_is_told(record: Record, tmp_path: Path) -> None:
    with Lease(record, Clock()):
        with pytest.raises(InputError) as caught:
            Lease(reopened(tmp_path), Clock()).__enter__()
        assert f"process {os.getpid()} on {socket.gethostname()}" in str(caught.value)
        assert "expires in 60 s" in str(caught.value)
    with Lease(reopened(tmp_path), Clock()):  # given back at the end
        assert record.fact("lease")["pid"] == os.getpid()
    assert record.fact("lease") is None


def holder(**changes: Any) -> dict[str, Any]:
    own = {"host": socket.gethostname(), "pid": os.getpid(), "started": started(os.getpid()), "expires": 1060.0}
    return {**own, **changes}


def test_the_lease_of_a_dead_process_is_taken_over(record: Record) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    record.keep("lease", holder(pid=process.pid, started="1"))
    with Lease(record, Clock()):
        assert record.fact("lease")["pid"] == os.getpid()


def test_the_lease_of_a_reused_process_id_is_taken_over(record: Record) -> None:
    record.keep("lease", holder(started="1"))
    with Lease(record, Clock()):
        assert record.fact("lease")["started"] == started(os.getpid())


def test_a_lease_from_another_host_holds_until_it_expires(record: Record) -> None:
    record.keep("lease", holder(host="elsewhere"))
    with pytest.raises(InputError, match="on elsewhere"):
        Lease(record, Clock(1059.0)).__enter__()
    with Lease(record, Clock(1061.0)):
        assert record.fact("lease")["expires"] == 1061.0 + 60


def test_a_lease_is_renewed_while_its_driver_lives(record: Record) -> None:
    clock = Clock()
    with Lease(record, clock, seconds=0.2):
        clock.now = 2000.0
        for _ in range(6000):  # a minute where the machine is slow, in practice a twentieth of a second
            if record.fact("lease")["expires"] == 2000.2:
                break
            time.sleep(0.01)
        assert record.fact("lease")["expires"] == 2000.2


# sampling

SMALL = {"parameters": (0.0, 24_000.0)}


@pytest.fixture(scope="module")
def bounded() -> Sampling:
    sampling = a_sampling(a_spec(search={"startup_trials": 2}), **SMALL)
    every = len(a_sampling(a_spec()).shapes)
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
    spec = a_spec(search={"startup_trials": 3})
    outcomes = history(spec, a_sampling(spec), 6)
    record = reopened(tmp_path)
    for outcome in outcomes:
        record.start(outcome.config, outcome.parameters, spec.space)
        record.measured(outcome.measurements[0])
        record.set_state(outcome.number, TrialState.DONE, [outcome.values()[name] for name in spec.objectives])
    again = a_sampling(spec).suggest(reopened(tmp_path).outcomes(), 6)
    assert again == a_sampling(spec).suggest(outcomes, 6)
    assert again != a_sampling(spec).suggest(outcomes[:3], 6)  # what was measured counts


class Spy(TPESampler):
    seen: list[list[Any]] = []

    def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
        Spy.seen.append(
            [(dict(t.params), t.values, t.system_attrs.get("constraints")) for t in study.get_trials()[:-1]]
        )
        return super().infer_relative_search_space(study, trial)


def test_tpe_takes_over_once_enough_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling_module, "TPESampler", Spy)
    monkeypatch.setattr(Spy, "seen", [])
    spec = a_spec(search={"startup_trials": 3})
    sampling = a_sampling(spec, accuracy=(0.7, float("inf")), **SMALL)
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
        assert constraints == pytest.approx([0.7 - accuracy, -parameters, parameters - 24_000])
    assert any(constraints[0] > 0 for _, _, constraints in first)  # one is below the bound, and told as such

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


# the searcher


def a_searcher(folder: Path, told: list[TrialOutcome] | None = None, **changes: Any) -> tuple[StudySearcher, Record]:
    spec = a_spec(folder, budget={"trials": 3}, **changes)
    record = reopened(folder)
    searcher = StudySearcher(
        spec,
        record,
        a_sampling(spec),
        Budget(spec, num_lanes=1, tokens_per_text=10.0, deadline=None, front_size=lambda: 1),
        references=REFERENCES,
        teacher_depth=TEACHER.depth,
        payload={"teacher": "folder"},
        told=(told if told is not None else []).append,
    )
    return searcher, record


def result_of(item: WorkItem, accuracy: float = 0.8, error: str = "") -> WorkResult:
    assert item.trial is not None
    measured = Measurement(
        trial=item.trial, attempt=item.attempt, step=9, share=1.0, metrics={"validation/accuracy": accuracy},
        cost={"train_seconds": 1.0},
    )  # fmt: skip
    return WorkResult(
        key=item.key, kind=item.kind, trial=item.trial, attempt=item.attempt, lane=0, error=error,
        measurement=None if error else measured, timing={"received_at": 1.0},
    )  # fmt: skip


def asked(searcher: StudySearcher) -> WorkItem:
    item = searcher.next_item("any")
    assert isinstance(item, WorkItem)
    return item


def test_the_searcher_writes_everything_down_and_ends_with_the_budget(tmp_path: Path) -> None:
    told: list[TrialOutcome] = []
    searcher, record = a_searcher(tmp_path, told)
    items = [asked(searcher) for _ in range(3)]
    assert [(item.key, item.trial, item.attempt) for item in items] == [(f"trial:{i}", i, 1) for i in range(3)]
    assert searcher.next_item("any") == "finished"
    searcher.finished(items[0].key, result_of(items[0]))
    searcher.finished(items[1].key, result_of(items[1], error="the loss is not finite"))
    states = [TrialState.DONE, TrialState.FAILED, TrialState.RUNNING]
    assert [outcome.state for outcome in record.outcomes()] == states
    assert record.outcomes() == searcher.ordered
    assert [outcome.state for outcome in told] == [TrialState.RUNNING] * 3 + states[:2]
    assert told[-1].error == "the loss is not finite"


def test_what_was_cut_off_is_suggested_first_with_a_new_attempt(tmp_path: Path) -> None:
    searcher, _ = a_searcher(tmp_path)
    items = [asked(searcher) for _ in range(2)]
    searcher.finished(items[0].key, result_of(items[0]))
    # killed here; trial 0 is done, trial 1 runs, trial 2 never was
    again, record = a_searcher(tmp_path)
    resumed, fresh = asked(again), asked(again)
    assert (resumed.key, resumed.attempt, resumed.config) == (items[1].key, 2, items[1].config)
    assert (fresh.key, fresh.attempt) == ("trial:2", 1)
    assert again.next_item("any") == "finished"
    assert record.attempts() == {0: 1, 1: 2, 2: 1}
    # killed once more
    third, _ = a_searcher(tmp_path)
    assert [(item.key, item.attempt) for item in (asked(third), asked(third))] == [("trial:1", 3), ("trial:2", 2)]


def test_a_trial_measured_but_not_yet_named_done_is_not_run_again(tmp_path: Path) -> None:
    searcher, record = a_searcher(tmp_path)
    item = asked(searcher)
    measured = result_of(item).measurement
    assert measured is not None
    record.measured(measured)
    again, record = a_searcher(tmp_path)
    assert record.outcomes()[0].state is TrialState.DONE
    assert asked(again).key == "trial:1"


def test_weights_are_kept_for_the_front_alone(tmp_path: Path) -> None:
    first = [{"family": "bert", "depth": depth, "embedding_size": "full", "vocabulary": "full"} for depth in (1, 2, 3)]
    searcher, _ = a_searcher(tmp_path, search={"first": first})
    items = [asked(searcher) for _ in range(3)]
    folders = [trial_folder(a_spec(tmp_path), number) for number in range(3)]
    for folder in folders:
        (folder / "attempt-1").mkdir(parents=True)
    for item, accuracy in zip(items, (0.5, 0.8, 0.7), strict=True):  # the largest is worse than the middle one
        searcher.finished(item.key, result_of(item, accuracy))
    assert [folder.exists() for folder in folders] == [True, True, False]


def trial_seeds(outcomes: Sequence[TrialOutcome]) -> list[int]:
    return [outcome.config.seed for outcome in outcomes]


def test_each_trial_has_its_seed_and_a_study_may_name_the_first(tmp_path: Path) -> None:
    searcher, _ = a_searcher(tmp_path, trial_seeds=[77])
    for _ in range(3):
        asked(searcher)
    seeds = trial_seeds(searcher.ordered)
    assert seeds[0] == 77
    assert len(set(seeds)) == 3
    assert seeds[1:] == [a_point(number)[0].seed for number in (1, 2)]
