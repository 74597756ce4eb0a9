"""Losses on hidden states: by hand, held against a copy of the teacher, and the same from disk as from a lane."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from student_toys import a_shape, student_of
from training_toys import a_config, same

from search.study.inputs import read_inputs
from search.trial import device
from search.trial.batches import padded
from search.trial.context import WorkerContext
from search.trial.data import StatesOnDisk, TransferSet
from search.trial.hidden_losses import cosine_loss, mse_loss, relation_loss
from search.trial.matching import MatchedClassifier, Matcher, relation_heads
from search.trial.states import LaneStates
from search.trial.work import perform
from spaces.errors import InputError
from spaces.matching import HIDDEN_LAYERS, HIDDEN_LOSSES, matched_states
from spaces.space import parse_space
from spaces.study import StudySpec
from spaces.trial import TrialConfig, WorkItem, WorkKind

# the losses by hand


def test_cosine_by_hand() -> None:
    student = torch.tensor([[[1.0, 0.0], [1.0, 1.0], [9.0, 9.0]]])
    teacher = torch.tensor([[[2.0, 0.0], [0.0, 3.0], [-1.0, 5.0]]])
    mask = torch.tensor([[1, 1, 0]])  # the angles: 0 and 45 degrees
    assert cosine_loss(student, teacher, mask).item() == pytest.approx((1 - math.sqrt(0.5)) / 2, abs=1e-6)


def test_mse_by_hand() -> None:
    student = torch.tensor([[[1.0, 0.0], [1.0, 1.0], [9.0, 9.0]]])
    teacher = torch.tensor([[[2.0, 0.0], [0.0, 3.0], [-1.0, 5.0]]])
    mask = torch.tensor([[1, 1, 0]])  # (1 + 0) / 2 and (1 + 4) / 2
    assert mse_loss(student, teacher, mask).item() == pytest.approx((0.5 + 2.5) / 2)
    assert mse_loss(student, teacher, mask, num_valid=6).item() == pytest.approx(0.5)


def test_relations_by_hand() -> None:
    """Two tokens, one head of one dimension: the student's products are all 0, so its relations are halves; the teacher's
    first token has products (a^2, 0) with a^2 = ln 3, so 3/4 and 1/4; its second (0, 0)."""
    student = torch.zeros(1, 3, 1)
    teacher = torch.tensor([[[math.sqrt(math.log(3))], [0.0], [5.0]]])
    mask = torch.tensor([[1, 1, 0]])
    expected = (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2
    assert relation_loss(student, teacher, mask, num_heads=1).item() == pytest.approx(expected, abs=1e-6)
    # heads of two dimensions: products are divided by the square root of two
    wide = torch.cat([teacher, torch.zeros(1, 3, 1)], -1) * 2**0.25
    assert relation_loss(torch.zeros(1, 3, 2), wide, mask, num_heads=1).item() == pytest.approx(expected, abs=1e-6)


LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "cosine": cosine_loss,
    "mse": mse_loss,
    "relations": lambda student, teacher, mask, num_valid=None: relation_loss(student, teacher, mask, 2, num_valid),
}


@pytest.mark.parametrize("name", LOSSES)
def test_padding_has_no_part_and_parts_add_up(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    student, teacher = torch.randn(2, 4, 6, 8, generator=generator)
    mask = (torch.arange(6) < torch.tensor([[6], [2], [4], [1]])).long()
    student.requires_grad_()
    loss = LOSSES[name](student, teacher, mask)
    loss.backward()
    assert loss > 0.01
    assert student.grad is not None
    assert torch.equal(student.grad[mask == 0], torch.zeros_like(student.grad[mask == 0]))
    assert (
        student.grad[:3][mask[:3] == 1].abs().sum(-1) > 0
    ).all()  # a lone token relates to nothing: row 3 is left out
    other = torch.where(mask.bool()[..., None], student.detach(), 100.0)
    assert LOSSES[name](other, teacher, mask).item() == pytest.approx(loss.item(), rel=1e-5)
    parts = [LOSSES[name](student[i::2], teacher[i::2], mask[i::2], 13).item() for i in (0, 1)]
    assert sum(parts) == pytest.approx(loss.item(), rel=1e-5)
    assert LOSSES[name](student, teacher, mask * 0).item() == 0  # nothing there, no loss and no NaN


# which states


def test_matched_states_by_hand() -> None:
    assert matched_states("cosine", "last", 3, 6, (1, 2, 4)) == [(3, 6)]
    assert matched_states("cosine", "even", 4, 12, (0, 3, 7, 11)) == [
        (1, 3),
        (2, 6),
        (3, 9),
        (4, 12),
    ]  # TinyBERT's n = 3m
    assert matched_states("mse", "even", 2, 6, (0, 3)) == [(0, 0), (1, 3), (2, 6)]
    assert matched_states("cosine", "copied", 3, 6, (1, 2, 4)) == [(1, 2), (2, 3), (3, 5)]
    assert matched_states("relations", "last", 3, 6, (1, 2, 4)) == [(2, 5)]  # what enters the last layers
    for depth, layers in itertools.product(range(1, 7), HIDDEN_LAYERS):
        pairs = matched_states("mse", layers, depth, 6, tuple(range(depth)))
        assert all(0 <= student <= depth and 0 <= teacher <= 6 for student, teacher in pairs)
        assert pairs == sorted(pairs)


def test_a_space_knows_which_states_it_can_ask_for() -> None:
    def states(**raw: Any) -> set[int]:
        space, faults = parse_space({"depth": [2, 3], "layers": ["even", "last"], **raw})
        assert not faults
        return space.teacher_states(6)

    assert states() == set()
    assert states(hidden_share=0.0, hidden_layers="even") == set()
    assert states(hidden_share={"float": [0, 0.5]}) == {6}
    assert states(hidden_share=[0, 0.3], hidden_loss=["cosine", "relations"]) == {5, 6}
    assert states(hidden_share=0.1, hidden_loss="mse", hidden_layers="even") == {0, 2, 3, 4, 6}
    assert states(hidden_share=0.1, hidden_layers="copied") == {1, 4} | {5, 6} | {1, 3, 5} | {4, 5, 6}


@pytest.mark.parametrize(
    ("width", "teacher", "heads"), [(384, 384, 24), (768, 384, 24), (192, 384, 12), (312, 768, 12), (20, 32, 1)]
)
def test_relation_heads_divide_both_widths(width: int, teacher: int, heads: int) -> None:
    assert relation_heads(width, teacher) == heads
    assert width % heads == teacher % heads == 0


def a_batch(transfer: TransferSet, vocabulary: str = "full") -> Any:
    return padded(transfer.splits["train"].tokens[vocabulary], np.arange(12), 0)


@pytest.mark.parametrize("loss", HIDDEN_LOSSES)
@pytest.mark.parametrize("layers", HIDDEN_LAYERS)
@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_a_copy_of_the_teacher_has_nothing_to_learn(
    model: Any, transfer: TransferSet, loss: str, layers: str, family: str
) -> None:
    """An index off by one, or a state of the wrong kind, and it would have."""
    vocabulary = transfer.vocabularies["full"]
    shape = a_shape(family=family, type_vocabulary_size=0 if family == "distilbert" else 2)
    student = student_of(model, shape, vocabulary, (0, 1, 2))
    batch = a_batch(transfer)
    matcher = Matcher(loss, matched_states(loss, layers, 3, 3, (0, 1, 2)), student, model)
    inputs = (batch.ids_BT, batch.mask_BT, batch.types_BT)
    states = LaneStates(model, vocabulary, matcher.teacher_states)(batch)
    assert states.shape == (len(matcher.teacher_states), *batch.ids_BT.shape, 32)
    logits, found = MatchedClassifier(student, matcher)(*inputs, states, int(batch.mask_BT.sum()))
    assert found.item() == pytest.approx(0, abs=1e-5)  # states come in half precision
    torch.testing.assert_close(logits, student(input_ids=batch.ids_BT, attention_mask=batch.mask_BT).logits)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    _, found = MatchedClassifier(student, matcher)(*inputs, states, int(batch.mask_BT.sum()))
    assert found.item() > 1e-3


def test_the_teacher_reads_a_cut_vocabularys_pieces(model: Any, transfer: TransferSet) -> None:
    """On training text the pieces of `used` are the teacher's own, under other numbers."""
    full, used = (
        LaneStates(model, transfer.vocabularies[name], [1, 3])(a_batch(transfer, name)) for name in ("full", "used")
    )
    assert not torch.equal(a_batch(transfer, "full").ids_BT, a_batch(transfer, "used").ids_BT)
    assert torch.equal(full, used)
    assert full.std() > 0.1


