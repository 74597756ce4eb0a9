"""The study file: what it may say, and how it is told when it is wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_spaces import TEACHER, VOCABULARIES, WORDS, faults_of, raw_study

from spaces.space import PARAMETERS, parse_space
from spaces.study import Bound, StudySpec
from spaces.yaml_io import load_study, parse_study, parse_yaml, preset_names, preset_text, to_yaml


def test_every_fault_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    faults = faults_of(
        {
            "nam": "x",
            "data": {"train": "missing.tsv", "colums": {}},
            "teacher": {"model": "x", "fine_tune": {"epocs": 2}},
            "space": {"temprature": 2, "temperature": {"float": [0, 8], "log": True}, "depth": {"int": [0, 3]}},
            "training": {"epochs": -1},
            "objectives": {"accuracy": "minimize"},
            "bounds": {"accuracy": {"min": "97 percent"}},
            "search": {"first": [{"dept": 2}]},
        },
        tmp_path,
    )
    expected = {
        "nam": 'did you mean "name"?',
        "name": "is missing",
        "data.train": "there is no file",
        "data.colums": 'did you mean "columns"?',
        "teacher.fine_tune.epocs": 'did you mean "epochs"?',
        "space.temprature": 'did you mean "temperature"?',
        "space.temperature": "float[0] = 0 is not allowed: a log scale needs a lower bound above 0",
        "space.depth": "0 is not allowed",
        "training.epochs": "greater than 0",
        "objectives": "write accuracy: maximize",
        "bounds.accuracy.min": "a share of the teacher's value such as 97%",
        "search.first": 'dept: unknown parameter; did you mean "depth"?',
    }
    assert faults.keys() == expected.keys()
    for where, words in expected.items():
        assert words in faults[where], where


@pytest.mark.parametrize(
    ("changes", "where", "words"),
    [
        ({"data": {}}, "data", "write train: FILE"),
        ({"objectives": {"accuracy": "maximize"}}, "objectives", "two objectives or more"),
        ({"objectives": {"speed": "maximize"}}, "objectives", "'speed' is not an objective"),
        ({"objectives": ["accuracy", "parameters"]}, "objectives", "a direction for each, such as {accuracy: maximize"),
        ({"bounds": {"latency": {"max": 3}}}, "bounds", "'latency' cannot be bounded"),
        ({"bounds": {"parameters": {}}}, "bounds.parameters", "write min or max"),
        ({"name": "../up"}, "name", "'../up' is not allowed"),
        ({"seed": -1}, "seed", "-1 is not allowed"),
        ({"space": "defualt"}, "space", 'did you mean "default"?'),
        ({"space": [1]}, "space", "write a preset's name"),
        ({"search": {"first": [{"depth": 13}]}}, "search.first[0]", "13 is outside the space"),
        ({"cache": "~nobody-has-this-name/x"}, "cache", "is no path"),
        ({"output": "a\0b"}, "output", "is no path"),
        ({"teacher": {"model": "x", "sha256": "abc"}}, "teacher.sha256", "'abc' is not allowed"),
    ],
)
def test_a_fault_says_where_and_what_to_do(changes: dict[str, Any], where: str, words: str) -> None:
    faults = faults_of(raw_study(**changes))
    assert list(faults) == [where]
    assert words in faults[where]


@pytest.mark.parametrize("raw", [None, [], "text", 3])
def test_what_is_no_study_is_refused(raw: Any) -> None:
    assert "is no study" in faults_of(raw)[""]


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.tsv").write_text("text\tlabel\n")
    (tmp_path / "model").mkdir()
    study = tmp_path / "study.yaml"
    study.write_text("name: a\ndata: {train: data/train.tsv}\nteacher: model\n")
    spec = load_study(study)
    assert spec.data.train == tmp_path / "data" / "train.tsv"
    assert spec.teacher.model == str(tmp_path / "model")
    assert spec.output == tmp_path / "runs" / "a"
    assert spec.cache == Path.home() / ".cache" / "distilsearch"
    # a name that is no folder stays a hub id
    study.write_text("name: a\ndata: {train: data/train.tsv}\nteacher: some/model\n")
    assert load_study(study).teacher.model == "some/model"


@given(
    name=st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,20}\Z"),
    labels=st.dictionaries(WORDS, WORDS, max_size=3),
    minutes=st.none() | st.floats(0.1, 1e5),
    share=st.integers(1, 120),
    epochs=st.floats(0.01, 100),
    first=st.lists(st.fixed_dictionaries({"depth": st.integers(1, 6), "soft_share": st.floats(0.3, 1)}), max_size=2),
    seeds=st.lists(st.integers(0, 2**31 - 1), max_size=2),
)
def test_a_resolved_study_is_read_again(name: str, share: int, **drawn: Any) -> None:
    raw = raw_study(
        name=name,
        data={"builtin": "docstrings", "labels": drawn["labels"]},
        bounds={"accuracy": {"min": f"{share}%"}, "parameters": {"max": 10.0**6}},
        budget={"minutes": drawn["minutes"]},
        training={"epochs": drawn["epochs"]},
        search={"first": drawn["first"]},
        trial_seeds=drawn["seeds"],
        tracking="none",
    )
    spec = parse_study(raw, "study.yaml", Path("/nowhere"))
    assert parse_study(spec.resolved(), "again", Path("/elsewhere")) == spec
    assert parse_study(parse_yaml(to_yaml(spec.resolved()), "yaml"), "again", Path("/elsewhere")) == spec
    assert parse_study(json.loads(json.dumps(spec.resolved())), "again", Path("/elsewhere")) == spec


def test_a_bound_in_percent_is_a_share_of_the_teacher() -> None:
    assert Bound(min="97%").limits(0.9) == (pytest.approx(0.873), math.inf)
    assert Bound(max=6e6).limits(123.0) == (-math.inf, 6e6)
    assert Bound(min=0, max="50%").limits(10.0) == (0.0, 5.0)  # 0 is a bound, not "unset"


def test_presets_load() -> None:
    spaces = preset_names("spaces")
    assert "default" in spaces
    for name in spaces:
        space, faults = parse_space(parse_yaml(preset_text("spaces", name), name))
        assert not faults
        assert len(list(space.architectures(TEACHER.model_copy(update={"hidden_size": 768}), VOCABULARIES))) > 10


def test_shipped_studies_load() -> None:
    names = preset_names("studies")
    assert "docstrings" in names
    for name in names:
        spec = parse_study(
            parse_yaml(preset_text("studies", name), name), name, Path("/nowhere"), files_must_exist=False
        )
        assert spec.name
    assert load_study("docstrings").data.builtin == "docstrings"


def test_the_schema_names_every_key_and_parameter() -> None:
    import jsonschema

    schema = StudySpec.model_json_schema()
    assert set(schema["properties"]) == set(StudySpec.model_fields)
    assert json.loads(json.dumps(schema)) == schema
    space = next(kind for kind in schema["properties"]["space"]["oneOf"] if kind["type"] == "object")
    assert list(space["properties"]) == list(PARAMETERS)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    good = raw_study(teacher={"model": "x"}, output="o", space={"depth": 3})
    assert validator.is_valid(good)
    assert not validator.is_valid({**good, "spce": 1})
    assert not validator.is_valid({**good, "space": {"dept": 3}})


def test_the_readmes_space_is_one() -> None:
    text = (Path(__file__).parent.parent / "README.md").read_text()
    block = next(part for part in text.split("```yaml\n") if part.startswith("space:")).split("```")[0]
    raw = parse_yaml(block, "README.md")
    space, faults = parse_space(raw["space"])
    assert not faults
    assert set(space.parameters) == set(PARAMETERS) - {"num_heads", "weight_decay", "dropout"}
