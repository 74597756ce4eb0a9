"""Questions whose answers are spans of a context: read, checked, and cut into windows that a model can read at once.

Windows are cut between words, by the teacher's pieces: once for all vocabularies, so that labels and the teacher's outputs have one
order. A row of a study is a window: a pair of the question and a part of its context.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spaces.errors import InputError, cut

if TYPE_CHECKING:
    from search.study.texts import LabelledTexts
    from search.trial.answers import Questions

Answers = tuple[tuple[int, str], ...]  # where each begins in the context, and its text
COLUMNS = ("id", "question", "context", "answers")


def read_squad(where: Path) -> list[dict[str, Any]]:
    """The questions of a file in SQuAD's format, as rows with these COLUMNS. Raises InputError."""
    try:
        whole = json.loads(where.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError.of("", f"{where} cannot be read: {cut(str(error), 200)}", "data") from None
    rows = []
    place = ""
    try:
        for number, article in enumerate(_of(whole, "data", list)):
            place = f"data[{number}]"
            for index, paragraph in enumerate(_of(article, "paragraphs", list)):
                place = f"data[{number}].paragraphs[{index}]"
                context = _of(paragraph, "context", str)
                for asked in _of(paragraph, "qas", list):
                    question = _of(asked, "question", str)
                    rows.append(
                        {
                            "id": asked.get("id"),
                            "question": question,
                            "context": context,
                            "answers": asked.get("answers"),
                        }
                    )
    except ValueError as error:
        raise InputError.of(
            "", f"{where}: {place or 'it'} {error}; SQuAD's files have data, a list of articles, with paragraphs with context, qas "
            "(rows with question, context and answers go into .jsonl)", "data",
        ) from None  # fmt: skip
    if not rows:
        raise InputError.of("", f"{where} holds no questions", "data")
    return rows


def _of(part: Any, key: str, kind: type) -> Any:
    found = part.get(key) if isinstance(part, dict) else None
    if not isinstance(found, kind):
        raise ValueError(f"has no {'text' if kind is str else 'list'} {key!r}")
    return found


def answers_of(cell: Any, context: str) -> Answers:
    """A list of {text, answer_start}, or a list of each as the hub has them. Raises ValueError where there is none, or one that
    does not stand in the context where it says."""
    if isinstance(cell, dict) and isinstance(cell.get("text"), list) and isinstance(cell.get("answer_start"), list):
        if len(cell["text"]) != len(cell["answer_start"]):
            raise ValueError(f"{len(cell['text'])} answers and {len(cell['answer_start'])} places")
        cell = [{"text": text, "answer_start": at} for text, at in zip(cell["text"], cell["answer_start"], strict=True)]
    if not isinstance(cell, list | tuple):
        raise ValueError("no list of answers")
    if not cell:
        raise ValueError("no answer (questions without one, as in SQuAD 2.0, are not for this task)")
    found = []
    for each in cell:
        text, start = (each.get("text"), each.get("answer_start")) if isinstance(each, dict) else (None, None)
        if not isinstance(text, str) or isinstance(start, bool) or not isinstance(start, int):
            raise ValueError(f"answer {cut(repr(each), 100)}, which is no {{text, answer_start}}")
        if not text.strip():
            raise ValueError("an answer without text")
        if not 0 <= start <= len(context) - len(text):
            raise ValueError(
                f"answer {cut(repr(text), 100)} at {start}, outside of its context of {len(context):,} characters"
            )
        if context[start : start + len(text)] != text:
            there = cut(repr(context[start : start + len(text)]), 100)
            raise ValueError(f"answer {cut(repr(text), 100)} at {start}, where its context has {there}")
        found.append((start, text))
    return tuple(found)


@dataclass(frozen=True)
class Windows:
    """The rows that a split's questions become, where each answer starts and ends (W, 2), and what to tell of them."""

    texts: LabelledTexts
    labels: np.ndarray  # int8: 1 at the start, 1 at the end; of a window without the answer at its first place
    questions: Questions
    num_without: int  # windows that do not hold the answer of their question
    num_lost: int  # questions whose answer no window holds whole
    num_cut: int  # questions that would have taken more than half of a window

    def notes(self, name: str) -> list[str]:
        asked, windows = len(self.questions), len(self.texts)
        notes = []
        if windows > asked:
            without = f"; {self.num_without:,} without the answer are labelled so" if self.num_without else ""
            notes.append(f"{name}: {asked:,} questions are read in {windows:,} windows of their contexts{without}")
        if self.num_cut:
            notes.append(f"{name}: {self.num_cut:,} questions are longer than half of max_length and were cut there")
        if self.num_lost:
            notes.append(
                f"{name}: the answers of {self.num_lost:,} questions are whole in no window; raise data.stride or max_length"
            )
        return notes


def windows_of(tokenizer: Any, split: LabelledTexts, name: str, max_length: int, stride: int) -> Windows:
    """Windows of at most `max_length` of the tokenizer's pieces, with the question; each shares up to `stride` pieces of the
    context with the one before, never more than half of what it holds. A question that takes more than half is cut there. Raises
    InputError for a context without words."""
    from search.study.tables import Texts
    from search.study.texts import LabelledTexts
    from search.trial.answers import Questions

    asked, contexts = list(split.texts), list(split.pairs or ())
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    special = backend.num_special_tokens_to_add(True)
    half = (max_length - special) // 2
    if half < 1:
        raise InputError.of("", f"{max_length} pieces hold no question with its context; write 384", "data.max_length")
    lengths, num_cut = [], 0
    for number, (question, encoding) in enumerate(_encoded(backend, list(asked))):
        lengths.append(min(len(encoding.ids), half))
        if len(encoding.ids) > half:
            span_W2, pieces_W = _words(encoding, question)
            _, end = next(cut_into_windows(pieces_W, half, 0))
            asked[number] = question[span_W2[0, 0] : span_W2[end - 1, 1]]
            num_cut += 1
    known = {context: number for number, context in enumerate(dict.fromkeys(contexts))}
    words = [_words(encoding, context) for context, encoding in _encoded(backend, list(known))]
    texts: list[str] = []
    parts: list[str] = []
    spans: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    rows, num_without, num_lost = [0], 0, 0
    for number, (question, context, length) in enumerate(zip(asked, contexts, lengths, strict=True)):
        span_W2, pieces_W = words[known[context]]
        room = max_length - special - length
        if not len(span_W2):
            raise InputError.of(
                "", f"the context of the question {cut(repr(question), 100)} has no words", f"data.{name}"
            )
        answer = _answer(split.labels[number], span_W2) if split.labels else None
        held = False
        for begin, end in cut_into_windows(pieces_W, room, min(stride, room // 2)):
            start_end = np.zeros((1 + end - begin, 2), np.int8)
            if answer is not None:
                inside = begin <= answer[0] <= answer[1] < end
                held |= inside
                num_without += not inside
                for side, word in enumerate(answer):
                    start_end[1 + word - begin if inside else 0, side] = 1
            texts.append(question)
            parts.append(context[span_W2[begin, 0] : span_W2[end - 1, 1]])
            spans.append(np.concatenate([np.zeros((1, 2), np.int32), span_W2[begin:end]]))
            labels.append(start_end)
        num_lost += answer is not None and not held
        rows.append(len(texts))
    right = [tuple(text for _, text in answers) for answers in split.labels]
    offsets = np.concatenate([[0], np.cumsum([len(each) for each in labels])]).astype(np.int64)
    questions = Questions(contexts, right, np.array(rows, np.int64), offsets, np.concatenate(spans))
    made = LabelledTexts(Texts.of(texts), Texts.of(parts), [])
    return Windows(made, np.concatenate(labels), questions, num_without, num_lost, num_cut)


def cut_into_windows(pieces_W: np.ndarray, room: int, overlap: int) -> Iterator[tuple[int, int]]:
    """(first word, word after the last) of each window: as many words as `room` pieces hold, one at least; the next begins with the
    last words that `overlap` pieces hold, one word further at least."""
    ends_W = np.cumsum(pieces_W)
    begin = 0
    while True:
        before = ends_W[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends_W, before + room, side="right")))
        yield begin, end
        if end == len(ends_W):
            return
        begin = max(begin + 1, 1 + int(np.searchsorted(ends_W, ends_W[end - 1] - overlap)))


def _encoded(backend: Any, contexts: list[str]) -> Iterator[tuple[str, Any]]:
    for start in range(0, len(contexts), 1000):
        some = contexts[start : start + 1000]
        yield from zip(some, backend.encode_batch(some, add_special_tokens=False), strict=True)


def _words(encoding: Any, context: str) -> tuple[np.ndarray, np.ndarray]:
    """(W, 2) characters of each word of the context, without blanks around it, and of how many pieces it is (W,)."""
    spans: list[list[int]] = []
    pieces: list[int] = []
    before = None
    for word, (begin, end) in zip(encoding.word_ids, encoding.offsets, strict=True):
        if word == before:
            spans[-1][1], pieces[-1] = end, pieces[-1] + 1
        else:
            spans.append([begin, end])
            pieces.append(1)
        before = word
    for span in spans:
        while span[0] < span[1] and context[span[0]].isspace():
            span[0] += 1
    return np.array(spans, np.int32).reshape(-1, 2), np.array(pieces, np.int64)


def _answer(answers: Answers, span_W2: np.ndarray) -> tuple[int, int]:
    """The first and last word of the answer that most gave, of equals the first. One that lies between words has its last before
    its first, and no window holds it."""
    (start, text), _ = Counter(answers).most_common(1)[0]
    end = start + len(text)
    first = int(np.searchsorted(span_W2[:, 1], start, side="right"))
    return first, int(np.searchsorted(span_W2[:, 0], end)) - 1
