"""The report: one HTML file that answers which student to take, shows why, and loads nothing from anywhere."""

from __future__ import annotations

import base64
import gzip
import html
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

from search.results.analysis import Analysis, analyse, heading, left_out
from search.results.figure import course_figure, front_figure, metric_in_words
from search.results.front import ParetoFront, Reference, reference_named
from search.results.page import PAGE
from search.results.students import StudentRow, smallest_within
from search.results.table import distinctions, interval, millions, percent, with_spread
from spaces.deployment import COSTS
from spaces.student import Frozen
from spaces.study import StudySpec
from spaces.trial import TrialOutcome, TrialState
from spaces.yaml_io import to_yaml, write_whole

WITHIN = 0.97


class Answer(Frozen):
    """One card of the headline, plain text: the question, the answer in a word, and what stands behind it."""

    question: str
    answer: str
    because: str
    tone: str = "plain"  # good, bad or plain


def answers(
    spec: StudySpec, front: ParetoFront, rows: Sequence[StudentRow], references: Sequence[Reference]
) -> list[Answer]:
    """What the study found: which student to take, the knee, whether it beats a bag of words, if distilling paid."""
    if not rows:
        return [
            Answer(
                question="Which student?",
                answer="None",
                because="No trial finished its training within the bounds, so there is no front to choose from.",
                tone="bad",
            )
        ]
    chosen = smallest_within(rows, WITHIN)
    at_knee = next((row for row in rows if row.trial == front.knee), None)
    best = max(rows, key=lambda row: row.validation.get(f"validation/{spec.quality}", -math.inf))  # not chosen on test
    out = []
    if chosen:
        out.append(
            Answer(
                question="The smallest student within 3 % of the teacher",
                answer=f"Trial {chosen.trial}",
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
        out.append(Answer(question="The knee of the front", answer=f"Trial {at_knee.trial}", because=because))
    return [*out, *_beats_words(chosen or at_knee or best, spec, references), *_pays(chosen or at_knee or best, spec)]


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
    text += f"; {row.scored_on} {metric_in_words(spec.quality)} {percent(row.score)}"
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


def write_report(
    path: str | Path,
    spec: StudySpec,
    front: ParetoFront,
    rows: Sequence[StudentRow],
    references: Sequence[Reference],
    outcomes: Sequence[TrialOutcome],
    near: Sequence[StudentRow] = (),
) -> None:
    """One self-contained HTML file, whole or not at all. `outcomes` are all trials, confirmations too; `near` the students that
    were confirmed beside the front."""
    import plotly.offline

    found = analyse(spec, front, outcomes, references)
    drawn = {"plot": front_figure(spec, front, rows, references, outcomes, near), "course": course_figure(found.course)}
    figures = {name: json.loads(figure.to_json()) for name, figure in drawn.items()}
    for figure in figures.values():
        del figure["layout"]["template"]  # 7 kB of defaults that the layout overrides
    # The library is 4.8 MB: packed it is 2, and every browser since 2023 unpacks it by itself.
    library = base64.b64encode(gzip.compress(plotly.offline.get_plotlyjs().encode(), mtime=0)).decode()
    searched = [outcome for outcome in outcomes if "of" not in outcome.labels]
    counts = Counter(outcome.state.value for outcome in searched)
    again = Counter(o.labels.get("kind", "again").replace("_", " ") for o in outcomes if "of" in o.labels)
    told = ", ".join(f"{number} {word}" for word, number in [*counts.items(), *again.items()]) or "no trials"
    page = Template(PAGE).substitute(
        title=html.escape(f"{spec.name}: students worth having"),
        name=html.escape(spec.name),
        subtitle=html.escape(f"Students of {_teacher(spec)} for {spec.task}. Trials: {told}."),
        cards="".join(_card(answer) for answer in answers(spec, front, rows, references)),
        table=_table(spec, front, [*rows, *near], references),
        distinctions=_distinctions(rows, near),
        analysis=_analysis(found),
        failures=_failures(outcomes),
        made=_made(spec, front, references),
        figures=_script_safe(figures),
        library=library,
    )
    write_whole(path, page)


def _script_safe(data: Any) -> str:
    """JSON that can stand inside a script element: nothing in it ends the element or opens a comment."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _card(answer: Answer) -> str:
    question, word, because = (
        html.escape(text) for text in (answer.question, answer.answer, answer.because.replace(" %", "\u00a0%"))
    )
    inside = f'<h2>{question}</h2><p class="word">{word}</p><p>{because}</p>'
    return f'<section class="card {html.escape(answer.tone)}">{inside}</section>'


def _cells(values: Sequence[str], tag: str = "td") -> str:
    return "".join(f"<{tag}>{html.escape(value)}</{tag}>" for value in values)


def _table(spec: StudySpec, front: ParetoFront, rows: Sequence[StudentRow], references: Sequence[Reference]) -> str:
    quality, test = metric_in_words(spec.quality), f"test/{spec.quality}"
    head = [
        "trial",
        "student",
        "parameters",
        "file",
        f"validation {quality}",
        f"test {quality}",
        "95 % interval",
        "seeds",
    ]
    head += ["without distillation", "of teacher", "lift kept", "how it was trained"]
    lines = []
    for row in rows:
        config = row.config
        length = f"{config.steps} steps" if config.steps else f"{config.epochs:g} epochs"
        trained = f"T {config.temperature:.3g}, soft {config.soft_share:.2g}, rate {config.learning_rate:.2g}, "
        if config.hidden_share:
            trained += f"hidden {config.hidden_share:.2g} ({config.hidden_loss}, {config.hidden_layers}), "
        trained += f"batch {config.batch_size}, {length}"
        cells = [
            f"{row.trial}{' (knee)' * (row.trial == front.knee)}{' (near)' * (row.standing == 'near')}",
            row.architecture,
            millions(row.num_parameters),
            f"{row.num_bytes / 1e6:.1f} MB",
            percent(row.validation.get(f"validation/{spec.quality}")),
            with_spread(row.test.get(test)),
            interval(row.test.get(test)),
            str(row.test[test].seeds) if test in row.test else "",
            with_spread(row.without_distillation.get(test)),
            percent(row.share_of_teacher),
            percent(row.lift_kept, 0),
            trained,
        ]
        mark = " class=knee" * (row.trial == front.knee) + " class=near" * (row.standing == "near")
        lines.append(f"<tr{mark}>{_cells(cells)}</tr>")
    for reference in references:
        cells = [
            "",
            reference.label,
            millions(reference.num_parameters) if reference.num_parameters else "",
            f"{reference.num_bytes / 1e6:.1f} MB" if reference.num_bytes else "",
            percent(reference.value(spec.quality)),
            percent(reference.value(spec.quality, "test")),
        ]
        lines.append(f'<tr class="reference">{_cells([*cells, "", "", "", "", "", ""])}</tr>')
    return f"<thead><tr>{_cells(head, 'th')}</tr></thead><tbody>{''.join(lines)}</tbody>"


def _distinctions(rows: Sequence[StudentRow], near: Sequence[StudentRow]) -> str:
    """Which students are better than smaller ones, and what those near the front are."""
    lines = "".join(f"<li>{html.escape(line)}</li>" for line in distinctions(rows))
    text = f"<h3>Is more size better?</h3><ul>{lines}</ul>" if lines else ""
    if near:
        text += (
            '<p class="note">Students marked near were not chosen: on validation only the noise of their score keeps them off '
            "the front. They were trained with other seeds to see, and no model of theirs is kept.</p>"
        )
    return text


def _analysis(found: Analysis) -> str:
    parts = []
    for one in found.importances.found:
        shares = "".join(f"<li>{html.escape(name)} {percent(share, 0)}</li>" for name, share in one.shares.items())
        parts.append(f"<div><h3>What {html.escape(heading(one))}</h3><ul>{shares}</ul></div>")
    reasons = "".join(f'<p class="note">{html.escape(line)}</p>' for line in left_out(found.importances))
    common = "".join(f"<li>{html.escape(line)}</li>" for line in found.likeness)
    parts.append(f"<div><h3>What the front's students have in common</h3><ul>{common}</ul></div>")
    return f'<div class="columns">{"".join(parts)}</div>{reasons}'


def _failures(outcomes: Sequence[TrialOutcome]) -> str:
    """Failed trials by the first line of their error, the most frequent first."""
    causes: dict[str, list[int]] = {}
    for outcome in outcomes:
        if outcome.state is TrialState.FAILED:
            first = (outcome.error.strip().splitlines() or ["no cause was written down"])[0]
            causes.setdefault(first[:300], []).append(outcome.number)
    if not causes:
        return "<p>No trial failed.</p>"
    ordered = sorted(causes.items(), key=lambda item: -len(item[1]))
    lines = []
    for cause, trials in ordered[:20]:
        named = ", ".join(map(str, trials[:12])) + (" ..." if len(trials) > 12 else "")
        lines.append(f"<li><b>{len(trials)} ×</b> {html.escape(cause)} <small>trial {named}</small></li>")
    more = f"<p>and {len(ordered) - 20} further causes</p>" if len(ordered) > 20 else ""
    return f"<ul>{''.join(lines)}</ul>{more}"


def _made(spec: StudySpec, front: ParetoFront, references: Sequence[Reference]) -> str:
    """How to read it, and the study without what belongs to one machine (paths, storage)."""
    data = spec.data
    source = f"the embedded {data.builtin} ({data.num_pairs:,} pairs)" if data.builtin else _source(data.train)
    reference = ", ".join(
        f"{name} {value:,.0f}" if name in COSTS else f"{name} {percent(value)}"
        for name, value in front.reference.items()
    )
    facts = {
        "Chosen by": "the validation split; the front holds what finished its training and keeps the bounds",
        "Reported on": "the test split, which the search never saw: mean ± standard deviation over seeds",
        "Without distillation": "the same student, initialisation and steps, learning from labels alone",
        "95 % interval": "of several seeds: where their mean lies on these very texts (Student's t); "
        "of one: where its accuracy lies on texts like these (Wilson)",
        "Better than smaller": "Welch's t-test over seeds and texts, with Holm's correction; shown where p < 0.05",
        "Lift kept": "(student - n-grams) / (teacher - n-grams): how much of what the teacher adds is kept",
        "Hypervolume": f"{front.hypervolume:.4f} on (1 - quality, log10 size), up to {reference}",
        "Data": source,
        "Teacher": _teacher(spec),
    }
    items = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in facts.items())
    shown = ("task", "space", "objectives", "bounds", "training", "budget", "search", "confirm", "seed")
    resolved = spec.resolved()
    study = to_yaml({name: resolved[name] for name in shown if name in resolved})
    return f"<dl>{items}</dl><details><summary>The study</summary><pre>{html.escape(study)}</pre></details>"


def _source(train: Any) -> str:
    return train.name if isinstance(train, Path) else f"{train.hub} {train.config or ''} ({train.split})"


def _teacher(spec: StudySpec) -> str:
    """A teacher by the name that people know: of its package, its folder or its place on the hub."""
    model = spec.teacher.model
    return model.removeprefix("package:").split("/")[0] if model.startswith("package:") else Path(model).name
