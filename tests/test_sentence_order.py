"""ALBERT's sentence-order loss: texts in two halves, half of them swapped, and who can tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F  # noqa: N812
from masked_toys import MASK, NUM_PIECES, config_of, made, masked_study, write_lines
from transformers import AutoTokenizer

from search.study.inputs import Inputs, read_inputs
from search.study.masked import halves, read_of
from search.trial.batches import padded
from search.trial.context import WorkerContext
from search.trial.evaluate import order_accuracy
from search.trial.forward import classifier
from search.trial.loop import Schedule, fit
from search.trial.masking import OrderHead, drawn
from search.trial.teacher import load_with_head
from spaces.errors import InputError

SEP = 3


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    study = masked_study(tmp_path_factory.mktemp("order"), training={"epochs": 2, "order_share": 0.3})
    return read_inputs(study, lambda text: None)


@pytest.mark.parametrize(
    ("text", "first", "second"),
    [
        ("one two. three four five", "one two.", "three four five"),
        ("a. b c d? e f", "a. b c d?", "e f"),  # nearest to the middle
        ("no end in here at all", "no end in", "here at all"),
        ("two words", "two", "words"),
        ("word", "word", ""),
    ],
)
def test_halves(text: str, first: str, second: str) -> None:
    assert halves(text) == (first, second)


@pytest.mark.parametrize("max_length", [9, 12, 32])
def test_the_second_half_begins_where_the_first_ends(tmp_path: Path, max_length: int) -> None:
    """Also of a text that is longer than what is read of it, of which no half may be cut by itself."""
    data, cut = write_lines(tmp_path / "own"), 0
    texts = read_inputs(masked_study(tmp_path, data={**data, "max_length": 32}), lambda text: None)
    tokenizer = AutoTokenizer.from_pretrained(texts.source.folder)
    long = [f"{text}. unsplittable," for text in texts.texts.splits["validation"].texts]
    for text, read in zip(long, read_of(tokenizer, long, max_length - 3), strict=True):
        first, second = halves(read)
        assert text.startswith(f"{first} {second}")
        assert text[len(read) : len(read) + 1] in ("", " ")
        ids = tokenizer(first, second)["input_ids"]
        assert len(ids) <= max_length
        if len(read) < len(text):
            cut += 1
            next_word = text[len(read) :].split()[0]
            assert len(ids) + len(tokenizer.tokenize(next_word)) > max_length
    assert (cut == len(long)) == (max_length < 32)


def test_no_special_piece_is_masked_in_pairs(inputs: Inputs) -> None:
    split = inputs.transfer.splits["validation"]
    tokens = split.tokens["full"]
    assert (tokens.second < tokens.lengths).all()
    assert not np.isin(split.labels, (0, 2, SEP)).any()
    between = tokens.shown(split.labels).ids[tokens.offsets[:-1] + tokens.second - 1]
    assert set(between) == {SEP}


def test_half_the_rows_are_swapped_and_nothing_is_lost(inputs: Inputs) -> None:
    split = inputs.transfer.splits["train"]
    whole = split.tokens["full"].shown(split.labels)
    batch = padded(whole, np.arange(len(whole)), 0)
    asked = drawn(batch, MASK, NUM_PIECES, seed=1, epoch=0, in_order=False)
    assert asked.order_B is not None
    assert asked.batch.places_P is not None
    assert 0.35 < asked.order_B.float().mean() < 0.65
    ids_BT = asked.batch.ids_BT.flatten().index_put((asked.batch.places_P,), asked.pieces_P).view_as(batch.ids_BT)
    for row, wrong in enumerate(asked.order_B.tolist()):
        length, second = int(whole.lengths[row]), int(whole.second[row])
        before, after = batch.ids_BT[row, :length].tolist(), ids_BT[row, :length].tolist()
        one, other = before[1 : second - 1], before[second:-1]
        assert after == [2, *(other if wrong else one), SEP, *(one if wrong else other), SEP]
        starts = 2 + len(other if wrong else one)
        assert asked.batch.types_BT[row].tolist() == [0] * starts + [1] * (length - starts) + [0] * (
            batch.ids_BT.shape[1] - length
        )


def test_the_order_loss_is_its_share(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one step without an update: cross-entropy of the order, told from the first state, beside the masked pieces'."""
    from search.trial import device

    monkeypatch.setattr(device, "bf16_pays", lambda kind: False)
    split, student = inputs.transfer.splits["train"], load_with_head(inputs.source.folder)
    for part in student.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    torch.manual_seed(8)
    head = OrderHead(student.config.hidden_size)
    monkeypatch.setattr("search.trial.loop.OrderHead", lambda width: head)
    schedule = Schedule(
        learning_rate=0.0, batch_size=len(split), warmup_share=0.0, epochs=1, steps=1, order_share=0.3, weight_decay=0.0
    )  # fmt: skip
    found = fit(
        student, split.tokens["full"], split.labels, None, schedule, pad_id=0, seed=4, context=WorkerContext(), target="piece",
        mask_id=MASK,
    )  # fmt: skip
    whole = split.tokens["full"].shown(split.labels)
    asked = drawn(padded(whole, np.arange(len(split)), 0), MASK, NUM_PIECES, seed=4, epoch=0, in_order=False)
    batch = asked.batch
    assert batch.places_P is not None
    assert asked.order_B is not None
    with torch.no_grad():
        student.eval()
        states_BTH = classifier(student)(batch.ids_BT, batch.mask_BT, batch.types_BT)
        pieces = student(input_ids=batch.ids_BT, attention_mask=batch.mask_BT, token_type_ids=batch.types_BT).logits
        told = F.cross_entropy(pieces.flatten(0, 1)[batch.places_P], asked.pieces_P)
        order = F.cross_entropy(head(states_BTH[:, 0]), asked.order_B)
    assert found.mean_loss == pytest.approx((0.3 * order + 0.7 * told).item(), rel=1e-4)


