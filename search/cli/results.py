"""Commands about what a study found: front, analyse."""

from __future__ import annotations

import json
from typing import Any

import typer
from rich.console import Console

from search.cli.options import AsJson, Folder


def front(folder: Folder, as_json: AsJson = False) -> None:
    """Print the front of a study, also while it runs.

    Each student with its size, its scores on validation and test, and what it is held against: the teacher, a bag of n-grams.

    $ distilsearch front runs/reviews
    $ distilsearch front runs/reviews --json | jq .knee
    """
    from search.study.output import open_study

    print_front(open_study(folder), as_json)


def analyse(folder: Folder, as_json: AsJson = False) -> None:
    """Say how the search went: hypervolume over training, what decides each objective, what the front's students share.

    $ distilsearch analyse runs/reviews
    """
    from search.results.analysis import analyse
    from search.study.output import open_study

    result = open_study(folder)
    found = analyse(result.spec, result.front, result.outcomes, result.references)
    typer.echo(found.model_dump_json(indent=2) if as_json else found.as_text())


def print_front(result: Any, as_json: bool) -> None:
    from search.results.table import front_as_json, front_as_text

    if as_json:
        typer.echo(json.dumps(front_as_json(result.rows, result.front, result.references, result.near), indent=2))
    else:
        console = Console()
        width = console.width if console.is_terminal else 140
        table = front_as_text(result.spec, result.rows, result.front, result.references, result.near)
        Console(width=width).print(table)
