"""The command `distilsearch`: the only place that prints or exits. Exit status: 0 done, 1 failed, 2 bad input.

stdout is for results, stderr for progress and errors.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import typer
from rich.console import Console

from search.cli import report, results, studies
from spaces.errors import InputError, StudyError

INTERRUPTED = 130  # by Ctrl-C, or told to end
COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {  # by the heading of their help
    "Studies": (studies.run, studies.plan, studies.schema),
    "What a study found": (results.front, results.analyse, report.report, report.dashboard),
}
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
for heading, commands in COMMANDS.items():
    for each in commands:
        app.command(rich_help_panel=heading)(each)


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
