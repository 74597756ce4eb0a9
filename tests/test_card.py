"""Model cards: metadata that Hugging Face takes, words from the record, nothing private, nothing that Markdown would read."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from exporting import finished_study, tiny_study
from huggingface_hub import ModelCard
from test_picks import a_study

from search.results.students import StudentRow
from search.study.card import model_card
from search.study.output import open_study
from spaces.study import StudySpec
from spaces.yaml_io import parse_study

PROVENANCE = {
    "num_rows": {"train": 120, "validation": 30, "test": 30},
    "data_fingerprint": "d" * 16,
    "study_fingerprint": "s" * 16,
    "versions": {"distilsearch": "0.9", "torch": "2.13.0", "transformers": "5.23.0"},
}
LABELS = ["food", "music", "sport"]


def a_card(
    spec: StudySpec, row: StudentRow, references: Any, folder: Path, labels: list[str] = LABELS, **more: Any
) -> ModelCard:
    config = {"model_type": "bert", "id2label": dict(enumerate(labels))}
    (folder / "config.json").write_text(json.dumps(config))
    return ModelCard(model_card(spec, row, references, PROVENANCE, folder, **more))


def by_hand(folder: Path, labels: list[str] = LABELS, more: Any = None, **changes: Any) -> ModelCard:
    """Of trial 2 of the front of test_picks."""
    from test_results import REFERENCES

    spec, _, rows, _ = a_study()
    return a_card(spec.model_copy(update=changes), rows[1], REFERENCES, folder, labels, **(more or {}))


def test_the_metadata_is_what_hugging_face_takes(tmp_path: Path) -> None:
    card = by_hand(tmp_path)
    data = card.data
    assert (data.library_name, data.pipeline_tag, data.base_model) == (
        "transformers",
        "text-classification",
        "some/teacher",
    )
    assert set(data.tags) == {"distilsearch", "knowledge-distillation", "bert"}
    assert (data.language, data.license) == (None, None)  # not guessed
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_split) == ("accuracy", 0.87, "test")
    assert (result.task_type, data.model_name) == ("text-classification", "small-trial-2")
    assert ModelCard(str(card)).data.to_dict() == data.to_dict()


def test_the_card_says_what_it_is_worth(tmp_path: Path) -> None:
    text = by_hand(tmp_path).text
    for words in (
        "# small, trial 2",
        "A student for text classification, distilled from `some/teacher`",
        "It keeps 95.8 % of the teacher's accuracy on test.",
        "| accuracy | 88.0 % | 87.0 % | 84.8 to 88.9 % |",
        "| accuracy, teacher | 92.0 % | 90.8 % |",
        "| accuracy, bag of n-grams | 82.0 % | 83.4 % |",
        "- parameters: 24,051,458 (22.0 % of the teacher's)",
        "- latency: not measured",
        "- test: 30 texts",
        "- labels: `food`, `music`, `sport`",
        "- Trained and scored on texts of at most 128 pieces",
        "distilsearch 0.9, torch 2.13.0, transformers 5.23.0",
        "distilsearch run best/trial-2.yaml",
    ):
        assert words in text, words


def test_what_was_measured_of_its_costs_and_forms_is_told(tmp_path: Path) -> None:
    from test_results import REFERENCES

    spec, _, rows, _ = a_study()
    row = rows[1].model_copy(update={"deployed": {"latency_ms": 4.25, "latency_ms_p95": 5.5}})
    check = {
        "largest_difference": {"validation": 0.3, "test": 0.45},
        "share_equal": {"validation": 0.988, "test": 0.99},
        "metrics": {"validation/accuracy": 0.871, "test/accuracy": 0.862},
    }
    forms = {"onnx-int8": {"folder": "onnx-int8", "file": "model.onnx", "bytes": 24_000_000, "check": check}}
    card = a_card(spec, row, REFERENCES, tmp_path, formats=forms)
    assert (
        "latency: 4.25 ms in the median, 95th percentile 5.5 ms (1 text of 32 pieces, ONNX Runtime in fp32, 1 thread;"
        in card.text
    )
    assert "| onnx-int8 | 24,000,000 | 0.45 | 98.80 % | 87.1 % | 86.2 % |" in card.text
    assert "onnxruntime.InferenceSession" in card.text
    assert card.data.library_name == "onnxruntime"
    assert "onnx" in card.data.tags


def test_nothing_private_and_nothing_that_markdown_reads(tmp_path: Path) -> None:
    home = tmp_path / "home" / "anna"
    home.mkdir(parents=True)
    name = "a|b`c <script>.tsv"
    (home / name).write_text("text\tlabel\n")
    raw = {
        "name": "small", "data": {"train": str(home / name)}, "teacher": str(home / "my *teacher*"),
        "metrics": {}, "output": str(home / "run"), "storage": "postgresql://me:geheim@host/db",
    }  # fmt: skip
    given = parse_study(raw, "study.yaml", home)
    labels = [
        "[click](http://evil)",
        "</code><script>alert(1)</script>",
        "plain",
        "two\nlines ``",
        "https://me:geheim@host/x",
    ]
    card = by_hand(tmp_path, labels, data=given.data, teacher=given.teacher, storage=given.storage, output=given.output)
    text = str(card)
    for private in (str(home), "anna", "geheim"):
        assert private not in text
    assert card.data.base_model is None  # a folder of this machine is no model that others have
    assert "`my *teacher*`" in text
    assert "``a|b`c <script>.tsv``" in text  # in a code span, where neither Markdown nor HTML is read
    assert "`[click](http://evil)`, `</code><script>alert(1)</script>`, `plain`" in text
    assert "``` two lines `` ```" in text
    assert "https://me:***@host/x" in text


PIPELINE = """
import json, sys
from transformers import pipeline
print(json.dumps([pipeline("text-classification", model=folder)("bread and soup") for folder in sys.argv[1:]]))
"""


@pytest.mark.slow
def test_a_delivered_folder_has_one_and_runs_in_a_pipeline(
    transfer: Any, teacher: Path, data_folder: Path, tmp_path: Path
) -> None:
    spec = finished_study(partial(tiny_study, tmp_path, data_folder, teacher), transfer, teacher, tmp_path)
    folders = [spec.output / "best" / f"trial-{trial}" for trial in open_study(spec.output).front.trials]
    assert len(folders) == 2
    for folder in folders:
        card = ModelCard.load(folder / "README.md")
        assert "- labels: `food`, `music`, `sport`" in card.text
        assert "- train: `train.tsv`, 120 texts" in card.text
        assert str(tmp_path) not in str(card)
        assert card.data.base_model is None
    done = subprocess.run(
        [sys.executable, "-c", PIPELINE, *map(str, folders)], capture_output=True, text=True, check=True
    )
    for (answer,) in json.loads(done.stdout.splitlines()[-1]):
        assert answer["label"] in LABELS
        assert 0 < answer["score"] <= 1


@pytest.mark.parametrize("kept", ["soft", "none"])
def test_how_it_was_taught(kept: str, tmp_path: Path) -> None:
    from test_results import REFERENCES

    spec, _, rows, _ = a_study()
    config = rows[0].config if kept == "soft" else rows[0].config.without_distillation()
    text = a_card(spec, rows[0].model_copy(update={"config": config}), REFERENCES, tmp_path).text
    said = "- loss: soft targets at temperature 2 (90 % of the loss); 3 epochs, learning rate 0.0002"
    assert (said in text) == (kept == "soft")
    assert ("- loss: to the labels alone; 3 epochs" in text) == (kept == "none")
