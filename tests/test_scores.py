"""Scores by hand, and the floors that a student must be above."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import training_toys
from training_toys import a_config

from search.trial import floor
from search.trial.batches import padded
from search.trial.context import WorkerContext
from search.trial.data import Split, TransferSet
from search.trial.evaluate import predict
from search.trial.metrics import of_class
from search.trial.teacher import load_teacher
from search.trial.work import perform
from spaces.trial import WorkItem, WorkKind

# scores


def test_metrics_by_hand() -> None:
    logits = np.eye(3, dtype=np.float32)[[0, 1, 1, 1]]
    scored = of_class(logits, np.array([0, 0, 1, 2]))
    assert scored["accuracy"] == 0.5
    # F1: 2 * 1 * 0.5 / 1.5 = 2/3 of class 0; precision 1/3 and recall 1 = 1/2 of class 1; 0 of class 2
    assert scored["macro_f1"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)


def test_predictions_come_in_the_rows_order_and_the_mode_is_restored() -> None:
    model, (tokens, _, _) = training_toys.a_student(dropout=0.5).train(), training_toys.some_rows()
    together = predict(model, tokens, 0, WorkerContext(), exact=True)
    assert model.training
    model.eval()
    with torch.no_grad():
        for row in (0, 8, 16):
            batch = padded(tokens, np.array([row]), 0)
            alone = model(input_ids=batch.ids_BT, attention_mask=batch.mask_BT).logits[0]
            assert np.allclose(together[row], alone, atol=1e-5)


def test_a_split_keeps_its_texts_only_where_they_are_scored(transfer: TransferSet) -> None:
    assert transfer.splits["train"].texts is None
    split = transfer.splits["test"]
    assert isinstance(split, Split)
    assert split.texts is not None
    assert split.texts[0] == [row["text"] for row in tiny.texts(30, 2)]


# floors


def test_floors_of_the_tiny_task(teacher: Path, transfer: TransferSet, monkeypatch: pytest.MonkeyPatch) -> None:
    always = floor.majority(transfer)
    assert always["test/accuracy"] == pytest.approx(1 / 3)  # 10 of 30
    assert always["test/macro_f1"] == pytest.approx((2 * (1 / 3) / (4 / 3)) / 3)  # one class at F1 1/2, two at 0
    grams, size = floor.n_grams(transfer, WorkerContext())
    assert grams["test/accuracy"] > 0.6
    assert size % 3 == 0  # a weight a feature and class, and a bias a class
    assert size > 3
    monkeypatch.setattr(floor, "MOST_ROWS", 60)
    fewer, fewer_weights = floor.n_grams(transfer, WorkerContext())
    assert fewer_weights < size  # the half of the texts has fewer grams
    assert fewer["test/accuracy"] > 1 / 3
    whole = a_config(transfer, layers=(0, 1, 2)).shape
    cut = floor.cut_teacher(str(teacher), whole, transfer, "used", WorkerContext())
    split = transfer.splits["validation"]
    assert cut is not None
    logits = predict(load_teacher(str(teacher)), split.tokens["full"], 0, WorkerContext(), exact=True)
    agreed = of_class(logits, split.labels)["accuracy"]
    assert abs(cut["validation/accuracy"] - agreed) <= 0.1  # only words that training never used can differ


def test_a_rank_without_part_in_an_item_does_nothing(transfer: TransferSet) -> None:
    item = WorkItem(key="f", kind=WorkKind.FLOOR, payload={"floor": "n_grams"})
    assert perform(item, WorkerContext(rank=1, world_size=2, data={"transfer": transfer})) == (None, {})
