"""The model card of a delivered student: a README.md for people, with the metadata that Hugging Face reads before it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.results.front import Reference, reference_named
from search.results.scores import SeedScore
from search.results.students import StudentRow
from search.results.table import interval, millions, percent
from search.study.usage import PIPELINES, how_to_use
from spaces.deployment import COST_WORDS
from spaces.secrets import mask_secrets
from spaces.study import HubSource, StudySpec
from spaces.task import METRIC_WORDS
from spaces.yaml_io import to_yaml, write_whole

if TYPE_CHECKING:
    from search.study.output import StudyResult

RUNTIMES = {"pytorch": "PyTorch", "onnx": "ONNX Runtime in fp32", "onnx-int8": "ONNX Runtime in int8"}
MOST_LABELS = 30  # that a card lists


def write_cards(result: StudyResult, provenance: Mapping[str, Any]) -> None:
    """A card into the folder of each student of the front that has been delivered."""
    for row in result.rows:
        folder = result.spec.output / "best" / f"trial-{row.trial}"
        if (folder / "config.json").is_file():
            write_whole(folder / "README.md", model_card(result.spec, row, result.references, provenance, folder))


def model_card(
    spec: StudySpec,
    row: StudentRow,
    references: Sequence[Reference],
    provenance: Mapping[str, Any],
    folder: Path,
    formats: Mapping[str, Mapping[str, Any]] = {},
) -> str:
    """README.md of the student in `folder`, from whose config the labels are. `formats` are forms that an export wrote, with
    what came of checking them. Nothing in it names a folder of the machine it was made on, or a secret."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    labels = [str(config["id2label"][key]) for key in sorted(config.get("id2label", {}), key=int)]
    sections = [
        f"# {_plain(spec.name)}, trial {row.trial}",
        _what(spec, row),
        "## Use\n\n" + how_to_use(spec, row, formats),
        "## Scores\n\n" + _scores(spec, row, references),
        "## Size and speed\n\n" + _sizes(spec, row, references),
        *(["## Checked against PyTorch\n\n" + _checks(spec, formats)] if formats else []),
        "## Data\n\n" + _data(spec, labels, provenance),
        "## Limits\n\n" + _limits(spec, row),
        "## How it was made\n\n" + _how(spec, row, provenance),
    ]
    return f"---\n{to_yaml(_metadata(spec, row, config, formats))}---\n\n" + "\n\n".join(sections) + "\n"


def _metadata(
    spec: StudySpec, row: StudentRow, config: Mapping[str, Any], formats: Mapping[str, Any]
) -> dict[str, Any]:
    """The front matter: what is not known (language, licence) is left out, not guessed."""
    onnx, vectors = any(name.startswith("onnx") for name in formats), spec.about.task_head == "embedding"
    datasets = _hub_datasets(spec)
    scores = {name.removeprefix("test/"): score.mean for name, score in row.test.items()}
    split = "test" if scores else "validation"
    scores = scores or {name.removeprefix("validation/"): value for name, value in row.validation.items()}
    named = {"type": datasets[0], "name": datasets[0]} if datasets else {"type": spec.name, "name": spec.name}
    metrics = [
        {"type": name, "value": value, "name": f"{METRIC_WORDS.get(name, name)} ({split})"}
        for name, value in scores.items()
        if math.isfinite(value)
    ]
    result = {
        "task": {"type": PIPELINES[spec.about.task_head]},
        "dataset": {**named, "split": split},
        "metrics": metrics,
    }
    found: dict[str, Any] = {
        "library_name": "onnxruntime" if onnx else "sentence-transformers" if vectors else "transformers",
        "pipeline_tag": PIPELINES[spec.about.task_head],
        "tags": [
            "distilsearch",
            "knowledge-distillation",
            str(config.get("model_type", spec.task)),
            *(["onnx"] * onnx),
        ],
    }
    found |= {"base_model": spec.teacher.model} if _is_hub_id(spec.teacher.model) else {}
    found |= {"datasets": datasets} if datasets else {}
    found |= {"metrics": [entry["type"] for entry in metrics]} if metrics else {}
    found |= {"model-index": [{"name": f"{spec.name}-trial-{row.trial}", "results": [result]}]} if metrics else {}
    return mask_secrets(found)


def _what(spec: StudySpec, row: StudentRow) -> str:
    task = spec.task.replace("-", " ")
    share = (
        f" It keeps {percent(row.share_of_teacher)} of the teacher's {_word(spec)} on {row.scored_on}."
        if row.share_of_teacher
        else ""
    )
    return (
        f"A student for {task}, distilled from {_code(_teacher(spec))} and found by "
        f"distilsearch: {_plain(row.architecture)}; {millions(row.num_parameters)} parameters.{share}"
    )


