"""Commands that keep what a study left: clean and track."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer
from rich.console import Console

from search.cli.options import AsJson, Folder
from spaces.errors import InputError
from spaces.remote import url_of


def clean(
    folder: Folder,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would go, and remove nothing")] = False,
    as_json: AsJson = False,
) -> None:
    """Free the disk of what a study needs no more, and say what and how much.

    Checkpoints of trials that are over or whose model is delivered, what a killed run left half made, caches of the tracking. The
    record, best/, exports/, the teacher, the tables and the report stay, and so does what a study needs to go on.

    $ distilsearch clean runs/reviews --dry-run
    $ distilsearch clean runs/reviews
    """
    from search.record.lease import holder_of
    from search.study.disk import in_words, megabytes, remove, unneeded
    from search.study.output import records_of, spec_of

    if url := url_of(folder):
        raise InputError.of(url, "is cleaned by its runs alone, which remove what they need no more; clean a folder")
    spec = spec_of(folder)
    record, _ = records_of(spec, folder)
    holder = holder_of(record)
    if holder:
        raise InputError.of(
            str(folder), f"is being run by process {holder['pid']} on {holder['host']}; wait for its end, or stop it"
        )
    items = list(unneeded(spec, record))
    if not dry_run:
        for item in items:
            remove(item)
    freed = sum(item.num_bytes for item in items)
    if as_json:
        rows = [{"path": str(item.path), "why": item.why, "bytes": item.num_bytes} for item in items]
        typer.echo(json.dumps({"removed": not dry_run, "bytes": freed, "items": rows}, indent=2))
        return
    for item in items:
        typer.echo(f"{megabytes(item.num_bytes):>9}  {item.path.relative_to(spec.output)}  ({item.why})")
    word = "would be freed" if dry_run else "freed"
    typer.echo(f"{megabytes(freed)} {word}; {'it takes' if dry_run else 'what is left takes'} {in_words(spec.output)}")


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
    and nothing is sent.

    $ distilsearch track runs/reviews
    """
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
