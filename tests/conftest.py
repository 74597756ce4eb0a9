"""What every test may use: a quiet offline environment, and tiny data and teachers made once."""

from __future__ import annotations

import os

# Before anything imports transformers, wandb or ray: no test reaches the network.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    WANDB_MODE="offline",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_AUTH_MODE="disabled",  # the tests' clusters and processes meet in many ways; test_token.py has its own environment
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests' matrices are tiny: threads only wait for each other

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from commands import distilsearch, finished, study, told  # noqa: F401
from embedding_toys import embedding, scored_folder  # noqa: F401
from hypothesis import settings
from places import one_node  # noqa: F401
from slurm_places import slurm  # noqa: F401
from tag_toys import tagged_folder, tagging  # noqa: F401
from whole_study import ran  # noqa: F401

settings.register_profile("tiny", deadline=None, print_blob=True)
settings.load_profile("tiny")

DOCS = Path(__file__).parent.parent / "docs"
LABELS = ["food", "music", "sport"]


def pytest_configure(config: pytest.Config) -> None:
    if config.option.markexpr != "gpu":  # the others are of processors, wherever they run
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.tsv, validation.tsv and test.tsv of the tiny task."""
    folder = tmp_path_factory.mktemp("data")
    tiny.write_data(folder, sizes=(120, 30, 30))
    return folder


@pytest.fixture(scope="session")
def base_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT without a head."""
    return tiny.write_teacher(tmp_path_factory.mktemp("base") / "teacher")


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with a head for the tiny task, and dropout in its config."""
    return tiny.write_teacher(tmp_path_factory.mktemp("headed") / "teacher", LABELS, dropout=0.1)


@pytest.fixture
def copied(teacher: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the tiny teacher with changes to its config.json."""

    def copy(**changes: Any) -> Path:
        folder = tmp_path / "copy"
        shutil.copytree(teacher, folder)
        config = {**json.loads((folder / "config.json").read_text()), **changes}
        (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
        return folder

    return copy


@pytest.fixture
def study_of(data_folder: Path, teacher: Path, tmp_path: Path) -> Any:
    """A maker of StudySpecs on the tiny task: changes in, spec out; nothing is fine-tuned."""
    from spaces.study import StudySpec
    from spaces.yaml_io import parse_study

    def make(**changes: Any) -> StudySpec:
        plain: dict[str, Any] = {
            "name": "tiny",
            "data": {
                **{name: str(data_folder / f"{name}.tsv") for name in ("train", "validation", "test")},
                "max_length": 32,
            },
            "teacher": str(teacher),
            "space": {
                "family": ["bert", "albert"],
                "depth": {"int": [1, 3]},
                "vocabulary": ["used", "full"],
                "embedding_size": [8, "full"],
                "num_hidden_groups": {"int": [1, 3], "when": {"family": "albert"}},
                "temperature": {"float": [1, 4]},
                "learning_rate": {"float": [1e-3, 5e-3], "log": True},
                "batch_size": [16],
            },
            "training": {"epochs": 2},
            "tracking": "none",
            "accept": ["chance"],  # the teacher was never trained
            "output": str(tmp_path / "run"),
            "cache": str(tmp_path / "cache"),
        }
        return parse_study({**plain, **changes}, "study.yaml", tmp_path)

    return make


@pytest.fixture(scope="session")
def tokenizer(teacher: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(teacher)


@pytest.fixture(scope="session")
def model(teacher: Path) -> Any:
    """The tiny teacher, loaded; no test may change it."""
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(teacher).eval()


@pytest.fixture(scope="session")
def train_texts(data_folder: Path) -> list[str]:
    return [line.split("\t")[0] for line in (data_folder / "train.tsv").read_text().splitlines()[1:]]


@pytest.fixture(scope="session")
def transfer(data_folder: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tiny task as a TransferSet under the vocabularies full and used, with the teacher's logits."""
    import numpy as np

    from search.study.inputs import read_inputs
    from search.trial.context import WorkerContext
    from search.trial.teacher import teach
    from spaces.yaml_io import parse_study

    folder = tmp_path_factory.mktemp("transfer")
    files = {name: str(data_folder / f"{name}.tsv") for name in ("train", "validation", "test")}
    raw = {"name": "tiny", "data": {**files, "max_length": 32}, "teacher": str(teacher), "cache": str(folder)}
    made = read_inputs(parse_study({**raw, "output": str(folder / "run")}, "x", folder), lambda text: None).transfer
    assert set(made.vocabularies) == {"full", "used"}
    logits = {
        name: teach(str(teacher), split, np.arange(len(split.labels)), 0, WorkerContext())
        for name, split in made.splits.items()
    }
    return made.with_teacher_logits(logits)


@pytest.fixture
def run_item(teacher: Path, transfer: Any, tmp_path: Path) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """Trains a trial through the worker's own door; (measurement, weights)."""
    from safetensors.torch import load_file

    from search.trial.context import WorkerContext
    from search.trial.work import perform
    from spaces.trial import Measurement, TrialConfig, WorkItem, WorkKind

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


@pytest.fixture
def registries() -> Iterator[None]:
    """After the test, the families and the heads that there are by themselves."""
    from spaces.families import FAMILIES
    from spaces.heads import HEADS

    before = [(registry, dict(registry)) for registry in (FAMILIES, HEADS)]
    yield
    for registry, entries in before:
        registry.clear()
        registry.update(entries)


@pytest.fixture
def documented(tmp_path: Path) -> Callable[[str], Path]:
    """Writes the example of docs/extending.md whose first line names the file."""

    def write(name: str) -> Path:
        blocks = (DOCS / "extending.md").read_text().split("```python\n")[1:]
        code = next(block for block in blocks if block.startswith(f"# {name}")).split("```")[0]
        path = tmp_path / name
        path.write_text(code)
        return path

    return write