def _scores(spec: StudySpec, row: StudentRow, references: Sequence[Reference]) -> str:
    teacher = reference_named(references, "teacher")
    names = [spec.quality, *(name for name in spec.about.metrics if name != spec.quality)]
    names += [name for name in spec.metrics if name not in names]
    if spec.training.order_share is not None:
        names.append("order_accuracy")
    lines = ["| | validation | test | 95 % interval on test |", "|---|---|---|---|"]

    def line(title: str, validation: float | None, test: float | None, span: str = "") -> None:
        if any(value is not None and math.isfinite(value) for value in (validation, test)):
            lines.append(f"| {title} | {_score(validation)} | {_score(test)} | {span} |")

    for name in names:
        score, title = row.test.get(f"test/{name}"), _plain(METRIC_WORDS.get(name, name))
        if score is not None and score.std is not None:
            title += f" (over {score.seeds} seeds, ± {100 * score.std:.1f})"
        line(title, row.validation.get(f"validation/{name}"), score.mean if score else None, interval(score))
    quality = _plain(_word(spec))
    without = row.without_distillation.get(f"test/{spec.quality}")
    if without is not None:
        line(f"{quality}, the same student without distillation", None, without.mean, interval(without))
    for reference in references:
        line(
            f"{quality}, {_plain(reference.label)}",
            reference.value(spec.quality),
            reference.value(spec.quality, "test"),
        )
    said = "The student was chosen on validation, so its score there flatters it; test reports. "
    said += _interval_words(row.test.get(f"test/{spec.quality}"))
    if not row.is_worth_having:
        said += f" **It is no better than {spec.about.floor}.**"
    if teacher is None:
        said += " The teacher was not scored."
    return "\n".join(lines) + "\n\n" + said.strip()


def _interval_words(score: SeedScore | None) -> str:
    if score is None:
        return "Nothing was scored on test."
    if score.low is None:
        return "No interval is known for this metric from one seed."
    if score.seeds > 1:
        return (
            f"The interval is of the mean over {score.seeds} trainings that differ in their seed, on these very texts."
        )
    return "The interval is of this one model, over texts like these."


def _sizes(spec: StudySpec, row: StudentRow, references: Sequence[Reference]) -> str:
    teacher, asked = reference_named(references, "teacher"), spec.deployment
    of_teacher = (
        f" ({percent(row.num_parameters / teacher.num_parameters)} of the teacher's)"
        if teacher and teacher.num_parameters
        else ""
    )
    counted = asked.counted(row.config.shape)
    lines = [
        f"- parameters: {row.num_parameters:,}{of_teacher}",
        f"- model.safetensors in fp32: {row.num_bytes:,} bytes",
        f"- FLOPs of {_batch(spec)}: {counted['flops']:,.0f}",
    ]
    where = f"{_batch(spec)}, {RUNTIMES[asked.runtime]}, {asked.threads} thread{'s' * (asked.threads != 1)}"
    if "latency_ms" in row.deployed:
        tail = f", 95th percentile {row.deployed['latency_ms_p95']:.3g} ms" if "latency_ms_p95" in row.deployed else ""
        lines.append(
            f"- latency: {row.deployed['latency_ms']:.3g} ms in the median{tail} ({where}; on the machine of the study)"
        )
    else:
        lines.append("- latency: not measured")
    if "peak_memory_bytes" in row.deployed:
        lines.append(f"- {COST_WORDS['peak_memory_bytes']}: {row.deployed['peak_memory_bytes']:,.0f} ({where})")
    return "\n".join(lines)


def _checks(spec: StudySpec, formats: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        f"| form | bytes | largest difference of an output | same prediction | {_plain(_word(spec))} on validation | on test |",
        "|---|---|---|---|---|---|",
    ]
    for name, form in formats.items():
        check = form.get("check")
        if check is None:
            lines.append(f"| {name} | {form['bytes']:,} | {'none: a copy' if name == 'hf' else 'not checked'} | | | |")
            continue
        worst = f"{max(check['largest_difference'].values()):.2g}" if check["largest_difference"] else ""
        same = check["share_equal"]["validation"]
        scores = [_score(check["metrics"].get(f"{split}/{spec.quality}")) for split in ("validation", "test")]
        lines.append(f"| {name} | {form['bytes']:,} | {worst} | {percent(same, 2)} | {scores[0]} | {scores[1]} |")
    return "\n".join(lines) + "\n\nThe other scores in this card are of the student in PyTorch, in fp32."


def _data(spec: StudySpec, labels: Sequence[str], provenance: Mapping[str, Any]) -> str:
    counts, data = provenance.get("num_rows") or {}, spec.data
    lines = ["- docstrings and code of installed Python packages, built into distilsearch"] if data.builtin else []
    for name in ("train", "validation", "test", "unlabelled"):
        source = getattr(data, name)
        parts = [_source_name(source)] if source is not None else []
        if source is None and name in ("validation", "test") and not data.builtin:
            parts.append("set aside from train")
        of_pairs = spec.about.target == "vector" and name in ("validation", "test")
        parts += [f"{counts[name]:,} {'pairs' if of_pairs else 'texts'}"] if name in counts else []
        if name == "unlabelled" and parts and data.augmentation != "none":
            parts.append(
                "made up from the training texts" if source is None else "some made up from the training texts"
            )
        lines += [f"- {name}: {', '.join(parts)}"] if parts else []
    if spec.about.target not in ("number", "span", "vector", "piece"):
        more = f" and {len(labels) - MOST_LABELS} more" if len(labels) > MOST_LABELS else ""
        lines.append(f"- labels: {', '.join(map(_code, labels[:MOST_LABELS]))}{more}")
    if "data_fingerprint" in provenance:
        lines.append(f"- fingerprint of the texts: {_code(provenance['data_fingerprint'])}")
    return "\n".join(lines)


