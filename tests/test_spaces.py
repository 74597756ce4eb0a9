"""The vocabulary: what a study file may say, what it means, and how it is told when it is wrong."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
from hypothesis import assume, given
from hypothesis import strategies as st

from spaces import yaml_io
from spaces.architecture import LAYER_POLICIES, InvalidStudent, copied_layers
from spaces.errors import Fault, InputError, StudyError, TrialError, near_miss
from spaces.named import function_named
from spaces.parameters import Choice, FloatRange, IntRange, Parameter, parse_parameter
from spaces.space import PARAMETERS, SearchSpace, parse_space
from spaces.trial import BestConfig, Measurement, TrialConfig, WorkItem, WorkKind, WorkResult, derived_seed
from spaces.yaml_io import load_study, parse_study, parse_yaml, to_yaml

SAMPLES = Path(__file__).parent / "samples"
TEACHER = tiny.teacher_shape(depth=12)
VOCABULARIES = {"full": 1000, "used": 400}


def raw_study(**changes: Any) -> dict[str, Any]:
    return {"name": "a", "data": {"builtin": "docstrings"}, "teacher": "some/teacher", **changes}


def faults_of(raw: Any, folder: Path = Path("/nowhere")) -> dict[str, str]:
    with pytest.raises(InputError) as caught:
        parse_study(raw, "study.yaml", folder)
    assert str(caught.value).startswith("study.yaml: ")
    return {fault.where: fault.problem for fault in caught.value.faults}


# parameters

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("C",)), min_size=1, max_size=12)
NUMBERS = st.integers(-(10**6), 10**6) | st.floats(-1e9, 1e9, allow_nan=False)
WHEN = st.dictionaries(st.sampled_from(["family", "depth"]), st.lists(WORDS, min_size=1, max_size=3, unique=True))


@st.composite
def parameters(draw: st.DrawFn) -> Parameter:
    when = {name: tuple(values) for name, values in draw(WHEN).items()}
    kind = draw(st.sampled_from(["choice", "int", "float"]))
    if kind == "choice":
        values = draw(st.lists(WORDS | NUMBERS, min_size=1, max_size=4, unique=True))
        return Choice(values=tuple(values), when=when)
    log = draw(st.booleans())
    if kind == "int":
        low = draw(st.integers(1 if log else -100, 100))
        step = 1 if log else draw(st.integers(1, 9))
        return IntRange(low=low, high=low + step * draw(st.integers(0, 20)), step=step, log=log, when=when)
    low, high = sorted(draw(st.tuples(*[st.floats(1e-9 if log else -1e9, 1e9)] * 2)))
    return FloatRange(low=low, high=high, log=log, when=when)


@given(parameters())
def test_a_parameter_survives_yaml(parameter: Parameter) -> None:
    assert parse_parameter(parse_yaml(to_yaml({"p": parameter.to_yaml()}), "x")["p"]) == parameter


@given(parameters())
def test_bounds_and_values_are_inclusive(parameter: Parameter) -> None:
    inside = parameter.values if isinstance(parameter, Choice) else (parameter.low, parameter.high)
    assert all(parameter.contains(value) for value in inside)
    if not isinstance(parameter, Choice):
        assert not parameter.contains(parameter.high + max(1, abs(parameter.high) * 0.01))


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"float": [0, 8], "log": True}, "float[0] = 0 is not allowed: a log scale needs a lower bound above 0"),
        ({"int": [6, 1]}, "the lower bound 6 is above the upper bound 1"),
        ({"int": [1, 6], "step": 2}, "6 is not reached from 1 in steps of 2"),
        ({"int": [1, 2.5]}, "int[1] = 2.5 is not allowed; write a whole number"),
        ({"int": [True, 3]}, "int[0] = True"),
        ({"float": [1, float("nan")]}, "float[1] = nan"),
        ({"float": ["x", 1]}, "float[0] = 'x'"),
        ({"float": [1]}, "write two bounds"),
        ({"float": [1, 2], "step": 1}, "unknown key 'step'"),
        ({"int": [1, 8], "log": True, "step": 7}, "log and step exclude each other"),
        ({"int": [1, 8], "log": "yes"}, "log = 'yes'"),
        ({"int": [1, 8], "step": 0}, "step = 0"),
        ({"int": [1, 2], "float": [1, 2]}, "write a value, a list of values"),
        ({"choices": 3}, "choices: write a list"),
        ([], "an empty list leaves nothing to choose"),
        ([1, 1], "a value stands there twice"),
        ([None], "[0] = None is not a value"),
        ({"int": [1, 2], "when": "albert"}, "when: write the parameter"),
    ],
)
def test_a_wrong_parameter_says_what_is_allowed(raw: Any, words: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as caught:
        parse_parameter(raw)
    assert words in str(caught.value)


def test_an_explicit_list_of_layers_is_one_value() -> None:
    assert parse_parameter([[0, 2, 5], "even"]) == Choice(values=("0,2,5", "even"))


# spaces


def test_the_order_of_the_file_does_not_matter() -> None:
    raw = {"temperature": {"float": [1, 8]}, "depth": {"int": [1, 6]}, "family": ["bert", "albert"]}
    space, faults = parse_space(raw)
    again, _ = parse_space(dict(reversed(raw.items())))
    assert not faults
    assert list(space.parameters) == ["family", "depth", "temperature"] == list(again.to_yaml())
    assert space.fingerprint == again.fingerprint
    other, _ = parse_space({**raw, "depth": {"int": [1, 5]}})
    assert other.fingerprint != space.fingerprint


def test_a_parameter_counts_only_under_its_condition() -> None:
    space, faults = parse_space(
        {"family": ["bert", "albert"], "num_hidden_groups": {"int": [1, 3], "when": {"family": "albert"}}}
    )
    assert not faults

    def with_family(family: str) -> dict[str, Any]:
        return space.point(lambda name, parameter: {"family": family, "num_hidden_groups": 2}[name])

    assert with_family("albert")["num_hidden_groups"] == 2
    assert "num_hidden_groups" not in with_family("bert")
    assert with_family("bert")["temperature"] == PARAMETERS["temperature"].default


@pytest.mark.parametrize(
    ("raw", "where", "words"),
    [
        ({"num_hidden_groups": {"int": [1, 2], "when": {"famly": "albert"}}}, "num_hidden_groups", '"family"'),
        ({"family": {"choices": ["bert"], "when": {"depth": 1}}}, "family", "can depend only on nothing"),
        ({"depth": {"int": [1, 2], "when": {"temperature": 1}}}, "depth", "can depend only on family"),
        (
            {"family": "bert", "num_hidden_groups": {"int": [1, 2], "when": {"family": "albert"}}},
            "num_hidden_groups",
            "family is never albert",
        ),
        # what the space does not name is fixed at its default, and family's is bert
        ({"num_hidden_groups": {"int": [1, 2], "when": {"family": "albert"}}}, "num_hidden_groups", "never albert"),
        ({"depth": {"float": [1, 2]}}, "depth", "a real range is not allowed"),
        ({"family": {"int": [1, 2]}}, "family", "a range is not allowed"),
        ({"vocabulary": {"int": [100, 9000]}}, "vocabulary", "too many to enumerate"),
        ({"layers": [[2, 1]]}, "layers", "rising order"),
        ({"soft_share": 1.5}, "soft_share", "1.5 is not allowed"),
        ({"family": "gpt"}, "family", "'albert', 'bert'"),
    ],
)
def test_a_wrong_space_says_where(raw: Any, where: str, words: str) -> None:
    _, faults = parse_space(raw)
    assert [fault.where for fault in faults] == [where]
    assert words in faults[0].problem


def test_layer_policies_by_hand() -> None:
    of_twelve = {name: copied_layers(name, 6, 12) for name in LAYER_POLICIES}
    assert of_twelve == {
        "even": (0, 2, 4, 6, 8, 10),
        "even-with-last": (0, 2, 4, 7, 9, 11),  # what DistilBERT copied (arXiv:1910.01108)
        "first": (0, 1, 2, 3, 4, 5),
        "last": (6, 7, 8, 9, 10, 11),
        "first-and-last": (0, 1, 2, 3, 4, 11),
        "skip-first": (1, 2, 4, 6, 8, 10),  # 1 + 0, 1.83, 3.67, 5.5, 7.33, 9.17
        "skip-first-with-last": (1, 3, 5, 7, 9, 11),
    }
    assert copied_layers("even-with-last", 3, 6) == (0, 2, 5)  # 0, 2.5 (to even), 5
    assert copied_layers("skip-first", 2, 6) == (1, 3)
    with pytest.raises(InvalidStudent, match="too few for depth 6"):
        copied_layers("skip-first", 6, 6)
    assert copied_layers("0,2,5", 3, 6) == (0, 2, 5)
    with pytest.raises(InvalidStudent, match="more than the teacher's 6"):
        copied_layers("even", 7, 6)
    with pytest.raises(InvalidStudent, match="are 2, but depth is 3"):
        copied_layers("0,2", 3, 6)
    with pytest.raises(InvalidStudent, match="last layer is 5"):
        copied_layers("0,2,6", 3, 6)


@given(st.sampled_from(sorted(LAYER_POLICIES)), st.integers(1, 24), st.data())
def test_every_policy_copies_distinct_layers_in_order(policy: str, teacher_depth: int, data: st.DataObject) -> None:
    if skips := policy.startswith("skip-first"):
        assume(teacher_depth > 1)
    depth = data.draw(st.integers(1, teacher_depth - skips))
    layers = copied_layers(policy, depth, teacher_depth)
    assert not skips or layers[0] >= 1
    assert len(layers) == depth
    assert list(layers) == sorted(set(layers))
    assert 0 <= layers[0] <= layers[-1] < teacher_depth
    if depth == teacher_depth:
        assert layers == tuple(range(teacher_depth))


def test_architectures_are_the_valid_ones_once() -> None:
    space, _ = parse_space(
        {
            "family": ["bert", "albert"],
            "depth": {"int": [1, 13]},  # 13 is deeper than the teacher
            "num_hidden_groups": {"int": [1, 2], "when": {"family": "albert"}},
            "embedding_size": [16, 64, "full"],  # 64 is wider than the teacher
        }
    )
    found = list(space.architectures(TEACHER, VOCABULARIES))
    assert len(found) == 12 * 2 + (12 + 11) * 2  # bert: 12 depths, 2 ranks; albert: two groups need two layers
    assert len({tuple(values.items()) for values, _ in found}) == len(found)
    for values, shape in found:
        assert space.shape(values, TEACHER, VOCABULARIES) == shape
        assert space.fault_of(values) == ""


# YAML


# what flows


def a_config(**changes: Any) -> TrialConfig:
    space, _ = parse_space({})
    shape = space.shape({"depth": 3}, TEACHER, VOCABULARIES)
    settings: dict[str, Any] = {
        "temperature": 2.0,
        "soft_share": 0.9,
        "learning_rate": 1e-3,
        "batch_size": 16,
        "warmup_share": 0.1,
        "weight_decay": 0.0,
        "dropout": 0.0,
        "epochs": 1.0,
        "seed": 1,
    }
    return TrialConfig(shape=shape, layers=(0, 6, 11), vocabulary="full", **{**settings, **changes})


def test_nouns_are_frozen_strict_and_survive_json() -> None:
    config = a_config()
    item = WorkItem(key="trial:1", kind=WorkKind.TRAIN, trial=1, config=config)
    measurement = Measurement(trial=1, attempt=1, step=3, share=1.0, metrics={"validation/accuracy": 0.5})
    result = WorkResult(key="trial:1", kind=WorkKind.TRAIN, trial=1, attempt=1, lane=0, measurement=measurement)
    for noun in (config, item, measurement, result):
        assert type(noun).model_validate_json(noun.model_dump_json()) == noun
        assert pickle.loads(pickle.dumps(noun)) == noun
        with pytest.raises(ValueError, match="frozen"):
            setattr(noun, next(iter(type(noun).model_fields)), 1)
    with pytest.raises(ValueError, match="Extra inputs"):
        a_config(learning_rat=1.0)


@pytest.mark.parametrize(
    "error",
    [
        InputError("study.yaml", [Fault("a.b", "is wrong"), Fault("", "too")]),
        InputError.of("x", "y", "z"),
        TrialError("the loss is not finite"),
        StudyError("no lane"),
    ],
)
def test_errors_survive_the_trip_home(error: Exception) -> None:
    home = pickle.loads(pickle.dumps(error))
    assert (type(home), str(home), vars(home)) == (type(error), str(error), vars(error))
    assert "wrong" not in str(error) or str(home) == "study.yaml: a.b: is wrong\nstudy.yaml: too"


def test_near_misses() -> None:
    assert near_miss("temprature", PARAMETERS) == '; did you mean "temperature"?'
    assert near_miss("zzz", PARAMETERS) == ""


def test_seeds_are_derived_from_what_they_are_for() -> None:
    seeds = {derived_seed(seed, kind, number) for seed in (0, 1) for kind in ("trial", "ask") for number in range(50)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**31 for seed in seeds)
    # the first four bytes of sha256(b"0:trial:7"), halved; files of earlier releases rely on it
    assert derived_seed(0, "trial", 7) == 1878908964
    assert derived_seed(0, "trial", 7) != derived_seed(0, "trial7")


def test_a_best_config_of_schema_1_still_loads() -> None:
    path = SAMPLES / "best-config-v1.yaml"
    raw = parse_yaml(path.read_text(), str(path))
    best = yaml_io.parse_best_config(raw, str(path))
    assert isinstance(best, BestConfig)
    assert (best.schema_version, best.trial, best.config.layers) == (1, 7, (0, 2, 5))
    assert best.config.shape.num_parameters == best.sizes["parameters"]
    assert best.config.shape.num_bytes == best.sizes["bytes"]
    spec = load_study(path)  # step 1 loads it again as a study of one point
    assert spec.space.parameter("layers") == Choice(values=("0,2,5",))
    assert spec.trial_seeds == (best.config.seed,)
    assert spec.budget.trials == 1
    assert len(list(spec.space.architectures(TEACHER, VOCABULARIES))) == 1
    with pytest.raises(InputError, match="schema_version"):
        yaml_io.parse_best_config({**raw, "schema_version": 2}, "x")


LIGHT = ("torch", "ray", "optuna", "transformers", "numpy")


COSTS = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Costs:
    euros: float = 2.5

COSTS, OTHER = Costs(), Costs(1)
"""


