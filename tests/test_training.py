"""Training: what the teacher says, the schedule by hand, and the same trial bit for bit however it is run."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training_toys
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from training_toys import a_config, same

from search.trial.context import WorkerContext
from search.trial.data import Tokens, TransferSet
from search.trial.device import told_of_memory
from search.trial.evaluate import predict
from search.trial.loop import Schedule, fit
from search.trial.losses import soft_loss
from search.trial.metrics import of_class
from search.trial.students import build_student
from search.trial.teacher import fine_tune, load_teacher, teach
from spaces.errors import OutOfMemory, TrialError
from spaces.study import FineTune

# the teacher


def test_the_teacher_reads_in_eval_mode(teacher: Path, transfer: TransferSet) -> None:
    split, rows = transfer.splits["validation"], np.array([3, 0, 7])
    first, second = (teach(str(teacher), split, rows, 0, WorkerContext()) for _ in range(2))
    assert load_teacher(str(teacher)).config.hidden_dropout_prob == 0.1  # and still:
    assert np.array_equal(first, second)
    assert not load_teacher(str(teacher)).training
    assert np.allclose(first, split.teacher_logits[rows], atol=1e-6)


@pytest.mark.parametrize(("bf16", "tolerance"), [(False, 1e-5), (True, 0.01)])
def test_the_teachers_logits_are_what_anyone_gets(
    bf16: bool, tolerance: float, teacher: Path, transfer: TransferSet, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.trial.device.bf16_pays", lambda kind: bf16)
    split = transfer.splits["validation"]
    assert split.texts is not None
    rows = np.array([0, 11, 29])
    logits = teach(str(teacher), split, rows, 0, WorkerContext())
    np.testing.assert_allclose(split.teacher_logits[rows], logits, atol=0.01)  # those the study keeps, of either format
    with torch.no_grad():
        for found, row in zip(logits, rows, strict=True):
            expected = load_teacher(str(teacher))(**tokenizer(split.texts[0][row], return_tensors="pt")).logits[0]
            assert np.allclose(found, expected, atol=tolerance)


def test_token_types_reach_the_model_on_pairs(teacher: Path, tokenizer: Any) -> None:
    model = load_teacher(str(teacher))
    texts, pairs = ["bread soup", "ball team coach"], ["apple", "tune drum"]
    tokens = Tokens.encode(tokenizer, texts, pairs, 32)
    logits = predict(model, tokens, 0, WorkerContext(), exact=True)
    batch = tokenizer(texts, pairs, padding=True, return_tensors="pt")
    assert batch["token_type_ids"].sum() > 0
    with torch.no_grad():
        assert np.allclose(logits, model(**batch).logits, atol=1e-5)
        batch["token_type_ids"] = torch.zeros_like(batch["token_type_ids"])
        assert not np.allclose(logits, model(**batch).logits, atol=1e-4)


def test_fine_tuning_gives_the_teacher_a_head(base_teacher: Path, transfer: TransferSet, tmp_path: Path) -> None:
    settings = FineTune(epochs=8, learning_rate=3e-3, batch_size=16)
    metrics = fine_tune(str(base_teacher), tmp_path / "made", settings, transfer, 0, WorkerContext())
    assert metrics["validation/accuracy"] > 0.6  # three even classes: 1/3 without learning
    config = json.loads((tmp_path / "made" / "config.json").read_text())
    assert config["id2label"] == {"0": "food", "1": "music", "2": "sport"}
    assert json.loads((tmp_path / "made" / "fine_tuned.json").read_text()) == metrics
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    split = transfer.splits["validation"]
    logits = teach(str(tmp_path / "made"), split, np.arange(len(split.labels)), 0, WorkerContext())
    assert of_class(logits, split.labels)["accuracy"] == metrics["validation/accuracy"]


# the schedule


def test_fine_tuning_in_parts_is_one_fine_tuning(base_teacher: Path, transfer: TransferSet, tmp_path: Path) -> None:
    settings = FineTune(epochs=2, learning_rate=3e-3, batch_size=16, dropout=0.1)
    common = (settings, transfer, 5, WorkerContext())
    whole = fine_tune(str(base_teacher), tmp_path / "whole", *common)
    half, made = tmp_path / "half", tmp_path / "made"
    assert fine_tune(str(base_teacher), half, *common, end_share=0.5) == {}
    assert fine_tune(str(base_teacher), made, *common, start_share=0.5, continues=half) == whole
    one, other = (load_file(folder / "model.safetensors") for folder in (tmp_path / "whole", made))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_schedule_by_hand() -> None:
    schedule = Schedule(learning_rate=1.0, batch_size=16, warmup_share=0.2, epochs=2)
    assert [schedule.factor(step, 10) for step in (0, 1, 2, 5, 9, 10)] == pytest.approx(
        [1 / 3, 2 / 3, 1, 5 / 8, 1 / 8, 0]
    )
    at_once = Schedule(learning_rate=1.0, batch_size=16, warmup_share=0.0, epochs=2)
    assert [at_once.factor(step, 10) for step in (0, 9)] == [1.0, 0.1]
    assert schedule.total_steps(120) == 16  # 7.5 batches an epoch, so eight
    assert Schedule(learning_rate=1.0, batch_size=16, warmup_share=0, epochs=0.01).total_steps(120) == 1
    assert Schedule(learning_rate=1.0, batch_size=16, warmup_share=0, epochs=2, steps=5).total_steps(120) == 5


@given(st.floats(0, 1), st.integers(1, 300))
def test_the_rate_rises_and_falls_once(warmup: float, total: int) -> None:
    schedule = Schedule(learning_rate=1.0, batch_size=1, warmup_share=warmup, epochs=1)
    factors = [schedule.factor(step, total) for step in range(total)]
    assert all(0 < factor <= 1 for factor in factors)
    top = factors.index(max(factors))
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)


# a trial


def test_a_seed_says_everything_whatever_ran_before(run_item: Any, transfer: TransferSet) -> None:
    config = a_config(transfer)
    measurement, weights = run_item(config, "first")
    _, others = run_item(config.model_copy(update={"seed": 12}), "second")  # leaves its random state behind
    torch.randn(17)
    again, weights_again = run_item(config, "third")
    assert same(weights, weights_again)
    assert not same(weights, others)
    assert measurement.metrics == again.metrics
    assert (measurement.step, measurement.share, measurement.trial) == (24, 1.0, 3)  # 3 epochs of 120 rows by 16
    assert measurement.cost["optimizer_steps"] == 24
    assert measurement.cost["tokens"] == 3 * len(transfer.splits["train"].tokens["used"].ids)
    assert measurement.metrics.keys() == {f"validation/{name}" for name in ("accuracy", "macro_f1", "matthews")}


@pytest.mark.parametrize("rank", [32, 8])
def test_segments_are_one_whole_training(run_item: Any, transfer: TransferSet, tmp_path: Path, rank: int) -> None:
    config = a_config(transfer, epochs=2.0, rank=rank)
    whole, expected = run_item(config, "whole")
    shares = [0.0, 1 / 3, 1.0]
    payload: dict[str, Any] = {}
    for number, (start, end) in enumerate(itertools.pairwise(shares)):
        measurement, weights = run_item(config, f"part-{number}", start_share=start, end_share=end, payload=payload)
        payload = {"continues": str(tmp_path / f"part-{number}" / "attempt-1")}
        assert measurement.step == round(end * 16)
        assert same(weights, expected) == (end == 1)
        assert (tmp_path / f"part-{number}" / "attempt-1" / "progress.pt").exists() == (end < 1)
    assert measurement.metrics == whole.metrics


def test_a_trial_from_random_weights_differs_in_that_alone(run_item: Any, transfer: TransferSet) -> None:
    config = a_config(transfer, steps=1)
    _, started = run_item(config, "teacher")
    _, drawn = run_item(config.model_copy(update={"initialise": "random"}), "random")
    assert started.keys() == drawn.keys()
    assert not same(started, drawn)


def test_a_student_learns_from_its_teacher(transfer: TransferSet) -> None:
    """With the labels' share at 0 and none given, only the soft targets can bring the loss down."""
    student = training_toys.a_student()
    tokens, labels, logits = training_toys.some_rows()
    nothing = np.full_like(labels, -100)

    def distance() -> float:
        mine = torch.from_numpy(predict(student, tokens, 0, WorkerContext(), exact=True))
        return soft_loss(mine, torch.from_numpy(logits), 2.0).item()

    before = distance()
    schedule = Schedule(learning_rate=5e-3, batch_size=8, warmup_share=0.1, epochs=20, temperature=2.0, soft_share=1.0)
    fit(student, tokens, nothing, logits, schedule, pad_id=0, seed=1, context=WorkerContext())
    assert distance() < before / 2


