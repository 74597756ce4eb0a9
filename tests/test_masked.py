"""Masked language modelling: masks, losses at masked pieces alone, a whole trial, and what is refused."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F  # noqa: N812
from masked_toys import MASK, NUM_PIECES, config_of, made, masked_study, other_teller, teller, write_lines
from student_toys import student_of

from search.study import export
from search.study.inputs import Inputs, read_inputs
from search.trial.batches import padded
from search.trial.context import WorkerContext
from search.trial.data import Tokens
from search.trial.deliver.costs import measure_costs
from search.trial.evaluate import predict
from search.trial.floor import likely_next, majority
from search.trial.forward import classifier
from search.trial.loop import Schedule, fit
from search.trial.masking import drawn, piece_head
from search.trial.places import num_masked, num_told
from search.trial.states import LaneStates
from search.trial.teacher import load_with_head
from spaces.deployment import DeploymentSpec
from spaces.errors import InputError
from spaces.families import FAMILIES


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return read_inputs(masked_study(tmp_path_factory.mktemp("masked")), lambda text: None)


# -- masks


def test_held_out_texts_are_masked_once_and_for_all(inputs: Inputs) -> None:
    split = inputs.transfer.splits["validation"]
    tokens = split.tokens["full"]
    assert tokens.places is not None
    counts = np.diff(tokens.places.offsets)
    assert (counts == num_masked(tokens.lengths - 2)).all()
    assert 0.12 < counts.sum() / (tokens.lengths - 2).sum() < 0.25
    flat = np.repeat(tokens.offsets[:-1], counts) + tokens.places.at
    assert (tokens.ids[flat] == MASK).all()
    assert (tokens.ids == MASK).sum() == len(split.labels), "nothing else is masked"
    whole = tokens.shown(split.labels)
    ids, firsts = whole.ids, whole.offsets[:-1]
    assert not (ids == MASK).any()
    ends = whole.offsets[1:] - 1
    assert set(tokens.ids[firsts]) == {2}, "[CLS] is never masked"
    assert set(tokens.ids[ends]) == {3}, "nor is [SEP]"
    again, pieces = whole.masked(MASK)
    assert np.array_equal(again.ids, tokens.ids)
    assert np.array_equal(pieces, split.labels)


def test_masks_of_training_follow_from_seed_epoch_and_row(inputs: Inputs) -> None:
    split = inputs.transfer.splits["train"]
    tokens = split.tokens["full"].shown(split.labels)
    rows = np.array([5, 17, 3, 60])
    batch = padded(tokens, rows, 0)
    asked = drawn(batch, MASK, NUM_PIECES, seed=1, epoch=0)
    one, pieces = asked.batch, asked.pieces_P
    assert asked.order_B is None
    assert one.places_P is not None
    assert (batch.ids_BT.flatten()[one.places_P] == pieces).all()
    assert len(pieces) == tokens.num_read(rows)
    assert batch.mask_BT.flatten()[one.places_P].all(), "padding is never masked"
    assert not torch.isin(pieces, torch.tensor([0, 2, 3])).any()
    apart = drawn(padded(tokens, rows[2:3], 0), MASK, NUM_PIECES, seed=1, epoch=0)
    alone, of_one = apart.batch, apart.pieces_P
    width = alone.ids_BT.shape[1]
    assert (one.ids_BT[2, :width] == alone.ids_BT[0]).all(), "whatever batch a row is in"
    assert set(of_one.tolist()) <= set(pieces.tolist())
    for seed, epoch in ((1, 1), (2, 0)):
        assert not torch.equal(drawn(batch, MASK, NUM_PIECES, seed, epoch).batch.ids_BT, one.ids_BT)


def test_eight_of_ten_are_the_mask_one_another_piece_and_one_itself() -> None:
    ids = np.concatenate([[2], np.full(20_000, 50), [3]]).astype(np.int32)
    tokens = Tokens(ids, np.array([0, len(ids)]), np.array([len(ids)], np.int32))
    asked = drawn(padded(tokens, np.array([0]), 0), MASK, NUM_PIECES, seed=0, epoch=0)
    batch, pieces = asked.batch, asked.pieces_P
    assert batch.places_P is not None
    instead = batch.ids_BT.flatten()[batch.places_P]
    assert len(pieces) == 3000
    assert (instead == MASK).float().mean().item() == pytest.approx(0.8, abs=0.03)
    assert (instead == 50).float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert len(set(instead.tolist())) > 90


def test_a_text_without_a_piece_is_counted_and_one_with_one_is_masked(tmp_path: Path) -> None:
    assert num_masked(np.array([0, 1, 2, 7, 100])).tolist() == [0, 1, 1, 1, 15]
    assert num_told(np.array([2, 9, 9]), np.array([2, 9, 5])).tolist() == [0, 7, 6]
    data = write_lines(tmp_path / "own")
    with open(data["train"], "a") as file:
        file.write("\x01\n")  # of which the tokenizer makes nothing
    spec = masked_study(tmp_path, data={**data, "max_length": 32})
    notes = read_inputs(spec, lambda text: None).notes
    assert any("train: 1 texts have no piece that could be masked" in note for note in notes)
    Path(data["test"]).write_text("\x01\n" * 3)
    with pytest.raises(InputError, match=r"none of its 3 texts has a piece that could be masked"):
        read_inputs(spec, lambda text: None)


# -- losses


def test_the_head_at_some_places_is_the_stock_models_there(inputs: Inputs) -> None:
    model = load_with_head(inputs.source.folder).eval()
    batch = padded(inputs.transfer.splits["test"].tokens["full"], np.arange(8), 0)
    with torch.no_grad():
        stock = model(input_ids=batch.ids_BT, attention_mask=batch.mask_BT, token_type_ids=batch.types_BT).logits
        ours = piece_head(model)(batch.read(classifier(model)(batch.ids_BT, batch.mask_BT, batch.types_BT)))
    assert batch.places_P is not None
    assert torch.allclose(ours, stock.flatten(0, 1)[batch.places_P], atol=1e-5)
    assert torch.allclose(
        LaneStates(model, inputs.transfer.vocabularies["full"], [], exact=True).pieces(batch), ours, atol=1e-5
    )


def test_predictions_are_the_stock_models(inputs: Inputs) -> None:
    model, split = load_with_head(inputs.source.folder), inputs.transfer.splits["test"]
    tokens = split.tokens["full"]
    told = predict(model, tokens, 0, WorkerContext(), exact=True)
    assert told.shape == (len(split.labels), 1)
    batch = padded(tokens, np.arange(len(tokens)), 0)
    with torch.no_grad():
        stock = model.eval()(input_ids=batch.ids_BT, attention_mask=batch.mask_BT, token_type_ids=batch.types_BT).logits
    assert batch.places_P is not None
    expected = stock.flatten(0, 1)[batch.places_P].argmax(-1).numpy()
    assert (told[batch.numbers, 0] == expected).mean() > 0.99
    right = inputs.transfer.measure("test", told)["masked_accuracy"]
    assert right == pytest.approx(float((expected == split.labels[batch.numbers]).mean()), abs=0.01)


def test_the_loss_is_of_masked_pieces_alone(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one step without an update: soft targets over the whole vocabulary and cross-entropy, mean over the masked pieces."""
    from search.trial import loop

    monkeypatch.setattr(loop, "autocast", __import__("contextlib").nullcontext)
    split = inputs.transfer.splits["train"]
    teacher, student = (load_with_head(inputs.source.folder).eval() for _ in range(2))
    with torch.no_grad():
        for weight in student.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())))
    for part in student.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    schedule = Schedule(
        learning_rate=0.0, batch_size=len(split), warmup_share=0.0, epochs=1, steps=1, temperature=2.0, soft_share=0.7,
        weight_decay=0.0,
    )  # fmt: skip
    states = LaneStates(teacher, inputs.transfer.vocabularies["full"], [], exact=True)
    found = fit(
        student, split.tokens["full"], split.labels, None, schedule, pad_id=0, seed=4, context=WorkerContext(),
        target="piece", teacher_pieces=states.pieces, mask_id=MASK,
    )  # fmt: skip
    whole = split.tokens["full"].shown(split.labels)
    asked = drawn(padded(whole, np.arange(len(split)), 0), MASK, NUM_PIECES, seed=4, epoch=0)
    batch, pieces = asked.batch, asked.pieces_P
    assert batch.places_P is not None
    with torch.no_grad():
        mine, its = (
            model(input_ids=batch.ids_BT, attention_mask=batch.mask_BT, token_type_ids=batch.types_BT)
            .logits.flatten(0, 1)[batch.places_P] for model in (student.eval(), teacher)
        )  # fmt: skip
    soft = F.kl_div(
        F.log_softmax(mine / 2, -1), F.log_softmax(its / 2, -1), log_target=True, reduction="batchmean"
    ) * 4  # fmt: skip
    expected = 0.7 * soft + 0.3 * F.cross_entropy(mine, pieces)
    assert found.mean_loss == pytest.approx(expected.item(), rel=1e-3)


