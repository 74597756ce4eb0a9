"""Exports one student of a study: picked from the front, written in the forms asked for, and held against the student in PyTorch.

Needs no Ray; torch alone once something is written.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.record.record import existing_record
from search.results.picks import Pick, as_plain, choose, costs_of
from search.study.card import model_card
from search.study.output import open_study
from search.study.teachers import find_teacher, reader_of
from search.study.texts import StudyTexts, read_texts
from search.trial import mirror
from spaces.errors import InputError, TrialError, near_miss
from spaces.heads import STOCK
from spaces.remote import written
from spaces.student import Frozen, StudentShape
from spaces.study import StudySpec, TeacherSpec
from spaces.yaml_io import write_whole

if TYPE_CHECKING:
    from search.trial.deliver.formats import Forms, Texts

FORMATS = {
    "hf": "a Hugging Face folder, fp32",
    "hf-fp16": "the same in half the bytes",
    "onnx": "model.onnx in fp32, with config and tokenizer",
    "onnx-int8": "the same with int8 weights",
}
SAYS = "export.json"  # what makes a folder an export of ours
Say = Callable[[str], None]


class Exported(Frozen):
    """What an export wrote: the student, why it, and each form with its bytes and what came of checking it."""

    folder: str
    quality: str  # the metric that students are chosen by
    picked: dict[str, Any]
    formats: dict[str, dict[str, Any]]
    unchecked: str = ""  # why, where nothing was checked


def formats_of(text: str) -> list[str]:
    """`hf,onnx` -> the forms, each once. Raises InputError."""
    names = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for name in names:
        if name not in FORMATS:
            raise InputError.of(
                "--format", f"{name!r} is no format{near_miss(name, FORMATS)}; there are {', '.join(FORMATS)}"
            )
    if not names:
        raise InputError.of("--format", f"names nothing; write some of {', '.join(FORMATS)}, with commas between")
    return names


def export(
    folder: Path, pick: Pick, formats: Sequence[str], to: Path | None = None, *, unchecked: bool = False,
    say: Say = lambda text: None,
) -> Exported:  # fmt: skip
    """Writes a student of the study in `folder` to `to` (`exports/trial-N` in it), whole or not at all. What an earlier export
    of the same student left there in other forms stays. Raises InputError."""
    result = open_study(folder)
    spec = result.spec
    picked = choose(pick, spec, result.front, result.rows, result.outcomes)
    trial = picked.row.trial
    source = spec.output / "best" / f"trial-{trial}"
    if not (mirror.bring(source) and (source / "model.safetensors").is_file()):
        raise InputError.of(
            written(folder),
            f"the weights of trial {trial} are not in {source.relative_to(spec.output)} (yet); run the study to its end",
        )
    target = (to or spec.output / "exports" / f"trial-{trial}").absolute()
    before = _earlier(target)
    record = existing_record(spec.storage, folder, spec.name, spec.objectives)
    provenance = {"num_rows": record.fact("num_rows") or {}, **(record.fact("provenance") or {})}
    checks = not unchecked and any(name != "hf" for name in formats)
    splits = _splits(spec, source, provenance, say) if checks else {}
    forms = _forms(spec, picked.row.config.shape, source, splits)
    made: dict[str, dict[str, Any]] = {}
    with _written(target) as temporary:
        if before.get("trial") == trial:
            for name in before["formats"].keys() - set(formats):
                if (target / name).is_dir():
                    shutil.copytree(target / name, temporary / name)
                    made[name] = before["formats"][name]
        for name in formats:
            say(f"writing {name}" + (" and checking it" if splits and name != "hf" else ""))
            made[name] = _form(forms, name, temporary / name, trial)
        for name in made:
            card = model_card(spec, picked.row, result.references, provenance, temporary / name, {name: made[name]})
            write_whole(temporary / name / "README.md", card)
        made = {name: made[name] for name in FORMATS if name in made}
        answer = {"trial": trial, "picked": as_plain(picked, costs_of(spec, picked.row)), "formats": made}
        write_whole(temporary / SAYS, json.dumps(answer, indent=2) + "\n")
    why = "" if checks or not any(name != "hf" for name in formats) else "--unchecked"
    return Exported(
        folder=str(target),
        quality=spec.quality,
        picked=as_plain(picked, costs_of(spec, picked.row)),
        formats={name: made[name] for name in formats},
        unchecked=why,
    )


def _form(forms: Forms, name: str, folder: Path, trial: int) -> dict[str, Any]:
    try:
        return forms.write(name, folder, threads=os.cpu_count() or 1).model_dump(mode="json")
    except TrialError as error:
        raise InputError.of("--format", f"trial {trial} cannot be written as {name}: {error}") from None


def _forms(spec: StudySpec, shape: StudentShape, source: Path, splits: dict[str, Texts]) -> Forms:
    from transformers.utils import logging as transformers_logging

    from search.trial.deliver.formats import Forms
    from search.trial.metrics import measure

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()

    names = _label_names(source)

    def measured(outputs: Any, labels: Any, word_offsets: Any) -> dict[str, float]:
        return measure(spec.about.target, dict(spec.metrics), outputs, labels, names, word_offsets)

    max_length = min(spec.data.max_length, shape.max_positions)
    return Forms(source, splits, measured, spec.about.target, max_length, own_code=shape.head != STOCK)


def _splits(spec: StudySpec, source: Path, provenance: dict[str, Any], say: Say) -> dict[str, Texts]:
    """Validation and test, read again from where the study had them."""
    import numpy as np

    from search.study.inputs import label_array
    from search.study.masked import in_halves
    from search.study.questions import windows_of
    from search.trial.deliver.formats import Texts

    say("reading the validation and test texts again")
    texts = _texts(spec)
    if spec.training.order_share is not None:
        texts = in_halves(texts, *_cutter(spec), [])
    known = provenance.get("data_fingerprint")
    if known is not None and known not in (texts.fingerprint, texts.labelled.fingerprint):
        raise InputError.of(
            "data", "these are not the texts that the study was run on, so nothing can be checked on them; bring those back, or "
            "write --unchecked",
        )  # fmt: skip
    held_out = {name: split for name, split in texts.splits.items() if name in ("validation", "test")}
    if spec.about.target == "span":
        tokenizer, max_length = _cutter(spec)
        found = {}
        for name, split in held_out.items():
            made = windows_of(tokenizer, split, name, max_length, spec.data.stride)
            found[name] = Texts(made.texts.as_lists(), made.labels, spec.about.task_head, made.questions)
        return found
    if spec.about.target == "piece":
        return {name: Texts(texts.splits[name].as_lists(), np.zeros(0), spec.about.task_head) for name in held_out}
    names = _label_names(source)
    return {
        name: Texts(split.as_lists(), label_array(split.labels, names, spec.about.target), spec.about.task_head)
        for name, split in held_out.items()
    }


def _label_names(source: Path) -> list[str]:
    """Of the student in the folder; none of one whose outputs are vectors."""
    named = json.loads((source / "config.json").read_text("utf-8")).get("id2label", {})
    return [named[key] for key in sorted(named, key=int)]


def _cutter(spec: StudySpec) -> tuple[Any, int]:
    """The teacher's tokenizer, by whose pieces texts were cut, contexts into windows, and how long they may be."""
    folder = spec.output / "teacher"
    if not mirror.bring(folder):
        raise InputError.of(
            "", f"{folder} is gone, and texts are cut by its tokenizer's pieces; write --unchecked", "teacher"
        )
    return reader_of(spec, find_teacher(TeacherSpec(model=str(folder)), spec.about.task_head))