def test_a_narrower_student_is_projected_and_the_projection_learns(model: Any, transfer: TransferSet) -> None:
    from search.trial.students import build_student

    torch.manual_seed(0)
    shape = a_shape(hidden_size=16, embedding_size=16, num_heads=2, intermediate_size=24)
    student = build_student(shape, label_names=["a", "b", "c"])
    batch = a_batch(transfer)
    matcher = Matcher("mse", matched_states("mse", "even", 3, 3, ()), student, model)
    assert matcher.projection is not None
    assert tuple(matcher.projection.weight.shape) == (32, 16)
    states = LaneStates(model, transfer.vocabularies["full"], matcher.teacher_states)(batch)
    runner = MatchedClassifier(student, matcher)
    runner(batch.ids_BT, batch.mask_BT, batch.types_BT, states, int(batch.mask_BT.sum()))[1].backward()
    assert matcher.projection.weight.grad is not None
    assert matcher.projection.weight.grad.abs().sum() > 0
    assert student.get_input_embeddings().weight.grad.abs().sum() > 0
    relations = Matcher("relations", [(2, 2)], student, model)
    assert list(relations.parameters()) == []
    assert MatchedClassifier(student, relations)(
        batch.ids_BT, batch.mask_BT, batch.types_BT, states[2:], int(batch.mask_BT.sum())
    )[1].isfinite()


