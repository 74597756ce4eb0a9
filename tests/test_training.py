"""Training one student: losses by hand, batches as properties, and the same trial bit for bit however it is run."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import training_toys
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from search.trial import checkpoint, floor
from search.trial.context import WorkerContext
from search.trial.data import (
    Split,
    Tokens,
    TransferSet,
    padded,
)
from search.trial.deliver.huggingface import deliver
from search.trial.evaluate import predict
from search.trial.loop import Schedule, fit, parameter_groups
from search.trial.losses import soft_loss
from search.trial.metrics import of_class
from search.trial.students import build_student
from search.trial.teacher import fine_tune, load_teacher, teach
from search.trial.work import perform
from spaces.errors import TrialError
from spaces.student import StudentShape
from spaces.study import FineTune
from spaces.trial import Measurement, TrialConfig, WorkItem, WorkKind

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


def test_biases_and_norms_do_not_decay() -> None:
    model = training_toys.a_student()
    decayed, plain = parameter_groups(model, 0.01)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.01, 0.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(p)].rsplit(".", 1)[-1] for p in decayed["params"]} == {"weight"}
    assert all("LayerNorm" in names[id(p)] or names[id(p)].endswith("bias") for p in plain["params"])
    assert len(decayed["params"]) + len(plain["params"]) == len(names)


# a trial


def a_config(transfer: TransferSet, **changes: Any) -> TrialConfig:
    settings: dict[str, Any] = {
        "layers": (0, 2),
        "vocabulary": "used",
        "temperature": 2.0,
        "soft_share": 0.5,
        "learning_rate": 3e-3,
        "batch_size": 16,
        "warmup_share": 0.1,
        "weight_decay": 0.01,
        "dropout": 0.2,
        "epochs": 3.0,
        "seed": 11,
        **changes,
    }
    layers = settings["layers"]
    shape = StudentShape(
        family="bert", depth=len(layers), hidden_size=32, num_heads=4, intermediate_size=64,
        embedding_size=settings.pop("rank", 32), num_hidden_groups=len(layers),
        vocabulary_size=len(transfer.vocabularies[settings["vocabulary"]].kept), max_positions=48,
        type_vocabulary_size=2, num_labels=3,
    )  # fmt: skip
    return TrialConfig(shape=shape, **settings)


@pytest.fixture
def run_item(teacher: Path, transfer: TransferSet, tmp_path: Path) -> Callable[..., tuple[Measurement, dict[str, Any]]]:
    """Trains a trial through the worker's own door; (measurement, weights)."""

    def run_it(config: TrialConfig, name: str = "t", **fields: Any) -> tuple[Measurement, dict[str, Any]]:
        payload = {"teacher": str(teacher), **fields.pop("payload", {})}
        folder = tmp_path / name
        item = WorkItem(
            key=name, kind=WorkKind.TRAIN, trial=3, config=config, folder=str(folder), payload=payload, **fields
        )
        measurement, _ = perform(item, WorkerContext(data={"transfer": transfer}))
        assert measurement is not None
        return measurement, load_file(folder / f"attempt-{item.attempt}" / "weights.safetensors")

    return run_it


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


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
    expected, loss = training_toys.fit_some()
    code = "import sys, training_toys; training_toys.one_of_two(1, sys.argv[1])"
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    second = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env={**os.environ, "PYTHONPATH": paths})
    try:
        training_toys.one_of_two(0, str(tmp_path))
        assert second.wait(timeout=600) == 0
    finally:
        second.kill()
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert found[0]["loss"] + found[1]["loss"] == pytest.approx(loss, rel=1e-5)
    assert same(found[0]["weights"], found[1]["weights"])
    start = training_toys.a_student().state_dict()
    for name, tensor in expected.items():
        moved = (tensor - start[name]).abs().max()
        difference = (found[0]["weights"][name] - tensor).abs().max()
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


# scores, folders, floors


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


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "best" / "trial-1"
    with checkpoint.folder_whole(folder) as temporary:
        (temporary / "old").write_text("1")
        assert not folder.exists()

    def break_off() -> None:
        with checkpoint.folder_whole(folder) as temporary:
            (temporary / "new").write_text("2")
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="disk is full"):
        break_off()
    assert [path.name for path in folder.iterdir()] == ["old"]
    with checkpoint.folder_whole(folder) as temporary:
        (temporary / "new").write_text("2")
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert list(folder.parent.iterdir()) == [folder]  # nothing is left beside it


def test_a_checkpoint_executes_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path(tmp_path / "touched").touch, ())

    torch.save({"optimizer": Evil()}, tmp_path / "progress.pt")
    with pytest.raises(Exception, match="Weights only load failed"):
        checkpoint.load_progress(tmp_path)
    assert not (tmp_path / "touched").exists()


SCORE = """
import sys, csv, torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
folder, data = sys.argv[1:]
model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
rows = [line.rstrip("\\n").split("\\t") for line in open(data)][1:]
batch = tokenizer([text for text, _ in rows], padding=True, return_tensors="pt")
with torch.no_grad():
    predicted = model.eval()(**batch).logits.argmax(-1).tolist()
print(sum(model.config.id2label[i] == label for i, (_, label) in zip(predicted, rows)) / len(rows))
"""


@pytest.mark.slow
def test_what_is_delivered_scores_what_it_says_in_another_process(
    run_item: Any, teacher: Path, transfer: TransferSet, data_folder: Path, tmp_path: Path
) -> None:
    config = a_config(transfer, epochs=8.0, soft_share=0.0, dropout=0.0)
    trained, _ = run_item(config, "trained", payload={"exact": True})  # in fp32, as who loads it
    weights = tmp_path / "trained" / "attempt-1"
    output = deliver(config, str(teacher), weights, tmp_path / "best", transfer, WorkerContext())
    assert output["metrics"]["validation/accuracy"] == trained.metrics["validation/accuracy"] > 0.5
    assert output["num_parameters"] == config.shape.num_parameters
    assert (tmp_path / "best" / "model.safetensors").stat().st_size == output["num_bytes"] == config.shape.num_bytes
    command = [sys.executable, "-c", SCORE, str(tmp_path / "best"), str(data_folder / "test.tsv")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(output["metrics"]["test/accuracy"])


def test_weights_that_are_gone_are_named(teacher: Path, transfer: TransferSet, tmp_path: Path) -> None:
    payload = {"teacher": str(teacher), "weights": str(tmp_path / "gone")}
    config = a_config(transfer)
    item = WorkItem(key="d", kind=WorkKind.DELIVER, trial=3, config=config, folder=str(tmp_path / "o"), payload=payload)
    with pytest.raises(TrialError, match="the weights of trial 3 are no longer in"):
        perform(item, WorkerContext(data={"transfer": transfer}))


def test_floors_of_the_tiny_task(teacher: Path, transfer: TransferSet) -> None:
    always = floor.majority(transfer)
    assert always["test/accuracy"] == pytest.approx(1 / 3)  # 10 of 30
    assert always["test/macro_f1"] == pytest.approx((2 * (1 / 3) / (4 / 3)) / 3)  # one class at F1 1/2, two at 0
    grams, size = floor.n_grams(transfer, WorkerContext())
    assert grams["test/accuracy"] > 0.6
    assert size % 3 == 0  # a weight a feature and class, and a bias a class
    assert size > 3
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


def test_a_split_keeps_its_texts_only_where_they_are_scored(transfer: TransferSet) -> None:
    assert transfer.splits["train"].texts is None
    split = transfer.splits["test"]
    assert isinstance(split, Split)
    assert split.texts is not None
    assert split.texts[0] == [row["text"] for row in tiny.texts(30, 2)]
