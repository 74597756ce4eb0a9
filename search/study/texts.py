"""The texts of a study: read, checked, their labels in order; splits that are missing are cut."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np

from search.study.labels import LABEL_READERS, names_in_splits, names_of
from search.study.questions import answers_of, read_squad
from search.study.tables import Table, Texts, in_parts, read_table
from search.study.tagged import num_broken, row_of
from spaces.errors import Fault, InputError, cut, near_miss
from spaces.study import DataSpec, HubSource, StudySpec
from spaces.task import OUTSIDE
from spaces.trial import derived_seed

SPLITS = ("train", "validation", "test")
UNLABELLED = "unlabelled"
USUAL = {
    "text": ("text", "text_a", "sentence", "sentence1", "premise", "question1", "question", "content", "review"),
    "text_pair": ("text_pair", "text_b", "sentence2", "hypothesis", "question2"),
    "label": ("label", "labels", "class", "category", "target", "score"),
}
USUAL_OF_QUESTIONS = {
    "text": ("question", "query"),
    "text_pair": ("context", "passage", "paragraph"),
    "label": ("answers", "answer"),
}
USUAL_OF_WORDS = {"text": ("tokens", "words", "text"), "label": ("tags", "ner_tags", "labels", "label")}
CUT_SHARE, CUT_MOST = 0.1, 5000  # what is cut off train where a split is missing


@dataclass(frozen=True)
class LabelledTexts:
    """One split: texts, their second halves where there are any, and labels: a name, several names, a number, a tag for each word
    (words have a blank between), or the answers of a question in its context, the second half. Where each text wants a vector a
    pair is two rows, one after the other, and has one label."""

    texts: Sequence[str]
    pairs: Sequence[str] | None
    labels: list[Any]

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def keys(self) -> Iterator[tuple[str, str]]:
        """What makes a row the same text as another."""
        return zip(self.texts, repeat("") if self.pairs is None else self.pairs, strict=False)

    def as_lists(self) -> tuple[list[str], list[str] | None]:
        """Texts and their second halves as Python holds them: for who sends them elsewhere."""
        return list(self.texts), None if self.pairs is None else list(self.pairs)

    def pick(self, rows: np.ndarray) -> LabelledTexts:
        return LabelledTexts(
            _picked(self.texts, rows),
            None if self.pairs is None else _picked(self.pairs, rows),
            [self.labels[i] for i in rows] if self.labels else [],
        )

    def apart(self) -> LabelledTexts:
        """The two texts of each pair as rows of their own, one after the other."""
        if self.pairs is None:
            return self
        return LabelledTexts(Texts.of(chain.from_iterable(zip(self.texts, self.pairs, strict=True))), None, self.labels)


def _picked(texts: Sequence[str], rows: np.ndarray) -> Sequence[str]:
    return texts.taken(rows) if isinstance(texts, Texts) else [texts[i] for i in rows]


@dataclass(frozen=True)
class StudyTexts:
    """All splits, the label names in order, and what a user should be told about them."""

    splits: dict[str, LabelledTexts]
    label_names: list[str]
    notes: list[str] = field(default_factory=list)

    @property
    def labelled(self) -> StudyTexts:
        """Without the texts that have no label."""
        return replace(self, splits={name: split for name, split in self.splits.items() if name != UNLABELLED})

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name, split in sorted(self.splits.items()):
            digest.update(name.encode())
            for column in (split.texts, split.pairs or [], map(str, split.labels)):
                for number, part in enumerate(in_parts(column)):
                    digest.update(("\x1f" * (number > 0) + "\x1f".join(part)).encode("utf-8", "replace"))
                digest.update(b"\x1e")
        return digest.hexdigest()[:16]


def read_texts(spec: StudySpec, source: str = "data") -> StudyTexts:
    """Every split of the study. Raises InputError with all faults found."""
    splits: dict[str, LabelledTexts] = {}
    named: list[str] = []  # the classes in the order that the data set gives them
    if faults := _not_for_parts_of_texts(spec):
        raise InputError(source, faults)
    if spec.data.builtin:
        from examples.docstrings import docstring_pairs

        for name, drawn in docstring_pairs(spec.data.num_pairs, seed=0).items():
            splits[name] = _labelled(name, Table.of_rows(list(drawn)), spec, faults)
    else:
        for name in SPLITS:
            where = getattr(spec.data, name)
            if where is None:
                continue
            try:
                table = _table(name, where, spec)
                splits[name] = _labelled(name, table, spec, faults)
                named += [cls for cls in table.class_names if cls not in named]
            except InputError as error:
                faults += error.faults
    if faults:
        raise InputError(source, faults)
    more = LabelledTexts([], None, [])
    if spec.data.unlabelled is not None:
        try:
            table = _table(UNLABELLED, spec.data.unlabelled, spec)
            more = _labelled(UNLABELLED, table, spec, faults)
        except InputError as error:
            faults += error.faults
        mixed = not faults and (more.pairs is None) != (splits["train"].pairs is None)
        if mixed and spec.about.target != "vector":
            faults.append(Fault("data.unlabelled", "has one text a row where train has two, or the other way round"))
        if faults:
            raise InputError(source, faults)
    target = spec.about.target
    labels = {name: split.labels for name, split in splits.items()}
    order = [spec.data.labels.get(name, name) for name in named]
    texts = StudyTexts(splits, names_in_splits(labels, target, order))
    texts = _cut_missing(texts, spec.seed, whole_contexts=target == "span")
    for name, split in texts.splits.items():
        if len(split) == 0:
            faults.append(Fault(f"data.{name}", "holds no rows"))
    whole = [label for split in texts.splits.values() for label in split.labels]
    seen = names_of(whole, target) if target == "tags" else set(whole)
    if target == "vector":
        faults += _not_ranked(texts)
    elif len(seen) < 2 and not faults and target not in ("span", "piece"):
        what = "class" if target == "class" else "label"
        faults.append(
            Fault("data.train", f"has one {what} only ({cut(str(sorted(seen)), 200)}); there is nothing to learn")
        )
    known = set(texts.label_names) if target == "tags" else names_of(texts.splits["train"].labels, target)
    for name in ("validation", "test"):
        unknown = sorted(names_of(texts.splits[name].labels, target) - known)
        if unknown:
            hint = " (a test split without labels? leave it out and one is cut from train)" if unknown == ["-1"] else ""
            faults.append(
                Fault(
                    f"data.{name}",
                    f"label {cut(unknown[0], 100)!r} does not occur in train{hint}; train has {cut(str(sorted(known)), 500)}",
                )
            )
    if target == "tags" and not faults:
        for name, split in texts.splits.items():
            if names_of(split.labels, target) <= {OUTSIDE}:
                faults.append(
                    Fault(f"data.{name}", "has no entity: every tag is O, and there would be nothing to find")
                )
            if broken := num_broken(split.labels):
                texts.notes.append(
                    f"{name} has {broken:,} tags I-TYPE that continue no entity of their type; each is taken to begin one"
                )
    if faults:
        raise InputError(source, faults)
    if len(more):
        texts = replace(texts, splits={**texts.splits, UNLABELLED: more})
    if target == "vector":
        splits = {name: split.apart() for name, split in texts.splits.items()}
        texts = replace(texts, splits={**splits, "train": replace(splits["train"], labels=[])})
    return _shared(texts, spec.data.drop_shared)


def _shared(texts: StudyTexts, drop: bool) -> StudyTexts:
    """Tells of texts that train shares with validation or test, and drops them from train where asked to."""
    held_out = {key for name in ("validation", "test") for key in texts.splits[name].keys}
    splits, notes = dict(texts.splits), list(texts.notes)
    for name in ("train", UNLABELLED):
        if name not in splits:
            continue
        kept = [row for row, key in enumerate(splits[name].keys) if key not in held_out]
        count = len(splits[name]) - len(kept)
        if not count:
            continue
        done = "dropped" if drop else "write data.drop_shared: true to drop them"
        notes.append(f"{name} shares {count:,} {'text' if count == 1 else 'texts'} with validation or test; {done}")
        if drop:
            splits[name] = splits[name].pick(np.array(kept, np.int64))
    return replace(texts, splits=splits, notes=notes)


def _table(name: str, where: Path | HubSource, spec: StudySpec) -> Table:
    if spec.about.target == "span" and spec.data.reader is None and isinstance(where, Path) and where.suffix == ".json":
        return Table.of_rows(read_squad(where))
    return read_table(name, where, spec.cache / "datasets", spec.data.reader)


def _not_for_parts_of_texts(spec: StudySpec) -> list[Fault]:
    """What is of no use where a label is not of a text, but of its words, of a span of it, or of two vectors."""
    faults: list[Fault] = []
    data, target = spec.data, spec.about.target
    wanted = {
        "tags": "words with tags",
        "span": "questions with contexts and answers",
        "vector": "pairs with a score",
    }.get(target)
    if data.builtin and wanted:
        faults.append(
            Fault("data.builtin", f"holds pairs with a class each, and {wanted} are needed; write train: FILE")
        )
    one = {"tags": "words have tags", "piece": "masked pieces are told"}.get(target)
    if one and data.columns.text_pair is not None:
        faults.append(Fault("data.columns.text_pair", f"there is one text a row where {one}"))
    return faults


def _not_ranked(texts: StudyTexts) -> list[Fault]:
    held_out = {name: texts.splits[name].labels for name in ("validation", "test")}
    what = (
        "all its pairs have the same score: vectors are judged by whether they bring the pairs into the scores' order"
    )
    return [Fault(f"data.{name}", what) for name, scores in held_out.items() if scores and len(set(scores)) < 2]


def _has_scores(name: str, data: DataSpec) -> bool:
    """Whether vectors of this split are held against scores. Train is text to imitate the teacher on, and has scores only where
    a split is to be cut off it."""
    return name in ("validation", "test") or (name == "train" and None in (data.validation, data.test))


def _column(
    role: str, columns: list[str], data: DataSpec, name: str, faults: list[Fault], usual: dict[str, tuple[str, ...]] | None
) -> str | None:  # fmt: skip
    """The column of this role: as the study says, or else the first that has a usual name; a fault where there is none of them.
    With `usual` None it may be missing."""
    chosen = getattr(data.columns, role)
    if chosen is not None and columns != ["text"]:  # a file of lines names no columns
        if chosen in columns:
            return chosen
        faults.append(
            Fault(
                f"data.columns.{role}",
                f"data.{name} has no column {chosen!r}{near_miss(chosen, columns)}; it has {', '.join(columns)}",
            )
        )
        return None
    found = next((each for each in (usual or USUAL)[role] if each in columns), None)
    if found is None and usual is not None:
        faults.append(
            Fault(
                f"data.{name}",
                f"no column looks like the {role}; it has {', '.join(columns)}. Write columns: {{{role}: NAME}}",
            )
        )
    return found


def _labelled(name: str, table: Table, spec: StudySpec, faults: list[Fault]) -> LabelledTexts:
    columns, data, target = table.columns, spec.data, spec.about.target
    tagged, answered, vectors, alone = (target == each for each in ("tags", "span", "vector", "piece"))
    usual = {"tags": USUAL_OF_WORDS, "span": USUAL_OF_QUESTIONS}.get(target, USUAL)
    labelled = _has_scores(name, data) if vectors else name != UNLABELLED and not alone
    scored = vectors and labelled
    text = _column("text", columns, data, name, faults, usual)
    missing: list[Fault] = []
    pair = label = None
    if not tagged and not alone and (data.columns.text_pair in (None, *columns) or not vectors or scored):
        pair = _column("text_pair", columns, data, name, missing, usual if scored or answered else None)
    if labelled:
        label = _column("label", columns, data, name, missing, usual)
    if missing and scored and name == "train":
        cut_off = " and ".join(f"a {each} split" for each in ("validation", "test") if getattr(data, each) is None)
        what = f"holds no pairs with scores that {cut_off} could be cut off; write validation: FILE and test: FILE"
        missing = [Fault("data.train", what)]
    faults += missing
    empty = LabelledTexts([], None, [])
    if text is None or missing:
        return empty
    firsts, seconds = table.column(text), table.column(pair) if pair else None
    cells = table.column(label) if label is not None else None
    labels: list[Any] = []
    bad, left_out, of_words = [], [], []
    may_be_empty = name == UNLABELLED or (not labelled and columns == ["text"])
    rows = zip(firsts, seconds or repeat(""), cells or repeat(None), strict=False)
    for number, (value, second, cell) in enumerate(rows):
        if may_be_empty and not str(value or "").strip():
            left_out.append(number)  # a file of lines may hold empty ones
        elif value is None or not str(value).strip() or (pair and (second is None or not str(second).strip())):
            bad.append((number, "an empty question or context" if answered else "an empty text"))
        elif tagged:
            try:
                words, tags = row_of(value, ([] if cell is None else cell) if labelled else None, data)
                of_words.append(words)
                labels.append(tags)
            except ValueError as error:
                bad.append((number, str(error)))
        elif labelled:
            try:
                labels.append(answers_of(cell, str(second)) if answered else LABEL_READERS[target](cell, data))
            except ValueError as error:
                bad.append((number, str(error)))
    if bad:
        first, what = bad[0]
        more = f", and {len(bad) - 1} more like it" if len(bad) > 1 else ""
        at = f"row {first + 1} (after the header)"
        if answered:
            where, ids = getattr(data, name), table.column("id") if "id" in columns else None
            called = "" if ids is None else f" {cut(str(ids[first]), 60)!r}"
            at = f"{where.hub if isinstance(where, HubSource) else where.name}: question {first + 1}{called}"
        faults.append(Fault(f"data.{name}", f"{at} has {what}{more}; remove or fill them"))
        return empty
    if tagged:
        return LabelledTexts(Texts.of(of_words), None, labels)
    whole = LabelledTexts(_as_texts(firsts), _as_texts(seconds) if seconds is not None else None, labels)
    return whole.pick(np.delete(np.arange(len(firsts)), left_out)) if left_out else whole


def _as_texts(cells: Sequence[Any]) -> Texts:
    return cells if isinstance(cells, Texts) else Texts.of(str(cell) for cell in cells)


def _cut_missing(texts: StudyTexts, seed: int, whole_contexts: bool) -> StudyTexts:
    """Cuts validation and test off train where they are missing, seeded, and says so; `whole_contexts`: with all rows that have the
    same second text."""
    missing = [name for name in ("validation", "test") if name not in texts.splits]
    splits, notes = dict(texts.splits), list(texts.notes)
    for name in missing:
        train = splits["train"]
        size = min(CUT_MOST, int(len(train) * CUT_SHARE))
        if size < 1:
            raise InputError.of("data", f"{len(train)} rows are too few to cut a {name} split off", f"data.{name}")
        rng = np.random.default_rng(derived_seed(seed, "split", name))
        order = rng.permutation(len(train))
        if whole_contexts:
            _, context_N = np.unique(list(train.pairs or ()), return_inverse=True)
            order = np.argsort(rng.permutation(context_N.max() + 1)[context_N], kind="stable")
            context_N = context_N[order]
            size += int((context_N[size:] == context_N[size - 1]).sum())
            if size == len(train):
                raise InputError.of("data", f"train has too few contexts to cut a {name} split off", f"data.{name}")
        splits[name], splits["train"] = train.pick(np.sort(order[:size])), train.pick(np.sort(order[size:]))
        notes.append(f"no {name} split is given: {size:,} rows of train were set aside for it (seed {seed})")
    return replace(texts, splits=splits, notes=notes)