# a trial


@pytest.fixture
def on_disk(transfer: TransferSet, teacher: Path, tmp_path: Path) -> TransferSet:
    """The transfer set with the teacher's states of its training rows in files, more than one a vocabulary."""
    folders = {name: tmp_path / "states" / name for name in transfer.vocabularies}
    for name, folder in folders.items():
        for rows in (range(50), range(50, 120)):
            payload = {"teacher": str(teacher), "vocabulary": name, "rows": rows, "states": [0, 2, 3]}
            path = folder / f"{rows.start}.npy"
            item = WorkItem(key=str(path), kind=WorkKind.TEACH_STATES, folder=str(path), payload=payload)
            assert perform(item, WorkerContext(data={"transfer": transfer}))[1] == {"forward_rows": len(rows)}
        assert {path.name for path in folder.iterdir()} == {"0.npy", "50.npy"}  # nothing half written beside them
    return replace(transfer, states=StatesOnDisk(folders, (0, 2, 3)))


def trained(
    config: TrialConfig, transfer: TransferSet, teacher: Path, folder: Path, **fields: Any
) -> dict[str, torch.Tensor]:
    payload = {"teacher": str(teacher), **fields.pop("payload", {})}
    item = WorkItem(key="t", kind=WorkKind.TRAIN, trial=1, config=config, folder=str(folder), payload=payload, **fields)
    perform(item, WorkerContext(data={"transfer": transfer}))
    return load_file(folder / "attempt-1" / "weights.safetensors")


