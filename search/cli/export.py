"""The command `export`: a student of a study's front in the forms that are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from search.cli.options import AsJson, Folder

if TYPE_CHECKING:
    from search.study.export import Exported


def export(
    folder: Folder,
    pick: Annotated[
        str, typer.Option(help="knee, smallest, fastest, best, or trial=N: which student of the front", metavar="PICK")
    ] = "knee",
    keep: Annotated[
        str | None,
        typer.Option(
            help="with smallest, fastest or best: at least so much of the teacher's score on validation "
            "(97% where smallest or fastest say nothing)",
            metavar="97%",
        ),
    ] = None,
    under: Annotated[
        list[str] | None,
        typer.Option(
            help="with the same: at most so much of a cost (parameters, flops, bytes, latency_ms, peak_memory_bytes); "
            "may be given again",
            metavar="COST=NUMBER",
        ),
    ] = None,
    formats: Annotated[
        str, typer.Option("--format", help="some of hf, hf-fp16, onnx, onnx-int8, with commas between")
    ] = "hf",
    to: Annotated[Path | None, typer.Option(help="instead of DIR/exports/trial-N", metavar="FOLDER")] = None,
    unchecked: Annotated[
        bool,
        typer.Option("--unchecked", help="do not check what is written on the study's texts, where these are gone"),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Export a student of the front as Hugging Face folder or ONNX file.

    Picks are made on validation, and the answer says what test says. What is not a plain copy is held against the
    student in PyTorch on the study's validation and test texts: the largest difference, the share of equal
    predictions, and its own score.

    $ distilsearch export runs/reviews --pick smallest --keep 97% --format hf,onnx,onnx-int8
    $ distilsearch export runs/reviews --pick trial=7 --format onnx-int8 --to deployed
    """
    from search.results.picks import parse_pick
    from search.study.export import export as export_student
    from search.study.export import formats_of

    stderr = Console(stderr=True, highlight=False)
    wanted, forms = parse_pick(pick, keep, under or ()), formats_of(formats)
    made = export_student(
        folder, wanted, forms, to, unchecked=unchecked,
        say=lambda text: stderr.print(text, markup=False, soft_wrap=True),
    )  # fmt: skip
    typer.echo(made.model_dump_json(indent=2) if as_json else _as_text(made))


def _as_text(made: Exported) -> str:
    picked = made.picked
    lines = [
        f"trial {picked['trial']} ({picked['pick']}): {picked['architecture']}",
        picked["on_validation"],
        picked["on_test"],
    ]
    for name, form in made.formats.items():
        said = f"{name}: {Path(made.folder) / name}, {form['bytes'] / 1e6:.1f} MB"
        check = form["check"]
        if check is not None:
            said += "".join(
                f"\n  {split}: {made.quality} {100 * check['metrics'][f'{split}/{made.quality}']:.1f} %, "
                f"{100 * check['share_equal'][split]:.2f} % of predictions as in PyTorch{_by_how_much(check, split)}"
                for split in check["share_equal"]
            )
        elif name != "hf":
            said += f" (not checked: {made.unchecked})"
        lines.append(said)
    return "\n".join(lines)


def _by_how_much(check: dict[str, Any], split: str) -> str:
    largest = check["largest_difference"].get(split)
    return "" if largest is None else f", outputs differ by at most {largest:.2g}"