# -- floors


def test_floors_by_hand(inputs: Inputs) -> None:
    train, test = inputs.transfer.splits["train"], inputs.transfer.splits["test"]
    counts = np.bincount(train.labels)
    assert majority(inputs.transfer)["test/masked_accuracy"] == pytest.approx((test.labels == counts.argmax()).mean())
    metrics, size = likely_next(inputs.transfer)
    assert metrics["test/masked_accuracy"] > 0.6, "all but the first of a line, and those behind another mask"
    whole = train.tokens["full"].shown(train.labels).ids.tolist()
    follows: dict[int, dict[int, int]] = {}
    for one, other in itertools.pairwise(whole):
        follows.setdefault(one, {})[other] = follows.setdefault(one, {}).get(other, 0) + 1
    assert size == len(follows)


# -- a whole trial, and families


@pytest.mark.parametrize(
    ("family", "embedding_size"),
    [
        ("bert", 32), ("bert", 16), ("albert", 32), ("albert", 16), ("distilbert", 32), ("electra", 32), ("electra", 16),
        ("roberta", 32), ("squeezebert", 32),
    ],
)  # fmt: skip
def test_a_whole_trial(inputs: Inputs, tmp_path: Path, family: str, embedding_size: int) -> None:
    """Trained from the teacher, scored, delivered, loaded by Hugging Face as what it is, and scored the same."""
    values: dict[str, Any] = {"family": family, "depth": 2}
    values["embedding_size"] = embedding_size if embedding_size < 32 else "full"
    values |= {"num_hidden_groups": 1} if family == "albert" else {}
    config = config_of(inputs, values)
    measured, told = made(inputs, config, tmp_path)
    assert told["num_parameters"] == config.shape.num_parameters
    before, after = measured.metrics["validation/masked_accuracy"], told["metrics"]["validation/masked_accuracy"]
    assert after == pytest.approx(before, abs=0.05)
    assert type(load_with_head(tmp_path / "best")).__name__.endswith("ForMaskedLM")
    assert (
        FAMILIES[family].model_type(config.shape)
        == json.loads((tmp_path / "best" / "config.json").read_text())["model_type"]
    )