def test_a_loss_that_is_no_number_fails_the_trial_and_names_the_knob(transfer: TransferSet) -> None:
    tokens, labels, logits = training_toys.some_rows()
    logits[3] = float("nan")
    schedule = Schedule(learning_rate=0.02, batch_size=8, warmup_share=0, epochs=1, soft_share=0.5)
    with pytest.raises(TrialError, match=r"not finite by step 3 of 3; a lower learning_rate than 0\.02"):
        fit(training_toys.a_student(), tokens, labels, logits, schedule, pad_id=0, seed=1, context=WorkerContext())


def test_every_step_sends_a_heartbeat_and_the_first_is_marked() -> None:
    beats: list[tuple[int, int]] = []
    marks: list[int] = []
    context = WorkerContext(
        heartbeat=lambda done, total: beats.append((done, total)), mark_first_step=lambda: marks.append(len(beats))
    )
    tokens, labels, logits = training_toys.some_rows()
    schedule = Schedule(learning_rate=1e-3, batch_size=8, warmup_share=0, epochs=1)
    fit(training_toys.a_student(), tokens, labels, logits, schedule, pad_id=0, seed=1, context=context)
    assert beats == [(1, 3), (2, 3), (3, 3)]
    assert marks == [0]


def test_two_workers_follow_the_curve_of_one(tmp_path: Path) -> None:
    code = "import sys, training_toys; training_toys.one_of_two(1, sys.argv[1])"
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    second = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env={**os.environ, "PYTHONPATH": paths})
    try:
        training_toys.one_of_two(0, str(tmp_path))
        assert second.wait(timeout=600) == 0
    finally:
        second.kill()
    for fitted, begun in ((training_toys.fit_some, None), (training_toys.tell_some, training_toys.a_teller())):
        expected, loss = fitted()
        for parts in (1, 3):
            left = [tmp_path / f"{fitted.__name__}-{rank}-{parts}.pt" for rank in (0, 1)]
            found = [torch.load(path, weights_only=True) for path in left]
            assert [each["loss"] for each in found] == pytest.approx([loss, loss], rel=1e-5)
            assert same(found[0]["weights"], found[1]["weights"])
            assert_near(found[0]["weights"], expected, begun)


