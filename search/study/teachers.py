"""Finds the teacher: a hub id, a folder, or a model inside an installed package; and what it says of itself."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from search.trial.pooling import pooling_of
from spaces.errors import InputError, cut
from spaces.student import TaskHead, TeacherShape
from spaces.study import StudySpec, TeacherSpec
from spaces.task import TASK_HEADS, Task

DOES = {
    "text": "classifies text",
    "token": "classifies words",
    "span": "answers questions",
    "masked": "tells masked pieces",
}
WANTED = ("*.json", "*.safetensors", "*.txt", "*.model")
WIDEST = 100_000  # of a vector


@dataclass(frozen=True)
class TeacherSource:
    """A model folder on this machine. `labels` are the names in order of its head for `task_head`; none without one. For sentence
    embeddings any encoder will do as it is: they are the numbers of its vectors' places, and `pooling` says how it makes them."""

    folder: Path
    config: dict[str, Any]
    labels: tuple[str, ...] | None
    fingerprint: str
    task_head: TaskHead = "text"
    pooling: str = ""

    @property
    def has_masked_lm(self) -> bool:
        """Whether the model says so of itself."""
        both = ("BertForPreTraining", "AlbertForPreTraining")  # with a second head, for pairs of sentences
        return any(name.endswith("ForMaskedLM") or name in both for name in self.config.get("architectures") or [])

    def shape(self, num_labels: int) -> TeacherShape:
        """Sizes as arithmetic needs them; architectures name them differently."""
        get = self.config.get
        return TeacherShape(
            model_type=get("model_type", ""),
            depth=get("num_hidden_layers") or get("n_layers"),
            hidden_size=get("hidden_size") or get("dim"),
            num_heads=get("num_attention_heads") or get("n_heads"),
            intermediate_size=get("intermediate_size") or get("hidden_dim"),
            vocabulary_size=get("vocab_size"),
            max_positions=get("max_position_embeddings", 512) - (2 if get("model_type", "").endswith("roberta") else 0),
            type_vocabulary_size=max(1, get("type_vocab_size") or 1),
            num_labels=num_labels,
            num_parameters=_num_parameters(self.folder),
            embedding_size=get("embedding_size") if get("embedding_size") != get("hidden_size") else None,
            task_head=self.task_head,
        )


def find_teacher(spec: TeacherSpec, task_head: TaskHead = "text") -> TeacherSource:
    """Brings the teacher to this machine. Raises InputError where it cannot be had or is no encoder."""
    folder = _folder(spec)
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise InputError.of(
            "teacher", f"{folder} holds no readable config.json; name a Hugging Face model folder", "model"
        )
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise InputError.of("teacher", f"{folder} holds no weights (model.safetensors){_pickled(folder)}", "model")
    if spec.sha256 and (found := _sha256(weights[0])) != spec.sha256:
        raise InputError.of(
            "teacher", f"{weights[0].name} has hash {found}, not {spec.sha256}; it is not the model named", "sha256"
        )
    _check_encoder(config, folder, task_head)
    names = config.get("architectures") or []
    head = any(name.endswith(f"For{TASK_HEADS[task_head]}") for name in names)
    try:
        table = config.get("id2label") or {str(i): f"LABEL_{i}" for i in range(config.get("num_labels", 2))}
        labels = tuple(str(table[key]) for key in sorted(table, key=int)) if head else None
        if head and task_head == "masked":
            labels = ("piece",)
        source = TeacherSource(folder, config, labels, fingerprint(folder), task_head)
        width = source.shape(2).hidden_size
    except (TypeError, ValueError, LookupError, AttributeError, SafetensorError) as error:  # pydantic's is a ValueError
        problem = f"{folder} holds a config.json or weights that make no model: {cut(str(error), 300)}"
        raise InputError.of("teacher", problem, "model") from None
    return _of_vectors(source, width) if task_head == "embedding" else source