@pytest.mark.parametrize("kind", ["electra", "electra-small", "roberta", "xlm-roberta"])
def test_a_student_of_the_teachers_own_shape_starts_as_its_teacher(tmp_path: Path, kind: str) -> None:
    """Layers, embeddings and masked-LM head are where each architecture keeps them; and what it learned is delivered."""
    folder, (family, _, rank) = other_teller(kind, tmp_path / "other"), kind.removeprefix("xlm-").partition("-")
    space: dict[str, Any] = {
        "family": family,
        "depth": 2,
        "embedding_size": 8 if rank else "full",
        "learning_rate": 3e-3,
    }
    inputs = read_inputs(masked_study(tmp_path, teacher={"model": str(folder)}, space=space), lambda text: None)
    assert not inputs.fine_tunes
    config = config_of(inputs, {key: space[key] for key in ("family", "depth", "embedding_size")}, layers=(0, 1))
    teacher, vocabulary = load_with_head(folder).eval(), inputs.transfer.vocabularies["full"]
    student = student_of(teacher, config.shape, vocabulary, (0, 1))
    batch = padded(inputs.transfer.splits["test"].tokens["full"], np.arange(8), vocabulary.pad_id)
    with torch.no_grad():
        told = [model(input_ids=batch.ids_BT, attention_mask=batch.mask_BT).logits for model in (teacher, student)]
    assert told[0].std() > 0.1
    read = batch.mask_BT.bool()
    assert torch.allclose(told[1][read], told[0][read], atol=1e-5)
    if kind == "roberta":  # its pieces are bytes, and it pads with 1
        measured, delivered = made(inputs, config, tmp_path)
        before, after = (found["validation/masked_accuracy"] for found in (measured.metrics, delivered["metrics"]))
        assert after == pytest.approx(before, abs=0.05)


