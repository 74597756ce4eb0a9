"""The command `distilsearch`: the only place that prints or exits. Exit status: 0 done, 1 failed, 2 bad input.

stdout is for results, stderr for progress and errors.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from spaces.errors import InputError, StudyError

INTERRUPTED = 130  # by Ctrl-C, or told to end
app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Finds the smallest students of a BERT-like teacher that still do its job, and trains them.\n\n"
    "Start with [bold]distilsearch plan docstrings[/bold] (a shipped study that needs no data of yours), then "
    "[bold]distilsearch run docstrings[/bold]. Your own study is a YAML file with two keys at least, data and teacher; "
    "see the README, or [bold]distilsearch schema[/bold].",
)
StudyPath = Annotated[
    str,
    typer.Argument(
        help="a study file, a best-config file, or a shipped study's name (docstrings, sst2)", metavar="STUDY"
    ),
]
Folder = Annotated[Path, typer.Argument(help="the output folder of a study", metavar="DIR")]
DataFolder = Annotated[
    Path | None, typer.Option(help="instead of the study's data: a folder with train, validation and test files")
]
Earlier = Annotated[
    Path | None,
    typer.Option(
        "--from",
        help="instead of search.from: an earlier study's output folder, to begin with what it measured, or found best",
        metavar="DIR",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]


@app.command()
def run(
    study: StudyPath,
    trials: Annotated[int | None, typer.Option(help="instead of budget.trials", min=1)] = None,
    minutes: Annotated[float | None, typer.Option(help="instead of budget.minutes")] = None,
    more: Annotated[
        int | None, typer.Option(help="extend it: so many trials beyond those it has", min=1, max=1_000_000)
    ] = None,
    output: Annotated[Path | None, typer.Option(help="instead of the study's output folder")] = None,
    data: DataFolder = None,
    earlier: Earlier = None,
    as_json: AsJson = False,
) -> None:
    """Run a study to its end, or continue it: the same command again.

    Fine-tunes the teacher if it has no task head, lets it read the data once, searches, retrains the front's students
    with more seeds, and leaves front.csv, report.html and a trained model with its config for each point.
    """
    from search.study.progress import Progress
    from search.study.run import run_study

    if more is not None and (trials is not None or minutes is not None):
        raise InputError.of(
            "--more", "goes with neither --trials nor --minutes, which replace the budget; write one of them"
        )
    spec = _load(study, trials, minutes, output, data, earlier)
    stderr = Console(stderr=True)
    with Progress(stderr, spec.quality) as progress:
        result = run_study(spec, progress, more)
    if result.already_done:
        stderr.print(
            f"This study is done: nothing was left to do. `--more 50` extends it by 50 trials. ({spec.output})",
            soft_wrap=True,
        )
    _print_front(result, as_json)
    stderr.print(f"report: {spec.output / 'report.html'}\nmodels: {spec.output / 'best'}", soft_wrap=True)


@app.command()
def plan(study: StudyPath, data: DataFolder = None, earlier: Earlier = None, as_json: AsJson = False) -> None:
    """Show what a study would do: the resolved study, the students' sizes, the lanes, the time.

    Nothing is kept; some of the students are trained for a few seconds to see what a step costs here."""
    from search.study.plan import make_plan

    made = make_plan(
        _load(study, data=data, earlier=earlier), lambda text: Console(stderr=True).print(text, soft_wrap=True)
    )
    if as_json:
        typer.echo(json.dumps(made.as_dict(), indent=2))
    else:
        Console().print(made.as_text(), soft_wrap=True)


@app.command()
def front(folder: Folder, as_json: AsJson = False) -> None:
    """Print the front of a study, also while it runs."""
    from search.study.output import open_study

    _print_front(open_study(folder), as_json)


@app.command()
def analyse(folder: Folder, as_json: AsJson = False) -> None:
    """Say how the search went: hypervolume over training, what decides each objective, what the front's students share."""
    from search.results.analysis import analyse
    from search.study.output import open_study

    result = open_study(folder)
    found = analyse(result.spec, result.front, result.outcomes, result.references)
    typer.echo(found.model_dump_json(indent=2) if as_json else found.as_text())


@app.command()
def export(folder: Folder) -> None:
    """Write front.csv, the best-config files and report.html of a study again, from its record."""
    from search.study.output import export_study

    result = export_study(folder)
    for name in ("front.csv", "report.html", *(f"best/trial-{row.trial}.yaml" for row in result.rows)):
        typer.echo(str(folder / name))


@app.command()
def schema() -> None:
    """Print the JSON Schema of a study file, for editors that complete and check."""
    from spaces.study import StudySpec

    made = StudySpec.model_json_schema()
    # What loading adds to the plain schema: short forms and defaults.
    made["required"] = ["data", "name", "teacher"]
    made["properties"]["teacher"] = {"anyOf": [{"type": "string"}, made["properties"]["teacher"]]}
    made["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    typer.echo(json.dumps(made, indent=2))


def _load(
    study: str,
    trials: int | None = None,
    minutes: float | None = None,
    output: Path | None = None,
    data: Path | None = None,
    earlier: Path | None = None,
) -> Any:
    from spaces.yaml_io import load_study, with_data

    spec = load_study(study)
    if minutes is not None and not 0 < minutes <= 10**6:
        raise InputError.of("--minutes", f"{minutes} is not allowed; write a number above 0")
    budget: dict[str, Any] = {"trials": trials, "minutes": minutes}
    changed = {name: value for name, value in budget.items() if value is not None}
    spec = spec.model_copy(update={"budget": spec.budget.model_copy(update=changed)})
    if data is not None:
        spec = with_data(spec, data)
    if earlier is not None:
        spec = spec.model_copy(update={"search": spec.search.model_copy(update={"from_": earlier.resolve()})})
    return spec.model_copy(update={"output": output.resolve()}) if output else spec


def _print_front(result: Any, as_json: bool) -> None:
    from search.results.table import front_as_json, front_as_text

    if as_json:
        typer.echo(json.dumps(front_as_json(result.rows, result.front, result.references, result.near), indent=2))
    else:
        console = Console()
        width = console.width if console.is_terminal else 140
        table = front_as_text(result.spec, result.rows, result.front, result.references, result.near)
        Console(width=width).print(table)


def guarded(command: Callable[[], Any]) -> int:
    """Runs the command line and turns what went wrong into one message and an exit status."""
    stderr = Console(stderr=True, highlight=False)
    try:
        command()
    except InputError as error:
        stderr.print(str(error), style="red", markup=False, soft_wrap=True)
        return 2
    except StudyError as error:
        stderr.print(str(error), style="red", markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        stderr.print("stopped; run the same command again to continue", markup=False)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return 0


def main() -> None:
    """The console script."""
    status = 0

    def command() -> None:
        nonlocal status
        try:
            app(standalone_mode=True)
        except SystemExit as end:
            status = int(end.code or 0) if not isinstance(end.code, str) else 2
            if status == INTERRUPTED:  # Typer's, which says nothing
                raise KeyboardInterrupt from None

    sys.exit(guarded(command) or status)


if __name__ == "__main__":
    main()
