"""Sentence embeddings: pairs as rows, bad input, losses and scores by hand, floors."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from embedding_toys import read

from search.study.worth import agreement, refuse_chance
from search.trial import floor, losses
from search.trial.context import WorkerContext
from search.trial.metrics import METRICS, cosines, measure
from spaces.errors import InputError
from spaces.study import StudySpec

PAIRS = "sentence1\tsentence2\tscore\nbread soup\tsoup\t4.5\na ball\tthe guitar\t0\n"


# files


def test_a_pair_is_two_rows_and_training_text_has_no_scores(embedding: Callable[..., StudySpec]) -> None:
    inputs = read(embedding({"validation.tsv": PAIRS, "train.tsv": PAIRS}))
    texts = inputs.texts.splits
    assert list(texts["validation"].texts) == ["bread soup", "soup", "a ball", "the guitar"]
    assert list(texts["train"].texts) == ["bread soup", "soup", "a ball", "the guitar"]
    splits = inputs.transfer.splits
    assert splits["validation"].labels.tolist() == [4.5, 0.0]
    assert splits["validation"].texts == (["bread soup", "soup", "a ball", "the guitar"], None)
    assert (len(splits["validation"]), splits["validation"].num_scored) == (4, 2)
    assert np.isnan(splits["train"].labels).all()
    assert len(splits["train"].labels) == splits["train"].num_scored == 4
    assert not inputs.fine_tunes
    assert len(inputs.transfer.label_names) == inputs.teacher.num_labels == 32


def test_text_alone_is_enough_to_train_on(embedding: Callable[..., StudySpec]) -> None:
    more = {"train.tsv": None, "train.txt": "bread and soup\n\nthe old guitar\n", "unlabelled.txt": "a ball\n"}
    inputs = read(embedding(more))
    assert list(inputs.texts.splits["train"].texts) == ["bread and soup", "the old guitar"]
    joined = inputs.transfer.joined()
    tokens, labels, _, num_labelled = joined.training("full", taught=False)
    assert (len(tokens), len(labels), num_labelled) == (3, 3, 2)  # even where no share of the loss says taught


def test_a_test_split_is_cut_off_pairs(embedding: Callable[..., StudySpec]) -> None:
    inputs = read(embedding({"test.tsv": None}))
    sizes = {name: split.num_scored for name, split in inputs.transfer.splits.items()}
    assert sizes == {"train": 216, "validation": 60, "test": 12}
    assert any("12 rows of train were set aside" in note for note in inputs.notes)


def test_a_cut_vocabulary_keeps_pairs_together(embedding: Callable[..., StudySpec]) -> None:
    split = read(embedding()).transfer.splits["validation"]
    again = read(embedding()).transfer
    kept = again.vocabularies["100"].kept
    words = tiny.vocabulary()
    for row, text in enumerate(tiny.scored(60, 1)[0].values()):
        if row < 2:
            tokens = split.tokens["100"]
            ids = tokens.ids[tokens.offsets[row] + 1 : tokens.offsets[row + 1] - 1]
            pieces = "".join(words[kept[index]].removeprefix("##") for index in ids)
            assert pieces == text.replace(" ", "") or "[UNK]" in pieces
    assert len(split.tokens["100"]) == len(split.tokens["full"]) == 120


HEAD = "sentence1\tsentence2\tscore\n"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {"validation.tsv": HEAD + "a\t \t1\nb\tc\t2\n"},
            "data.validation: row 1 (after the header) has an empty text",
        ),
        ({"train.tsv": HEAD + "a\tb\t1\n\tc\t2\n"}, "data.train: row 2 (after the header) has an empty text"),
        ({"test.tsv": HEAD + "a\tb\t1\nb\tc\thigh\n"}, "row 2 (after the header) has label 'high', which is no number"),
        ({"test.tsv": HEAD + "a\tb\t1\nb\tc\t\n"}, "has label '', which is no number"),
        ({"test.tsv": HEAD + "a\tb\t2\nb\tc\t2\n"}, "data.test: all its pairs have the same score"),
        ({"test.tsv": "sentence1\tsentence2\na\tb\n"}, "data.test: no column looks like the label"),
        ({"test.tsv": "text\tscore\na\t1\n"}, "data.test: no column looks like the text_pair"),
        (
            {"test.tsv": None, "train.tsv": None, "train.txt": "bread\nsoup\n"},
            "data.train: holds no pairs with scores that a test split could be cut off; write validation: FILE",
        ),
    ],
)
def test_bad_files(files: dict[str, str | None], words: str, embedding: Callable[..., StudySpec]) -> None:
    with pytest.raises(InputError) as caught:
        read(embedding(files))
    assert words in str(caught.value)
    assert len(caught.value.faults) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": {"class_weights": "balanced"}}, "class_weights is for classes"),
        ({"confirm": {"without_distillation": "all"}}, "sentence-embeddings has no labels to learn from"),
        ({"objectives": {"accuracy": "maximize", "parameters": "minimize"}}, "'accuracy' is not an objective"),
    ],
)
def test_bad_settings(changes: dict[str, Any], words: str, embedding: Callable[..., StudySpec]) -> None:
    with pytest.raises(InputError) as caught:
        read(embedding(**changes))
    assert words in str(caught.value)


def test_what_means_nothing_here_is_left_out(embedding: Callable[..., StudySpec]) -> None:
    spec = embedding(space="default")
    assert spec.confirm.without_distillation == "none"
    inputs = read(spec)
    assert inputs.spec.space.is_fixed("temperature")
    assert not inputs.spec.space.is_fixed("soft_share")
    assert any("temperature is not searched" in note for note in inputs.notes)


@pytest.mark.usefixtures("registries")
def test_a_head_of_ones_own_is_refused(embedding: Callable[..., StudySpec], documented: Callable[[str], Path]) -> None:
    path = documented("mean_head.py")
    with pytest.raises(InputError, match="'mean' cannot stand for what sentence-embeddings pools"):
        read(embedding(heads={"mean": f"{path}:MeanHead"}, space={"head": ["mean"]}))


# losses and scores


def test_the_loss_of_a_vector_by_hand() -> None:
    student, teacher = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 1.0], [0.0, 5.0]])
    expected = (1 - math.sqrt(0.5)) / 2
    assert losses.vector_loss(student, teacher, 1.0).item() == pytest.approx(expected, abs=1e-6)
    assert losses.vector_loss(student, teacher, 7.0, num_valid=4).item() == pytest.approx(expected / 2, abs=1e-6)
    assert losses.vector_loss(teacher, teacher, 1.0).item() == pytest.approx(0.0, abs=1e-6)
    assert losses.vector_loss(student[:0], teacher[:0], 1.0).item() == 0


def test_the_loss_of_how_alike_they_are_by_hand() -> None:
    # cosines of the student 0, of the teacher 0.5: off the diagonal two squares of a quarter, each row's mean over one other
    student = torch.tensor([[1.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
    teacher = torch.tensor([[2.0, 0.0], [0.5, math.sqrt(0.75)]])  # of another width
    assert losses.similarity_loss(student, teacher).item() == pytest.approx(0.25, abs=1e-6)
    assert losses.similarity_loss(student, teacher, num_valid=4).item() == pytest.approx(0.125, abs=1e-6)
    turned = teacher @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    assert losses.similarity_loss(turned, teacher).item() == pytest.approx(0.0, abs=1e-6)  # angles are all that counts
    assert losses.similarity_loss(student[:1], teacher[:1]).item() == 0
    assert losses.similarity_loss(torch.zeros(2, 3), teacher).item() == pytest.approx(0.25, abs=1e-6)


def test_both_losses_share_what_there_is() -> None:
    student, teacher = torch.eye(2), torch.tensor([[1.0, 0.0], [0.5, math.sqrt(0.75)]])
    labels = torch.full((2,), torch.nan)
    each = losses.vector_loss(student, teacher, 1.0).item(), losses.similarity_loss(student, teacher).item()
    for share in (0.0, 0.25, 1.0):
        found = losses.distillation_loss(
            student, teacher, labels, temperature=1.0, soft_share=share, num_valid=2, num_labelled=0, target="vector"
        )
        assert found.item() == pytest.approx(share * each[0] + (1 - share) * each[1], abs=1e-6)


def test_scores_from_vectors_by_hand() -> None:
    # cosines 1, 0.6, 0 and -1
    pairs = np.array([[2, 0], [1, 0], [1, 0], [3, 4], [0, 1], [1, 0], [1, 0], [-2, 0]], np.float32)
    assert cosines(pairs) == pytest.approx([1, 0.6, 0, -1])
    assert METRICS["vector"](pairs, np.array([5.0, 4.0, 3.0, 0.0]))["spearman"] == pytest.approx(1.0)
    found = METRICS["vector"](pairs, np.array([4.0, 5.0, 1.0, 2.0]))  # ranks off by one each: 1 - 6 * 4 / (4 * 15)
    assert found["spearman"] == pytest.approx(0.6)
    assert found["pearson"] == pytest.approx(np.corrcoef([1, 0.6, 0, -1], [4, 5, 1, 2])[0, 1])
    assert cosines(np.zeros((2, 3))) == pytest.approx([0])
    assert measure("vector", {}, pairs * 7, np.array([5.0, 4.0, 3.0, 0.0]))["spearman"] == pytest.approx(1.0)


def test_the_floors(embedding: Callable[..., StudySpec]) -> None:
    transfer = read(embedding()).transfer
    assert floor.majority(transfer)["test/spearman"] == 0
    metrics, size = floor.n_grams(transfer, WorkerContext())
    assert metrics["test/spearman"] > 0.8  # scores are the number of shared words
    assert size > 30
    one = {"train.tsv": PAIRS, "validation.tsv": HEAD + "soup\tsoup\t3\nball\tbread\t1\n"}
    assert floor.n_grams(read(embedding(one)).transfer, WorkerContext())[0]["validation/pearson"] == pytest.approx(1)


def test_a_teacher_no_better_than_chance(embedding: Callable[..., StudySpec]) -> None:
    rng = np.random.default_rng(0)
    spec, labels = embedding(), rng.normal(size=200)
    angles = np.arccos(np.tanh(labels))
    pairs = np.zeros((400, 2))
    pairs[0::2, 0], pairs[1::2] = 1, np.stack([np.cos(angles), np.sin(angles)], 1)
    assert agreement("vector", pairs, labels) > 10
    refuse_chance(spec, pairs, labels)
    with pytest.raises(InputError, match="on 200 validation pairs its answers agree"):
        refuse_chance(spec, rng.normal(size=(400, 2)), labels)