@pytest.mark.parametrize("rank", [24, 18])
def test_a_student_of_a_smaller_rank_starts_near_its_teacher(tmp_path: Path, rank: int) -> None:
    """Of a teacher whose words and positions lie in 18 of its 32 directions, and whose positions are as large as its words."""
    from transformers import BertForMaskedLM

    model = BertForMaskedLM.from_pretrained(teller(tmp_path / "teacher")).eval()
    generator = torch.Generator().manual_seed(0)
    embeddings = model.bert.embeddings
    with torch.no_grad():
        for table, size in ((embeddings.word_embeddings, 10), (embeddings.position_embeddings, 8)):
            inner, outer = (
                torch.randn(*shape, generator=generator) for shape in ((len(table.weight), size), (size, 32))
            )
            table.weight.copy_(inner @ outer / size**0.5)
        embeddings.token_type_embeddings.weight.zero_()
        model.cls.predictions.transform.dense.weight.normal_(std=0.2, generator=generator)
    model.save_pretrained(tmp_path / "teacher")
    space = {"depth": 3, "embedding_size": rank}
    inputs = read_inputs(
        masked_study(tmp_path, teacher={"model": str(tmp_path / "teacher")}, space=space), lambda text: None
    )
    config = config_of(inputs, space, layers=(0, 1, 2))
    vocabulary = inputs.transfer.vocabularies["full"]
    student = student_of(model, config.shape, vocabulary, (0, 1, 2)).eval()
    batch = padded(inputs.transfer.splits["test"].tokens["full"], np.arange(24), vocabulary.pad_id)
    with torch.no_grad():
        wanted, found = (
            each(input_ids=batch.ids_BT, attention_mask=batch.mask_BT).logits[batch.mask_BT.bool()]
            for each in (model, student)
        )
    near = torch.corrcoef(torch.stack([wanted.flatten(), found.flatten()]))[0, 1]
    same = (wanted.argmax(1) == found.argmax(1)).float().mean()
    assert near > 0.78, "fitted at the mean position 0.69 and 0.61, with a head at random nothing"
    assert same > 0.38


@pytest.mark.parametrize("order_share", [None, pytest.param(0.3, marks=pytest.mark.slow)])
def test_other_forms_are_asked_the_same(tmp_path: Path, order_share: float | None) -> None:
    """What export checks them on are the masks that the study had, read again from the texts."""
    training = {"epochs": 2} | ({"order_share": order_share} if order_share else {})
    inputs = read_inputs(masked_study(tmp_path, training=training), lambda text: None)
    measured, _ = made(inputs, config_of(inputs, {"depth": 2, "embedding_size": 16}, epochs=8), tmp_path)
    best = tmp_path / "best"
    shutil.copytree(inputs.source.folder, inputs.spec.output / "teacher")
    forms = export._forms(inputs.spec, inputs.spec.space.shape(
        {"depth": 2, "embedding_size": 16, "vocabulary": "full"}, inputs.teacher, inputs.vocabularies
    ), best, export._splits(inputs.spec, best, {}, lambda text: None))  # fmt: skip
    for name, least in (("hf-fp16", 0.95), ("onnx", 0.99), ("onnx-int8", 0.7)):
        check = forms.write(name, tmp_path / name).check
        assert check is not None
        assert not check.largest_difference
        assert min(check.share_equal.values()) >= least, name
        if name == "onnx":
            expected = measured.metrics["validation/masked_accuracy"]
            assert check.metrics["validation/masked_accuracy"] == pytest.approx(expected, abs=0.03)