def _of_vectors(source: TeacherSource, width: int) -> TeacherSource:
    """The same as a maker of vectors. Raises InputError where it makes them as no student here does."""
    try:
        pooling = pooling_of(source.folder)
        if width > WIDEST:
            raise ValueError(f"its vectors have {width:,} numbers")
    except ValueError as error:
        problem = f"{source.folder}: {cut(str(error), 300)}; name an encoder that pools by the mean or its first piece"
        raise InputError.of("teacher", problem, "model") from None
    places = tuple(map(str, range(width)))
    return replace(source, labels=places, fingerprint=f"{source.fingerprint}-{pooling}", pooling=pooling)


def _pickled(folder: Path) -> str:
    """What to do where the weights are there, in a form whose reading may run whatever its author wrote."""
    if not any(folder.glob("pytorch_model*.bin")):
        return ""
    return (
        "; pytorch_model.bin is a pickle, which distilsearch does not read. Where you trust its author, load it with transformers "
        "and save_pretrained it, which writes model.safetensors"
    )


def _check_encoder(config: dict[str, Any], folder: Path, task_head: TaskHead) -> None:
    from transformers.models.auto import modeling_auto as known

    kinds = {
        "text": known.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        "token": known.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
        "embedding": known.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,  # the encoders among all models
        "span": known.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
        "masked": known.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    }[task_head]
    kind = config.get("model_type", "")
    if "auto_map" in config:
        raise InputError.of(
            "teacher",
            f"{folder} needs code of its own (auto_map in config.json), which is not executed, and no setting says otherwise; "
            "name a model of a kind that transformers has, such as bert or roberta",
            "model",
        )
    needs = (
        ("num_hidden_layers", "n_layers"),
        ("hidden_size", "dim"),
        ("num_attention_heads", "n_heads"),
        ("vocab_size",),
    )
    if not isinstance(kind, str) or kind not in kinds or config.get("is_encoder_decoder") or config.get("is_decoder"):
        raise InputError.of(
            "teacher", f"model type {kind!r} is no encoder that {DOES[task_head]}, such as bert or roberta", "model"
        )
    for names in needs:
        if not any(config.get(name) for name in names):
            raise InputError.of("teacher", f"its config.json says no {names[0]}", "model")


def match_labels(source: TeacherSource, data_labels: list[str], task: Task) -> list[str]:
    """The label names in the teacher's order, as the data writes them. Raises InputError on a mismatch.

    Names are matched without regard to case. Numbers match a head whose names are generic (LABEL_0) by index.
    """
    assert source.labels is not None
    if task.target in ("vector", "piece"):
        return list(source.labels)
    made_for = source.config.get("problem_type")
    if task.problem_type and made_for and made_for != task.problem_type:
        raise InputError.of("teacher", f"its head is made for {made_for.replace('_', ' ')}, not for this task", "model")
    if task.target == "span":
        if len(source.labels) != len(data_labels):
            raise InputError.of(
                "teacher", f"its head has {len(source.labels)} outputs, and an answer has a start and an end", "model"
            )
        return data_labels
    if task.target == "number":
        if len(source.labels) != 1:
            raise InputError.of(
                "teacher", f"its head has {len(source.labels)} outputs, a regression has one; name a teacher with one, or "
                "without a task head to fine-tune it", "model",
            )  # fmt: skip
        return data_labels
    generic = all(name.upper().startswith("LABEL_") for name in source.labels)
    if generic and all(re.fullmatch(r"[0-9]{1,9}", label) and int(label) < len(source.labels) for label in data_labels):
        return [str(index) for index in range(len(source.labels))]
    by_lower = {name.lower(): index for index, name in enumerate(source.labels)}
    unknown = [label for label in data_labels if label.lower() not in by_lower]
    if unknown:
        raise InputError.of(
            "data",
            f"label {unknown[0]!r} is not one of the teacher's {list(source.labels)}; write data.labels, such as "
            f"labels: {{{unknown[0]}: {source.labels[0]}}}, or name a teacher without a task head to fine-tune it",
            "labels",
        )
    order = {label.lower(): label for label in data_labels}
    return [order.get(name.lower(), name) for name in source.labels]


