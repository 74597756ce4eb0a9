"""Every shipped study, run small: its own space, recipes and settings on a tiny teacher and a few rows, in this process."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tiny

from examples import docstrings
from search.study.inputs import read_inputs
from search.study.searcher import trial_config
from search.suggest.sampling import Sampling
from search.trial import work
from search.trial.context import WorkerContext
from search.trial.pooling import write_modules
from search.trial.teacher import teach
from spaces.trial import WorkItem, WorkKind
from spaces.yaml_io import parse_study, parse_yaml, preset_names, preset_text, with_data

STUDIES = preset_names("studies")
TRIALS_BEYOND_THE_FIRST = 3


def test_there_are_presets_to_run() -> None:
    assert {"docstrings", "sst2", "sst2-quick", "mrpc", "stsb"} <= set(STUDIES)


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_a_preset_runs_small(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = partial(docstrings.docstring_pairs, num_validation=60, num_test=60)
    monkeypatch.setattr(docstrings, "docstring_pairs", few)
    raw = parse_yaml(preset_text("studies", name), name)
    teacher = tiny.write_teacher(tmp_path / "teacher", depth=6, hidden=192)
    given = raw["teacher"] if isinstance(raw["teacher"], dict) else {}
    raw["teacher"] = {**given, "model": str(teacher)}
    raw["teacher"].pop("sha256", None)
    raw["cache"] = str(tmp_path / "cache")
    if "builtin" in raw["data"]:
        raw["data"]["num_pairs"] = 200
    spec = parse_study(raw, name, tmp_path, files_must_exist=False)
    if "builtin" not in raw["data"]:
        pairs = "text_pair" in raw["data"]["columns"]
        numbers = raw.get("task") in ("text-regression", "sentence-embeddings")
        tagged, answered = (raw.get("task") == name for name in ("token-classification", "question-answering"))
        (tmp_path / "data").mkdir()
        for seed, (split, size) in enumerate((("train", 120), ("validation", 30), ("test", 30))):
            rows = tiny.texts(size, seed, labels=("food", "sport"))
            for row in rows:
                row |= {"label": str(len(row["text"]) / 10)} if numbers else {}
                row |= {"text_pair": row["text"][::-1]} if pairs else {}
            if not tagged and not answered:
                tiny.write_tsv(tmp_path / "data" / f"{split}.tsv", rows)
        if tagged:
            tiny.write_tagged(tmp_path / "data", (120, 30, 30))
        if answered:
            tiny.write_asked(tmp_path / "data", (40, 10, 10))
        spec = with_data(spec, tmp_path / "data")
    inputs = read_inputs(spec, lambda text: None)
    assert inputs.fine_tunes == (spec.task != "sentence-embeddings")
    if spec.data.augmentation != "none":
        inputs = tiny.made_up(inputs)
        assert len(inputs.transfer.splits["unlabelled"].labels) > len(inputs.transfer.splits["train"].labels)

    folder, alone = tmp_path / "fine_tuned", WorkerContext(data={"transfer": inputs.transfer})
    settings = {**spec.teacher.fine_tune.model_dump(), "epochs": 1}
    payload = {"base": str(inputs.source.folder), "settings": settings, "seed": 0}
    if inputs.fine_tunes:
        work.perform(WorkItem(key="fine_tune", kind=WorkKind.FINE_TUNE, folder=str(folder), payload=payload), alone)
    else:
        shutil.copytree(inputs.source.folder, folder)
        write_modules(folder, inputs.source.pooling, inputs.teacher.hidden_size, inputs.teacher.hidden_size)
    logits = {
        name: teach(str(folder), split, np.arange(len(split)), 0, alone)
        for name, split in inputs.transfer.splits.items()
    }
    if spec.space.narrows:
        ranking = WorkItem(key="rank", kind=WorkKind.RANK, payload={"teacher": str(folder)})
        work.perform(ranking, alone)
    students = WorkerContext(data={"transfer": inputs.transfer.with_teacher_logits(logits)})
    sampling = Sampling(spec, inputs.teacher, inputs.vocabularies, {})
    for number in range(len(spec.search.first) + TRIALS_BEYOND_THE_FIRST):
        parameters, shape = sampling.suggest([], number)
        config = trial_config(spec, parameters, shape, inputs.teacher.depth, number).model_copy(update={"steps": 2})
        item = WorkItem(
            key="trial", kind=WorkKind.TRAIN, trial=number, config=config, payload={"teacher": str(folder)}
        )  # fmt: skip
        measurement, _ = work.perform(item, students)
        assert measurement is not None
        assert measurement.step == 2
        assert -1 <= measurement.metrics[f"validation/{spec.quality}"] <= 1
