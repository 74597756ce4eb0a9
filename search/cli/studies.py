"""Commands about a study that is still to run: run, plan, schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from search.cli.options import AsJson, Changes, DataFolder, Earlier, StudyPath, load, place
from search.cli.results import print_front
from search.lanes.token import give_token
from spaces.errors import InputError
from spaces.remote import written


def run(
    study: StudyPath,
    trials: Annotated[
        int | None, typer.Option(help="instead of budget.trials: so many in all", min=1, metavar="N")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="instead of budget.minutes: wall time of this command", metavar="MIN")
    ] = None,
    more: Annotated[
        int | None,
        typer.Option(help="extend it: so many trials beyond those it has", min=1, max=1_000_000, metavar="N"),
    ] = None,
    changes: Changes = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="instead of the study's output, runs/NAME by default: a folder, or s3://BUCKET/FOLDER",
            metavar="DIR",
            parser=place,
        ),
    ] = None,
    data: DataFolder = None,
    earlier: Earlier = None,
    as_json: AsJson = False,
) -> None:
    """Run a study to its end, or continue it: the same command again.

    Fine-tunes the teacher if it has no task head, lets it read the data once, searches, retrains the front's students with more
    seeds, and leaves front.csv, report.html and a trained model with its config for each point.

    Ctrl-C begins nothing new and lets what runs end, for up to 30 s; a second one stops at once. Nothing that was
    measured is lost, and the same command continues.

    $ distilsearch run study.yaml
    $ distilsearch run study.yaml --more 50  # 50 trials beyond those it has
    $ distilsearch run runs/reviews/best/trial-7.yaml --set training.epochs=10  # that student, trained longer
    """
    give_token()
    from search.study.disk import in_words
    from search.study.progress import Progress
    from search.study.run import run_study

    if more is not None and (trials is not None or minutes is not None):
        raise InputError.of(
            "--more", "goes with neither --trials nor --minutes, which replace the budget; write one of them"
        )
    spec = load(study, trials, minutes, output, data, earlier, changes)
    stderr = Console(stderr=True)
    with Progress(stderr, spec.quality) as progress:
        result = run_study(spec, progress, more)
    if result.already_done:
        stderr.print(
            f"This study is done: nothing was left to do. `--more 50` extends it by 50 trials. ({written(spec.output)})",
            soft_wrap=True,
        )
    print_front(result, as_json)
    lines = (
        f"report: {written(spec.output / 'report.html')}",
        f"models: {written(spec.output / 'best')}",
        f"on disk: {in_words(spec.output)}",
    )
    stderr.print("\n".join(lines), soft_wrap=True, highlight=False)


def plan(
    study: StudyPath,
    changes: Changes = None,
    data: DataFolder = None,
    earlier: Earlier = None,
    as_json: AsJson = False,
) -> None:
    """Show what a study would do: the resolved study, the students' sizes, the lanes, the time.

    Nothing is kept; some of the students are trained for a few seconds to see what a step costs here.

    $ distilsearch plan study.yaml
    $ distilsearch plan study.yaml --set training.epochs=1  # what would it take then?
    """
    give_token()
    from search.study.plan import make_plan

    made = make_plan(
        load(study, data=data, earlier=earlier, changes=changes),
        lambda text: Console(stderr=True).print(text, soft_wrap=True),
    )
    if as_json:
        typer.echo(json.dumps(made.as_dict(), indent=2))
    else:
        Console().print(made.as_text(), soft_wrap=True)


def schema(
    best_config: Annotated[
        bool, typer.Option("--best-config", help="of a best-config file (best/trial-7.yaml) instead")
    ] = False,
    profile: Annotated[bool, typer.Option("--profile", help="of a profile (where jobs run) instead")] = False,
) -> None:
    """Print the JSON Schema of a study file, for editors that complete and check, and for scripts.

    $ distilsearch schema > study.schema.json
    $ distilsearch schema --best-config
    $ distilsearch schema --profile
    """
    if profile:
        from cluster.profile import json_schema

        typer.echo(json.dumps(json_schema(), indent=2))
        return
    from spaces.study import StudySpec
    from spaces.trial import BestConfig

    if best_config:
        made = BestConfig.model_json_schema()
    else:
        made = StudySpec.model_json_schema()
        # What loading adds to the plain schema: short forms and defaults.
        made["required"] = ["data", "name", "teacher"]
        made["properties"]["teacher"] = {"anyOf": [{"type": "string"}, made["properties"]["teacher"]]}
    made["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    typer.echo(json.dumps(made, indent=2))