def fingerprint(folder: Path) -> str:
    """Of everything that makes the model what it is: config, weights, tokenizer."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if (
            path.is_file()
            and path.suffix in (".json", ".safetensors", ".bin", ".txt", ".model")
            and path.name != "fine_tuned.json"
        ):
            digest.update(path.name.encode() + _sha256(path).encode())
    return digest.hexdigest()[:16]


def _folder(spec: TeacherSpec) -> Path:
    model = spec.model
    if model.startswith("package:"):
        package, _, inside = model.removeprefix("package:").partition("/")
        found = importlib.util.find_spec(package) if package.isidentifier() else None
        if found is None or not found.submodule_search_locations:
            name = package.replace("_", "-")
            raise InputError.of("teacher", f"the package {package!r} is not installed; pip install {name}", "model")
        folder = (Path(next(iter(found.submodule_search_locations))) / inside).resolve()
        if not folder.is_dir():
            raise InputError.of("teacher", f"the package {package!r} holds no folder {inside!r}", "model")
        return folder
    try:
        path = Path(model).expanduser()
        if path.is_dir():
            return path
    except (RuntimeError, ValueError, OSError) as error:  # ~nobody, a null byte
        raise InputError.of("teacher", f"{model!r} is no path: {error}", "model") from None
    if path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise InputError.of("teacher", f"there is no folder {path}", "model")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, revision=spec.revision, allow_patterns=list(WANTED)))
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError.of(
            "teacher",
            f"{model!r} is no folder here, and the hub did not give it: {first[:200]}. "
            "Check the name and the network, or name a local folder",
            "model",
        ) from None


def _num_parameters(folder: Path) -> int:
    import math

    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "numpy") as file:
            names = [name for name in file.keys() if not name.endswith(("position_ids", "token_type_ids"))]  # noqa: SIM118
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in names)
    return total


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def reader_of(spec: StudySpec, source: TeacherSource) -> tuple[Any, int]:
    """The teacher's tokenizer, and how many pieces of a text are read. Raises InputError where it cannot be the teacher's."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        tokenizer = tokenizer_of(source)
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError.of("teacher", f"{source.folder} holds no tokenizer that loads: {first}", "model") from None
    names = getattr(tokenizer, "vocab_files_names", {}).values()
    if names and not any((source.folder / name).is_file() for name in names):
        # transformers 5 makes a tokenizer of special tokens alone, to which every text is unknown
        raise InputError.of("teacher", f"{source.folder} holds no tokenizer: none of {', '.join(names)}", "model")
    if source.task_head != "text" and not tokenizer.is_fast:
        raise InputError.of(
            "teacher", f"its tokenizer does not say whose a piece is; {spec.task} needs a fast one (tokenizer.json)", "model"
        )  # fmt: skip
    highest, rows = max(tokenizer.get_vocab().values()), source.config["vocab_size"]
    if highest >= rows:
        raise InputError.of(
            "teacher", f"its tokenizer has a piece {highest}, its embeddings only {rows} rows; they do not belong together", "model"
        )  # fmt: skip
    return tokenizer, min(spec.data.max_length, source.shape(2).max_positions)


def tokenizer_of(source: TeacherSource) -> Any:
    """The teacher's tokenizer. To a byte-level one (RoBERTa's) the blank before a word is a part of it, and words that come alone
    have none: it is told to put one there."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source.folder, trust_remote_code=False)
    if source.task_head != "token" or not tokenizer.is_fast:
        return tokenizer
    before = tokenizer.backend_tokenizer.pre_tokenizer
    if getattr(before, "add_prefix_space", True):
        return tokenizer
    tokenizer = AutoTokenizer.from_pretrained(source.folder, trust_remote_code=False, add_prefix_space=True)
    before.add_prefix_space = True  # not every class of tokenizers does that by itself
    tokenizer.backend_tokenizer.pre_tokenizer = before
    return tokenizer
