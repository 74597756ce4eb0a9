"""What only a CUDA device can show. Not part of `make test`: `make test-gpu` where there is one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from faults.harness import Blow, Study
from transformers import BertConfig, BertForSequenceClassification

from search.study.output import open_record, spec_of
from search.trial import device
from search.trial.checkpoint import load_progress, load_weights, save_weights
from search.trial.context import WorkerContext
from search.trial.data import Tokens
from search.trial.loop import Fitted, Schedule, fit

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

STEPS, SLACK_MB = 12, 300
HALVES = {"rungs": ["1/2", 1], "reduction": 2}


@pytest.fixture(autouse=True)
def cuda() -> Iterator[None]:
    if not torch.cuda.is_available():
        pytest.skip("this machine has no CUDA device")
    yield
    torch.cuda.empty_cache()


def free_mb() -> float:
    """Of the whole device, whoever holds the rest."""
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0] / 1e6


def a_model(dropout: float) -> Any:
    torch.manual_seed(5)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, num_labels=3,
            hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
        )
    )  # fmt: skip


def trained(model: Any, **options: Any) -> Fitted:
    rng = np.random.default_rng(3)
    lengths = rng.integers(3, 12, 64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = Tokens(ids=rng.integers(5, 60, int(offsets[-1])).astype(np.int32), offsets=offsets, second=lengths)
    schedule = Schedule(
        learning_rate=1e-3, batch_size=16, warmup_share=0.1, epochs=1, steps=STEPS, temperature=2.0, soft_share=0.5
    )
    labels, outputs = rng.integers(0, 3, 64), rng.normal(size=(64, 3)).astype(np.float32)
    return fit(model, tokens, labels, outputs, schedule, pad_id=0, seed=1, context=WorkerContext(), **options)


def test_a_student_learns_as_on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu, on_processor = a_model(0.0), a_model(0.0)
    monkeypatch.setattr(device, "bf16_pays", lambda kind: False)
    loss = trained(on_gpu).mean_loss
    assert next(on_gpu.parameters()).device.type == "cuda"
    monkeypatch.setattr(device, "_processor_alone", True)
    assert trained(on_processor).mean_loss == pytest.approx(loss, rel=1e-4)
    for mine, theirs in zip(on_gpu.parameters(), on_processor.parameters(), strict=True):
        assert torch.allclose(mine.cpu(), theirs, atol=2e-4)


def test_what_was_cut_off_goes_on_with_the_same_dropout(tmp_path: Path) -> None:
    whole, first, second = (a_model(0.3) for _ in range(3))
    trained(whole)
    fitted = trained(first, end_share=0.5)
    save_weights(first, tmp_path / "half", fitted.progress)
    load_weights(second, tmp_path / "half")
    torch.cuda.manual_seed(99)  # another process's
    trained(second, start_share=0.5, progress=load_progress(tmp_path / "half"))
    for mine, theirs in zip(second.parameters(), whole.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)


def test_what_a_gpu_left_goes_on_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = a_model(0.1)
    fitted = trained(model, end_share=0.5)
    save_weights(model, tmp_path / "half", fitted.progress)
    monkeypatch.setattr(device, "_processor_alone", True)
    other = a_model(0.1)
    load_weights(other, tmp_path / "half")
    assert trained(other, start_share=0.5, progress=load_progress(tmp_path / "half")).step == STEPS


def test_more_than_its_share_is_out_of_memory() -> None:
    """In a process of its own: a share cannot be taken back."""
    code = """
import torch
from search.trial.device import keep_to_share, told_of_memory
from spaces.errors import OutOfMemory
keep_to_share(0.05)
total = torch.cuda.mem_get_info()[1]
torch.empty(int(0.03 * total), dtype=torch.uint8, device="cuda")
try:
    with told_of_memory(8, 1):
        torch.empty(int(0.1 * total), dtype=torch.uint8, device="cuda")
except OutOfMemory as error:
    print("told:", error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("told: out of memory with batches of 8 in 1 parts")


@pytest.mark.ray
@pytest.mark.parametrize("resources", [
    {"lanes": 2, "gpus_per_worker": 0.5},  # two lanes share a GPU
    {"lanes": 1, "gpus_per_worker": 1},
    {"lanes": 1, "workers_per_lane": 2, "gpus_per_worker": 0.5},  # a lane's workers share one: NCCL refuses that
], ids=["two lanes", "one lane", "two workers"])  # fmt: skip
def test_a_whole_study(told: Callable[..., str], tmp_path: Path, resources: dict[str, float]) -> None:
    """Trained on the GPU with rungs and hidden states; what it leaves loads where there is none; its memory is free again."""
    before = free_mb()
    changes = {"search": {"halving": HALVES, "startup_trials": 2}, "resources": resources, "confirm": {"seeds": 2}}
    path = tiny.write_study(tmp_path, **changes)
    told("run", path)
    spec = spec_of(tmp_path / "run")
    record, again = open_record(spec)
    try:
        assert not any(outcome.error for outcome in (*record.outcomes(), *again.outcomes()))
        assert record.fact("gpu_hours") > 0
    finally:
        record.close()
    best = next(folder for folder in sorted((tmp_path / "run" / "best").iterdir()) if folder.is_dir())
    code = (
        f"import transformers as t; print(t.AutoModelForSequenceClassification.from_pretrained({str(best)!r}).device)"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "cpu"
    assert free_mb() > before - SLACK_MB


@pytest.mark.ray
def test_two_workers_follow_the_curve_of_one(told: Callable[..., str], tmp_path: Path) -> None:
    losses = []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        resources = {"lanes": 1, "workers_per_lane": workers, "gpus_per_worker": 0.5}
        told("run", tiny.write_study(folder, resources=resources, budget={"trials": 2}, confirm={"seeds": 1}))
        record, _ = open_record(spec_of(folder / "run"))
        losses.append([each.measurements[-1].cost["mean_loss"] for each in record.outcomes()])
        record.close()
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


@pytest.mark.ray
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_lanes_leave_no_memory_taken(tmp_path: Path, seed: int) -> None:
    before = free_mb()
    study = Study(tmp_path, seed, resources={"lanes": 2, "gpus_per_worker": 0.5})
    for blows in ([Blow("worker", 20.0), Blow("controller", 15.0)], [Blow("driver", 22.0)], [Blow("all", 24.0)], []):
        found = study.run(blows)
        assert found.faults == []
        assert free_mb() > before - SLACK_MB
    assert found.exit_status == 0
