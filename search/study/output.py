"""The output folder: whose it is, what it says of the study, and what is written into it. Needs neither Ray nor torch."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

from search.record.lease import holder_of
from search.record.record import Record, existing_record, open_storage, storage_errors
from search.results.account import Account
from search.results.front import ParetoFront, Reference
from search.results.near import near_front
from search.results.report import write_report
from search.results.students import StudentRow, near_rows, student_rows
from search.results.table import write_front_csv
from search.study.card import write_cards
from search.trial import mirror
from spaces.budget import BudgetSpec
from spaces.deployment import DeploymentSpec
from spaces.errors import InputError, StudyError
from spaces.families import FAMILIES
from spaces.parameters import Choice
from spaces.remote import url_of, written
from spaces.search import SamplingSpec
from spaces.secrets import mask_secrets
from spaces.space import PARAMETERS, SearchSpace
from spaces.study import FREE, ConfirmSpec, StudySpec
from spaces.trial import BestConfig, Measurement, TrialOutcome
from spaces.yaml_io import parse_study, parse_yaml, to_yaml, write_whole

PACKAGES = ("torch", "transformers", "ray", "optuna", "tokenizers", "numpy")


@dataclass(frozen=True)
class StudyResult:
    """What a study found. `near` are students confirmed beside the front; `already_done` says that nothing was left to do."""

    spec: StudySpec
    front: ParetoFront
    rows: list[StudentRow]
    near: list[StudentRow]
    references: list[Reference]
    outcomes: list[TrialOutcome]
    already_done: bool = False


def fingerprint(spec: StudySpec) -> str:
    """Of what makes a study this study and not another."""
    plain = {name: value for name, value in spec.resolved().items() if name not in FREE}
    if spec.deployment == DeploymentSpec():  # which outputs from before it was there did not have
        del plain["deployment"]
    if spec.about.target != "span":  # likewise, and nothing else has windows
        del plain["data"]["stride"]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def claim_output(spec: StudySpec) -> str:
    """Writes study.yaml into the output, or checks that the one there is this study's. Returns the output's id, which it is given
    when it is claimed first and keeps wherever it is moved. Half of one, left by who was killed then, is nobody's."""
    path, output_id = spec.output / "study.yaml", uuid4().hex
    try:
        spec.output.mkdir(parents=True, exist_ok=True)
        if mirror.bring(path):
            raw = _left_by_a_run(path)
            if raw.get("fingerprint") != fingerprint(spec):
                theirs = raw["study"]
                raise InputError.of(
                    "output",
                    f"{written(spec.output)} holds another study ({theirs.get('name')!r}){_differing(theirs, spec)}; only "
                    f"{', '.join(sorted(FREE))} may change between runs of one study. Name another output (--output DIR)",
                )
            output_id = raw.get("output_id", output_id)
        elif any(name != ".ray" and not name.startswith(f".{path.name}.") for name in mirror.names(spec.output)):
            raise InputError.of(
                "output", f"{written(spec.output)} is not empty and holds no study; name another output"
            )
        study = mask_secrets(spec.resolved())
        content = {"fingerprint": fingerprint(spec), "output_id": output_id, "versions": versions(), "study": study}
        write_whole(path, to_yaml(content))
        mirror.send(path)
    except OSError as error:
        raise InputError.of("output", f"{spec.output} cannot be written: {error.strerror}") from None
    return str(output_id)


