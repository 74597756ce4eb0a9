"""Commands that look: list (the studies below a folder), show (one study, or one trial of it)."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from search.cli.options import AsJson, Folder, complete_folder, place
from spaces.errors import InputError
from spaces.remote import folder_of, url_of, written

if TYPE_CHECKING:
    from search.study.overview import Best, StudySummary
    from search.study.trials import TrialDetails

Below = Annotated[
    Path,
    typer.Argument(
        help="where to look, with all folders in it; at a URL with those right below it",
        metavar="FOLDER",
        parser=place,
        autocompletion=complete_folder,
    ),
]
STYLES = {"running": "green", "interrupted": "yellow", "unreadable": "red", "storage not reached": "red"}


def list_studies(folder: Below = Path("runs"), as_json: AsJson = False) -> None:
    """List the studies below a folder: state, trials, best points, when last active, what they take on disk.

    The last active comes first. interrupted ones go on with the command that began them. Best points are on
    validation: the highest quality, and the smallest student that keeps 97 % of the teacher's.

    $ distilsearch list
    $ distilsearch list /data/runs --json
    """
    from search.study.overview import studies_below, summary_of

    found = [summary_of(path) for path in studies_below(folder)]
    found.sort(key=lambda study: -(study.active_at or 0))
    if as_json:
        typer.echo(json.dumps([study.model_dump(mode="json") for study in found], indent=2))
    elif not found:
        Console(stderr=True).print(f"no study lies below {written(folder)}", markup=False, soft_wrap=True)
    else:
        _print(_table(found, folder))


def show(
    folder: Folder,
    trial: Annotated[int | None, typer.Option(help="show this trial in full", min=0, metavar="N")] = None,
    as_study: Annotated[
        bool,
        typer.Option("--study", help="with --trial: print the study of this one student, which `run` trains again"),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show one study, as resolved and where it stands; or one of its trials with all that is known of it.

    Of a trial: state, architecture, parameters, what it measured at each rung and what that cost, its confirmations, its error,
    where its weights lie and the command that trains it again.

    $ distilsearch show runs/reviews
    $ distilsearch show runs/reviews --trial 7
    $ distilsearch show runs/reviews --trial 7 --study > trial-7.yaml
    """
    if as_study and trial is None:
        raise InputError.of("--study", "goes with --trial N; a whole study's is DIR/study.yaml")
    from spaces.yaml_io import to_yaml

    if trial is not None:
        from search.study.trials import trial_details

        details = trial_details(folder, trial)
        if as_study:
            typer.echo(to_yaml(details.study).rstrip())
        elif as_json:
            typer.echo(details.model_dump_json(indent=2))
        else:
            _print_trial(folder, details)
        return
    from search.study.disk import disk_use, in_words
    from search.study.output import spec_of
    from search.study.overview import summary_of
    from spaces.secrets import mask_secrets

    study = mask_secrets(spec_of(folder).resolved())
    summary = summary_of(folder)
    if as_json:
        plain = summary.model_dump(mode="json") | {"disk": disk_use(folder), "study": study}
        typer.echo(json.dumps(plain, indent=2))
        return
    console = Console(highlight=False)
    console.print(Text(to_yaml(study).rstrip()), soft_wrap=True)
    lines = [f"{summary.name}: {_state(summary)}", _trials(summary)]
    lines += [f"best: {_point(summary, summary.best)}"] if summary.best else []
    lines += [f"smallest with 97 % of the teacher: {_point(summary, summary.smallest)}"] if summary.smallest else []
    lines += [f"last active: {_when(summary.active_at)}"]
    lines += [f"on disk: {in_words(folder)}"] if url_of(folder) is None else []
    console.print()
    console.print(Text("\n".join(lines)), soft_wrap=True)


def _table(found: list[StudySummary], folder: Path) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title, justify in (
        ("study", "left"), ("state", "left"), ("trials", "right"), ("best", "left"), ("smallest keeping 97 %", "left"),
        ("last active", "left"), ("on disk", "right"),
    ):  # fmt: skip
        table.add_column(title, justify=justify, overflow="fold", no_wrap=title in ("trials", "on disk"))  # type: ignore[arg-type]
    from search.study.disk import megabytes

    for study in found:
        where = folder_of(study.folder)
        table.add_row(
            Text(str(where if where == folder else where.relative_to(folder))),
            Text(_state(study), STYLES.get(study.state.value, "")),
            f"{study.done} of {study.budget_trials}" if study.budget_trials else "",
            _point(study, study.best),
            _point(study, study.smallest),
            _when(study.active_at),
            megabytes(study.disk_bytes),
        )
    return table