def _limits(spec: StudySpec, row: StudentRow) -> str:
    shape = row.config.shape
    cut = f"- Its vocabulary is cut to {shape.vocabulary_size:,} pieces of the training text: other words are split finer, or lost."
    longer = f"read in windows that share {spec.data.stride}" if spec.about.target == "span" else "cut there"
    lines = [
        f"- Trained and scored on texts of at most {min(spec.data.max_length, shape.max_positions)} pieces; longer ones were "
        f"{longer}.",
        *(["- It always gives an answer, also where the context has none."] if spec.about.target == "span" else []),
        "- Made for texts like the training ones, in their language and of their kind. Nothing else was tried.",
        *([cut] if row.config.vocabulary != "full" else []),
        "- Not tested: robustness, fairness between groups of people, and whether its probabilities are calibrated.",
        "- What the teacher and the labels get wrong, it learned too.",
    ]
    return "\n".join(lines)


def _how(spec: StudySpec, row: StudentRow, provenance: Mapping[str, Any]) -> str:
    config, versions = row.config, provenance.get("versions") or {"distilsearch": version("distilsearch")}
    length = f"{config.steps:,} steps" if config.steps else f"{config.epochs:g} epoch{'s' * (config.epochs != 1)}"
    loss = []
    if spec.about.target == "vector":
        one, other = percent(config.soft_share, 0), percent(1 - config.soft_share, 0)
        loss.append(f"the teacher's vectors, each by cosine ({one}) and how alike two of them are ({other})")
    elif config.soft_share > 0:
        loss.append(
            f"soft targets at temperature {config.temperature:.3g} ({percent(config.soft_share, 0)} of the loss)"
        )
    if config.hidden_share > 0:
        loss.append(f"hidden states by {config.hidden_loss} ({percent(config.hidden_share, 0)})")
    if spec.training.order_share is not None:
        loss.append(f"the order of a text's two halves ({percent(spec.training.order_share, 0)})")
    known = (f"{name} {versions[name]}" for name in ("distilsearch", "torch", "transformers") if name in versions)
    study = f" ({_code(provenance['study_fingerprint'])})" if "study_fingerprint" in provenance else ""
    return (
        f"- by {_plain(', '.join(known))}; study {_code(spec.name)}{study}\n"
        f"- teacher: {_code(_teacher(spec))}\n"
        f"- student: {_plain(row.architecture)}\n"
        f"- loss: {' and '.join(loss) or 'to the labels alone'}; {length}, learning rate {config.learning_rate:.3g}, batches of "
        f"{config.batch_size}, dropout {config.dropout:g}, weight decay {config.weight_decay:g}, seed {config.seed}\n\n"
        "Its config is in the study's output folder, from where this trains it again:\n\n"
        f"```\ndistilsearch run best/trial-{row.trial}.yaml\n```"
    )


def _teacher(spec: StudySpec) -> str:
    """A hub id as it is; of a folder its name alone."""
    model = str(mask_secrets(spec.teacher.model))
    if model.startswith("package:"):
        return f"{model.removeprefix('package:').split('/')[0]} (a Python package)"
    return model if _is_hub_id(model) else model.rstrip("/").rsplit("/", 1)[-1]


def _is_hub_id(model: str) -> bool:
    """Such as `textattack/bert-base-uncased-SST-2`, or the few without an owner; a folder's path is absolute by now."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", model) is not None


def _hub_datasets(spec: StudySpec) -> list[str]:
    sources = (getattr(spec.data, name) for name in ("train", "validation", "test", "unlabelled"))
    return list(dict.fromkeys(source.hub for source in sources if isinstance(source, HubSource)))


def _source_name(source: Path | HubSource) -> str:
    if isinstance(source, HubSource):
        config = f", {source.config}" if source.config else ""
        return f"{_code(source.hub + config)}, split {_code(source.split)}"
    return _code(source.name)


def _batch(spec: StudySpec) -> str:
    asked = spec.deployment
    return f"{asked.batch_size} text{'s' * (asked.batch_size != 1)} of {asked.length} pieces"


def _word(spec: StudySpec) -> str:
    return METRIC_WORDS.get(spec.quality, spec.quality)


def _score(value: float | None) -> str:
    return percent(value) if value is not None and math.isfinite(value) else ""


def _plain(text: str) -> str:
    """Text as it stands, on one line, with nothing in it that Markdown or HTML would read."""
    line = " ".join(str(mask_secrets(str(text))).split())
    return re.sub(
        r"([\\`*_{}\[\]#|~])", r"\\\1", line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    ).replace("://", ":\\//")


def _code(text: object) -> str:
    """The same in a code span, which its own backquotes do not end."""
    line = " ".join(str(mask_secrets(str(text))).split()) or " "
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"