def _differing(theirs: Mapping[str, Any], spec: StudySpec, most: int = 3) -> str:
    """Such as `, with another seed and training.epochs`: the first keys that make it another study."""

    def flat(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in plain.items():
            found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
        return found

    old, new = (
        flat({name: value for name, value in study.items() if name not in FREE})
        for study in (theirs, mask_secrets(spec.resolved()))
    )
    keys = [key for key in {**new, **old} if old.get(key) != new.get(key)]
    words = keys if len(keys) <= most else [*keys[:most], f"{len(keys) - most} more"]
    return f", with another {' and '.join([', '.join(words[:-1]), words[-1]] if words[1:] else words)}" if words else ""


def open_record(spec: StudySpec) -> tuple[Record, Record]:
    """The study's record, and that of its confirmations."""
    storage = open_storage(spec.storage, spec.output)
    return Record(storage, spec.name, spec.objectives), Record(storage, f"{spec.name}.confirm", spec.objectives)


def from_record(spec: StudySpec, record: Record, again: Record) -> StudyResult:
    references = [Reference.model_validate(entry) for entry in record.fact("references") or []]
    if not references:
        raise StudyError(f"{written(spec.output)}: the study has measured nothing yet; run it first")
    outcomes = record.outcomes()
    front = ParetoFront.of(outcomes, spec, references)
    num_rows = record.fact("num_rows") or {}
    return result_of(spec, front, outcomes, again.outcomes(), delivered_metrics(record), references, num_rows)


def result_of(
    spec: StudySpec,
    front: ParetoFront,
    outcomes: Sequence[TrialOutcome],
    confirmations: Sequence[TrialOutcome],
    delivered: dict[int, dict[str, float]],
    references: Sequence[Reference],
    num_rows: Mapping[str, int],
) -> StudyResult:
    near = near_front(front, outcomes, spec, references, num_rows.get("validation", 0))
    known = (outcomes, confirmations, delivered, references, num_rows)
    rows = student_rows(spec, front, *known)
    return StudyResult(spec, front, rows, near_rows(spec, near, *known), list(references), list(outcomes))


def open_study(folder: Path) -> StudyResult:
    """The study in an output folder as its record stands now; needs neither Ray nor torch's models."""
    spec = spec_of(folder)
    return from_record(spec, *records_of(spec, folder))


def rebuild(folder: Path) -> tuple[StudyResult, list[Path]]:
    """Writes the report and front.csv again from the record, and where the study is finished and nobody runs it, its best-config
    files too. Returns what was written."""
    spec = spec_of(folder)
    record, again = records_of(spec, folder)
    result = from_record(spec, record, again)
    is_here = url_of(spec.output) is None  # at a URL only a run writes
    if is_here and record.fact("finished") is not None and holder_of(record) is None:
        write_results(result, record, again.outcomes())
        files = [spec.output / "best" / f"trial-{row.trial}.yaml" for row in result.rows]
    else:
        spec.output.mkdir(parents=True, exist_ok=True)
        write_tables(result, record, again.outcomes())
        files = []
    return result, [spec.output / "report.html", spec.output / "front.csv", *files]


def records_of(spec: StudySpec, folder: Path) -> tuple[Record, Record]:
    """The record of a study that was run in this folder, and that of its confirmations. Raises StudyError where there is none."""
    with storage_errors(spec.storage):
        record = existing_record(spec.storage, folder, spec.name, spec.objectives)
        return record, Record(open_storage(spec.storage, folder), f"{spec.name}.confirm", spec.objectives)


def spec_of(folder: Path) -> StudySpec:
    """The resolved study that an output folder belongs to, with that folder as its output wherever it lies now."""
    path = folder / "study.yaml"
    if not mirror.bring(path, patient=False):
        raise InputError.of(written(folder), "holds no study.yaml, so it is no study's output")
    study = {**_left_by_a_run(path)["study"], "output": written(folder.resolve())}
    return parse_study(study, str(path), folder.resolve(), files_must_exist=False)


def _left_by_a_run(path: Path) -> dict[str, Any]:
    try:
        raw = parse_yaml(path.read_text("utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError.of(str(path), f"cannot be read: {error}") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("study"), dict):
        raise InputError.of(
            str(path), "is no study.yaml that a run left: it holds no resolved study under the key study"
        )
    return raw


def fetch_output(output: Path, into: Path | None = None) -> Path:
    """Copies what is worth having of an output at a URL into a new or empty folder, by default of its name; not its checkpoints."""
    folder = into or Path(output.name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError.of(str(folder), "is there already and not empty; name another folder (--into)")
    if not mirror.bring(output / "study.yaml", patient=False):
        raise InputError.of(written(output), "holds no study.yaml, so it is no study's output")
    mirror.copy(output, folder, {"trials", "teacher", ".cache"})
    return folder


def delivered_metrics(record: Record) -> dict[int, dict[str, float]]:
    return {int(trial): output["metrics"] for trial, output in (record.fact("delivered") or {}).items()}


def trial_folder(spec: StudySpec, number: int) -> Path:
    """Where the checkpoints of a trial lie while it is in play."""
    return spec.output / "trials" / str(number)


def segment_folder(spec: StudySpec, number: int, until: float) -> Path:
    """Those of the segment that ends at the share `until`, one folder an attempt."""
    return trial_folder(spec, number) / f"{until:.3f}"


def weights_folder(spec: StudySpec, measured: Measurement) -> Path:
    """The checkpoint of what was measured."""
    return segment_folder(spec, measured.trial, measured.share) / f"attempt-{measured.attempt}"


def write_results(result: StudyResult, record: Record, confirmations: Sequence[TrialOutcome]) -> None:
    """front.csv, best/*.yaml, best/knee.yaml and report.html, from the record alone; best/ holds the front and no more."""
    spec, front, references = result.spec, result.front, result.references
    delivered, provenance = delivered_metrics(record), record.fact("provenance") or {}
    best = spec.output / "best"
    best.mkdir(parents=True, exist_ok=True)
    named = {f"trial-{trial}" for trial in front.trials} | ({"knee"} if front.points else set())
    for path in best.iterdir():
        if path.name.removesuffix(".yaml") not in named:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    by_number = {outcome.number: outcome for outcome in result.outcomes}
    for row in result.rows:
        config = best_config(spec, by_number[row.trial], row, delivered.get(row.trial, {}), references, provenance)
        text = to_yaml(config.model_dump(mode="json"))
        write_whole(best / f"trial-{row.trial}.yaml", text)
        if row.trial == front.knee:
            write_whole(best / "knee.yaml", text)
    write_cards(result, provenance)
    write_tables(result, record, confirmations)


def send_results(result: StudyResult) -> None:
    """What `write_results` wrote, to the output's URL, where it has one; the tables last."""
    output = result.spec.output
    if url_of(output) is None:
        return
    best = output / "best"
    here = {path.name for path in best.iterdir() if not path.name.startswith(".")}
    for name in mirror.names(best) - here:
        mirror.remove(best / name)
    for path in (*(best / name for name in sorted(here)), output / "front.csv", output / "report.html"):
        mirror.send(path)


def write_tables(result: StudyResult, record: Record, confirmations: Sequence[TrialOutcome]) -> None:
    """front.csv and report.html, each whole or not at all."""
    write_front_csv(result.spec.output / "front.csv", [*result.rows, *result.near])
    write_report(result.spec.output / "report.html", **reported(result, record, confirmations))


def reported(result: StudyResult, record: Record, confirmations: Sequence[TrialOutcome]) -> dict[str, Any]:
    """What the report is made of: the arguments of `report_page`."""
    return {
        "spec": result.spec,
        "front": result.front,
        "rows": result.rows,
        "references": result.references,
        "outcomes": [*result.outcomes, *confirmations],
        "near": result.near,
        "account": Account.of(record.fact),
        "num_rows": record.fact("num_rows") or {},
        "undelivered": {int(trial): error for trial, error in (record.fact("delivery_failures") or {}).items()},
    }


def best_config(
    spec: StudySpec,
    outcome: TrialOutcome,
    row: StudentRow,
    delivered: dict[str, float],
    references: Sequence[Reference],
    provenance: dict[str, Any],
) -> BestConfig:
    """Enough to train the student again and to know what it is worth. `delivered/*` metrics are the folder's own."""
    metrics: dict[str, Any] = dict(row.validation)
    metrics |= {name: score.model_dump() for name, score in row.test.items()}
    metrics["without_distillation"] = {name: score.model_dump() for name, score in row.without_distillation.items()}
    metrics["delivered"] = delivered
    metrics["share_of_teacher"], metrics["lift_kept"] = row.share_of_teacher, row.lift_kept
    metrics["references"] = {reference.name: reference.metrics for reference in references}
    return BestConfig(
        trial=outcome.number,
        config=outcome.config,
        parameters=outcome.parameters,
        metrics=metrics,
        sizes={"parameters": row.num_parameters, "bytes": row.num_bytes, **row.deployed},
        study=mask_secrets(one_point_study(spec, outcome).resolved()),
        provenance=provenance,
        reproduce=f"distilsearch run best/trial-{outcome.number}.yaml",
    )


def one_point_study(spec: StudySpec, outcome: TrialOutcome) -> StudySpec:
    """A study whose space is this student alone; its first trial has the same seed, so it trains it again."""
    values = {name: outcome.parameters.get(name, info.default) for name, info in PARAMETERS.items()}
    family = outcome.config.shape.family
    others = {name for name, info in PARAMETERS.items() if not info.of_all} - set(FAMILIES[family].keys)
    for name in others | ({"num_hidden_groups"} if family != "albert" else set()):
        values.pop(name)
    space = SearchSpace({name: Choice(values=(value,)) for name, value in values.items()})
    return spec.model_copy(
        update={
            "name": f"{spec.name[:80]}.trial-{outcome.number}",
            "space": space,
            "bounds": {},
            "budget": BudgetSpec(trials=1),
            "search": SamplingSpec(sampler="random"),
            "confirm": ConfirmSpec(seeds=1, without_distillation="none"),
            "trial_seeds": (outcome.config.seed,),
            "output": Path(f"{spec.output}.trial-{outcome.number}"),
            "storage": "sqlite" if url_of(spec.output) is None else spec.storage,
        }
    )


def versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "distilsearch": version("distilsearch"),
        **{name: version(name) for name in PACKAGES},
    }
