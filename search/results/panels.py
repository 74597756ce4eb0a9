"""The parts of the report that are written as HTML: cards, the front's table, bars, what ended where, what failed."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from search.results.account import Account, spending
from search.results.analysis import Analysis, duration, heading, left_out
from search.results.answers import Answer
from search.results.asked import metric_in_words, plural
from search.results.front import ParetoFront, Reference
from search.results.scores import SeedScore
from search.results.students import StudentRow
from search.results.table import distinctions, interval, millions, percent, with_spread
from spaces.study import StudySpec
from spaces.trial import TrialOutcome, TrialState

LANE_WORDS = {"busy": "at work", "idle": "waiting for work", "starting": "starting"}


def card(answer: Answer) -> str:
    question, word, because = map(_text, (answer.question, answer.answer, answer.because))
    if answer.trial is not None:
        word = _opens(answer.trial, word)
    inside = f'<h2>{question}</h2><p class="word">{word}</p><p>{because}</p>'
    return f'<section class="card {_text(answer.tone)}">{inside}</section>'


def facts(found: Mapping[str, str]) -> str:
    return f"<dl>{''.join(f'<dt>{_text(name)}</dt><dd>{_text(text)}</dd>' for name, text in found.items())}</dl>"


def front_table(
    spec: StudySpec, front: ParetoFront, rows: Sequence[StudentRow], references: Sequence[Reference]
) -> str:
    """One line a student, whose number opens what it is; then what students are held against."""
    quality, test = metric_in_words(spec.quality), f"test/{spec.quality}"
    latency = any("latency_ms" in row.deployed for row in rows)
    head = ["trial", "parameters\nfile", *(["latency"] if latency else []), f"validation\n{quality}"]
    head += [f"test {quality}\n95 % interval", "without\ndistillation", "of the\nteacher", "lift\nkept", "student"]
    lines = []
    for row in rows:
        mark = "knee" if row.trial == front.knee else row.standing if row.standing == "near" else ""
        cells = [
            f"{millions(row.num_parameters)}\n{_file(row.num_bytes)}",
            *([_milliseconds(row.deployed.get("latency_ms"))] if latency else []),
            percent(row.validation.get(f"validation/{spec.quality}")),
            _tested(row.test.get(test)),
            with_spread(row.without_distillation.get(test)),
            percent(row.share_of_teacher),
            percent(row.lift_kept, 0),
            row.architecture,
        ]
        badge = f' <span class="badge">{mark}</span>' if mark else ""
        button = (
            f'<button type="button" class="open" data-trial="{row.trial}" aria-label="Trial {row.trial}: settings">'
        )
        first = f'<th scope="row">{button}{row.trial}</button>{badge}</th>'
        lines.append(f"<tr{f' class={mark}' if mark else ''}>{first}{_cells(cells)}</tr>")
    for reference in references:
        cells = [
            f"{millions(reference.num_parameters)}\n{_file(reference.num_bytes)}" if reference.num_parameters else "",
            *([_milliseconds(reference.metrics.get("deployed/latency_ms"))] if latency else []),
            percent(reference.value(spec.quality)),
            percent(reference.value(spec.quality, "test")),
        ]
        rest = [""] * (len(head) - 1 - len(cells))
        first = f'<th scope="row">{_text(reference.label)}</th>'
        lines.append(f'<tr class="reference">{first}{_cells([*cells, *rest])}</tr>')
    return f"<thead><tr>{_cells(head, 'th scope=col')}</tr></thead><tbody>{''.join(lines)}</tbody>"


def _opens(trial: int, text: str) -> str:
    """What shows the trial's settings, and how to train it."""
    return (
        f'<button type="button" class="open" data-trial="{trial}" aria-label="Trial {trial}: settings">{text}</button>'
    )


def what_is_shown(rows: Sequence[StudentRow], near: Sequence[StudentRow]) -> str:
    """Which students are better than smaller ones, and what those near the front are."""
    lines = "".join(f"<li>{_text(line)}</li>" for line in distinctions(rows))
    text = f"<h3>Is more size better?</h3><ul>{lines}</ul>" if lines else ""
    if near:
        text += (
            '<p class="note">Students marked near were not chosen: on validation only the noise of their score keeps them off '
            "the front. They were trained with other seeds to see, and no model of theirs is kept.</p>"
        )
    return text


def what_decides(found: Analysis) -> str:
    """For each objective the parameters by their share of its variance, and what the front's students have in common."""
    parts = []
    for one in found.importances.found:
        parts.append(
            f"<div><h3>What {_text(heading(one))}</h3>"
            f"{_bars((name, share, percent(share, 0)) for name, share in one.shares.items())}</div>"
        )
    reasons = "".join(f'<p class="note">{_text(line)}</p>' for line in left_out(found.importances))
    common = "".join(f"<li>{_text(line)}</li>" for line in found.likeness)
    parts.append(f"<div><h3>What the front's students have in common</h3><ul>{common}</ul></div>")
    return f'<div class="columns">{"".join(parts)}</div>{reasons}'


