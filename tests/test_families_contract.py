"""What every family keeps to, each as a study would build it by default: a family joins by being in the registry."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from student_toys import LABELS, logits_of
from torch.utils.flop_counter import FlopCounterMode
from training_toys import same
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from search.study.teachers import find_teacher
from search.trial.batches import padded
from search.trial.context import WorkerContext
from search.trial.data import Tokens
from search.trial.deliver.costs import measure_costs
from search.trial.deliver.onnx import export_onnx, load_session, run_session
from search.trial.forward import Classifier, classifier
from search.trial.students import build_student
from search.trial.teacher import load_teacher
from search.trial.work import perform
from search.trial.work import train as train_item
from spaces.deployment import DeploymentSpec
from spaces.errors import TrialError
from spaces.families import FAMILIES
from spaces.heads import register_heads
from spaces.space import SearchSpace
from spaces.student import StudentShape, TeacherShape
from spaces.study import TeacherSpec
from spaces.trial import TrialConfig, WorkItem, WorkKind

every_family = pytest.mark.parametrize("family", sorted(FAMILIES))
TEXTS = ["the guitar was very old", "soup with bread and cheese and onion here today", "a goal"]
NO_ONNX: tuple[str, ...] = ()  # model types that the exporter refuses; none today
POINTS: list[dict[str, Any]] = [
    {"depth": 2},
    {"depth": 3, "layers": "first", "vocabulary": "used"},
    {"depth": 1, "hidden_size": "50%", "intermediate_size": "25%"},
]


@pytest.fixture(scope="module")
def ranked(teacher: Path, transfer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny teacher, with a word vector of padding as real ones have it, and which of its parts matter."""
    folder = tmp_path_factory.mktemp("ranked") / "teacher"
    shutil.copytree(teacher, folder)
    weights = load_file(folder / "model.safetensors")
    weights["bert.embeddings.word_embeddings.weight"][0] = 0.1 * torch.arange(32) - 1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    perform(WorkItem(key="r", kind=WorkKind.RANK, payload={"teacher": str(folder)}), context_of(transfer))
    assert (folder / "importance.npz").is_file()
    return folder


@pytest.fixture(scope="module")
def shape_of(ranked: Path, transfer: Any) -> Callable[..., StudentShape]:
    """The student of this family that a point means; what it leaves open is as it is by default."""
    about: TeacherShape = find_teacher(TeacherSpec(model=str(ranked))).shape(len(LABELS))
    sizes = {name: len(vocabulary.kept) for name, vocabulary in transfer.vocabularies.items()}
    return lambda family, **point: SearchSpace().shape({"family": family, **point}, about, sizes)


def context_of(transfer: Any) -> WorkerContext:
    return WorkerContext(data={"transfer": transfer})


def a_config(shape: StudentShape, layers: tuple[int, ...] = (0, 2), **changes: Any) -> TrialConfig:
    settings: dict[str, Any] = {
        "vocabulary": "full", "temperature": 2.0, "soft_share": 0.5, "learning_rate": 3e-3, "batch_size": 16,
        "warmup_share": 0.1, "weight_decay": 0.01, "dropout": 0.1, "epochs": 1.0, "seed": 11,
    }  # fmt: skip
    return TrialConfig(shape=shape, layers=layers, **{**settings, **changes})


def trained(config: TrialConfig, teacher: Path, transfer: Any, folder: Path, **fields: Any) -> Path:
    """The folder of a trial's weights, trained through the worker's own door."""
    payload = {"teacher": str(teacher), "exact": True, **fields.pop("payload", {})}
    item = WorkItem(key="t", kind=WorkKind.TRAIN, trial=0, config=config, folder=str(folder), payload=payload, **fields)
    assert perform(item, context_of(transfer))[0] is not None
    return folder / f"attempt-{item.attempt}"


def test_there_are_families() -> None:
    assert len(FAMILIES) >= 5
    assert all(name == family.name for name, family in FAMILIES.items())


