"""What training leaves: folders whole or not at all, checkpoints that execute nothing, and a student as anyone loads it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from training_toys import a_config

from search.trial import checkpoint
from search.trial.context import WorkerContext
from search.trial.data import TransferSet
from search.trial.deliver.huggingface import deliver
from search.trial.work import perform
from spaces.errors import TrialError
from spaces.trial import WorkItem, WorkKind

# folders and checkpoints


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


# delivery


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