def rungs_table(spec: StudySpec, outcomes: Sequence[TrialOutcome]) -> str:
    """At each share of the training, how many trials were measured there, and what became of them. Nothing where each trial is
    trained whole. `outcomes` are the search's own."""
    if len(spec.search.rungs) < 2:
        return ""
    lines = []
    for rung in spec.search.rungs:
        measured = [o for o in outcomes if any(abs(m.share - rung) < 1e-6 for m in o.measurements)]
        here = [outcome for outcome in measured if abs(outcome.share - rung) < 1e-6]
        states = [outcome.state for outcome in here]
        ended, failed = states.count(TrialState.ENDED), states.count(TrialState.FAILED)
        on = len(measured) - len(here) + sum(state in (TrialState.PROMOTED, TrialState.RUNNING) for state in states)
        seconds = sum(o.train_seconds for o in here if o.state is TrialState.ENDED)
        cells = [str(len(measured)), str(ended), str(failed), str(states.count(TrialState.WAITING))]
        cells += ["" if rung >= 1 else str(on), duration(seconds) if ended else ""]
        lines.append(f'<tr><th scope="row">{_text(percent(rung, 0))}</th>{_cells(cells)}</tr>')
    titles = ["share of the training", "measured", "ended here", "failed after", "waiting", "went on"]
    head = _cells([*titles, "trained for those that ended"], "th scope=col")
    return f"<table class=small><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def where_it_went(account: Account, outcomes: Sequence[TrialOutcome]) -> str:
    """`outcomes` are all trials, confirmations too."""
    spent = spending(outcomes)
    trained = sum(one.seconds for one in spent) or 1.0
    parts = ["<div><h3>Training, on all lanes together</h3>"]
    parts.append(
        _bars(
            (
                one.whom,
                one.seconds / trained,
                f"{duration(one.seconds)}{f', {millions(one.tokens)} tokens' if one.tokens else ''}",
            )
            for one in spent
        )
    )
    parts.append("</div>")
    for title, seconds in (
        ("Stages of the last run that ended", account.stages),
        (
            f"Its {plural(account.num_lanes, 'lane')} together",
            {LANE_WORDS.get(name, name): each for name, each in account.lanes.items()},
        ),
    ):
        whole = sum(seconds.values())
        if whole > 0:
            longest = max(seconds.values())
            shown = (
                (n, s / longest, f"{duration(s)}, {percent(s / whole, 0)}") for n, s in seconds.items() if s >= 0.5
            )
            parts.append(f"<div><h3>{_text(title)}, {duration(whole)}</h3>{_bars(shown)}</div>")
    notes = [f"The study was run {account.runs} times."] if account.runs > 1 else []
    notes += [f"GPU hours held by its lanes: {account.gpu_hours:.2f}."] if account.gpu_hours else []
    if account.paid:
        money = " and ".join(f"{paid:,.2f} {currency}" for currency, paid in account.paid.items())
        notes.append(f"Its lanes cost {money}, from each command's start to its end.")
    note = f'<p class="note">{_text(" ".join(notes))}</p>' if notes else ""
    return f'<div class="columns">{"".join(parts)}</div>{note}'


def failures(outcomes: Sequence[TrialOutcome], undelivered: Mapping[int, str]) -> str:
    """Failed trials, and students that could not be delivered (trial -> error), by cause."""
    failed = {outcome.number: outcome.error for outcome in outcomes if outcome.state is TrialState.FAILED}
    parts = [_by_cause(failed) if failed else "<p>No trial failed.</p>"]
    if undelivered:
        parts.append(f"<h3>Trained, and not delivered</h3>{_by_cause(undelivered)}")
    return "".join(parts)


def _by_cause(errors: Mapping[int, str], most: int = 20) -> str:
    """By the first line of their error, the most frequent first."""
    causes: dict[str, list[int]] = {}
    for trial, error in errors.items():
        first = (error.strip().splitlines() or ["no cause was written down"])[0]
        causes.setdefault(first[:300], []).append(trial)
    ordered = sorted(causes.items(), key=lambda item: -len(item[1]))
    lines = []
    for cause, trials in ordered[:most]:
        named = ", ".join(map(str, trials[:12])) + (" ..." if len(trials) > 12 else "")
        lines.append(f"<li><b>{len(trials)} ×</b> {_text(cause)} <small>trial {named}</small></li>")
    more = f"<p>and {len(ordered) - most} further causes</p>" if len(ordered) > most else ""
    return f'<ul class="bare">{"".join(lines)}</ul>{more}'


def _bars(found: object) -> str:
    """Bars from (name, length from 0 to 1, what is said of it); drawn by attributes alone, which the page's policy allows."""
    lines = "".join(
        f'<li><span>{_text(name)}</span><b>{_text(said)}</b><svg aria-hidden="true"><rect width="100%" height="6" rx="3" '
        f'class="track"/><rect width="{100 * length:.1f}%" height="6" rx="3"/></svg></li>'
        for name, length, said in found  # type: ignore[attr-defined]
    )
    return f'<ul class="bars">{lines}</ul>'


def _cells(values: Sequence[str], tag: str = "td") -> str:
    """A second line is smaller."""

    def cell(value: str) -> str:
        first, _, second = value.partition("\n")
        return f"{_text(first)}<small>{_text(second)}</small>" if second else _text(first)

    return "".join(f"<{tag}>{cell(value)}</{tag.split()[0]}>" for value in values)


def _tested(score: SeedScore | None) -> str:
    """The mean over its seeds, and below it the interval."""
    if score is None:
        return ""
    return f"{with_spread(score)}\n{', '.join(part for part in (interval(score), plural(score.seeds, 'seed')) if part)}"


def _file(num_bytes: float) -> str:
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes else ""


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3g} ms"


def _text(text: str) -> str:
    """Escaped; a number stays beside its unit."""
    return html.escape(text.replace(" %", "\u00a0%").replace(" M ", "\u00a0M "))
