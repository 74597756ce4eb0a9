"""Commands to look at a study with a browser: report, dashboard."""

from __future__ import annotations

import webbrowser
from contextlib import suppress
from typing import Annotated, Any

import typer
from rich.console import Console

from search.cli.options import Folder
from spaces.errors import InputError

Port = Annotated[int, typer.Option(help="of this machine; left out: any that is free", min=0, max=65535)]
Open = Annotated[bool, typer.Option("--open", help="open it in a browser")]


def report(
    folder: Folder,
    watch: Annotated[
        bool, typer.Option("--watch", help="serve it to this machine, kept up to date; writes nothing")
    ] = False,
    port: Port = 0,
    open_it: Open = False,
) -> None:
    """Write report.html and front.csv of a study again from its record, also while it runs.

    Once it is finished and nobody runs it, its best-config files are written again too.

    With --watch nothing is written: the page is served until Ctrl-C, and follows the study.

    $ distilsearch report runs/reviews
    $ distilsearch report runs/reviews --watch
    """
    from search.study.live import report_server
    from search.study.output import rebuild

    if port and not watch:
        raise InputError.of("--port", "goes with --watch; a file needs none")
    if watch:
        return _serve(report_server(folder, port), "the report", open_it)
    _, files = rebuild(folder)
    for path in files:
        typer.echo(str(path))
    if open_it:
        webbrowser.open(files[0].resolve().as_uri())


def dashboard(folder: Folder, port: Port = 0, open_it: Open = False) -> None:
    """Serve Optuna's own dashboard of a study's record to this machine, until Ctrl-C.

    It follows the study, and can change nothing in it. Optional: pip install 'distilsearch\\[dashboard]'

    $ distilsearch dashboard runs/reviews
    """
    from search.study.dashboard import dashboard_server

    _serve(dashboard_server(folder, port), "Optuna's dashboard", open_it)


def _serve(server: Any, what: str, open_it: bool) -> None:
    host, port = server.server_address[:2]
    url = f"http://{host}:{port}/"
    typer.echo(url)
    Console(stderr=True).print(f"{what} is served at {url}; Ctrl-C ends it", soft_wrap=True)
    if open_it:
        webbrowser.open(url)
    with server, suppress(KeyboardInterrupt):  # which is how it is meant to end
        server.serve_forever()