def _texts(spec: StudySpec) -> StudyTexts:
    try:
        return read_texts(spec)
    except (InputError, OSError) as error:
        raise InputError.of(
            "data", f"what is exported is checked on the study's texts, and these cannot be read any more ({error}); bring them "
            "back, or write --unchecked",
        ) from None  # fmt: skip


def _earlier(target: Path) -> dict[str, Any]:
    """What an earlier export said of the folder; empty where there is none. Raises InputError where it holds anything else."""
    if not target.exists():
        return {}
    if not target.is_dir():
        raise InputError.of("--to", f"{target} is a file; name a folder")
    try:
        if not any(target.iterdir()):
            return {}
        said = json.loads((target / SAYS).read_text("utf-8"))
        return {"trial": int(said["trial"]), "formats": dict(said["formats"])}
    except (OSError, ValueError, TypeError, KeyError):
        raise InputError.of("--to", f"{target} is not empty and holds no export; name another folder") from None


@contextlib.contextmanager
def _written(target: Path) -> Iterator[Path]:
    """A folder to fill, whole or not at all; what the disk has to say of it is one message."""
    from safetensors import SafetensorError

    from search.trial.checkpoint import folder_whole

    made = [parent for parent in target.parents if not parent.exists()]
    try:
        with folder_whole(target) as temporary:
            yield temporary
    except (OSError, SafetensorError) as error:
        for parent in made:
            with contextlib.suppress(OSError):
                parent.rmdir()
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise InputError.of(
            "--to", f"{target} cannot be written: {reason}; nothing was left there. Name another folder with --to"
        ) from None
