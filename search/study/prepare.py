"""Prepares a study on the lanes: the teacher with its head, and its outputs over every split, once. What took long is kept in
the cache by content hash.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
from safetensors.numpy import load_file, save

from search.lanes.pool import LanePool
from search.results.front import Reference
from search.study.augment import with_made_up_texts
from search.study.begun import FOLDER
from search.study.hidden import with_hidden_states
from search.study.inputs import FORMAT, Inputs, Say, key_of
from search.study.teachers import fingerprint
from search.study.worth import refuse_chance
from search.trial import mirror
from search.trial.checkpoint import PROGRESS_FORMAT
from search.trial.data import TransferSet
from search.trial.pooling import write_modules
from search.trial.start.importance import FILE as IMPORTANCE_FILE
from spaces.errors import StudyError, TrialError
from spaces.remote import url_of
from spaces.trial import WorkItem, WorkKind
from spaces.yaml_io import write_whole

STEPS_A_PART = 300  # of fine-tuning: minutes for a base model on a few cores
MAX_TEACH_ROWS = 20_000  # rows of one teach item: small enough to spread over lanes and to show progress


@dataclass(frozen=True)
class Prepared:
    """A study ready to search: where the teacher lies, the transfer set in the object store, what students are held
    against. `teacher_passes` counts how often the teacher saw the data in this run (0: from the cache)."""

    teacher_folder: Path
    transfer: ray.ObjectRef
    references: list[Reference]
    teacher_passes: float
    begun_folder: Path | None = None  # of the student that those of its shape start from


def prepare(inputs: Inputs, reference: ray.ObjectRef, pool: LanePool, threads: int, say: Say) -> Prepared:
    """On the lanes: the teacher's head if it has none, and its outputs. `reference`: the transfer set in the object store.
    Raises StudyError where a lane fails."""
    spec, output = inputs.spec, inputs.spec.output
    inputs = _within_reach(inputs)
    given, inputs = inputs, with_made_up_texts(inputs, pool, say)
    transfer = inputs.transfer
    if inputs is not given:
        reference = ray.put(transfer)
    folder = output / "teacher"
    made_from = _teacher_key(inputs)
    told = folder / "made_from.txt"
    if not (mirror.bring(folder) and told.is_file() and told.read_text() == made_from):
        source = inputs.source.folder
        if inputs.fine_tunes:
            source = spec.cache / "teachers" / made_from
            if mirror.bring(source) and (source / "config.json").is_file():
                say("the fine-tuned teacher is in the cache")
            else:
                say("fine-tuning the teacher")
                _fine_tune(inputs, pool, reference, source, threads, say)
                mirror.bring(source)
        _copy_model(source, folder, made_from, inputs)
        mirror.send(folder)
    ranking = _ask_for_importance(inputs, pool, reference, folder, made_from, say)
    logits, passes = _teacher_outputs(inputs, pool, reference, folder, say)
    refuse_chance(spec, logits["validation"], transfer.splits["validation"].labels)
    if ranking is not None:
        result = pool.wait(ranking)
        pool.acknowledge(ranking)
        if result.error:
            raise StudyError(f"the teacher's parts could not be ranked: {result.error}")
        if mirror.bring(folder / IMPORTANCE_FILE):  # of a teacher that nothing is copied from there is none
            _copy_file(folder / IMPORTANCE_FILE, _kept_ranking(inputs, folder))
    transfer = transfer.with_teacher_logits(logits).joined()
    taught, more_passes = with_hidden_states(inputs, transfer, pool, folder, say)
    begun = None if inputs.begun is None else output / FOLDER
    if inputs.begun is not None and begun is not None and inputs.begun.folder != begun:
        _copy_model(inputs.begun.folder, begun)
        mirror.send(begun)
    return Prepared(folder, ray.put(taught), _references(inputs, inputs.transfer, logits), passes + more_passes, begun)


def _within_reach(inputs: Inputs) -> Inputs:
    """Where lanes reach the driver's files by a URL alone, the teacher that they fine-tune or ask for words lies there too."""
    spec, source = inputs.spec, inputs.source
    if url_of(spec.cache) is None or not (inputs.fine_tunes or spec.data.augmentation != "none"):
        return inputs
    folder = spec.cache / "teachers" / f"given-{source.fingerprint}"
    if not mirror.bring(folder):
        _copy_model(source.folder, folder)
        mirror.send(folder)
    return replace(inputs, source=replace(source, folder=folder))


