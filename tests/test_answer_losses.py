"""The losses of an answer's start and end: a softmax over the places of each row, which nothing else has a part in."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from student_toys import a_shape

from search.trial import device
from search.trial.batches import Batch, padded
from search.trial.context import WorkerContext
from search.trial.data import Tokens
from search.trial.loop import Schedule, fit, num_compared
from search.trial.losses import TARGET_LOSSES, distillation_loss
from search.trial.start.importance import rank
from search.trial.students import build_student

QUESTIONS = ["f ?", "soup bread"]
CONTEXTS = ["with bread77 ball", "a coach"]
# [CLS] f ? [SEP] with bread ##7 ##7 ball [SEP]  |  [CLS] soup bread [SEP] a coach [SEP] and three of padding
STARTS, ENDS = [[0, 4, 5, 8], [0, 4, 5]], [[0, 4, 7, 8], [0, 4, 5]]
NUM_PLACES = 7


@pytest.fixture
def tokens(tokenizer: Any) -> Tokens:
    return Tokens.encode(tokenizer, QUESTIONS, CONTEXTS, 32, "span")


def labels_of(*places: tuple[int, int]) -> torch.Tensor:
    """1 at the place of each row's start, and of its end."""
    flags = torch.zeros(NUM_PLACES, 2)
    for first, (start, end) in zip((0, 4), places, strict=True):
        flags[first + start, 0] = flags[first + end, 1] = 1
    return flags


def loss_of(
    batch: Batch, outputs_BT2: torch.Tensor, teacher_P2: torch.Tensor, labels_P2: torch.Tensor, soft_share: float, **more: Any
) -> torch.Tensor:  # fmt: skip
    """As the loop calls it."""
    return distillation_loss(
        batch.compared("span", batch.read(outputs_BT2)), batch.compared("span", teacher_P2),
        batch.compared("span", labels_P2, elsewhere=0), target="span", temperature=more.pop("temperature", 2.0),
        soft_share=soft_share, **more,
    )  # fmt: skip


@pytest.mark.parametrize("soft_share", [0.0, 0.5, 1.0])
def test_gradient_only_where_a_word_starts_or_ends(tokens: Tokens, soft_share: float) -> None:
    batch = padded(tokens, np.array([0, 1]), 0)
    outputs = torch.randn(2, 10, 2, requires_grad=True)
    loss_of(batch, outputs, torch.randn(NUM_PLACES, 2), labels_of((2, 2), (0, 0)), soft_share).backward()
    assert outputs.grad is not None
    for side, places in enumerate((STARTS, ENDS)):
        touched = [outputs.grad[row, :, side].nonzero().flatten().tolist() for row in range(2)]
        assert touched == places


@pytest.mark.parametrize("soft_share", [0.0, 1.0])
def test_padding_the_question_and_other_rows_have_no_part(tokens: Tokens, soft_share: float) -> None:
    """Whatever is said there, the loss of a row is the same to the bit; what is said at a word is not."""
    batch, alone = padded(tokens, np.array([0, 1]), 0), padded(tokens, np.array([1]), 0)
    outputs, teacher = torch.randn(2, 10, 2), torch.randn(NUM_PLACES, 2)
    labels = labels_of((1, 2), (1, 2))
    both = loss_of(batch, outputs, teacher, labels, soft_share, num_valid=4)
    elsewhere = outputs.clone()
    for row, (starts, ends) in enumerate(zip(STARTS, ENDS, strict=True)):
        for side, places in enumerate((starts, ends)):
            others = [piece for piece in range(10) if piece not in places]
            elsewhere[row, others, side] = 1e3
    assert torch.equal(loss_of(batch, elsewhere, teacher, labels, soft_share, num_valid=4), both)
    first = loss_of(padded(tokens, np.array([0]), 0), outputs[:1], teacher[:4], labels[:4], soft_share, num_valid=4)
    second = loss_of(alone, outputs[1:, :7], teacher[4:], labels[4:], soft_share, num_valid=4)
    torch.testing.assert_close(first + second, both)  # a row is compared with itself alone
    elsewhere[0, 4, 0] += 1  # a word
    assert not torch.equal(loss_of(batch, elsewhere, teacher, labels, soft_share, num_valid=4), both)


def test_by_hand(tokens: Tokens) -> None:
    batch = padded(tokens, np.array([1]), 0)  # three places
    said = torch.zeros(1, 7, 2)
    hard = loss_of(batch, said, torch.zeros(3, 2), labels_of((0, 0), (1, 2))[4:], 0.0)
    assert hard.item() == pytest.approx(math.log(3))  # the mean of start and end
    teacher = torch.tensor([[math.log(2), 0.0], [0.0, 0.0], [0.0, 0.0]]) * 2  # at T=2: 1/2 1/4 1/4, and thirds
    kl = 0.5 * math.log(1.5) + 2 * 0.25 * math.log(0.75)
    assert loss_of(batch, said, teacher, torch.zeros(3, 2), 1.0).item() == pytest.approx(4 * kl / 2, abs=1e-6)
    taught = said.index_put((torch.tensor([0]), torch.tensor([0])), teacher[0])
    assert loss_of(batch, taught, teacher, torch.zeros(3, 2), 1.0).item() == pytest.approx(0, abs=1e-6)
    assert loss_of(batch, said, teacher, torch.zeros(3, 2), 0.0).item() == 0  # a row without labels


