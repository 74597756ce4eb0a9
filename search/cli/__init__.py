"""The command `distilsearch`: the only place that prints or exits. Exit status: 0 done, 1 failed, 2 bad input.

stdout is for results, stderr for progress and errors.
"""

from __future__ import annotations

import errno
import gc
import os
import shlex
import sys
from collections.abc import Callable
from inspect import cleandoc
from typing import Any

# A command should be there at once: pydantic seeks plugins in every installed package, and Python garbage while modules load.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")
gc.set_threshold(50_000)

import typer  # noqa: E402
from rich.console import Console  # noqa: E402

from search.cli import export, inspect, jobs, report, results, studies, upkeep  # noqa: E402
from spaces.errors import InputError, StudyError, printable  # noqa: E402
from spaces.secrets import mask_secrets  # noqa: E402

INTERRUPTED = 130  # by Ctrl-C, or told to end
DISK_ERRORS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EISDIR,
}
COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {  # by the heading of their help
    "Studies": (studies.run, studies.plan, studies.schema),
    "What a study found": (results.front, results.analyse, report.report, export.export, report.dashboard),
    "Running elsewhere": (jobs.submit, jobs.status, jobs.logs, jobs.stop, jobs.fetch, jobs.jobs),
    "Looking": (inspect.list_studies, inspect.show),
    "Keeping": (upkeep.clean, upkeep.track),
}
NAMES: dict[Callable[..., None], str] = {inspect.list_studies: "list"}  # where Python has the word already
app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Finds the smallest students of a BERT-like teacher that still do its job, and trains them. Three commands first:\n\n"
    "[bold]distilsearch plan docstrings[/bold]        what a study would do, and how long it would take\n"
    "[bold]distilsearch run docstrings[/bold]         do it; stopped or killed, the same command continues\n"
    "[bold]distilsearch front runs/docstrings[/bold]  the students it found, also while it runs\n\n"
    "[dim]docstrings[/dim] is a shipped study that needs no data of yours. Your own is a YAML file with two keys at least, data "
    "and teacher: see the README, or [bold]distilsearch schema[/bold]. Every command explains itself: [bold]distilsearch run "
    "--help[/bold].",
    epilog="stdout is for results, stderr for progress; --json wherever a script would read. Exit status: 0 done, 1 failed, 2 bad "
    "input, 130 stopped. [bold]distilsearch --install-completion[/bold] completes commands, studies and folders.",
)


def _help(docstring: str) -> str:
    """A docstring as help: its paragraphs as wide as the terminal, its examples (`$ command  # comment`) a line each."""
    shown = []
    for paragraph in cleandoc(docstring).split("\n\n"):
        lines = paragraph.split("\n")
        if not paragraph.startswith("$ "):
            shown.append(" ".join(lines))
            continue
        split = [line.removeprefix("$ ").partition("  # ") for line in lines]
        shown.append(
            "\n".join(
                f"[dim]$[/dim] {command}{f'  [dim]# {comment}[/dim]' * bool(comment)}" for command, _, comment in split
            )
        )
    return "\n\n".join(shown)


for heading, commands in COMMANDS.items():
    for each in commands:
        app.command(NAMES.get(each), help=_help(each.__doc__ or ""), rich_help_panel=heading)(each)


def guarded(command: Callable[[], Any]) -> int:
    """Runs the command line and turns what went wrong into one message and an exit status."""
    stderr = Console(stderr=True, highlight=False)
    try:
        command()
    except InputError as error:
        stderr.print(printable(mask_secrets(str(error))), style="red", markup=False, soft_wrap=True)
        return 2
    except StudyError as error:
        stderr.print(printable(mask_secrets(str(error))), style="red", markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        again = printable(mask_secrets(shlex.join(["distilsearch", *sys.argv[1:]])))
        goes_on = f"; run the same command again to continue: {again}" if sys.argv[1:2] == ["run"] else ""
        stderr.print(f"stopped{goes_on}", markup=False, soft_wrap=True)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        stderr.print(printable(_disk_trouble(error)), style="red", markup=False, soft_wrap=True)
        return 1
    return 0


def _disk_trouble(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return (
        f"{where}cannot be written: {error.strerror}. No file is half written, and what was recorded stays; make room, or name a "
        "folder that can be written, and run the same command again"
    )


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