def _teacher_key(inputs: Inputs) -> str:
    parts: list[Any] = [inputs.source.fingerprint]
    if inputs.fine_tunes:
        spec = inputs.spec
        parts += [inputs.labelled_fingerprint, spec.teacher.fine_tune.model_dump(), spec.data.class_weights]
        parts += [spec.seed, FORMAT]
    return key_of(parts)


def _fine_tune(inputs: Inputs, pool: LanePool, transfer: ray.ObjectRef, folder: Path, threads: int, say: Say) -> None:
    """In parts, each of which leaves a checkpoint in the cache: killed, the same command goes on from the last one."""
    settings, num_rows = inputs.spec.teacher.fine_tune, len(inputs.transfer.splits["train"])
    num_parts = max(1, round(settings.epochs * num_rows / settings.batch_size / STEPS_A_PART))
    parts = [
        folder.with_name(f"{folder.name}.{part}-of-{num_parts}.v{PROGRESS_FORMAT}") for part in range(1, num_parts)
    ]
    parts.append(folder)
    done = max((part for part in range(1, num_parts) if mirror.there(parts[part - 1])), default=0)
    if done:
        say(f"continuing after {done} of {num_parts} parts")
    for part in range(done, num_parts):
        payload: dict[str, Any] = {
            "base": str(inputs.source.folder),
            "settings": settings.model_dump(),
            "seed": inputs.spec.seed,
            "refs": {"transfer": transfer},
            "threads": threads,  # the other lanes have nothing to do yet
        }
        if part:
            payload["continues"] = str(parts[part - 1])
        item = WorkItem(
            key=f"fine_tune:{parts[part].name}",
            kind=WorkKind.FINE_TUNE,
            start_share=part / num_parts,
            end_share=(part + 1) / num_parts,
            folder=str(parts[part]),
            payload=payload,
        )
        pool.submit(item)
        result = pool.wait(item.key)
        pool.acknowledge(item.key)
        if result.error:
            raise StudyError(f"the teacher could not be fine-tuned: {result.error}")
        if part:
            mirror.remove(parts[part - 1])


def _ask_for_importance(
    inputs: Inputs, pool: LanePool, transfer: ray.ObjectRef, folder: Path, made_from: str, say: Say
) -> str | None:
    """Has the teacher's heads, neurons and dimensions ranked where students may be narrower and the cache does not know; the
    item's key."""
    if not inputs.spec.space.narrows or (folder / IMPORTANCE_FILE).is_file():
        return None
    kept = _kept_ranking(inputs, folder)
    if mirror.bring(kept):
        say("the ranking of the teacher's parts is in the cache")
        _copy_file(kept, folder / IMPORTANCE_FILE)
        return None
    key = f"rank:{made_from}"
    payload = {"teacher": str(folder), "refs": {"transfer": transfer}}
    pool.submit(WorkItem(key=key, kind=WorkKind.RANK, folder=str(folder / IMPORTANCE_FILE), payload=payload))
    return key


def _kept_ranking(inputs: Inputs, folder: Path) -> Path:
    key = key_of([fingerprint(folder), inputs.labelled_fingerprint, FORMAT])
    return inputs.spec.cache / "rankings" / f"{key}{Path(IMPORTANCE_FILE).suffix}"


def _copy_file(source: Path, target: Path) -> None:
    write_whole(target, source.read_bytes())
    mirror.send(target)


