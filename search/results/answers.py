"""The headline of the report: which student to take, what is lost with it, and whether it is worth more than a bag of words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from search.results.front import ParetoFront, Reference, reference_named
from search.results.students import StudentRow, smallest_within
from search.results.table import millions, percent, with_spread
from spaces.student import Frozen
from spaces.study import StudySpec
from spaces.task import METRIC_WORDS

WITHIN = 0.97


class Answer(Frozen):
    """One card of the headline, plain text: the question, the answer in a word, and what stands behind it."""

    question: str
    answer: str
    because: str
    tone: str = "plain"  # good, bad or plain
    trial: int | None = None  # which the answer is


def answers(
    spec: StudySpec,
    front: ParetoFront,
    rows: Sequence[StudentRow],
    references: Sequence[Reference],
    is_running: bool = False,
) -> list[Answer]:
    """What the study found: which student to take, the knee, whether it beats a bag of words, if distilling paid. `is_running`
    says that trials are still in play."""
    if not rows:
        why = "No trial finished its training within the bounds, so there is no front to choose from"
        yet, tone = (" yet", "plain") if is_running else ("", "bad")
        return [Answer(question="Which student?", answer=f"None{yet}", because=f"{why}{yet}.", tone=tone)]
    chosen = smallest_within(rows, WITHIN)
    at_knee = next((row for row in rows if row.trial == front.knee), None)
    best = max(rows, key=lambda row: row.validation.get(f"validation/{spec.quality}", -math.inf))  # not chosen on test
    out = []
    if chosen:
        out.append(
            Answer(
                question="The smallest student within 3 % of the teacher",
                answer=f"Trial {chosen.trial}",
                trial=chosen.trial,
                because=_worth(chosen, spec, references),
                tone="good" if (chosen.share_of_teacher or 0) >= WITHIN else "plain",
            )
        )
    else:
        out.append(
            Answer(
                question="Is there a student within 3 % of the teacher?",
                answer="No",
                because=f"The best is trial {best.trial}: {_worth(best, spec, references)}",
                tone="bad",
            )
        )
    if at_knee:
        same = chosen is not None and at_knee.trial == chosen.trial
        told = "It is the same student." if same else _worth(at_knee, spec, references)
        because = f"{_what_a_knee_is(at_knee, rows)} {told}".strip()
        answer = f"Trial {at_knee.trial}"
        out.append(Answer(question="The knee of the front", answer=answer, because=because, trial=at_knee.trial))
    shown = chosen or at_knee or best
    return [*out, *_beats_words(shown, spec, references), *_weak(spec, references), *_pays(shown, spec)]


def weak_teacher(spec: StudySpec, references: Sequence[Reference]) -> str:
    """A warning where the teacher is no better than the bag of words on validation, or nothing."""
    teacher, floor = reference_named(references, "teacher"), reference_named(references, "ngrams")
    if teacher is None or floor is None or not teacher.value(spec.quality) <= floor.value(spec.quality):
        return ""
    name = METRIC_WORDS.get(spec.quality, spec.quality)
    return (
        f"the teacher's {name} on validation, {percent(teacher.value(spec.quality))}, is no better than that of a {floor.label} "
        f"({percent(floor.value(spec.quality))}), which costs next to nothing to run: is it the right teacher, and trained enough?"
    )


def _weak(spec: StudySpec, references: Sequence[Reference]) -> list[Answer]:
    told = weak_teacher(spec, references)
    question = "Is the teacher worth more than a bag of words?"
    return [Answer(question=question, answer="No", because=f"{told[0].upper()}{told[1:]}", tone="bad")] if told else []


def _what_a_knee_is(row: StudentRow, rows: Sequence[StudentRow]) -> str:
    if len(rows) < 3:
        return "A front of fewer than three students has no bend; this is its first."
    return "" if row in (rows[0], rows[-1]) else "Beyond it each further point of quality costs more size."


def _worth(row: StudentRow, spec: StudySpec, references: Sequence[Reference]) -> str:
    """What a student is, and what is lost with it."""
    teacher = reference_named(references, "teacher")
    text = f"{row.architecture}. {millions(row.num_parameters)} parameters"
    if teacher and teacher.num_parameters:
        text += f", {percent(row.num_parameters / teacher.num_parameters, 0)} of the teacher's"
    text += f"; {row.scored_on} {METRIC_WORDS.get(spec.quality, spec.quality)} {percent(row.score)}"
    if row.score_std is not None:
        text += f" ± {100 * row.score_std:.1f} over {row.test[f'test/{spec.quality}'].seeds} seeds"
    lost = teacher.value(spec.quality, row.scored_on) - row.score if teacher else math.nan
    if row.share_of_teacher is not None and not math.isnan(lost):
        change = f"{100 * lost:.1f} points lost" if lost > 0 else f"{-100 * lost:.1f} points gained"
        text += f", {percent(row.share_of_teacher)} of the teacher's ({change})"
        if row.share_of_teacher < WITHIN <= (row.share_on_validation or 0):
            text += "; it was within 3 % on validation, where it was chosen, and is not on test"
    return text + "."


def _beats_words(row: StudentRow, spec: StudySpec, references: Sequence[Reference]) -> list[Answer]:
    floor = reference_named(references, "ngrams")
    value = floor.value(spec.quality, row.scored_on) if floor else math.nan
    if floor is None or math.isnan(value):
        return []
    gain = row.score - value
    if gain <= 0:
        word, tone = "No", "bad"
    elif gain <= (row.score_std or 0):
        word, tone = "Not shown", "bad"
    else:
        word, tone = "Yes", "good"
    size = f" with {millions(floor.num_parameters)} weights" if floor.num_parameters else ""
    because = f"Trial {row.trial} is {abs(100 * gain):.1f} points {'above' if gain > 0 else 'below'} {floor.label}"
    because += f" ({percent(value)}{size})."
    if word == "Not shown":
        because += " That is no more than the seeds differ by."
    if row.lift_kept is not None:
        because += f" Of what the teacher adds to it, {percent(row.lift_kept, 0)} is kept."
    return [Answer(question="Worth more than a bag of words?", answer=word, because=because, tone=tone)]


def _pays(row: StudentRow, spec: StudySpec) -> list[Answer]:
    plain, test = row.without_distillation.get(f"test/{spec.quality}"), row.test.get(f"test/{spec.quality}")
    if plain is None or test is None:
        return []
    gain = test.mean - plain.mean
    spread = max(test.std or 0, plain.std or 0)
    word = "Yes" if gain > spread else "No" if gain < -spread else "Not shown"
    because = f"The same student with the same steps but labels alone reaches {with_spread(plain)}: "
    because += f"distilling is {abs(100 * gain):.1f} points {'better' if gain >= 0 else 'worse'}"
    because += ", within what the seeds differ by." if word == "Not shown" else "."
    return [
        Answer(question="Did distilling pay?", answer=word, because=because, tone="good" if word == "Yes" else "plain")
    ]