def _print(table: Table) -> None:
    """As wide as the terminal; not cut where there is none."""
    console = Console()
    (console if console.is_terminal else Console(width=200)).print(table)


def _state(study: StudySummary) -> str:
    return study.state.value + (f": {study.problem}" if study.problem else "")


def _trials(study: StudySummary) -> str:
    failed = f", {study.failed} failed" if study.failed else ""
    by = f"; run by {study.running_by}" if study.running_by else ""
    return f"trials: {study.done} of {study.budget_trials} done, {study.begun} begun{failed}{by}"


def _point(study: StudySummary, point: Best | None) -> str:
    if point is None:
        return ""
    from search.results.table import millions, percent

    share = f" ({percent(point.share_of_teacher)} of teacher)" if point.share_of_teacher is not None else ""
    return f"{percent(point.quality)} {study.quality}{share}, {millions(point.num_parameters)}, trial {point.trial}"


def _when(at: float | None) -> str:
    if at is None:
        return ""
    seconds = max(0.0, time.time() - at)
    for size, word in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {word} ago"
    return "now"


def _print_trial(folder: Path, details: TrialDetails) -> None:
    from search.results.table import millions, percent
    from search.study.trials import MEANS

    console = Console(highlight=False)

    def say(text: str) -> None:
        console.print(Text(text), soft_wrap=True)

    standing = {"front": ", on the front", "beaten": ", beaten by the front or out of bounds"}.get(details.standing, "")
    say(f"trial {details.trial} of {folder}: {details.state.value}{standing} ({MEANS[details.state]})")
    say(f"{details.architecture}; {millions(details.num_parameters)} parameters, {details.num_bytes / 1e6:.1f} MB")
    if details.error:
        say(f"error: {details.error}")
    if details.share_of_teacher is not None:
        say(f"{percent(details.share_of_teacher)} of the teacher on validation")
    parts = max((each.cost.get("accumulation_steps", 1) for each in details.measurements), default=1)
    if parts > 1:
        say(f"its batches were trained in {parts:g} parts, one after another, for want of memory: the same steps")
    settings = {**details.parameters, "seed": details.config.seed, "epochs": details.config.epochs}
    _section(console, "parameters", ["", ""], [[name, str(value)] for name, value in settings.items()])
    names = list(dict.fromkeys(name for each in details.measurements for name in each.metrics))
    costs = ("train_seconds", "tokens", "optimizer_steps", "lane", "lane_memory_gb")
    rows = [
        [
            f"{each.share:.0%}",
            str(each.step),
            str(each.attempt),
            *(_number(each.metrics.get(name)) for name in names),
            *(_number(each.cost.get(name)) for name in costs),
        ]
        for each in details.measurements
    ]
    if rows:
        _section(console, "measured", ["of training", "step", "attempt", *names, *costs], rows)
    kinds = {"confirm": "another seed", "without_distillation": "without distillation"}
    tested = list(dict.fromkeys(name for each in details.again for name in each.metrics))
    again = [
        [kinds.get(each.kind, each.kind), each.seed, each.error or each.state.value]
        + [_number(each.metrics.get(name)) for name in tested]
        for each in details.again
    ]
    if again:
        _section(console, "trained again", ["", "seed", "state", *tested], again)
    if details.delivered:
        rows = [[name, _number(value)] for name, value in details.delivered.items()]
        _section(console, "the delivered model", ["", ""], rows)
    console.print()
    say(f"weights: {details.weights or 'not kept (of trials that left the front they are not)'}")
    say(f"train it again: {details.train}")


def _section(console: Console, title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A table; where it is wider than the terminal, with rows and columns swapped."""
    wide = sum(max(map(len, column)) + 2 for column in zip(columns, *rows, strict=True))
    if any(columns) and wide > console.width:
        columns, rows = [columns[0], *(row[0] for row in rows)], [
            [name, *(row[place] for row in rows)] for place, name in enumerate(columns) if place
        ]  # fmt: skip
    console.print()
    table = Table(box=None, pad_edge=False, header_style="dim", show_header=any(columns), title_justify="left")
    table.title = Text(title, "bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
