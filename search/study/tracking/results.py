"""What a study found, as W&B is to have it: the front's table and chart, the table of trials, and artifacts with their lineage."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from search.results.figure import front_figure
from search.results.students import StudentRow, architecture_in_words
from search.results.table import csv_columns, csv_line
from search.study.output import StudyResult
from search.study.tracking.rows import Row, short_error
from spaces.secrets import mask_secrets
from spaces.trial import TrialOutcome

ARTIFACT_SECONDS = 3600  # for one to be sent; the driver does not wait so long
COSTS_SHOWN = ("train_seconds", "tokens", "optimizer_steps")


def results_key(result: StudyResult, models: bool) -> str:
    """Names these results: of what the record says and of the files that are logged. The same results again have the same key."""
    told = [trial_line(outcome, result) for outcome in result.outcomes] + [csv_line(row) for row in _rows(result)]
    sums = [[str(path.relative_to(result.spec.output)), _sum(path)] for path in _files(result, models)]
    text = json.dumps([told, sums], sort_keys=True, default=str)
    return f"results {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def trial_line(outcome: TrialOutcome, result: StudyResult) -> dict[str, Any]:
    """One trial of the search for the table of trials: what was asked, what became of it, what it cost."""
    measured = outcome.last
    costs = {"train_seconds": outcome.train_seconds, "tokens": outcome.train_tokens}
    costs["optimizer_steps"] = float(measured.step if measured else 0)
    return {
        "trial": outcome.number,
        "state": outcome.state.value,
        "error": short_error(outcome),
        "on_front": outcome.number in result.front.trials,
        "share": outcome.share,
        "student": architecture_in_words(outcome.config),
        **outcome.parameters,
        "parameters": outcome.config.shape.num_parameters,
        "bytes": outcome.config.shape.num_bytes,
        **(measured.metrics if measured else {}),
        **{f"cost/{name}": costs[name] for name in COSTS_SHOWN},
    }


def results_row(wandb: Any, result: StudyResult, key: str) -> Row:
    """Everything that is no file: logged last, so that whoever finds this row finds the artifacts, too."""
    front = [csv_line(row) for row in _rows(result)]
    trials = [trial_line(outcome, result) for outcome in result.outcomes]
    columns = list(dict.fromkeys(column for line in trials for column in line))
    return Row(
        key,
        {
            "front_table": _table(wandb, front, csv_columns(front)),
            "trials_table": _table(wandb, trials, columns),
            "front_chart": front_chart(wandb, result),
        },
    )


def front_chart(wandb: Any, result: StudyResult) -> Any:
    figure = front_figure(result.spec, result.front, result.rows, result.references, result.outcomes, near=result.near)
    return wandb.Plotly(figure)


def summary(result: StudyResult) -> dict[str, Any]:
    return {
        "hypervolume": result.front.hypervolume,
        "knee": result.front.knee,
        "students_on_front": len(result.rows),
    }


def log_artifacts(run: Any, wandb: Any, result: StudyResult, provenance: Mapping[str, Any], models: bool) -> None:
    """Teacher and data go in, by their fingerprints alone: no text and no weight of theirs is sent. Out come the best-configs, the
    report and, where they are wanted, the models. Online it waits until the server has them all, and raises what wandb raises
    where it does not."""
    spec, sent = result.spec, list[Any]()
    for name, about in inputs_of(provenance).items():
        artifact = wandb.Artifact(f"{name}-{about['fingerprint'][:16]}", type=name, metadata=about)
        with artifact.new_file(f"{name}.json") as file:  # else all of them would have one digest, and be one version
            file.write(json.dumps(about, indent=2, sort_keys=True))
        # `use_artifact` refuses offline (wandb 0.31); this is what it does else.
        run._log_artifact(artifact, is_user_created=True, use_after_commit=True)
        sent.append(artifact)
    about = mask_secrets(dict(provenance))
    configs = sorted((spec.output / "best").glob("*.yaml"))
    if configs:
        sent.append(_log(run, wandb, f"{spec.name}-best-configs", "best-config", configs, about))
    report = [path for path in (spec.output / "report.html", spec.output / "front.csv") if path.is_file()]
    if report:
        sent.append(_log(run, wandb, f"{spec.name}-report", "report", report, about))
    for row, aliases in aliases_of(result).items() if models else ():
        folder = model_folder(result, row)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        if not files:
            continue
        student = next(each for each in result.rows if each.trial == row)
        metadata = {**about, "trial": row, "student": student.architecture, "scores": _scores(student)}
        metadata |= {"config": student.config.model_dump(mode="json"), "parameters": student.num_parameters}
        files += [path for path in configs if path.stem == f"trial-{row}"]
        sent.append(_log(run, wandb, f"{spec.name}-student", "model", files, metadata, aliases, folder))
    for artifact in sent if not run.offline else ():
        artifact.wait(timeout=ARTIFACT_SECONDS)


def inputs_of(provenance: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What went into the students: kind -> what may be told of it, its fingerprint first."""
    teacher, data = provenance.get("teacher") or {}, provenance.get("data_fingerprint")
    found: dict[str, dict[str, Any]] = {}
    if teacher.get("fingerprint"):
        found["teacher"] = mask_secrets({"fingerprint": teacher["fingerprint"], "model": teacher.get("model")})
    if data:
        found["data"] = {"fingerprint": data}
    return found


def aliases_of(result: StudyResult) -> dict[int, list[str]]:
    """trial -> what its model is also called. Chosen as everything is, on validation."""
    if not result.rows:
        return {}
    quality = f"validation/{result.spec.quality}"
    chosen = {
        "knee": result.front.knee,
        "smallest": min(result.rows, key=lambda row: (row.num_parameters, row.num_bytes, row.trial)).trial,
        "best": max(result.rows, key=lambda row: row.validation.get(quality, -math.inf)).trial,
    }
    return {
        row.trial: [f"trial-{row.trial}", *(word for word, trial in chosen.items() if trial == row.trial)]
        for row in result.rows
    }


def model_folder(result: StudyResult, trial: int) -> Path:
    return result.spec.output / "best" / f"trial-{trial}"


def _log(
    run: Any,
    wandb: Any,
    name: str,
    kind: str,
    files: Sequence[Path],
    metadata: Mapping[str, Any],
    aliases: Sequence[str] = ("latest",),
    below: Path | None = None,
) -> Any:
    artifact = wandb.Artifact(name, type=kind, metadata=dict(metadata))
    for file in files:
        inside = str(file.relative_to(below)) if below and file.is_relative_to(below) else file.name
        # Sent from where it lies: a copy of each model beside it would double the output.
        artifact.add_file(str(file), name=inside, skip_cache=True, policy="immutable")
    run.log_artifact(artifact, aliases=list(aliases))
    return artifact


def _scores(row: StudentRow) -> dict[str, Any]:
    return {**row.validation, **{name: score.mean for name, score in row.test.items()}}


def _rows(result: StudyResult) -> list[StudentRow]:
    return [*result.rows, *result.near]


def _files(result: StudyResult, models: bool) -> list[Path]:
    output = result.spec.output
    found = [*(output / "best").glob("*.yaml"), output / "report.html", output / "front.csv"]
    if models:
        found += [path for row in result.rows for path in model_folder(result, row.trial).rglob("*")]
    return sorted(path for path in found if path.is_file())


def _sum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _table(wandb: Any, lines: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Any:
    """A column may hold numbers and words (hidden_size: 50%, 384); one that no line has is none."""
    data = [[line.get(column) for column in columns] for line in lines]
    return wandb.Table(columns=list(columns), data=data, allow_mixed_types=True)
