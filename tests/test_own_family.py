"""A student family by import path: the example of docs/extending.md, run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from search.study.inputs import read_inputs
from search.study.searcher import trial_config
from search.suggest.sampling import Sampling
from search.trial import work
from search.trial.context import WorkerContext
from search.trial.students import build_student
from search.trial.teacher import load_teacher
from spaces.errors import InputError
from spaces.families import FAMILIES
from spaces.study import StudySpec
from spaces.trial import WorkItem, WorkKind

pytestmark = pytest.mark.usefixtures("registries")


@pytest.fixture
def example(documented: Callable[[str], Path]) -> Path:
    return documented("ernie_students.py")


def test_the_example_is_searched_trained_and_loads_anywhere(
    study_of: Callable[..., StudySpec], example: Path, teacher: Path, transfer: Any, tmp_path: Path
) -> None:
    space = {"family": "ernie", "depth": 3, "layers": "first", "vocabulary": "full", "batch_size": 16}
    spec = study_of(families={"ernie": "ernie_students.py:FAMILY"}, space=space)  # relative to the study file
    assert spec.families == {"ernie": f"{example}:FAMILY"}
    inputs = read_inputs(spec, lambda text: None)
    assert inputs.transfer.own_families == spec.families
    parameters, shape = Sampling(spec, inputs.teacher, inputs.vocabularies, {}).suggest([], 0)
    config = trial_config(spec, parameters, shape, 3, 0).model_copy(update={"steps": 1, "learning_rate": 1e-12})
    model = build_student(shape, label_names=["a", "b", "c"])
    assert shape.num_parameters == sum(parameter.numel() for parameter in model.parameters())

    FAMILIES.pop("ernie")  # as in a lane, which has read no study file
    given = inputs.transfer.with_teacher_logits({name: split.teacher_logits for name, split in transfer.splits.items()})
    context = WorkerContext(data={"transfer": given})
    payload = {"teacher": str(teacher)}
    item = WorkItem(key="t", kind=WorkKind.TRAIN, trial=0, config=config, folder=str(tmp_path / "t"), payload=payload)
    assert work.perform(item, context)[0] is not None
    weights = {"weights": str(tmp_path / "t" / "attempt-1"), **payload}
    item = WorkItem(
        key="d", kind=WorkKind.DELIVER, trial=0, config=config, folder=str(tmp_path / "best"), payload=weights
    )
    _, delivered = work.perform(item, context)
    assert delivered["num_parameters"] == shape.num_parameters
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "best")
    assert loaded.config.model_type == "ernie"
    ids = torch.tensor([[2, 60, 70, 3]])
    with torch.no_grad():  # all of the teacher's layers, and a step too small to matter
        mine, its = loaded.base_model(ids)[0], load_teacher(str(teacher)).base_model(ids)[0]
    torch.testing.assert_close(mine, its, atol=1e-4, rtol=0)


def test_a_family_that_is_none_is_told(study_of: Callable[..., StudySpec], example: Path) -> None:
    path = "ernie_students.py"
    for families, words in (
        ({"bert": f"{path}:FAMILY"}, "families.bert: is a family already"),
        ({"mine": f"{path}:build"}, "is function, not a spaces.families.layout.Family"),
        ({"mine": f"{path}:MISSING"}, "cannot be imported: AttributeError"),
        ({"mine": "nowhere.py:FAMILY"}, "cannot be imported: FileNotFoundError"),
    ):
        with pytest.raises(InputError) as caught:
            study_of(families=families)
        assert words in str(caught.value)
    with pytest.raises(InputError, match="family: 'ernie' is not allowed"):
        study_of(space={"family": ["bert", "ernie"]})
    assert (
        subprocess.run(
            [sys.executable, "-c", "import spaces.yaml_io, sys; sys.exit('torch' in sys.modules)"]
        ).returncode
        == 0
    )
