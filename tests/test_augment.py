"""Text without labels: made up, read from files, and what it does to a trial."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from search.study.augment import made_up_texts, near_words
from search.study.inputs import read_inputs
from search.study.texts import LabelledTexts, read_texts
from search.trial import losses
from search.trial.context import WorkerContext
from search.trial.data import Tokens
from search.trial.loop import Schedule, fit
from search.trial.teacher import teach
from spaces.errors import InputError
from spaces.study import AugmentationSpec, StudySpec


def test_near_words_by_hand(tokenizer: Any) -> None:
    """bread and soup point one way, ball and team another; `the` stands between."""
    table = np.zeros((len(tokenizer), 2), np.float32)
    for word, vector in {"bread": (1, 0), "soup": (2, 0.2), "ball": (0, 1), "team": (0.1, 3), "the": (1, 1)}.items():
        table[tokenizer.convert_tokens_to_ids(word)] = vector
    near = near_words(["bread soup the ball", "team unheardof Soup soup 12"], tokenizer, table, neighbours=2)
    assert near["bread"] == ["soup", "the"]
    assert near["ball"] == ["team", "the"]
    assert near["Soup"] == near["soup"] == ["bread", "the"]
    assert near.keys() == {"bread", "soup", "Soup", "the", "ball", "team"}  # no word of several pieces, no number


def split_of(texts: list[str], pairs: list[str] | None = None) -> LabelledTexts:
    return LabelledTexts(texts, pairs, ["x"] * len(texts))


NEAR = {"good": ["fine", "great"], "film": ["movie"]}
TRAIN = split_of([f"a good film number {i}" for i in range(30)])
HELD_OUT = split_of(["a fine film number 3"])


def made(kinds: tuple[str, ...], copies: int = 6, train: LabelledTexts = TRAIN) -> LabelledTexts:
    spec = AugmentationSpec(copies=copies, kinds=kinds, replace_share=0.5)  # type: ignore[arg-type]
    return made_up_texts({"train": train, "validation": HELD_OUT, "test": HELD_OUT}, NEAR, spec, seed=1)


def test_replaced_words_are_near_ones() -> None:
    found = made(("replace",))
    assert len(found) > 60
    assert found.labels == []
    for text in found.texts:
        a, good, film, *rest = text.split()
        assert a == "a"
        assert good in ("good", "fine", "great")
        assert film in ("film", "movie")
        assert rest[0] == "number"
    assert len(set(found.texts)) == len(found)
    assert not set(found.texts) & set(TRAIN.texts + HELD_OUT.texts)
    assert {text.split()[1] for text in found.texts} == {"good", "fine", "great"}  # all of them, and some keep theirs


def test_spans_and_joined_texts() -> None:
    originals = [text.split() for text in TRAIN.texts]
    for text in made(("join",), copies=1).texts:
        words = text.split()
        assert words[:5] in originals
        assert words[5:] in originals
    lengths = {len(text.split()) for text in made(("span",)).texts}
    assert lengths == {2, 3, 4, 5}  # a quarter of five words, rounded up, to all of them


def test_pairs_stay_pairs() -> None:
    pairs = split_of([f"good film {i}" for i in range(20)], [f"a film {i}" for i in range(20)])
    found = made(("replace", "join"), train=pairs)
    assert found.pairs is not None
    assert len(found.pairs) == len(found.texts) > 10
    assert {text.split()[-1] for text in found.texts} == {pair.split()[-1] for pair in found.pairs}
    assert all(len(text.split()) == 3 for text in found.texts)  # nothing was joined


def test_pairs_are_not_joined() -> None:
    with pytest.raises(InputError, match="join is not for pairs"):
        made(("join",), train=split_of(["a"], ["b"]))


def test_the_same_seed_makes_the_same_texts() -> None:
    assert made(("replace", "span", "join")) == made(("replace", "span", "join"))


def test_a_study_with_more_text(
    study_of: Callable[..., StudySpec], base_teacher: Path, teacher: Path, tmp_path: Path, data_folder: Path
) -> None:
    lines = [row["text"] for row in tiny.texts(25, seed=9)]
    (tmp_path / "more.txt").write_text("\n".join([*lines, "", lines[0].replace(" ", "  ")]) + "\n")
    files = {name: str(data_folder / f"{name}.tsv") for name in ("train", "validation", "test")}
    data = {**files, "max_length": 32, "unlabelled": str(tmp_path / "more.txt"), "augmentation": {"copies": 2}}
    told: list[str] = []
    inputs = read_inputs(study_of(data=data), told.append)
    transfer = inputs.transfer
    more = transfer.splits["unlabelled"]
    num_train = len(transfer.splits["train"].labels)
    assert any("making up texts, 2 for each of 120" in line for line in told)
    assert 26 + num_train < len(more.labels) <= 26 + 2 * num_train
    assert set(more.labels.tolist()) == {-100}
    assert (
        transfer.fingerprint
        != read_inputs(study_of(data={**files, "max_length": 32}), told.append).transfer.fingerprint
    )

    logits = {
        name: teach(str(teacher), split, np.arange(len(split.labels)), 0, WorkerContext())
        for name, split in transfer.splits.items()
    }
    whole = transfer.with_teacher_logits(logits)
    tokens, labels, outputs, num_labelled = whole.training("used", taught=True)
    assert len(tokens) == len(labels) == len(outputs) == num_train + len(more.labels)  # type: ignore[arg-type]
    assert num_labelled == num_train
    first = tokens.taken(np.array([num_train]))
    assert first.ids.tolist() == more.tokens["used"].taken(np.array([0])).ids.tolist()
    alone = whole.training("used", taught=False)
    assert len(alone[0]) == num_train  # text without labels teaches nothing to who learns from labels


def test_an_epoch_is_as_long_as_the_labelled_text(transfer: Any, teacher: Path) -> None:
    from search.trial.teacher import load_teacher

    tokens, labels, outputs, count = transfer.training("full", taught=True)
    twice = Tokens.joined(tokens, tokens)
    both = np.concatenate([labels, np.full(count, -100, labels.dtype)]), np.concatenate([outputs, outputs])
    schedule = Schedule(learning_rate=1e-5, batch_size=16, warmup_share=0.0, epochs=2, soft_share=0.5)
    model = load_teacher(str(teacher))
    done = fit(model, twice, *both, schedule, pad_id=0, seed=0, context=WorkerContext(), num_labelled=count)
    assert done.total_steps == done.step == schedule.total_steps(count) == 2 * -(-count // 16)


def test_rows_without_labels_count_in_the_soft_loss_alone() -> None:
    student, teacher = torch.randn(4, 3), torch.randn(4, 3)
    labels = torch.tensor([1, -100, 2, -100])
    found = losses.distillation_loss(
        student, teacher, labels, temperature=2.0, soft_share=0.25, num_valid=4, num_labelled=2
    )
    soft, hard = losses.soft_loss(student, teacher, 2.0), losses.hard_loss(student[[0, 2]], labels[[0, 2]])
    assert found.item() == pytest.approx((0.25 * soft + 0.75 * hard).item())
    table = torch.tensor([[1.0, 0.0], [float("nan")] * 2])
    assert losses.hard_labels_loss(student[:2, :2], table).item() == pytest.approx(
        losses.hard_labels_loss(student[:1, :2], table[:1]).item()
    )
    numbers = torch.tensor([1.0, float("nan")])
    assert losses.hard_number_loss(student[:2, :1], numbers).item() == pytest.approx(
        (student[0, 0] - 1).square().item()
    )


def test_shared_texts_are_counted_and_dropped_on_request(study_of: Callable[..., StudySpec], tmp_path: Path) -> None:
    rows = {name: tiny.texts(30, seed) for seed, name in enumerate(("train", "validation", "test"))}
    rows["train"] += rows["test"][:4] + rows["validation"][:1]
    data = {name: str(tiny.write_tsv(tmp_path / f"{name}.tsv", split)) for name, split in rows.items()}
    texts = read_texts(study_of(data=data))
    assert any(
        "5 texts of train stand in validation or test too; write data.drop_shared: true" in n for n in texts.notes
    )
    assert len(texts.splits["train"]) == 35
    dropped = read_texts(study_of(data={**data, "drop_shared": True}))
    assert len(dropped.splits["train"]) == len(dropped.splits["train"].labels) == 30


def test_unlabelled_text_must_look_like_the_training_text(study_of: Callable[..., StudySpec], tmp_path: Path) -> None:
    train = tiny.write_tsv(tmp_path / "train.tsv", tiny.texts(60, 0))
    rows = [{"text": "a b", "text_pair": "c d"}]
    data = {"train": str(train), "unlabelled": str(tiny.write_tsv(tmp_path / "more.tsv", rows))}
    with pytest.raises(InputError, match="one text a row where train has two"):
        read_texts(study_of(data=data))
