"""Inputs: what is known of a study before any lane works: its texts, its teacher, and the pieces under every vocabulary."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from search.study.begun import check_same_pieces, check_some_start, find_begun
from search.study.masked import WHOLE, in_halves, masked_splits, of_pieces
from search.study.questions import Windows, windows_of
from search.study.tagged import IGNORED
from search.study.teachers import TeacherSource, find_teacher, match_labels, reader_of, tokenizer_of
from search.study.texts import UNLABELLED, LabelledTexts, StudyTexts, read_texts
from search.trial.data import NO_LABEL, Split, Tokens, TransferSet, Vocabulary
from search.trial.layouts import LAYOUTS
from search.trial.metrics import NO_TAG
from search.trial.pieces import pieces_of
from search.trial.places import NOWHERE
from search.trial.vocabulary import cut_vocabulary, full_vocabulary, load_tokenizer, new_ids
from spaces.errors import Fault, InputError, TrialError, near_miss
from spaces.heads import STOCK
from spaces.parameters import Choice
from spaces.space import SearchSpace
from spaces.student import TaskHead, TeacherShape
from spaces.study import StudySpec
from spaces.task import OUTSIDE

Say = Callable[[str], None]
FORMAT = 1  # of what the cache holds; a change here leaves old entries alone


@dataclass(frozen=True)
class Inputs:
    """What is known before any lane works: enough to refuse bad input and to plan."""

    spec: StudySpec
    texts: StudyTexts
    source: TeacherSource
    transfer: TransferSet
    labelled_fingerprint: str  # of the texts with labels alone, which are all that fine-tuning reads
    teacher: TeacherShape
    fine_tunes: bool
    notes: list[str] = field(default_factory=list)
    begun: TeacherSource | None = None  # the student that those of its shape start from

    @property
    def vocabularies(self) -> dict[str, int]:
        return {name: len(entry.kept) for name, entry in self.transfer.vocabularies.items()}

    @property
    def num_train_tokens(self) -> int:
        return len(self.transfer.splits["train"].tokens["full"].ids)


def read_inputs(spec: StudySpec, say: Say) -> Inputs:
    """Reads data and teacher, and tokenises. Raises InputError; no lane is needed."""
    faults: list[Fault] = []
    texts: StudyTexts | None = None
    source: TeacherSource | None = None
    begun: TeacherSource | None = None
    try:  # one after the other, but all report their faults
        texts = read_texts(spec)
    except InputError as error:
        faults += error.faults
    try:
        source = find_teacher(spec.teacher, spec.about.task_head)
    except InputError as error:
        faults += [Fault(f"teacher.{fault.where}", fault.problem) for fault in error.faults]
    try:
        begun = find_begun(spec)
    except InputError as error:
        faults += error.faults
    if faults or texts is None or source is None:
        raise InputError("", faults)
    fine_tunes = source.labels is None
    label_names = texts.label_names if fine_tunes else match_labels(source, texts.label_names, spec.about)
    _check_metrics(spec, len(label_names))
    first: list[str] = []
    tokenizer, max_length = reader_of(spec, source)
    if spec.about.target == "piece":
        if fine_tunes:
            first.append("the teacher has no masked-LM head: one is trained with it first, as teacher.fine_tune says")
        spec = of_pieces(spec, first)
        if spec.training.order_share is not None:
            texts = in_halves(texts, tokenizer, max_length, first)
    spec, transfer, labelled, notes = _tokenise(spec, texts, source, tokenizer, max_length, label_names, say)
    _check_relations(spec, source)
    _check_augmentation(spec, texts, source)
    if spec.about.target == "vector":
        spec = _of_vectors(spec, notes)
    shape, notes = source.shape(len(label_names)), [*texts.notes, *first, *notes]
    if begun is not None:
        check_same_pieces(begun, transfer.vocabularies["full"])
        sizes = {name: len(entry.kept) for name, entry in transfer.vocabularies.items()}
        notes.append(check_some_start(spec, begun, shape, sizes))
    return Inputs(spec, texts, source, transfer, labelled, shape, fine_tunes, notes, begun)


def _of_vectors(spec: StudySpec, notes: list[str]) -> StudySpec:
    """The study without what means nothing where a text's output is a vector. Raises InputError."""
    own = [name for name in spec.space.parameter("head").values if name != STOCK]  # type: ignore[union-attr]
    if own:
        raise InputError.of(
            "space", f"{own[0]!r} cannot stand for what {spec.task} pools: students pool as the teacher does; write head: {STOCK}",
            "head",
        )  # fmt: skip
    if spec.space.is_fixed("temperature"):
        return spec
    notes.append(f"temperature is not searched: the losses of {spec.task} have none")
    kept = {name: parameter for name, parameter in spec.space.parameters.items() if name != "temperature"}
    return spec.model_copy(update={"space": SearchSpace(kept)})