def _copy_model(source: Path, folder: Path, made_from: str = "", inputs: Inputs | None = None) -> None:
    temporary = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for path in source.iterdir():
        if path.is_file() and path.suffix in (".json", ".safetensors", ".txt", ".model"):
            shutil.copyfile(path, temporary / path.name)
    if inputs is not None and inputs.source.pooling:  # lies in folders of its own, or nowhere
        width = inputs.teacher.hidden_size
        write_modules(temporary, inputs.source.pooling, width, width)
    if made_from:
        (temporary / "made_from.txt").write_text(made_from)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def _teacher_outputs(
    inputs: Inputs, pool: LanePool, transfer: ray.ObjectRef, folder: Path, say: Say
) -> tuple[dict[str, np.ndarray], float]:
    """(N, C) or (W, C) logits of every split, from the cache or from one pass spread over the lanes; and how many passes it
    took."""
    everything = {name: split.tokens["full"] for name, split in inputs.transfer.splits.items()}
    sizes = {name: len(tokens) for name, tokens in everything.items()}
    num_outputs = {name: tokens.num_outputs for name, tokens in everything.items()}
    key = hashlib.sha256(f"{fingerprint(folder)}:{inputs.transfer.fingerprint}:{FORMAT}".encode()).hexdigest()[:16]
    kept = inputs.spec.cache / "outputs" / f"{key}.safetensors"
    if mirror.bring(kept):
        logits = load_file(kept)
        if {name: len(values) for name, values in logits.items()} == num_outputs:
            say("the teacher's outputs are in the cache")
            return logits, 0.0
    say(f"the teacher reads {sum(sizes.values()):,} texts, once")
    parts: list[tuple[str, str, np.ndarray]] = []
    for name in sizes:
        order = np.argsort(-everything[name].lengths, kind="stable")
        pieces = max(pool.num_lanes, -(-sizes[name] // MAX_TEACH_ROWS))
        # Dealt out like cards, longest first: every part has the same mix of lengths.
        parts += [(f"teach:{key}:{name}:{i}", name, order[i::pieces]) for i in range(pieces) if len(order[i::pieces])]
    for item_key, name, rows in parts:
        payload = {"teacher": str(folder), "split": name, "rows": rows, "refs": {"transfer": transfer}}
        pool.submit(WorkItem(key=item_key, kind=WorkKind.TEACH, payload=payload))
    num_labels = len(inputs.transfer.label_names)
    logits = {name: np.full((size, num_labels), np.nan, np.float32) for name, size in num_outputs.items()}
    read = 0
    for item_key, name, rows in parts:
        result = pool.wait(item_key)
        pool.acknowledge(item_key)
        if result.error:
            raise StudyError(f"the teacher's outputs could not be computed: {result.error}")
        logits[name][everything[name].numbers(rows)] = result.output["logits"]
        read += result.output["forward_rows"]
    if not all(np.isfinite(values).all() for values in logits.values()):
        raise StudyError("the teacher's outputs are not finite numbers; is the model whole?")
    write_whole(kept, save(logits))
    mirror.send(kept)
    return logits, read / sum(sizes.values())


def _references(inputs: Inputs, transfer: TransferSet, logits: dict[str, np.ndarray]) -> list[Reference]:
    from search.trial.floor import majority

    metrics: dict[str, float] = {}
    for name in ("validation", "test"):
        try:
            scored = transfer.measure(name, logits[name])
        except TrialError as error:
            raise StudyError(f"the teacher could not be scored: {error}") from None
        metrics |= {f"{name}/{metric}": value for metric, value in scored.items()}
    size = inputs.teacher.num_parameters
    folder_bytes = sum(path.stat().st_size for path in (inputs.spec.output / "teacher").glob("*.safetensors"))
    return [
        Reference(
            name="teacher",
            label="teacher",
            num_parameters=_head_size(inputs, size),
            num_bytes=folder_bytes,
            metrics=metrics,
        ),
        Reference(name="majority", label=inputs.spec.about.constant, metrics=majority(transfer)),
    ]


def _head_size(inputs: Inputs, size: int) -> int:
    """The teacher as used: what fine-tuning adds to the encoder is its head."""
    from math import prod

    from safetensors import safe_open

    total = 0
    for path in (inputs.spec.output / "teacher").glob("*.safetensors"):
        with safe_open(path, "numpy") as file:
            total += sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total or size