@pytest.fixture(params=[("fp32", 1e-3), ("bf16", 0.05)], ids=["fp32", "bf16"])
def tolerance(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """Of each number format, whatever pays on this machine: how far rounding may carry two trainings apart."""
    monkeypatch.setattr(device, "bf16_pays", lambda kind: request.param[0] == "bf16")
    return request.param[1]


@pytest.mark.parametrize("loss", HIDDEN_LOSSES)
def test_from_disk_as_from_the_lane(
    tolerance: float, transfer: TransferSet, on_disk: TransferSet, teacher: Path, tmp_path: Path, loss: str
) -> None:
    """The teacher computes a row's states in other batches, so that rounding differs; nothing else does."""
    config = a_config(transfer, hidden_share=0.5, hidden_loss=loss, epochs=2.0, dropout=0.0)
    disk, lane = (
        trained(config, on_disk, teacher, tmp_path / "disk"),
        trained(config, transfer, teacher, tmp_path / "lane"),
    )
    start = trained(
        config.model_copy(update={"steps": 1, "learning_rate": 1e-9}), transfer, teacher, tmp_path / "start"
    )
    plain = trained(config.model_copy(update={"hidden_share": 0.0}), transfer, teacher, tmp_path / "plain")
    name = "bert.encoder.layer.1.output.dense.weight"
    moved = (lane[name] - start[name]).norm()
    assert (disk[name] - lane[name]).norm() < tolerance * moved
    assert (plain[name] - lane[name]).norm() > 0.15 * moved  # and the loss has a part in it


def test_segments_with_a_projection_are_one_whole_training(on_disk: TransferSet, teacher: Path, tmp_path: Path) -> None:
    config = a_config(on_disk, hidden_share=0.4, hidden_loss="mse", epochs=2.0, initialise="random")
    shape = config.shape.model_copy(update={"hidden_size": 16, "embedding_size": 16, "num_heads": 2})
    config = config.model_copy(update={"shape": shape})
    whole = trained(config, on_disk, teacher, tmp_path / "whole")
    trained(config, on_disk, teacher, tmp_path / "half", end_share=0.5)
    payload = {"continues": str(tmp_path / "half" / "attempt-1")}
    rest = trained(config, on_disk, teacher, tmp_path / "rest", start_share=0.5, payload=payload)
    assert same(whole, rest)
    assert not any("projection" in name for name in whole)  # it is thrown away


def test_states_not_kept_come_from_the_lane(
    tolerance: float, on_disk: TransferSet, teacher: Path, tmp_path: Path
) -> None:
    config = a_config(on_disk, hidden_share=0.4, hidden_loss="mse", hidden_layers="even", steps=2)  # wants 0, 2 and 3
    assert on_disk.states is not None
    missing = replace(on_disk, states=replace(on_disk.states, stored=(2, 3)))
    one, other = trained(config, on_disk, teacher, tmp_path / "1"), trained(config, missing, teacher, tmp_path / "2")
    assert one.keys() == other.keys()
    for name in (name for name in one if name.endswith("weight")):  # a key's bias has no gradient but rounding's
        assert (one[name] - other[name]).norm() <= tolerance * one[name].norm(), name


def test_without_distillation_the_teacher_has_no_part(transfer: TransferSet) -> None:
    config = a_config(transfer, hidden_share=0.4)
    plain = config.without_distillation()
    assert config.is_taught
    assert not plain.is_taught
    assert a_config(transfer, soft_share=0.0, hidden_share=0.1).is_taught
    assert plain == a_config(transfer, soft_share=0.0)


def test_relations_of_an_unknown_architecture_are_refused(
    study_of: Callable[..., StudySpec], copied: Callable[..., Path]
) -> None:
    spec = study_of(
        teacher=str(copied(model_type="mpnet")), space={"hidden_loss": ["mse", "relations"], "vocabulary": "full"}
    )
    with pytest.raises(InputError, match="relations needs a teacher whose projections are known"):
        read_inputs(spec, lambda text: None)