def _tokenise(
    spec: StudySpec,
    texts: StudyTexts,
    source: TeacherSource,
    tokenizer: Any,
    max_length: int,
    label_names: list[str],
    say: Say,
) -> tuple[StudySpec, TransferSet, str, list[str]]:
    notes: list[str] = []
    say(f"tokenising {sum(map(len, texts.splits.values())):,} texts")
    windows, pieces_told = _windows(spec, texts, tokenizer, max_length), spec.about.target == "piece"
    rows = {name: each.texts for name, each in windows.items()} or texts.splits
    notes += [note for name, each in windows.items() for note in each.notes(name)]
    full = {
        name: Tokens.encode(
            tokenizer, split.texts, split.pairs, max_length, "text" if pieces_told else source.task_head
        )
        for name, split in rows.items()
    }
    for name, each in windows.items():
        places = full[name].places
        if places is None or places.offsets.tolist() != each.questions.offsets.tolist():
            raise InputError.of(
                "teacher", "its tokenizer makes other words of a part of a text than of the whole, and words are what an answer is "
                "made of; name a teacher with another tokenizer", "model",
            )  # fmt: skip
    cut_off = sum(int((tokens.lengths == max_length).sum()) for tokens in full.values())
    if cut_off and not windows and spec.training.order_share is None:  # halves are of what was cut before
        notes.append(f"{cut_off:,} texts reach max_length ({max_length} pieces) and may have been cut there")
    counts = np.bincount(full["train"].ids, minlength=max(len(tokenizer), source.config["vocab_size"]))
    hidden: dict[str, np.ndarray] = {}
    if pieces_told:
        full, hidden = masked_splits(full, tokenizer, spec.training.order_share is not None, notes)
    pieces = WHOLE if pieces_told else pieces_of(tokenizer)
    spec, wanted = _vocabularies_wanted(spec, pieces if isinstance(pieces, str) else "", notes)
    vocabularies: dict[str, Vocabulary] = {"full": full_vocabulary(tokenizer, counts)}
    for name in wanted:
        vocabularies[name] = cut_vocabulary(tokenizer, name, counts, int(name) if name.isdigit() else None)
    splits = {}
    for name, split in rows.items():
        if windows:
            labels = windows[name].labels
        else:
            labels = hidden[name] if pieces_told else _labels(split, name, label_names, spec.about.target)
        if spec.about.target == "tags" and name != UNLABELLED and (places := full[name].places) is not None:
            full[name] = replace(full[name], places=places.without(labels == NO_TAG))
        tokens = _in_every_vocabulary(split, full[name], vocabularies, max_length, source.task_head)
        splits[name] = Split(tokens, labels)
        if name in ("validation", "test"):
            questions = windows[name].questions if windows else None
            splits[name] = replace(splits[name], texts=split.as_lists(), questions=questions)
    if source.task_head == "token":
        unread = sum(_num_unread(split) for split in splits.values())
        if unread:
            notes.append(
                f"{unread:,} words have no piece within max_length: nobody learns them, and they are scored as {OUTSIDE}"
            )
    weights = class_weights(spec, splits["train"].labels, label_names)
    common = [source.fingerprint, max_length, label_names, spec.task, FORMAT, *([spec.data.stride] if windows else [])]
    labelled, fingerprint = (key_of([known.fingerprint, *common]) for known in (texts.labelled, texts))
    if spec.data.augmentation != "none":  # what it makes follows from these
        fingerprint = key_of([fingerprint, spec.data.augmentation.model_dump(), spec.seed])
    transfer = TransferSet(
        splits, vocabularies, label_names, max_length, fingerprint, spec.about.target, spec.about.problem_type, weights,
        dict(spec.metrics), dict(spec.families), dict(spec.heads), task_head=source.task_head,
        order_share=spec.training.order_share or 0.0,
    )  # fmt: skip
    _try_own_metrics(transfer)
    return spec, transfer, labelled, notes


