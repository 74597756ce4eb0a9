"""Two steps of distillation: students of a task that start from one distilled before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from masked_toys import config_of, made, masked_study
from safetensors.torch import load_file

from search.study.inputs import Inputs, read_inputs
from search.trial.start.begun import is_of
from spaces.errors import InputError
from spaces.yaml_io import parse_study

LABELS = ["food", "music", "sport"]
STILL = {"learning_rate": 1e-12, "epochs": 0.1, "dropout": 0.0, "weight_decay": 0.0}  # a student as it starts


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return distilled(tmp_path_factory.mktemp("begun"))


def distilled(folder: Path, **values: Any) -> Path:
    """A delivered student of two layers, distilled by masked pieces."""
    inputs = read_inputs(masked_study(folder), lambda text: None)
    made(inputs, config_of(inputs, {"depth": 2, **values}), folder)
    return folder / "best"


def a_task(folder: Path, start: Path | str, say: Callable[[str], None] = lambda text: None, **changes: Any) -> Inputs:
    plain = {
        "name": "task", "data": {**tiny.write_data(folder / "data", (60, 20, 20)), "max_length": 32},
        "teacher": str(tiny.write_teacher(folder / "teacher", LABELS)), "tracking": "none", "output": str(folder / "run"),
        "space": {"depth": [2, 3], "hidden_size": ["50%", "full"], "vocabulary": ["used", "full"]}, "cache": str(folder / "cache"),
        "training": {"epochs": 1, "start": str(start)},
    }  # fmt: skip
    return read_inputs(parse_study({**plain, **changes}, "study", folder), say)


@pytest.mark.parametrize("vocabulary", ["full", "used"])
def test_a_student_of_its_shape_starts_from_it(tmp_path: Path, begun: Path, vocabulary: str) -> None:
    """Every weight that both have is the begun student's, in a cut vocabulary too."""
    inputs = a_task(tmp_path, begun)
    config = config_of(inputs, {"depth": 2, "vocabulary": vocabulary}, vocabulary=vocabulary, hidden_share=0.0, **STILL)
    made(inputs, config, tmp_path, start=str(begun))
    mine, its = load_file(tmp_path / "best" / "model.safetensors"), load_file(begun / "model.safetensors")
    words = "bert.embeddings.word_embeddings.weight"
    its[words] = its[words][inputs.transfer.vocabularies[vocabulary].kept]
    shared = [name for name in its if name in mine]
    assert len(shared) == 2 * 16 + 5
    for name in shared:
        assert (mine[name] - its[name]).abs().max() < 1e-6, name


@pytest.mark.parametrize(
    "values", [{"family": "electra", "embedding_size": 16}, {"family": "roberta"}, {"family": "squeezebert", "num_conv_groups": 2}]
)  # fmt: skip
def test_one_of_another_family_too(tmp_path: Path, values: dict[str, Any]) -> None:
    begun = distilled(tmp_path / "begun", **values)
    inputs = a_task(tmp_path, begun, space={"depth": 2, **values})
    config = config_of(
        inputs, {"depth": 2, "vocabulary": "used", **values}, vocabulary="used", hidden_share=0.0, **STILL
    )
    made(inputs, config, tmp_path, start=str(begun))
    mine, its = load_file(tmp_path / "best" / "model.safetensors"), load_file(begun / "model.safetensors")
    words = next(name for name in its if name.endswith("word_embeddings.weight"))
    its[words] = its[words][inputs.transfer.vocabularies["used"].kept]
    encoder = [name for name in its if ".encoder." in name or "embeddings" in name]
    assert len(encoder) >= 2 * 16 + 5
    for name in encoder:
        assert (mine[name] - its[name]).abs().max() < 1e-6, name
    head = [name for name in mine if name not in encoder and name.endswith("weight")]
    assert all(mine[name].std() > 0 for name in head), "an untrained pooler is not copied"


def test_one_of_another_shape_starts_from_the_teacher(tmp_path: Path, begun: Path) -> None:
    inputs = a_task(tmp_path, begun)
    config = config_of(inputs, {"depth": 3}, hidden_share=0.0, **STILL)
    made(inputs, config, tmp_path, start=str(begun))
    mine, its = (
        load_file(tmp_path / "best" / "model.safetensors"),
        load_file(inputs.source.folder / "model.safetensors"),
    )
    for name in its:
        assert (mine[name] - its[name]).abs().max() < 1e-6, name


def test_who_starts_from_it_is_told(tmp_path: Path, begun: Path) -> None:
    (note,) = (note for note in a_task(tmp_path, begun).notes if "start from" in note)
    assert note.startswith("2 of 8 shapes start from ")
    assert note.endswith("(bert, 2 layers, width 32 and 64), the others from the teacher")


def test_is_of_compares_every_size(tmp_path: Path, begun: Path) -> None:
    inputs, config = a_task(tmp_path, begun), json.loads((begun / "config.json").read_text())
    shape = config_of(inputs, {"depth": 2}).shape
    assert is_of(shape, config)
    for name, value in {
        "model_type": "distilbert", "num_hidden_layers": 3, "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 32,
        "embedding_size": 8, "num_hidden_groups": 1, "max_position_embeddings": 32, "q_groups": 2,
    }.items():  # fmt: skip
        assert not is_of(shape, {**config, name: value}), name


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"space": {"depth": 3, "vocabulary": "full"}}, r"training\.start: no student of the space is of its shape \(bert, 2"),
        ({"training": {"start": "nowhere/at/all"}}, r"training\.start: there is no folder"),
    ],
)  # fmt: skip
def test_what_nobody_can_start_from(tmp_path: Path, begun: Path, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        a_task(tmp_path, begun, **changes)


def test_it_is_looked_for_before_anything_is_tokenised(tmp_path: Path) -> None:
    said = list[str]()
    with pytest.raises(InputError, match=r"training\.start: there is no folder"):
        a_task(tmp_path, "nowhere/at/all", said.append)
    assert not said


def test_another_vocabulary_is_refused(tmp_path: Path, begun: Path) -> None:
    other = tiny.write_teacher(tmp_path / "other")
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text.replace('"tennis"', '"tenniz"'))
    with pytest.raises(InputError, match=r"training\.start: its vocabulary is another than the teacher's"):
        a_task(tmp_path, other)


@pytest.mark.ray
@pytest.mark.slow
def test_a_whole_study_in_two_steps(told: Callable[..., str], tmp_path: Path, begun: Path) -> None:
    """The begun student is copied into the output, and the study goes on with that copy."""
    given = tmp_path / "given"
    shutil.copytree(begun, given)
    plain = tiny.study(
        tmp_path, budget={"trials": 2}, resources={"lanes": 1}, confirm={"seeds": 1}, training={"epochs": 1, "start": str(given)},
        search={"first": [{"family": "bert", "depth": 2, "vocabulary": "full", "hidden_size": "full", "embedding_size": "full"}]},
    )  # fmt: skip
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(plain))
    told("run", path)
    assert (tmp_path / "run" / "start" / "model.safetensors").read_bytes() == (begun / "model.safetensors").read_bytes()
    shutil.rmtree(given)
    told("run", path, "--more", "1")