@every_family
@pytest.mark.parametrize("point", POINTS, ids=str)
def test_arithmetic_knows_weights_bytes_and_operations(
    family: str, point: dict[str, Any], shape_of: Callable[..., StudentShape], tmp_path: Path
) -> None:
    shape = shape_of(family, **point)
    model = build_student(shape, label_names=LABELS).eval()
    assert shape.tensors() == {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shape.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    model.save_pretrained(tmp_path)
    assert shape.num_bytes == (tmp_path / "model.safetensors").stat().st_size
    model.set_attn_implementation("eager")  # whose products are counted one by one
    for num_tokens in (1, 7):
        ids = torch.full((1, num_tokens), 9)
        with torch.no_grad(), FlopCounterMode(display=False) as counted:
            model(input_ids=ids)
        assert shape.flops(num_tokens) == counted.get_total_flops()


@every_family
def test_a_student_starts_trains_continues_and_loads_anywhere(
    family: str, shape_of: Callable[..., StudentShape], ranked: Path, transfer: Any, tmp_path: Path
) -> None:
    """From the teacher, a few steps, a checkpoint halfway that changes nothing, a delivered folder and an ONNX file."""
    config = a_config(shape_of(family, depth=2))
    starts = []
    for seed in (11, 12):
        untrained = a_config(config.shape, learning_rate=1e-12, seed=seed)
        folder = trained(untrained, ranked, transfer, tmp_path / f"start-{seed}")
        starts.append(load_file(folder / "weights.safetensors"))
    start, again = starts
    kept = [name for name in start if start[name].ndim > 1 and torch.allclose(start[name], again[name], atol=1e-6)]
    assert len(kept) >= 5  # of another seed, and yet the same: the teacher's
    assert any("word_embeddings" in name for name in kept)

    whole = trained(config, ranked, transfer, tmp_path / "whole")
    half = trained(config, ranked, transfer, tmp_path / "half", end_share=0.5)
    rest = trained(
        config, ranked, transfer, tmp_path / "rest", start_share=0.5, attempt=2, payload={"continues": str(half)}
    )
    weights = load_file(whole / "weights.safetensors")
    assert same(weights, load_file(rest / "weights.safetensors"))
    assert all(not torch.equal(weights[name], start[name]) for name in weights if name.endswith("value.weight"))

    payload = {"teacher": str(ranked), "weights": str(whole)}
    best = tmp_path / "best"
    item = WorkItem(key="d", kind=WorkKind.DELIVER, trial=0, config=config, folder=str(best), payload=payload)
    delivered = perform(item, context_of(transfer))[1]
    assert delivered["num_parameters"] == config.shape.num_parameters
    model = AutoModelForSequenceClassification.from_pretrained(best).eval()
    assert model.config.model_type == FAMILIES[family].model_type(config.shape)
    assert type(model).__module__.startswith("transformers.")
    assert model.config.id2label == dict(enumerate(LABELS))
    assert same(dict(model.state_dict()), weights)
    built = build_student(config.shape, label_names=LABELS, teacher_config=load_teacher(str(ranked)).config)
    built.load_state_dict(weights)
    tokenizer = AutoTokenizer.from_pretrained(best)
    expected = logits_of(model, tokenizer, TEXTS)
    assert expected.std() > 1e-3
    torch.testing.assert_close(logits_of(built.eval(), tokenizer, TEXTS), expected)
    assert_onnx_agrees(model, tokenizer, expected, tmp_path)


def assert_onnx_agrees(model: Any, tokenizer: Any, expected: torch.Tensor, folder: Path) -> None:
    path = folder / "model.onnx"
    if (kind := model.config.model_type) in NO_ONNX:
        with pytest.raises(TrialError, match=f"ONNX: {kind} .*export hf"):
            export_onnx(model, path)
        return
    export_onnx(model, path)
    batch = padded(Tokens.encode(tokenizer, TEXTS, None, 32), np.arange(len(TEXTS)), int(tokenizer.pad_token_id))
    given = run_session(load_session(path), batch.ids_BT, batch.mask_BT, batch.types_BT)
    np.testing.assert_allclose(given, expected.numpy(), atol=1e-4)


@every_family
def test_padding_changes_nothing(
    family: str, shape_of: Callable[..., StudentShape], ranked: Path, transfer: Any, tmp_path: Path
) -> None:
    """Nor does the short forward pass, where the family has one."""
    config = a_config(shape_of(family, depth=2))
    folder = trained(config, ranked, transfer, tmp_path / "t")
    model = build_student(config.shape, label_names=LABELS)
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    ids = torch.tensor([[2, 60, 70, 80, 3]])
    types, padding = torch.zeros(1, 11).long(), torch.zeros(1, 6).long()
    mask = torch.cat([torch.ones_like(ids), padding], dim=1)
    with torch.no_grad():
        alone = Classifier(model.eval())(ids, torch.ones_like(ids), types[:, :5])
        beside = Classifier(model)(torch.cat([ids, padding], dim=1), mask, types)
        states = [
            model.base_model(input_ids=which, attention_mask=seen).last_hidden_state[:, :5]
            for which, seen in ((ids, torch.ones_like(ids)), (torch.cat([ids, padding], dim=1), mask))
        ]
        short = classifier(model).eval()(torch.cat([ids, padding], dim=1), mask, types)
    torch.testing.assert_close(beside, alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(*states, atol=1e-5, rtol=1e-4)  # of every piece, also beside the padding
    torch.testing.assert_close(short, alone, atol=1e-5, rtol=1e-4)


@every_family
@pytest.mark.parametrize(
    "loss", ["cosine", *(pytest.param(loss, marks=pytest.mark.slow) for loss in ("mse", "relations"))]
)
def test_hidden_states_are_matched(
    family: str, loss: str, shape_of: Callable[..., StudentShape], ranked: Path, transfer: Any, tmp_path: Path
) -> None:
    shape = shape_of(family, depth=2, hidden_size="50%")
    losses = []
    for share in (0.0, 0.9):
        config = a_config(shape, hidden_share=share, hidden_loss=loss, hidden_layers="copied", dropout=0.0)
        payload = {"teacher": str(ranked)}
        item = WorkItem(
            key="t", kind=WorkKind.TRAIN, trial=0, config=config, folder=str(tmp_path / str(share)), payload=payload
        )
        measured = train_item(item, context_of(transfer))[0]
        assert measured is not None
        losses.append(measured.cost["mean_loss"])
    assert np.isfinite(losses).all()
    assert losses[0] != losses[1]


@every_family
@pytest.mark.usefixtures("registries")
def test_a_head_of_ones_own_stands_on_it(
    family: str, shape_of: Callable[..., StudentShape], documented: Callable[[str], Path], tmp_path: Path
) -> None:
    assert not register_heads({"mean": f"{documented('mean_head.py')}:MeanHead"})
    shape = shape_of(family, depth=2, head="mean")
    model = build_student(shape, label_names=LABELS)
    assert shape.tensors() == {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    ids = torch.tensor([[2, 60, 70, 3]])
    assert Classifier(model)(ids, torch.ones_like(ids), torch.zeros_like(ids)).shape == (1, len(LABELS))


@pytest.mark.slow
@every_family
def test_its_costs_are_measured(
    family: str, shape_of: Callable[..., StudentShape], ranked: Path, transfer: Any
) -> None:
    shape = shape_of(family, depth=1)
    for runtime in ("pytorch", "onnx-int8"):
        deployment = DeploymentSpec(runtime=runtime, length=8)  # type: ignore[arg-type]
        costs = measure_costs(deployment, shape, str(ranked), shape.max_positions, transfer, WorkerContext())
        assert costs["yardsticks"] > 0
        assert costs["peak_memory_bytes"] > 2**20