def _windows(spec: StudySpec, texts: StudyTexts, tokenizer: Any, max_length: int) -> dict[str, Windows]:
    """Of each split, where questions are answered: what a model can read at once."""
    if spec.about.target != "span":
        return {}
    return {
        name: windows_of(tokenizer, split, name, max_length, spec.data.stride) for name, split in texts.splits.items()
    }


def _num_unread(split: Split) -> int:
    """Words with a label, or of a text without labels, that no vocabulary reads."""
    places = split.tokens["full"].places
    assert places is not None
    labelled = split.labels != NO_TAG
    return int((places.at[labelled if labelled.any() else slice(None)] == NOWHERE).sum())


def key_of(parts: list[Any]) -> str:
    """A short name for what follows from these parts."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _in_every_vocabulary(
    split: LabelledTexts,
    full: Tokens,
    vocabularies: dict[str, Vocabulary],
    max_length: int,
    task_head: TaskHead = "text",
) -> dict[str, Tokens]:
    cuts = [vocabulary for vocabulary in vocabularies.values() if vocabulary.name != "full"]
    return {"full": full, **{cut.name: in_cut_vocabulary(split, full, cut, max_length, task_head) for cut in cuts}}


def in_cut_vocabulary(
    split: LabelledTexts, full: Tokens, cut: Vocabulary, max_length: int, task_head: TaskHead = "text"
) -> Tokens:
    """The texts as the cut vocabulary's tokenizer splits them. A row whose pieces were all kept is split as before (pieces.py):
    only the other rows are tokenised, and those that may hide a piece: with an unknown word, or cut off."""
    tokenizer = load_tokenizer(cut)
    if not len(full) or not full.lengths.min():
        return Tokens.encode(tokenizer, split.texts, split.pairs, max_length, task_head)
    unknown, num_ids = tokenizer.unk_token_id, 1 + int(max(full.ids.max(), cut.kept.max()))
    tokens = full.remapped(new_ids(cut, int(cut.kept[unknown]), num_ids))
    again = np.logical_or.reduceat(tokens.ids == unknown, tokens.offsets[:-1]) | (tokens.lengths >= max_length)
    some = replace(split, labels=[]).pick(np.flatnonzero(again))
    tokens = tokens.with_rows(again, Tokens.encode(tokenizer, some.texts, some.pairs, max_length, task_head))
    if tokens.places is None or full.places is None:
        return tokens
    return replace(tokens, places=tokens.places.without(full.places.at == NOWHERE))  # what the teacher says nothing of


def _labels(split: LabelledTexts, name: str, label_names: list[str], target: str) -> np.ndarray:
    labels = label_array(split.labels, label_names, target)
    unlabelled = name == UNLABELLED or (target == "vector" and name == "train")
    if not unlabelled or target == "tags":  # whose words are marked as without a label one by one
        return labels
    return np.full((len(split), *labels.shape[1:]), NO_LABEL[target], labels.dtype)


def unlabelled_split(inputs: Inputs, texts: LabelledTexts) -> Split:
    """More texts without labels, in the pieces of every vocabulary of the study."""
    transfer, tokenizer = inputs.transfer, tokenizer_of(inputs.source)
    full = Tokens.encode(tokenizer, texts.texts, texts.pairs, transfer.max_length)
    tokens = _in_every_vocabulary(texts, full, transfer.vocabularies, transfer.max_length)
    return Split(tokens, _labels(texts, UNLABELLED, transfer.label_names, transfer.target))


def _check_metrics(spec: StudySpec, num_labels: int) -> None:
    if spec.about.target == "class" and num_labels != 2:
        for key, named in (("objectives", spec.objectives), ("bounds", spec.bounds)):
            if "f1" in named:
                raise InputError.of("", f"f1 is for two classes, and there are {num_labels}; write macro_f1", key)


def _check_relations(spec: StudySpec, source: TeacherSource) -> None:
    kind, known = source.config["model_type"], [name for name, layout in LAYOUTS.items() if layout.teaches]
    if "relations" in spec.space.parameter("hidden_loss").values and kind not in known:  # type: ignore[union-attr]
        raise InputError.of(
            "space",
            f"relations needs a teacher whose projections are known ({', '.join(known)}), and this one is {kind}; "
            "write cosine or mse",
            "hidden_loss",
        )


def _check_augmentation(spec: StudySpec, texts: StudyTexts, source: TeacherSource) -> None:
    made = spec.data.augmentation
    if made == "none":
        return
    if source.task_head in ("token", "span", "masked"):
        why = {
            "token": "in an entity's place need not be one of its type",
            "span": "may ask for something else",
            "masked": "would be masked and told in its turn",
        }[source.task_head]
        raise InputError.of(
            "", f"{spec.task} makes up no texts: another word {why}, and what that does "
            "was not tried; write none, or give texts of your own as data.unlabelled", "data.augmentation",
        )  # fmt: skip
    if texts.splits["train"].pairs is not None and set(made.kinds) == {"join"}:
        raise InputError.of("", "join is not for pairs of texts; write replace or span", "data.augmentation.kinds")
    if made.words == "masked-lm" and not source.has_masked_lm:
        names = ", ".join(source.config.get("architectures") or ["none"])
        raise InputError.of(
            "", f"masked-lm needs a teacher with a masked-LM head, and this one's config.json names {names}; write embeddings",
            "data.augmentation.words",
        )  # fmt: skip


def _try_own_metrics(transfer: TransferSet) -> None:
    """Calls the study's own metrics once, with made-up outputs, so that a broken one ends the study before it begins."""
    size = (transfer.splits["validation"].num_outputs, len(transfer.label_names))
    outputs = np.random.default_rng(0).normal(size=size).astype(np.float32)
    try:
        transfer.measure("validation", outputs)
    except TrialError as error:
        raise InputError.of("", str(error), "metrics") from None