@pytest.mark.parametrize("temperature", [1.0, 8.0])
def test_what_is_no_place_has_no_probability(tokens: Tokens, temperature: float) -> None:
    batch = padded(tokens, np.array([0, 1]), 0)
    laid = batch.compared("span", 30 * torch.randn(NUM_PLACES, 2))
    shares = (laid / temperature).softmax(-1)
    there = torch.zeros(4, 10, dtype=torch.bool)
    for row, places in enumerate([*STARTS, *ENDS]):
        there[row, places] = True
    assert (shares[~there] == 0).all()
    soft = TARGET_LOSSES["span"].soft(laid, batch.compared("span", torch.randn(NUM_PLACES, 2)), temperature)
    assert soft.isfinite()


def test_rows_are_counted_twice_whatever_their_places(tokens: Tokens) -> None:
    assert num_compared(tokens, np.array([0, 1]), "span") == 4
    assert num_compared(tokens, np.array([0, 1]), "tags") == NUM_PLACES


# over whole batches


@pytest.fixture
def many(tokenizer: Any) -> tuple[Tokens, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    words = ["bread", "ball77", "guitar", "the", "with"]
    contexts = [" ".join(rng.choice(words, rng.integers(2, 9))) for _ in range(24)]
    found = Tokens.encode(tokenizer, ["f ?"] * 24, contexts, 32, "span")
    assert found.places is not None
    labels = np.zeros((found.num_outputs, 2), np.int8)
    for first, last in zip(found.places.offsets[:-1], found.places.offsets[1:], strict=True):
        labels[rng.integers(first, last, 2), [0, 1]] = 1
    return found, labels, rng.normal(size=labels.shape).astype(np.float32)


def trained(tokens: Tokens, labels: np.ndarray, logits: np.ndarray | None, **changes: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    shape = a_shape(task_head="span", depth=1, num_hidden_groups=1, num_labels=2)
    student = build_student(shape, label_names=["start", "end"], dropout=0.0)
    settings = {"learning_rate": 1e-3, "batch_size": 8, "warmup_share": 0.0, "epochs": 2, "soft_share": 0.5}
    more = {name: changes.pop(name) for name in ("accumulation_steps", "num_labelled") if name in changes}
    schedule = Schedule(**{**settings, **changes})  # type: ignore[arg-type]
    fit(student, tokens, labels, logits, schedule, pad_id=0, seed=0, context=WorkerContext(), target="span", **more)
    return {name: tensor.detach().cpu() for name, tensor in student.state_dict().items()}


def test_a_batch_in_parts_is_the_same_batch(many: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but what moves every output of a row alike, which a softmax does not see: there rounding alone is what Adam follows."""
    monkeypatch.setattr(device, "bf16_pays", lambda kind: False)  # which rounds them apart
    one, parts = (trained(*many, accumulation_steps=number) for number in (1, 3))
    unseen = {"qa_outputs.bias", "bert.encoder.layer.0.output.LayerNorm.bias"}
    assert unseen < one.keys()
    for name, tensor in one.items():
        if name in unseen:
            continue
        torch.testing.assert_close(parts[name], tensor, rtol=1e-3, atol=1e-5, msg=name)


def test_a_word_without_a_place_has_no_part(many: Any) -> None:
    """Whatever the labels and the teacher say of words that a vocabulary does not read, a student trains the same, to the bit."""
    tokens, labels, logits = many
    assert tokens.places is not None
    unread = np.zeros(tokens.num_outputs, bool)
    unread[tokens.places.offsets[1:] - 1] = True  # each context's last word
    tokens = replace(tokens, places=tokens.places.without(unread))
    wrong_labels, wrong_logits = labels.copy(), logits.copy()
    wrong_labels[unread], wrong_logits[unread] = 1 - labels[unread], np.nan
    expected = trained(tokens, labels, logits)
    for name, found in trained(tokens, wrong_labels, wrong_logits).items():
        assert torch.equal(found, expected[name]), name
    wrong_logits[tokens.places.offsets[0] + 1] += 1  # one that does count
    assert not all(torch.equal(found, expected[n]) for n, found in trained(tokens, labels, wrong_logits).items())


def test_rows_behind_the_labelled_ones_are_learned_from_the_teacher_alone(many: Any) -> None:
    tokens, labels, logits = many
    assert tokens.places is not None
    none = labels.copy()
    none[tokens.places.offsets[12] :] = 0
    found = trained(tokens, none, logits, num_labelled=12)
    assert all(tensor.isfinite().all() for tensor in found.values())
    other = logits.copy()
    other[tokens.places.offsets[12] :] *= -1
    again = trained(tokens, none, other, num_labelled=12)
    assert not torch.equal(found["qa_outputs.weight"], again["qa_outputs.weight"])


def test_a_teacher_of_answers_is_ranked(many: Any) -> None:
    tokens, labels, _ = many
    teacher = build_student(a_shape(task_head="span", num_labels=2), label_names=["start", "end"], dropout=0.0)
    found = rank(teacher, tokens, labels, "span", 0, WorkerContext())
    assert found.hidden.shape == found.pooled.shape == (32,)
    assert (found.hidden > 0).all()
    assert (found.heads > 0).all()
