"""ONNX files: every family and head gives PyTorch's logits at any size, weights are stored once, and what cannot be is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from student_toys import a_shape

from search.trial.context import WorkerContext
from search.trial.data import TransferSet
from search.trial.deliver.formats import share_equal
from search.trial.deliver.onnx import export_onnx, load_session, predict_onnx, quantise, run_session
from search.trial.evaluate import predict
from search.trial.forward import Classifier, named_inputs
from search.trial.students import build_student
from spaces.errors import TrialError
from spaces.families import register
from spaces.heads import HEADS, register_heads
from spaces.student import TELLERS, StudentShape

BIG = {"hidden_size": 256, "intermediate_size": 1024, "num_heads": 4, "vocabulary_size": 2000, "embedding_size": 128}
SHAPES: dict[str, dict[str, Any]] = {
    "bert": {},
    "bert with factorised embeddings": {"embedding_size": 8},
    "albert": {"family": "albert", "embedding_size": 8, "num_hidden_groups": 1},
    "albert in two groups, without token types": {
        "family": "albert", "num_hidden_groups": 2, "type_vocabulary_size": 1,
    },
    "distilbert": {"family": "distilbert", "type_vocabulary_size": 0},
    "bert for tokens": {"task_head": "token"},
    "albert for tokens": {"task_head": "token", "family": "albert", "embedding_size": 8, "num_hidden_groups": 1},
    "distilbert for tokens": {"task_head": "token", "family": "distilbert", "type_vocabulary_size": 0},
    "bert for spans": {"task_head": "span", "num_labels": 2},
    "albert for spans": {"task_head": "span", "num_labels": 2, "family": "albert", "embedding_size": 8, "num_hidden_groups": 1},
    "one layer, one number": {"depth": 1, "num_hidden_groups": 1, "num_labels": 1},
}  # fmt: skip


def a_model(std: float = 0.3, **changes: Any) -> Any:
    """With random weights large enough that what is wrong in a layer shows in the logits."""
    shape = a_shape(**changes)
    torch.manual_seed(0)
    model = build_student(shape, label_names=[f"label {index}" for index in range(shape.num_labels)], dropout=0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                torch.nn.init.normal_(parameter, std=std)
    return model.train()


def batch(size: int, length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random texts, every second one half as long, whose second half is of the other type."""
    ids_BT = torch.randint(5, 100, (size, length), generator=torch.Generator().manual_seed(length))
    mask_BT, types_BT = torch.ones_like(ids_BT), torch.zeros_like(ids_BT)
    mask_BT[1::2, (length + 1) // 2 :] = 0
    types_BT[:, length // 2 :] = 1
    return ids_BT, mask_BT, types_BT * mask_BT


def assert_gives_its_logits(session: Any, model: Any) -> None:
    assert model.training  # as it came
    model.eval()
    for size, length in ((1, 2), (1, 48), (3, 9), (6, 31), (2, 1)):
        ids_BT, mask_BT, types_BT = batch(size, length)
        if model.config.to_dict().get("type_vocab_size", 0) < 2:
            types_BT.zero_()
        with torch.no_grad():
            expected = Classifier(model)(ids_BT, mask_BT, types_BT)
        given = run_session(session, ids_BT, mask_BT, types_BT)
        assert given.dtype == np.float32
        np.testing.assert_allclose(given, expected.numpy(), atol=2e-5, rtol=1e-4)
        assert np.abs(given).max() > 0.01


@pytest.mark.parametrize("name", SHAPES)
def test_every_family_gives_its_logits_at_any_size(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, path = a_model(**SHAPES[name]), tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert export_onnx(model, path) == path.stat().st_size
    assert capfd.readouterr() == ("", "")
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]  # and no data beside it
    session = load_session(path)
    takes = ["input_ids", "attention_mask", *(["token_type_ids"] * (a_shape(**SHAPES[name]).type_vocabulary_size > 1))]
    assert [entry.name for entry in session.get_inputs()] == takes
    gives = ["start_logits", "end_logits"] if "spans" in name else ["logits"]
    assert [entry.name for entry in session.get_outputs()] == gives
    assert_gives_its_logits(session, model)


@pytest.mark.parametrize("name", TELLERS)
def test_who_tells_pieces_has_one_table(name: str, tmp_path: Path) -> None:
    """Logits over the vocabulary for every piece, as the stock model gives them, by the table that words are looked up in."""
    types = {"distilbert": 0, "roberta": 1}.get(name, 2)
    factorised = 16 if name in ("bert", "albert", "electra") else 32
    changes = {"family": name, "type_vocabulary_size": types, "embedding_size": factorised, "vocabulary_size": 5000}
    model, path = a_model(**changes, task_head="masked").eval(), tmp_path / "model.onnx"
    size = export_onnx(model, path)
    assert size < 1.2 * a_shape(**changes, task_head="masked").num_bytes
    ids_BT, mask_BT, types_BT = batch(3, 9)
    with torch.no_grad():
        expected = model(**named_inputs(model.config, ids_BT, mask_BT, types_BT)).logits
    assert expected.shape == (3, 9, 5000)
    given = run_session(load_session(path), ids_BT, mask_BT, types_BT)
    np.testing.assert_allclose(given, expected.numpy(), atol=1e-4, rtol=1e-3)
    assert quantise(path, tmp_path / "int8.onnx") < 0.75 * size  # the table twice, in a byte each, and a scale a piece


@pytest.mark.usefixtures("registries")
def test_a_head_of_ones_own_is_exported(documented: Callable[[str], Path], tmp_path: Path) -> None:
    assert not register_heads({"mean": f"{documented('mean_head.py')}:MeanHead"})
    for family in ("bert", "albert"):
        model = a_model(family=family, head="mean")
        export_onnx(model, tmp_path / "model.onnx")
        assert_gives_its_logits(load_session(tmp_path / "model.onnx"), model)


@pytest.mark.usefixtures("registries")
def test_a_family_of_ones_own_is_exported(documented: Callable[[str], Path], tmp_path: Path) -> None:
    assert not register({"ernie": f"{documented('ernie_students.py')}:FAMILY"})
    model = a_model(family="ernie")
    export_onnx(model, tmp_path / "model.onnx")
    assert_gives_its_logits(load_session(tmp_path / "model.onnx"), model)


class ByLength(torch.nn.Module):
    """Does something else with long texts, which a trace of short ones does not see."""

    @staticmethod
    def tensors(shape: StudentShape) -> dict[str, tuple[int, ...]]:
        return {"out.weight": (shape.num_labels, shape.hidden_size), "out.bias": (shape.num_labels,)}

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.out = torch.nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.out(hidden[:, 0] if hidden.shape[1] < 12 else hidden[:, 1])


class Unknown(ByLength):
    """Uses what ONNX has no operation for."""

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.out(torch.special.bessel_j0(hidden[:, 0]))


@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize(
    ("head", "words"),
    [(ByLength, "gives other logits there for 2 texts of 17 pieces"), (Unknown, "cannot be exported")],
)
def test_what_onnx_cannot_take_is_refused(head: Any, words: str, tmp_path: Path) -> None:
    HEADS["own"] = head
    with pytest.raises(TrialError, match=words) as caught:
        export_onnx(a_model(head="own"), tmp_path / "model.onnx")
    assert "ONNX: bert (Student)" in str(caught.value)
    assert "export hf instead" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_one_file_does_not_hold_is_refused(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = build_student(a_shape(vocabulary_size=20_000_000), label_names=["a", "b", "c"])
    with pytest.raises(TrialError, match=r"one \.onnx file holds 2 GB; export hf"):
        export_onnx(model, tmp_path / "model.onnx")


def test_shared_weights_are_stored_once(tmp_path: Path) -> None:
    """A fully shared student of six layers: at most 1.2 times its parameters' bytes; in int8 a byte for each quantised weight."""
    shape = a_shape(family="albert", depth=6, num_hidden_groups=1, **BIG)
    model = build_student(shape, label_names=["a", "b", "c"])
    plain, small = tmp_path / "model.onnx", tmp_path / "int8.onnx"
    assert export_onnx(model, plain) <= 1.2 * 4 * shape.num_parameters
    tables = sum(tensor.numel() for tensor in model.parameters() if tensor.dim() == 2)
    assert quantise(plain, small) == small.stat().st_size <= 1.2 * (tables + 4 * (shape.num_parameters - tables))
    unshared = a_shape(family="albert", depth=6, num_hidden_groups=6, **BIG)
    export_onnx(build_student(unshared, label_names=["a", "b", "c"]), plain)
    assert plain.stat().st_size > 3 * 1.2 * 4 * shape.num_parameters  # the bar can fail


def test_int8_is_near_and_whole_or_not_there(tmp_path: Path) -> None:
    plain, small = tmp_path / "model.onnx", tmp_path / "int8.onnx"
    size = export_onnx(a_model(std=0.06, **BIG), plain)
    assert quantise(plain, small) < size / 3
    expected, given = (run_session(load_session(path), *batch(16, 12)) for path in (plain, small))
    assert 0 < np.abs(given - expected).mean() < expected.std() / 3
    small.unlink()
    with pytest.raises(FileNotFoundError):
        quantise(tmp_path / "none.onnx", small)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]


def test_whole_splits_are_predicted_in_their_order(model: Any, transfer: TransferSet, tmp_path: Path) -> None:
    export_onnx(model, tmp_path / "model.onnx")
    tokens, pad_id = transfer.splits["train"].tokens["full"], transfer.vocabularies["full"].pad_id
    expected = predict(model, tokens, pad_id, WorkerContext(), exact=True)
    told: list[tuple[int, int]] = []
    given = predict_onnx(load_session(tmp_path / "model.onnx", 2), tokens, pad_id, lambda *done: told.append(done))
    np.testing.assert_allclose(given, expected, atol=1e-5)
    assert told[-1] == (len(tokens), len(tokens))
    assert len(np.unique(expected.round(4), axis=0)) > 50  # no order like another


def test_equal_predictions_by_hand() -> None:
    one = np.array([[1.0, 0.0], [0.2, 0.1], [-1.0, 3.0], [0.0, -1.0]])
    other = np.array([[2.0, 0.0], [0.1, 0.2], [1.0, 3.0], [0.1, -2.0]])
    assert share_equal("class", one, other) == 0.75
    assert share_equal("classes", one, other) == 0.5  # the third and fourth have another set
    numbers = np.array([[0.0], [10.0], [20.0], [30.0]])  # a spread of 11.2: a hundredth is 0.112
    assert share_equal("number", numbers + np.array([[0.1], [-0.1], [0.2], [0.0]]), numbers) == 0.75
