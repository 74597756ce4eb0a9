"""A head by import path: the example of docs/extending.md, run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from search.results.students import architecture_in_words
from search.study.inputs import read_inputs
from search.study.searcher import trial_config
from search.suggest.sampling import Sampling
from search.trial import work
from search.trial.context import WorkerContext
from search.trial.students import build_student
from spaces.errors import InputError
from spaces.heads import HEADS
from spaces.study import StudySpec
from spaces.trial import WorkItem, WorkKind

pytestmark = pytest.mark.usefixtures("registries")

ELSEWHERE = """
import sys
for ours in ("search", "spaces", "cluster"):
    sys.modules[ours] = None  # cannot be imported
from transformers import AutoModelForSequenceClassification, AutoTokenizer
folder = sys.argv[1]
model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True).eval()
print(model(**AutoTokenizer.from_pretrained(folder)("bread and soup", return_tensors="pt")).logits.tolist())
"""


@pytest.fixture
def example(documented: Callable[[str], Path]) -> Path:
    return documented("mean_head.py")


@pytest.mark.parametrize(
    "family", ["albert", *(pytest.param(name, marks=pytest.mark.slow) for name in ("bert", "distilbert"))]
)
def test_the_example_is_searched_trained_and_loads_elsewhere(
    family: str, study_of: Callable[..., StudySpec], example: Path, teacher: Path, transfer: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    space = {
        "family": family,
        "depth": 2,
        "head": ["mean"],
        "vocabulary": "full",
        "batch_size": 16,
        "hidden_share": 0.2,
    }
    spec = study_of(heads={"mean": "mean_head.py:MeanHead"}, space=space)  # relative to the study file
    assert spec.heads == {"mean": f"{example}:MeanHead"}
    inputs = read_inputs(spec, lambda text: None)
    parameters, shape = Sampling(spec, inputs.teacher, inputs.vocabularies, {}).suggest([], 0)
    assert shape.head == parameters["head"] == "mean"
    model = build_student(shape, label_names=["a", "b", "c"])
    assert shape.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert {name: tuple(tensor.shape) for name, tensor in model.named_parameters()} == shape.tensors()
    config = trial_config(spec, parameters, shape, 3, 0).model_copy(update={"steps": 2})
    assert "head mean" in architecture_in_words(config)

    HEADS.pop("mean")  # as in a lane, which has read no study file
    given = inputs.transfer.with_teacher_logits({name: split.teacher_logits for name, split in transfer.splits.items()})
    context = WorkerContext(data={"transfer": given})
    payload = {"teacher": str(teacher), "exact": True}  # in fp32, as who loads it
    item = WorkItem(key="t", kind=WorkKind.TRAIN, trial=0, config=config, folder=str(tmp_path / "t"), payload=payload)
    measurement, _ = work.perform(item, context)
    assert measurement is not None
    weights = {"weights": str(tmp_path / "t" / "attempt-1"), **payload}
    item = WorkItem(
        key="d", kind=WorkKind.DELIVER, trial=0, config=config, folder=str(tmp_path / "best"), payload=weights
    )
    _, delivered = work.perform(item, context)
    assert delivered["num_parameters"] == shape.num_parameters
    assert delivered["num_bytes"] == shape.num_bytes
    assert delivered["metrics"]["validation/accuracy"] == measurement.metrics["validation/accuracy"]

    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "best", trust_remote_code=True).eval()
    encoded = AutoTokenizer.from_pretrained(tmp_path / "best")(
        ["bread and soup", "a"], padding=True, return_tensors="pt"
    )
    if family == "distilbert":
        encoded.pop("token_type_ids", None)
    with torch.no_grad():
        logits = loaded(**encoded).logits
        hidden = loaded.base_model(**encoded).last_hidden_state[0].mean(0)
    np.testing.assert_allclose(logits[0], loaded.head.out(hidden).detach(), atol=1e-5)
    if family == "bert":
        elsewhere = subprocess.run(
            [sys.executable, "-c", ELSEWHERE, str(tmp_path / "best")], capture_output=True, text=True, cwd=tmp_path
        )
        assert elsewhere.returncode == 0, elsewhere.stderr
        np.testing.assert_allclose(json.loads(elsewhere.stdout), logits[:1], atol=1e-5)


def test_the_encoder_starts_from_the_teacher_and_the_head_does_not_depend_on_it(
    study_of: Callable[..., StudySpec], example: Path, teacher: Path, transfer: Any, tmp_path: Path
) -> None:
    space = {"family": "bert", "depth": 3, "layers": "first", "head": "mean", "vocabulary": "full", "batch_size": 16}
    spec = study_of(heads={"mean": "mean_head.py:MeanHead"}, space=space)
    inputs = read_inputs(spec, lambda text: None)
    parameters, shape = Sampling(spec, inputs.teacher, inputs.vocabularies, {}).suggest([], 0)
    config = trial_config(spec, parameters, shape, 3, 0).model_copy(update={"steps": 1, "learning_rate": 1e-12})
    item = WorkItem(
        key="t",
        kind=WorkKind.TRAIN,
        trial=0,
        config=config,
        folder=str(tmp_path / "t"),
        payload={"teacher": str(teacher)},
    )
    given = inputs.transfer.with_teacher_logits({name: split.teacher_logits for name, split in transfer.splits.items()})
    work.perform(item, WorkerContext(data={"transfer": given}))
    from safetensors.torch import load_file

    student = load_file(tmp_path / "t" / "attempt-1" / "weights.safetensors")
    its = load_file(teacher / "model.safetensors")
    name = "bert.encoder.layer.1.attention.self.query.weight"
    torch.testing.assert_close(student[name], its[name], atol=1e-6, rtol=0)
    assert student["head.out.weight"].std() > 0.001
    assert not any("pooler" in key or "classifier" in key for key in student)


def test_a_head_that_is_none_is_told(study_of: Callable[..., StudySpec], example: Path) -> None:
    path = "mean_head.py"
    for heads, words in (
        ({"stock": f"{path}:MeanHead"}, "heads.stock: is every family's own head"),
        ({"mine": f"{path}:torch"}, "is no class with a static method `tensors`"),
        ({"mine": f"{path}:MISSING"}, "cannot be imported: AttributeError"),
        ({"mine": "nowhere.py:Head"}, "cannot be imported: FileNotFoundError"),
    ):
        with pytest.raises(InputError) as caught:
            study_of(heads=heads)
        assert words in str(caught.value)
    with pytest.raises(InputError, match="head: 'mean' is not allowed"):
        study_of(space={"head": ["stock", "mean"]})
