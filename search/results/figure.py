"""The front as a plotly figure, for the tracker: size on a log axis against quality.

plotly is imported when a figure is drawn, so that `status` and the front stay light.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from search.results.asked import metric_in_words
from search.results.front import ParetoFront, Reference, reference_named
from search.results.students import StudentRow
from search.results.table import millions, percent
from spaces.deployment import COSTS
from spaces.study import StudySpec
from spaces.trial import TrialOutcome, TrialState

if TYPE_CHECKING:
    import plotly.graph_objects as go

BLUE, ORANGE, GREEN, GREY, RED = "#3b82f6", "#f59e0b", "#10b981", "#8b93a1", "#e5484d"  # read on white and on black
LAYOUT: dict[str, Any] = {
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "font": {"family": "system-ui, sans-serif", "size": 13, "color": GREY},
    "hovermode": "closest",
    "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": GREY, "activecolor": BLUE},
}
AXIS = {"gridcolor": "rgba(139,147,161,0.22)", "zeroline": False}
MAX_FAINT = 4000  # trials drawn faintly; more are thinned evenly, which keeps the file under 5 MB


def front_figure(
    spec: StudySpec,
    front: ParetoFront,
    rows: Sequence[StudentRow],
    references: Sequence[Reference],
    outcomes: Sequence[TrialOutcome],
    near: Sequence[StudentRow] = (),
) -> go.Figure:
    """Size on a log axis against quality: finished trials faintly, the front, its test means, those of students near it, and
    references."""
    import plotly.graph_objects as go

    size = next((name for name in spec.objectives if name in COSTS), "parameters")
    figure = go.Figure()
    sizes = {row.trial: _size(row, size) for row in rows}
    chosen = {row.trial: row.validation.get(f"validation/{spec.quality}", math.nan) for row in rows}

    faint = [
        (outcome.number, values[size], values[spec.quality])
        for outcome in outcomes
        if outcome.state is TrialState.DONE and "of" not in outcome.labels and outcome.number not in sizes
        for values in [outcome.values()]
        if math.isfinite(values.get(spec.quality, math.nan))
    ]
    faint = faint[:: -(-len(faint) // MAX_FAINT) or 1]
    figure.add_scatter(
        x=[x for _, x, _ in faint],
        y=[y for _, _, y in faint],
        customdata=[number for number, _, _ in faint],
        mode="markers",
        name="other trials",
        marker={"color": GREY, "size": 7, "opacity": 0.4},
        hovertemplate="trial %{customdata}<br>%{x:,.0f}<br>%{y:.4f}<extra></extra>",
    )
    figure.add_scatter(
        x=[sizes[row.trial] for row in rows],
        y=[chosen[row.trial] for row in rows],
        text=[f"<b>{row.trial}</b>" for row in rows],
        customdata=[html.escape(row.architecture) for row in rows],
        mode="lines+markers+text",
        textposition="top left",
        textfont={"size": 13, "color": BLUE},
        name="front (validation)",
        line={"shape": "hv", "color": BLUE, "width": 2},
        marker={"color": BLUE, "opacity": 1, "size": [15 if row.trial == front.knee else 10 for row in rows]},
        hovertemplate="trial %{text}<br>%{customdata}<br>%{x:,.0f}<br>%{y:.4f}<extra></extra>",
    )
    tested = [row for row in rows if f"test/{spec.quality}" in row.test]
    scores = [row.test[f"test/{spec.quality}"] for row in tested]
    if tested:
        _draw_tested(figure, spec, tested, size, "front (test, mean ± std)", "diamond")
    if near:
        _draw_tested(figure, spec, near, size, "near the front (test, mean ± std)", "diamond-open")
    for name, symbol in (("teacher", "star"), ("teacher_cut", "star-open"), ("ngrams", "square")):
        reference = reference_named(references, name)
        if reference and reference.value(size) > 0 and math.isfinite(reference.value(spec.quality)):
            figure.add_scatter(
                x=[reference.value(size)],
                y=[reference.value(spec.quality)],
                mode="markers+text",
                text=[html.escape(reference.label)],
                textposition="bottom center"
                if name == "ngrams"
                else f"{'top' if name == 'teacher' else 'bottom'} left",
                textfont={"size": 12, "color": GREEN},
                marker={"color": GREEN, "size": 14 if name.startswith("teacher") else 10, "symbol": symbol},
                cliponaxis=False,
                showlegend=False,
                hovertemplate="%{text}<br>%{x:,.0f}<br>%{y:.4f}<extra></extra>",
            )
    scores += [row.test[f"test/{spec.quality}"] for row in near]
    low, high = _height(spec, chosen, scores, faint, references)
    left, right = _width([*sizes.values(), *(x for _, x, _ in faint)], size, references)
    steps = (1, 2, 5) if right - left < 2.5 else (1,)
    ticks = [step * 10**power for power in range(math.floor(left), math.ceil(right) + 1) for step in steps]
    _draw_floors(figure, spec, references, low)
    _draw_bounds(figure, spec, references, size)
    figure.update_layout(
        **LAYOUT,
        margin={"l": 60, "r": 24, "t": 36, "b": 90},
        height=540,
        legend={"orientation": "h", "y": -0.16, "yanchor": "top", "x": 0},
        xaxis={
            **AXIS,
            "title": f"{size} (log)",
            "type": "log",
            "range": [left, right],
            "tickvals": ticks,
            "ticktext": [f"{tick:,.0f}" if tick < 1000 else millions(tick).replace(".0", "") for tick in ticks],
        },
        yaxis={
            **AXIS,
            "title": metric_in_words(spec.quality),
            "range": [low, high],
            "tickformat": ".0%" if high - low > 0.05 else ".1%",
        },
    )
    return figure


def _size(row: StudentRow, size: str) -> float:
    return float(row.num_parameters if size == "parameters" else row.num_bytes)


def _draw_tested(
    figure: go.Figure, spec: StudySpec, rows: Sequence[StudentRow], size: str, name: str, symbol: str
) -> None:
    scores = [row.test[f"test/{spec.quality}"] for row in rows]
    figure.add_scatter(
        x=[_size(row, size) for row in rows],
        y=[score.mean for score in scores],
        customdata=[
            f"trial {row.trial}, {s.seeds} seed{'s' * (s.seeds > 1)}" for row, s in zip(rows, scores, strict=True)
        ],
        error_y={"type": "data", "array": [score.std or 0 for score in scores], "color": ORANGE, "thickness": 1.5},
        mode="markers",
        name=name,
        marker={"color": ORANGE, "size": 9, "symbol": symbol},
        hovertemplate="%{customdata}<br>%{x:,.0f}<br>test %{y:.4f}<extra></extra>",
    )


def _height(
    spec: StudySpec,
    chosen: dict[int, float],
    scores: Sequence[Any],
    faint: Sequence[tuple[int, float, float]],
    references: Sequence[Reference],
) -> tuple[float, float]:
    """The quality axis: the front, the teachers and the floor, and below them only what leaves the front its room."""
    near = [*chosen.values(), *(score.mean + sign * (score.std or 0) for score in scores for sign in (-1, 1))]
    near += [reference.value(spec.quality) for reference in references if reference.name != "majority"]
    near = [value for value in near if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(near), max(near)
    room = max(high - low, 0.02)
    below = [y for _, _, y in faint] + [reference.value(spec.quality) for reference in references]
    low = min([low, *(value for value in below if low - room / 2 <= value)])
    return max(low - 0.12 * room, -0.02), min(high + 0.16 * room, 1.04)


def _width(found: Sequence[float], size: str, references: Sequence[Reference]) -> tuple[float, float]:
    """The size axis in powers of ten: trials and teachers, and the n-grams unless they would take half of it."""
    teachers = [r.value(size) for r in references if r.name in ("teacher", "teacher_cut") and r.value(size) > 0]
    logs = [math.log10(value) for value in (*found, *teachers) if value > 0] or [6.0, 8.0]
    left, right = min(logs), max(logs)
    room = max(right - left, 0.3)
    floor = reference_named(references, "ngrams")
    if floor and floor.value(size) > 0 and math.log10(floor.value(size)) > left - room:
        left = min(left, math.log10(floor.value(size)))
    return left - 0.12 * room, right + 0.12 * room


def _draw_floors(figure: go.Figure, spec: StudySpec, references: Sequence[Reference], low: float) -> None:
    for name, dash in (("ngrams", "dash"), ("majority", "dot")):
        reference = reference_named(references, name)
        if reference is None or not math.isfinite(reference.value(spec.quality)):
            continue
        value = reference.value(spec.quality)
        text = f"{html.escape(reference.label)} {percent(value)}"
        if reference.num_parameters:
            text += f" ({millions(reference.num_parameters)} weights)"
        if value < low:  # off the axis: said at its edge, so that the front keeps its room
            text, value = f"↓ {text}", low
        else:
            figure.add_hline(y=value, line={"color": GREY, "dash": dash, "width": 1.2})
        figure.add_annotation(
            xref="paper", x=1, xanchor="right", y=value, yanchor="bottom", text=text, showarrow=False,
            font={"size": 12, "color": GREY},
        )  # fmt: skip


def _draw_bounds(figure: go.Figure, spec: StudySpec, references: Sequence[Reference], size: str) -> None:
    teacher = reference_named(references, "teacher")
    for name, bound in spec.bounds.items():
        for word, limit in zip(("min", "max"), bound.limits(teacher.value(name) if teacher else math.nan), strict=True):
            if not math.isfinite(limit) or name not in (size, spec.quality):
                continue
            line = {"color": RED, "dash": "longdash", "width": 1.2}
            note: dict[str, Any] = {"showarrow": False, "font": {"size": 12, "color": RED}}
            if name == size:  # annotations on a log axis want the exponent, lines the value
                figure.add_vline(x=limit, line=line)
                note |= {"x": math.log10(limit), "xanchor": "center", "yref": "paper", "y": 1, "yanchor": "bottom"}
                note |= {"text": f"{word} {limit:,.0f}"}
            else:
                figure.add_hline(y=limit, line=line)
                note |= {"xref": "paper", "x": 0, "xanchor": "left", "y": limit, "yanchor": "bottom"}
                note |= {"text": f" {word} {percent(limit)}"}
            figure.add_annotation(**note)