def label_array(labels: list[Any], label_names: list[str], target: str) -> np.ndarray:
    """(N,) int32 class numbers, (N, C) float32 of 0 and 1, (N,) float32 numbers (of pairs, where those have one), or (W,) int32
    class numbers of all words, -100 where a word's is ignored."""
    index = {name: number for number, name in enumerate(label_names)}
    if target == "class":
        return np.array([index[label] for label in labels], np.int32)
    if target in ("number", "vector"):
        return np.array(labels, np.float32)
    if target == "tags":
        index[IGNORED] = NO_TAG
        return np.fromiter((index[tag] for tags in labels for tag in tags), np.int32)
    table = np.zeros((len(labels), len(label_names)), np.float32)
    for row, names in enumerate(labels):
        table[row, [index[name] for name in names]] = 1
    return table


def class_weights(spec: StudySpec, labels: np.ndarray, label_names: list[str]) -> np.ndarray | None:
    """(C,) float32, 1 on average over the training rows: as the study says, or inverse to how often a class occurs."""
    asked, target = spec.data.class_weights, spec.about.target
    if asked == "none":
        return None
    if what := {"number": "a number", "span": "an answer", "vector": "a vector", "piece": "a masked piece"}.get(target):
        raise InputError.of("", f"class_weights is for classes; {what} has none", "data.class_weights")
    known = labels[labels >= 0] if target == "tags" else labels
    counts = labels.sum(0) if target == "classes" else np.bincount(known, minlength=len(label_names))
    if isinstance(asked, dict):
        unknown = sorted(set(asked) - set(label_names))
        if unknown:
            raise InputError.of(
                "", f"{unknown[0]!r} is no class{near_miss(unknown[0], label_names)}; there are {', '.join(label_names)}",
                "data.class_weights",
            )  # fmt: skip
        weights = np.array([asked.get(name, 1.0) for name in label_names])
    else:
        weights = 1 / np.maximum(counts, 1)
    return (weights * counts.sum() / (weights * counts).sum()).astype(np.float32)


def _vocabularies_wanted(spec: StudySpec, fault: str, notes: list[str]) -> tuple[StudySpec, list[str]]:
    """The cut vocabularies to make. A teacher whose cannot be cut (`fault` says why) keeps its own, where the space allows that."""
    asked = [name for name in spec.space.vocabularies if name != "full"]
    if not fault:
        return spec, list(dict.fromkeys(["used", *asked]))
    if asked and "full" not in spec.space.vocabularies:
        raise InputError.of(
            "space",
            f"{asked[0]!r} needs a tokenizer that can be cut, and of this teacher's {fault}; write vocabulary: full",
            "vocabulary",
        )  # fmt: skip
    if asked:
        notes.append(f"the teacher's vocabulary cannot be cut, since of its tokenizer {fault}: only `full` is searched")
        parameters = {**spec.space.parameters, "vocabulary": Choice(values=("full",))}
        spec = spec.model_copy(update={"space": SearchSpace(parameters)})
    return spec, []
