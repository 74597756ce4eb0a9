"""Commands that keep what a study left: track."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from rich.console import Console

from search.cli.options import AsJson, Folder


def track(
    folder: Folder,
    mode: Annotated[
        Literal["auto", "online", "offline"] | None,
        typer.Option(help="instead of tracking.wandb.mode; auto: online where a key is set"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Bring a study's Weights & Biases run up to its record: what was missed, or all of it.

    Works also where the study was not tracked as it ran. What the run has is not sent again. Without a key the run is written here,
    and nothing is sent."""
    from search.study.tracking.again import track_study

    found = track_study(folder, mode)
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
        return
    typer.echo(f"run {found.run_id}, {found.mode}: {found.rows} new rows, {found.held} it had; {found.place}")
    if found.mode == "offline":
        Console(stderr=True).print(
            "Nothing was sent. Set a key (`wandb login`) and give this command again with --mode online, or "
            f"`wandb sync {found.place}`.",
            soft_wrap=True,
            markup=False,
        )