def test_a_batch_in_parts_takes_the_same_steps() -> None:
    expected, loss = training_toys.fit_some()
    for parts in (2, 3, 100):  # of eight texts: the last ones are empty
        found, again = training_toys.fit_some(parts=parts)
        assert again == pytest.approx(loss, rel=1e-5)
        assert_near(found, expected)


def test_memory_that_ends_is_told_from_other_errors() -> None:
    """The allocator's own error, of a processor; of a GPU it is a kind of its own."""
    with pytest.raises(OutOfMemory, match="out of memory with batches of 16 in 8 parts; "), told_of_memory(16, 8):
        torch.empty(2**52)
    with pytest.raises(OutOfMemory), told_of_memory(16, 1):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
    with pytest.raises(TrialError, match="out of memory with one text at a time; ") as caught, told_of_memory(16, 16):
        torch.empty(2**52)
    assert not isinstance(caught.value, OutOfMemory)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), told_of_memory(16, 1):
        torch.ones(2, 3) @ torch.ones(2, 3)


def assert_near(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], of: Any = None) -> None:
    """As far as rounding lets them; `of`: the model that was trained, as it began."""
    start = (of or training_toys.a_student()).state_dict()
    for name, tensor in expected.items():
        moved = (tensor - start[name]).abs().max()
        difference = (found[name] - tensor).abs().max()
        # Adam divides by the gradient's size, so that where it is near 0 (the keys' biases) rounding alone decides
        assert difference < (0.02 * moved if not name.endswith("key.bias") else 0.01), name


def test_bf16_and_fp32_agree(
    run_item: Any, teacher: Path, transfer: TransferSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tolerance: outputs of one model to a fiftieth of their spread; a whole trial's mean loss to one percent, and its
    outputs to a tenth of their spread."""
    config, tokens = (
        a_config(transfer, dropout=0.0, hidden_share=0.2, epochs=6.0),
        transfer.splits["train"].tokens["full"],
    )
    found = []
    for pays in (False, True):
        monkeypatch.setattr("search.trial.device.bf16_pays", lambda kind, pays=pays: pays)
        outputs = predict(load_teacher(str(teacher)), tokens, 0, WorkerContext())
        measurement, weights = run_item(config, f"bf16-{pays}")
        found.append((outputs, measurement.cost["mean_loss"], weights))
    (exact, loss, weights), (rounded, rounded_loss, rounded_weights) = found
    assert 0 < np.abs(rounded - exact).max() < 0.02 * exact.std()
    assert rounded_loss == pytest.approx(loss, rel=0.01)
    assert not same(weights, rounded_weights)
    students = [build_student(config.shape, label_names=["a", "b", "c"], dropout=0.0) for _ in found]
    scores = []
    for student, state in zip(students, (weights, rounded_weights), strict=True):
        student.load_state_dict(state)
        scores.append(predict(student, transfer.splits["train"].tokens["used"], 0, WorkerContext(), exact=True))
    assert np.abs(scores[0] - scores[1]).max() < 0.1 * scores[0].std()