def test_a_file_of_ones_own_may_hold_dataclasses(tmp_path: Path) -> None:
    path = tmp_path / "costs.py"
    path.write_text(COSTS)
    assert function_named(f"{path}:COSTS").euros == 2.5
    assert type(function_named(f"{path}:OTHER")) is type(function_named(f"{path}:COSTS"))  # one module, imported once
    (tmp_path / "torn.py").write_text("VALUE = 1\nraise ValueError('torn')\n")
    for _ in range(2):  # what failed is not taken for imported
        with pytest.raises(ValueError, match="torn"):
            function_named(f"{tmp_path / 'torn.py'}:VALUE")


def test_spaces_imports_nothing_heavy() -> None:
    modules = "spaces.study, spaces.yaml_io, spaces.trial, spaces.space, spaces.families"
    code = f"import sys, {modules}; print([name for name in {LIGHT!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_defaults_lie_in_what_is_allowed() -> None:
    assert len(PARAMETERS) >= 13
    for name, info in PARAMETERS.items():
        assert info.check(info.default), name
    assert SearchSpace().point(lambda name, parameter: pytest.fail(name)) == {
        name: info.default for name, info in PARAMETERS.items() if info.of_all
    }


def test_what_some_families_have_counts_in_these_alone() -> None:
    raw = {"family": ["bert", "squeezebert", "mobilebert"], "num_conv_groups": [1, 2], "num_hidden_groups": 1}
    space, faults = parse_space(raw)
    assert not faults
    assert parse_space(space.to_yaml()) == (space, [])
    points = {}
    for family in ("bert", "squeezebert", "mobilebert"):
        points[family] = space.point(lambda name, _, chosen=family: chosen if name == "family" else 2)  # type: ignore[misc]
    own = ("num_conv_groups", "bottleneck_size", "num_feedforwards")
    assert {family: {name: point[name] for name in own if name in point} for family, point in points.items()} == {
        "bert": {},
        "squeezebert": {"num_conv_groups": 2},
        "mobilebert": {"bottleneck_size": "25%", "num_feedforwards": 4},
    }
    _, faults = parse_space({"family": ["bert", "mobilebert"], "num_conv_groups": [1, 2]})
    assert [str(fault) for fault in faults] == ["num_conv_groups: when: family is never squeezebert in this space"]


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ({}, (192, 3)),  # a quarter of 768, with the teacher's heads of 64
        ({"hidden_size": "50%"}, (128, 2)),  # of 384, to the next head
        ({"bottleneck_size": "full"}, (768, 12)),
        ({"bottleneck_size": 128}, (128, 2)),
        ({"bottleneck_size": 128, "num_heads": 4}, (128, 4)),
        ({"bottleneck_size": 100}, "bottleneck_size 100 is no multiple of the teacher's head size 64"),
        ({"bottleneck_size": 1024}, "bottleneck_size 1024 must be from 1 to its width 768"),
    ],
)
def test_what_a_bottleneck_means(point: dict[str, Any], expected: Any) -> None:
    values = {"family": "mobilebert", "depth": 2, **point}
    wide = tiny.teacher_shape(hidden_size=768, num_heads=12)
    if isinstance(expected, str):
        with pytest.raises(InvalidStudent, match=expected):
            SearchSpace().shape(values, wide, {"full": 1000})
        return
    shape = SearchSpace().shape(values, wide, {"full": 1000})
    assert (shape.bottleneck_size, shape.num_heads) == expected