@pytest.mark.slow
def test_its_latency_is_of_the_whole_model(inputs: Inputs) -> None:
    shape = config_of(inputs, {"depth": 2}).shape
    asked = DeploymentSpec(runtime="onnx", length=8)
    folder = str(inputs.source.folder)
    costs = measure_costs(asked, shape, folder, shape.max_positions, inputs.transfer, WorkerContext())
    assert costs["yardsticks"] > 0


# -- what is refused


@pytest.mark.parametrize(
    ("space", "problem"),
    [
        ({"family": ["bert", "mobilebert"]}, r"space: family: mobilebert tells no masked pieces here; write bert, albert, distilb"),
        ({"hidden_size": ["50%", "full"]}, r"space: hidden_size: students of .* are as wide as their teacher; write full"),
        ({"vocabulary": "used"}, r"space: vocabulary: 'used' is not for masked-language-modelling: .*; write full"),
    ],
)  # fmt: skip
def test_what_such_students_cannot_be(tmp_path: Path, space: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        read_inputs(masked_study(tmp_path, space=space), lambda text: None)


def test_a_teacher_without_a_head_is_given_one_and_told(tmp_path: Path) -> None:
    tiny.write_teacher(tmp_path / "bare")
    spec = masked_study(tmp_path, teacher={"model": str(tmp_path / "bare")})
    found = read_inputs(spec, lambda text: None)
    assert found.fine_tunes
    assert any("the teacher has no masked-LM head: one is trained" in note for note in found.notes)


def test_the_order_of_halves_wants_one_piece_between_them(tmp_path: Path) -> None:
    teacher = {"model": str(other_teller("roberta", tmp_path / "other"))}
    space = {"family": "roberta", "depth": 2, "learning_rate": 3e-3}
    with pytest.raises(
        InputError, match=r"training: order_share: the teacher's tokenizer puts 2 special pieces between two texts"
    ):
        read_inputs(
            masked_study(tmp_path, teacher=teacher, space=space, training={"order_share": 0.3}), lambda text: None
        )


def test_pairs_are_refused(tmp_path: Path) -> None:
    data = {**write_lines(tmp_path / "data"), "columns": {"text": "text", "text_pair": "text"}}
    with pytest.raises(InputError, match="there is one text a row where masked pieces are told"):
        read_inputs(masked_study(tmp_path, data=data), lambda text: None)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("order_share", [None, 0.3])
def test_a_whole_study(told: Callable[..., str], tmp_path: Path, order_share: float | None) -> None:
    """From lines of text to the report, with a teacher that is given its head first."""
    tiny.write_teacher(tmp_path / "bare")
    plain = masked_study(tmp_path).resolved()
    plain["teacher"] = {
        "model": str(tmp_path / "bare"),
        "fine_tune": {"epochs": 8, "learning_rate": 3e-3, "batch_size": 16},
    }
    plain |= {"budget": {"trials": 3}, "resources": {"lanes": 1}, "confirm": {"seeds": 1}, "accept": ["chance"]}
    plain["training"]["order_share"] = order_share
    path, output = tmp_path / "study.yaml", tmp_path / "run"
    path.write_text(json.dumps(plain))
    assert "time, about" in told("plan", path)
    told("run", path)
    best = next(folder for folder in sorted((output / "best").iterdir()) if folder.is_dir())
    card = (best / "README.md").read_text()
    assert "pipeline_tag: fill-mask" in card
    assert ("the order of a text's two halves (30 %)" in card) == bool(order_share)
    assert ("| order of two halves told right |" in card) == bool(order_share)
    assert "most often" in told("front", output)
    for command in ("report", "analyse"):
        told(command, output)
    said = told("export", output, "--format", "onnx,onnx-int8")
    assert "of predictions as in PyTorch" in said
    assert "outputs differ" not in said
