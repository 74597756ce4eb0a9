"""The best-config file: its schema, its versions, its page; and `--set`, which trains its student under other settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from commands import TEACHER, Run, results_written

from search.study.output import claim_output, one_point_study
from search.study.searcher import trial_config
from search.suggest.sampling import Sampling
from spaces.changes import load_changed, parse_changes
from spaces.errors import InputError
from spaces.study import StudySpec
from spaces.trial import BestConfig, TrialConfig, TrialOutcome, TrialState
from spaces.yaml_io import load_study, parse_best_config, to_yaml

SAMPLES = sorted((Path(__file__).parent / "samples").glob("best-config-*.yaml"))
NEWEST = Path(__file__).parent / "samples" / "best-config-v1-windows.yaml"
PAGE = Path(__file__).parent.parent / "docs" / "best-config.md"


# the file


def test_there_is_a_sample_of_every_version() -> None:
    assert len(SAMPLES) >= 2
    assert NEWEST in SAMPLES


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_every_sample_still_loads_and_keeps_to_the_schema(path: Path, distilsearch: Run) -> None:
    raw = yaml.safe_load(path.read_text())
    best = parse_best_config(raw, str(path))
    spec = load_study(path)
    assert spec.trial_seeds == (best.config.seed,)
    assert spec.budget.trials == 1
    status, out, _ = distilsearch("schema", "--best-config")
    schema = json.loads(out)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert status == 0
    jsonschema.validate(raw, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**raw, "trail": 3}, schema)
    assert all(schema["properties"][name]["description"] for name in schema["properties"])


def keys(plain: Mapping[str, Any], prefix: str = "") -> set[str]:
    found = set()
    for name, value in plain.items():
        found |= {f"{prefix}{name}"} | (keys(value, f"{prefix}{name}.") if isinstance(value, Mapping) else set())
    return found


def test_what_is_written_today_has_the_keys_of_the_newest_sample(finished: StudySpec) -> None:
    """A new key takes a new sample, which must load for ever."""
    (trial, *_) = results_written(finished).front.trials
    written = yaml.safe_load((finished.output / "best" / f"trial-{trial}.yaml").read_text())
    sample = yaml.safe_load(NEWEST.read_text())
    for part in ("config", "study"):
        data = {"data.builtin", "data.num_pairs", "data.train", "data.validation", "data.test"}
        optional = data | {name for name in keys(sample[part]) if name.startswith(("tracking", "teacher.", "space."))}
        now = {name for name in keys(written[part]) if not name.startswith(("tracking", "teacher.", "space."))}
        assert now - data == keys(sample[part]) - optional
    assert written.keys() == sample.keys()


def test_a_newer_version_is_refused_with_what_to_do() -> None:
    raw = yaml.safe_load(NEWEST.read_text())
    with pytest.raises(InputError) as caught:
        parse_best_config({**raw, "schema_version": 2, "new": 1}, "best.yaml")
    assert str(caught.value) == (
        "best.yaml: schema_version: 2 is newer than what this distilsearch reads (up to 1); install a newer one"
    )
    for broken in ({**raw, "schema_version": "x"}, {name: raw[name] for name in raw if name != "config"}):
        with pytest.raises(InputError):
            parse_best_config(broken, "best.yaml")


def test_the_page_explains_every_key() -> None:
    text = PAGE.read_text()
    shape, config = {"shape"}, set(TrialConfig.model_fields)
    for name in {*BestConfig.model_fields, *config} - shape:
        assert f"`{name}`" in text, name


# --set


@pytest.mark.parametrize(
    ("change", "where", "expected"),
    [
        ("training.epochs=10", "training.epochs", 10),
        ("training.epochs=1e1", "training.epochs", 10),
        ("bounds.accuracy.min=97%", "bounds.accuracy.min", "97%"),
        ("bounds={accuracy: {min: 97%}}", "bounds.accuracy.min", "97%"),
        ("budget.flat={trials: 30, growth: 1%}", "budget.flat.growth", 0.01),
        ("search.halving.reduction=4", "search.halving.reduction", 4),  # which is `none` in the file
        ("search.halving={rungs: [1/9, 1]}", "search.halving.rungs", [1 / 9, 1]),
        ("tracking.wandb.project=mine", "tracking.wandb.project", "mine"),
        ("teacher.fine_tune.epochs=5", "teacher.fine_tune.epochs", 5),  # the teacher is a word there
        ("space.depth=[1, 2]", "space.depth", [1, 2]),
        ("space=default", "space.batch_size", None),
        ("data.labels={0: negative}", "data.labels.0", "negative"),
        ("deployment.threads=2", "deployment.threads", 2),
    ],
)
def test_a_change_counts_as_if_the_file_said_so(study: Any, change: str, where: str, expected: Any) -> None:
    found: Any = load_changed(study(), [change]).resolved()
    for part in where.split("."):
        found = found[part]
    assert found == expected or expected is None


def test_changes_of_a_word_keep_what_it_stands_for(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("name: a\ndata: {builtin: docstrings}\nteacher: some/model\nspace: default\n")
    plain, changed = load_study(path), load_changed(path, ["space.depth=2", "teacher.revision=v2", "seed=1", "seed=3"])
    assert changed.teacher == plain.teacher.model_copy(update={"revision": "v2"})
    assert changed.seed == 3
    assert {**plain.space.to_yaml(), "depth": 2} == changed.space.to_yaml()
    assert load_changed("docstrings", ["training.epochs=9"]).training.epochs == 9  # a shipped study


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("training.epohcs=10", 'training.epohcs: unknown key; did you mean "epochs"?'),
        ("trainig.epochs=10", 'trainig: unknown key; did you mean "training"?'),
        ("training.epochs=-1", "training.epochs: -1 is not allowed: it should be greater than 0"),
        ("space.temprature=3", 'space.temprature: unknown parameter; did you mean "temperature"?'),
        ("training.epochs", "--set: 'training.epochs' is no KEY=VALUE; write such as --set training.epochs=10"),
        ("=3", "is no KEY=VALUE"),
        ("training..epochs=3", "is no KEY=VALUE"),
        ("training.epochs=[1", "--set training.epochs: line 1"),
        ("search.first.depth=1", "--set: search.first.depth: search.first is [], which has no keys; set it whole"),
    ],
)
@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_change_that_makes_no_sense_is_2(
    distilsearch: Run,
    study: Any,
    tmp_path: Path,
    command: str,
    change: str,
    words: str,
) -> None:
    status, out, err = distilsearch(command, study(), "--set", change)
    assert (status, out) == (2, "")
    assert words in err
    assert not (tmp_path / "run").exists()


def test_a_later_change_wins() -> None:
    assert parse_changes(["a.b=1", "c=", "a.b=x=y"]) == {"a.b": "x=y", "c": None}


@pytest.fixture
def best(study_of: Callable[..., StudySpec], tmp_path: Path) -> tuple[Path, TrialOutcome]:
    """The best-config file of a student that nobody trained, and its trial."""
    spec = study_of(training={"epochs": 1})
    parameters, shape = Sampling(spec, TEACHER, {"full": 140, "used": 120}, {}).suggest([], 7)  # type: ignore[misc]
    config = trial_config(spec, parameters, shape, 3, 7)
    outcome = TrialOutcome(number=7, config=config, parameters=parameters, state=TrialState.DONE)
    made = BestConfig(
        trial=7, config=config, parameters=parameters, metrics={}, sizes={}, provenance={}, reproduce="",
        study=one_point_study(spec, outcome).resolved(),
    )  # fmt: skip
    path = tmp_path / "trial-7.yaml"
    path.write_text(to_yaml(made.model_dump(mode="json")))
    return path, outcome


def test_a_best_config_trains_its_student_longer(best: tuple[Path, TrialOutcome], run_item: Callable[..., Any]) -> None:
    from search.study.inputs import read_inputs

    path, outcome = best
    steps = []
    for changes, epochs in (([], 1), (["training.epochs=3"], 3)):
        inputs = read_inputs(load_changed(path, changes), lambda text: None)
        parameters, shape = Sampling(inputs.spec, inputs.teacher, inputs.vocabularies, {}).suggest([], 0)  # type: ignore[misc]
        config = trial_config(inputs.spec, parameters, shape, inputs.teacher.depth, 0)
        assert config == outcome.config.model_copy(update={"epochs": epochs, "shape": shape})
        assert config.shape.family == outcome.config.shape.family
        measurement, _ = run_item(config, f"epochs-{epochs}")
        steps.append(measurement.step)
    assert steps[1] == 3 * steps[0] > 0


def test_a_changed_student_has_an_output_of_its_own(best: tuple[Path, TrialOutcome], tmp_path: Path) -> None:
    path, _ = best
    own = tmp_path / "run.trial-7"
    for changes, output in (
        ([], own),
        (["budget.minutes=5", "confirm.seeds=3"], own),  # no other study
        (["training.epochs=10"], tmp_path / "run.trial-7.training.epochs-10"),
        (["training.epochs=10", "seed=2"], tmp_path / "run.trial-7.training.epochs-10.seed-2"),
        (["training.epochs=10", "output=there"], tmp_path / "there"),
    ):
        assert load_changed(path, changes).output == output
    outputs = {load_changed(path, [f"data.labels={{a: {'b' * 99}{number}}}"]).output for number in range(3)}
    assert len(outputs) == 3  # told apart where the name would be too long
    assert all(len(output.name) < 80 for output in outputs)


def test_an_output_of_another_study_says_what_differs(best: tuple[Path, TrialOutcome], tmp_path: Path) -> None:
    path, _ = best
    claim_output(load_changed(path, []))
    with pytest.raises(
        InputError, match=r"with another training.epochs and seed; only .* Name another output"
    ) as caught:
        claim_output(load_changed(path, ["training.epochs=10", "seed=2", f"output={tmp_path / 'run.trial-7'}"]))
    assert "more" not in str(caught.value)
