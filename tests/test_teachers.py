"""Teachers: found, checked, and matched with the labels of the data."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from test_inputs import faults_of, quiet

from search.study.inputs import read_inputs
from search.study.teachers import TeacherSource, find_teacher, match_labels
from spaces.study import StudySpec, TeacherSpec
from spaces.task import TASKS


def find(model: Path | str, **fields: Any) -> TeacherSource:
    return find_teacher(TeacherSpec(model=str(model), **fields))


def test_a_teacher_says_its_shape_and_labels(teacher: Path, base_teacher: Path) -> None:
    source = find(teacher)
    assert source.labels == ("food", "music", "sport")
    shape = source.shape(3)
    assert (shape.depth, shape.hidden_size, shape.num_heads, shape.intermediate_size) == (3, 32, 4, 64)
    assert (shape.vocabulary_size, shape.max_positions, shape.type_vocabulary_size) == (len(tiny.vocabulary()), 48, 2)
    base = find(base_teacher)
    assert base.labels is None
    head = 32 * 3 + 3
    assert shape.num_parameters == base.shape(3).num_parameters + head
    assert source.fingerprint != base.fingerprint


def test_other_architectures_name_their_sizes_differently() -> None:
    distilbert = {"model_type": "distilbert", "dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 16, "vocab_size": 9}
    roberta = {
        "model_type": "xlm-roberta", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 16, "vocab_size": 9, "max_position_embeddings": 514, "type_vocab_size": 1,
    }  # fmt: skip
    for config, positions in ((distilbert, 512), (roberta, 512)):
        shape = TeacherSource(Path("/nowhere"), config, None, "").shape(2)
        assert (shape.depth, shape.hidden_size, shape.num_heads, shape.intermediate_size) == (2, 8, 2, 16)
        assert (shape.max_positions, shape.type_vocabulary_size) == (positions, 1)


def test_a_teacher_says_the_rank_of_its_embeddings_where_it_has_one() -> None:
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 9}

    def found(**config: Any) -> int | None:
        return TeacherSource(Path("/nowhere"), {**sizes, **config}, None, "").shape(2).embedding_size

    assert found(model_type="albert", hidden_size=8, embedding_size=4) == 4
    assert found(model_type="electra", hidden_size=8, embedding_size=8) is None
    assert found(model_type="bert", hidden_size=8) is None


def test_the_hash_of_the_weights_is_checked(teacher: Path) -> None:
    right = hashlib.sha256((teacher / "model.safetensors").read_bytes()).hexdigest()
    assert find(teacher, sha256=right).fingerprint == find(teacher).fingerprint
    message = faults_of(find, teacher, sha256="0" * 64)
    assert message.startswith("teacher: sha256: model.safetensors has hash")


def test_a_folder_that_holds_no_model(tmp_path: Path, copied: Callable[..., Path]) -> None:
    assert "there is no folder /no/such/folder" in faults_of(find, "/no/such/folder")
    assert "holds no readable config.json" in faults_of(find, tmp_path)
    folder = copied()
    (folder / "model.safetensors").unlink()
    assert "holds no weights" in faults_of(find, folder)
    (folder / "config.json").write_text("{")
    assert "holds no readable config.json" in faults_of(find, folder)
    assert "is no path" in faults_of(find, "~nobody-has-this-name/model")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "gpt-none"}, "model type 'gpt-none' is no encoder"),
        ({"model_type": None}, "model type '' is no encoder"),
        ({"is_decoder": True}, "is no encoder"),
        ({"is_encoder_decoder": True}, "is no encoder"),
        (
            {"model_type": "mine", "auto_map": {"AutoModel": "code.Model"}},
            "needs code of its own (auto_map in config.json), which is not executed",
        ),
        ({"num_hidden_layers": None}, "its config.json says no num_hidden_layers"),
        ({"vocab_size": None}, "its config.json says no vocab_size"),
    ],
)
def test_what_is_no_encoder_is_refused(copied: Callable[..., Path], changes: dict[str, Any], words: str) -> None:
    assert words in faults_of(find, copied(**changes))


def test_a_decoder_is_refused(copied: Callable[..., Path]) -> None:
    """GPT-2 classifies text from its last token, and its layers are nothing that a BERT could start from."""
    gpt2 = {"model_type": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 8, "architectures": ["GPT2LMHeadModel"]}
    sizes = {"num_hidden_layers": None, "hidden_size": None, "num_attention_heads": None}
    message = faults_of(find, copied(**gpt2, **sizes))
    assert message.startswith("teacher: model: ")


def test_packages_and_hub_ids_that_are_not_here() -> None:
    message = faults_of(find, "package:no_such_package_at_all/model")
    assert "the package 'no_such_package_at_all' is not installed; pip install no-such-package-at-all" in message
    assert "holds no folder 'no-such-folder'" in faults_of(find, "package:spaces/no-such-folder")
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    message = faults_of(find, "no-such-owner/no-such-model")
    assert "'no-such-owner/no-such-model' is no folder here, and the hub did not give it" in message
    assert "Check the name and the network" in message


def source_with(*labels: str) -> TeacherSource:
    return TeacherSource(Path("/nowhere"), {}, labels, "")


def test_labels_are_matched_to_the_teachers_order() -> None:
    assert match_labels(source_with("neg", "pos"), ["neg", "pos"], TASKS["text-classification"]) == ["neg", "pos"]
    assert match_labels(
        source_with("POSITIVE", "NEGATIVE"), ["negative", "Positive"], TASKS["text-classification"]
    ) == ["Positive", "negative"]
    assert match_labels(source_with("a", "b", "c"), ["c", "a"], TASKS["text-classification"]) == [
        "a",
        "b",
        "c",
    ]  # a class the data lacks
    assert match_labels(source_with("LABEL_0", "LABEL_1"), ["0", "1"], TASKS["text-classification"]) == ["0", "1"]
    assert match_labels(source_with("LABEL_0", "LABEL_1"), ["LABEL_1", "LABEL_0"], TASKS["text-classification"]) == [
        "LABEL_0",
        "LABEL_1",
    ]


@pytest.mark.parametrize(
    ("teacher_labels", "data_labels"),
    [(("neg", "pos"), ["0", "1"]), (("LABEL_0", "LABEL_1"), ["0", "2"]), (("neg", "pos"), ["neg", "neutral"])],
)
def test_labels_that_do_not_match_are_told(teacher_labels: tuple[str, ...], data_labels: list[str]) -> None:
    message = faults_of(match_labels, source_with(*teacher_labels), data_labels, TASKS["text-classification"])
    assert "is not one of the teacher's" in message
    assert "write data.labels" in message


def test_labels_are_counted_in_the_teachers_order(
    study_of: Callable[..., StudySpec], copied: Callable[..., Path]
) -> None:
    names = {"0": "Sport", "1": "FOOD", "2": "music"}
    inputs = read_inputs(
        study_of(teacher=str(copied(id2label=names, label2id={v: int(k) for k, v in names.items()}))), quiet
    )
    assert inputs.transfer.label_names == ["sport", "food", "music"]
    expected = [inputs.transfer.label_names.index(row["label"]) for row in tiny.texts(30, 1)]
    assert inputs.transfer.splits["validation"].labels.tolist() == expected