@pytest.mark.parametrize("always", [0, 1])
def test_how_often_the_order_is_told_by_hand(inputs: Inputs, always: int) -> None:
    """Of a head that says the same of every row, whatever the batches: half of the rows, as they are swapped."""
    split, student = inputs.transfer.splits["validation"], load_with_head(inputs.source.folder)
    tokens, head = split.tokens["full"], OrderHead(student.config.hidden_size)
    with torch.no_grad():
        head.order.weight.zero_()
        head.order.bias.copy_(torch.tensor([1.0 - always, float(always)]))
    whole = tokens.shown(split.labels)
    order_B = drawn(padded(whole, np.arange(len(whole)), 0), MASK, NUM_PIECES, seed=0, epoch=0, in_order=False).order_B
    assert order_B is not None
    found = order_accuracy(student, head, tokens, split.labels, MASK, 0, WorkerContext())
    assert found == pytest.approx((order_B == always).float().mean().item())
    assert 0.3 < found < 0.7


@pytest.mark.parametrize("family", ["albert", "distilbert"])
def test_a_whole_trial(inputs: Inputs, tmp_path: Path, family: str) -> None:
    """Trained in two parts, scored, delivered from two texts, and scored the same."""
    values = {"family": family, "depth": 2} | (
        {"embedding_size": 16, "num_hidden_groups": 1} if family == "albert" else {}
    )
    measured, told = made(inputs, config_of(inputs, values), tmp_path)
    before, after = measured.metrics["validation/masked_accuracy"], told["metrics"]["validation/masked_accuracy"]
    assert after == pytest.approx(before, abs=0.05)
    assert 0 < measured.metrics["validation/order_accuracy"] <= 1


def test_an_order_that_can_be_told_is_learned(tmp_path: Path) -> None:
    """Words of food first, then as many of sport: by validation texts that were not trained on."""
    rng, data = np.random.default_rng(0), write_lines(tmp_path / "own")
    for name, count in (("train", 300), ("validation", 100)):
        lines = []
        for _ in range(count):
            words = rng.integers(3, 8)
            lines.append(" ".join([*rng.choice(tiny.TOPICS["food"], words), *rng.choice(tiny.TOPICS["sport"], words)]))
        Path(data[name]).write_text("\n".join(lines))
    study = masked_study(tmp_path, data={**data, "max_length": 32}, training={"epochs": 4, "order_share": 0.5})
    inputs = read_inputs(study, lambda text: None)
    config = config_of(inputs, {"depth": 2, "embedding_size": "full"}, epochs=4, soft_share=0.0, hidden_share=0.0)
    measured, _ = made(inputs, config, tmp_path)
    assert measured.metrics["validation/order_accuracy"] > 0.95


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"training: order_share is for masked-language-modelling"):
        masked_study(tmp_path, task="text-classification", training={"order_share": 0.2}, space={})
    data = write_lines(tmp_path / "own")
    Path(data["test"]).write_text("bread\nsoup\n")
    study = masked_study(tmp_path, data={**data, "max_length": 32}, training={"order_share": 0.2})
    with pytest.raises(InputError, match=r"data\.test has one word a text, and training\.order_share wants two halves"):
        read_inputs(study, lambda text: None)
