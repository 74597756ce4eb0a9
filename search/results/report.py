"""The report: one HTML file that answers which student to take, shows why, and loads nothing from anywhere.

Its page, style and script are files of `page/`; what they show comes from `answers`, `asked`, `panels` and `trials`.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from search.results.account import IN_PLAY, Account
from search.results.analysis import analyse
from search.results.answers import answers
from search.results.asked import asked, opening
from search.results.front import ParetoFront, Reference
from search.results.panels import (
    card,
    facts,
    failures,
    front_table,
    rungs_table,
    what_decides,
    what_is_shown,
    where_it_went,
)
from search.results.students import StudentRow
from search.results.table import percent
from search.results.trials import page_data
from spaces.deployment import COSTS
from spaces.study import StudySpec
from spaces.trial import TrialOutcome
from spaces.yaml_io import to_yaml, write_whole

SCRIPTS = ("chart.js", "figures.js", "page.js")
SHOWN = ("task", "space", "objectives", "bounds", "training", "budget", "search", "deployment", "confirm", "seed")


def write_report(path: str | Path, *found: Any, **more: Any) -> None:
    """What `report_page` makes of the same, as a file: whole or not at all."""
    write_whole(path, report_page(*found, **more))


def report_page(
    spec: StudySpec,
    front: ParetoFront,
    rows: Sequence[StudentRow],
    references: Sequence[Reference],
    outcomes: Sequence[TrialOutcome],
    near: Sequence[StudentRow] = (),
    account: Account | None = None,
    num_rows: Mapping[str, int] | None = None,
    undelivered: Mapping[int, str] | None = None,
    live: bool = False,
) -> str:
    """One self-contained page. `outcomes` are all trials, confirmations too; `near` the students that were confirmed beside the
    front; `undelivered` says why of students that could not be delivered. A `live` page asks whoever served it for `version`,
    and loads itself again when that changes."""
    searched = [outcome for outcome in outcomes if "of" not in outcome.labels]
    found = analyse(spec, front, searched, references)
    data = page_data(spec, front, rows, near, references, searched, found)
    style, script = _part("page.css"), "(() => {\n'use strict';\n" + "\n".join(map(_part, SCRIPTS)) + "})();"
    rungs = rungs_table(spec, searched)
    return Template(_part("page.html")).substitute(
        policy=_policy(style, script, live),
        style=style,
        script=script,
        live="live" if live else "",
        title=html.escape(f"{spec.name}: students worth having"),
        name=html.escape(spec.name),
        opening=html.escape(opening(spec)),
        trials=html.escape(_trials_in_words(outcomes)),
        cards="".join(
            map(card, answers(spec, front, rows, references, any(each.state in IN_PLAY for each in searched)))
        ),
        front=front_table(spec, front, [*rows, *near], references),
        shown=what_is_shown(rows, near),
        rungs=rungs,
        curves="" if rungs else "hidden",
        latency="" if "latency_ms" in data["costs"] else "hidden",
        decides=what_decides(found),
        time=where_it_went(account or Account(), outcomes),
        failures=failures(outcomes, undelivered or {}),
        asked=facts(asked(spec, references, num_rows or {})),
        study=html.escape(_study(spec)),
        made=facts(_made(front)),
        data=_script_safe(data),
    )


def _part(name: str) -> str:
    return files("search.results").joinpath("page", name).read_text("utf-8")


def _policy(style: str, script: str, live: bool) -> str:
    """Nothing is loaded and nothing runs but this very style and script; only a live page may ask, and only its server."""

    def known(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    policy = (
        f"default-src 'none'; script-src {known(script)}; style-src {known(style)}; base-uri 'none'; form-action 'none'"
    )
    return policy + "; connect-src 'self'" * live


def _script_safe(data: Any) -> str:
    """JSON that can stand inside a script element: nothing in it ends the element or opens a comment."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _trials_in_words(outcomes: Sequence[TrialOutcome]) -> str:
    counts = Counter(outcome.state.value for outcome in outcomes if "of" not in outcome.labels)
    again = Counter(o.labels.get("kind", "again").replace("_", " ") for o in outcomes if "of" in o.labels)
    return ", ".join(f"{number} {word}" for word, number in [*counts.items(), *again.items()]) or "no trials"


def _made(front: ParetoFront) -> dict[str, str]:
    """How to read it."""
    reference = ", ".join(
        f"{name} {value:,.0f}" if name in COSTS else f"{name} {percent(value)}"
        for name, value in front.reference.items()
    )
    return {
        "Chosen by": "the validation split; the front holds what finished its training and keeps the bounds",
        "Reported on": "the test split, which the search never saw: mean ± standard deviation over seeds",
        "Without distillation": "the same student, initialisation and steps, learning from labels alone",
        "95 % interval": "of several seeds: where their mean lies on these very texts (Student's t); "
        "of one: where its accuracy lies on texts like these (Wilson)",
        "Better than smaller": "Welch's t-test over seeds and texts, with Holm's correction; shown where p < 0.05",
        "Lift kept": "(student - n-grams) / (teacher - n-grams): how much of what the teacher adds is kept",
        "Hypervolume": f"{front.hypervolume:.4f} on (1 - quality, log10 size), up to {reference}",
    }


def _study(spec: StudySpec) -> str:
    """Without what belongs to one machine (paths, storage)."""
    resolved = spec.resolved()
    resolved["search"].pop("from", None)
    return to_yaml({name: resolved[name] for name in SHOWN if name in resolved})
