"""Commands about jobs: studies that run elsewhere. None of them imports torch or Ray but where Ray's Jobs API is asked."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from search.cli.options import AsJson, Changes, StudyPath, load
from spaces.remote import folder_of, is_url


def complete_profile(incomplete: str) -> list[str]:
    from cluster.profile import profiles_here

    return [name for name in profiles_here(Path.cwd()) if name.startswith(incomplete)]


def complete_job(incomplete: str) -> list[str]:
    from cluster.book import known

    return [handle.id for handle in known() if handle.id.startswith(incomplete)]


JobName = Annotated[
    str,
    typer.Argument(help="a job's name, or the beginning of it", metavar="JOB", autocompletion=complete_job),
]


def submit(
    study: StudyPath,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="a profile: local, or the name or file of one of yours",
            metavar="PROFILE",
            autocompletion=complete_profile,
        ),
    ] = "local",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print exactly what would be sent, and send nothing")
    ] = False,
    changes: Changes = None,
    as_json: AsJson = False,
) -> None:
    """Run a study elsewhere: as a process of its own, on a Ray cluster, on Kubernetes, by Slurm.

    The study is checked here first. Submitted again with the same output, it is the same job, and continues. Profiles are files in
    ~/.config/distilsearch/profiles, or in profiles/ beside the study: `distilsearch schema --profile` says what they hold.

    $ distilsearch submit study.yaml  # here, but it goes on when the terminal is closed
    $ distilsearch submit study.yaml --to lab
    $ distilsearch submit study.yaml --to lab --dry-run
    """
    from cluster import book
    from cluster.bundle import make_job
    from cluster.job import JobHandle
    from cluster.launcher import launcher_of
    from cluster.profile import load_profile
    from spaces.errors import InputError

    profile = load_profile(to, Path(study).resolve().parent)
    spec = load(study, changes=changes, elsewhere=profile.shared)
    launcher = launcher_of(profile)
    job = make_job(spec, profile, sees_our_files=launcher.sees_our_files)
    if dry_run:
        typer.echo(launcher.preview(job))
        return
    book.jobs_folder()
    stderr = Console(stderr=True, highlight=False)
    before = next((handle for handle in book.known() if handle.id == job.id), None)
    if before is not None and not launcher.status(before).state.over:
        raise InputError.of(
            "JOB",
            f"{job.id} is running already, into {job.output}; `distilsearch status {job.id}` says how far it is, and "
            f"`distilsearch stop {job.id}` ends it",
        )
    attempt = before.attempt + 1 if before is not None else 1
    with stderr.status(f"submitting to {to}"):
        reference = launcher.submit(job, attempt)
    handle = JobHandle(
        id=job.id, study=spec.name, output=job.output, profile_name=to, profile=job.profile, attempt=attempt,
        submitted_at=time.time(), reference=reference,
    )  # fmt: skip
    book.keep(handle)
    if as_json:
        typer.echo(handle.model_dump_json(indent=2))
        return
    typer.echo(job.id)
    again = " again: it continues" if before is not None else ""
    stderr.print(
        f"submitted to {to}{again}. distilsearch status {job.id} | logs {job.id} --follow | stop {job.id} | fetch {job.id}",
        soft_wrap=True,
    )


def status(
    job: Annotated[
        str | None,
        typer.Argument(
            help="a job's name, or the beginning of it; without, the youngest",
            metavar="JOB",
            autocompletion=complete_job,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say how a job stands: the place's word, and what its study has found where its output can be read from here.

    Exit status 0 whatever the state is; scripts read --json.

    $ distilsearch status
    $ distilsearch status reviews-3f2a91 --json
    """
    from cluster import book
    from spaces.errors import InputError

    handles = book.known()
    if job is None and not handles:
        raise InputError.of("JOB", "none was submitted from here; `distilsearch submit STUDY --to PROFILE`")
    handle = book.find(job) if job is not None else handles[0]
    found = _status(handle)
    standing = _standing(folder_of(handle.output))
    if as_json:
        typer.echo(json.dumps({**_row(handle, found), "standing": standing}, indent=2))
        return
    console = Console(highlight=False)
    message = f" ({found.message})" if found.message else ""
    console.print(f"[bold]{handle.id}[/bold]  {found.state.value}{message}", soft_wrap=True)
    since = found.started_at or handle.submitted_at
    lasted = (found.ended_at or time.time()) - since
    console.print(
        f"on {handle.profile_name} ({handle.profile.kind}), attempt {handle.attempt}, {_span(lasted)}", soft_wrap=True
    )
    console.print(f"output: {handle.output}", soft_wrap=True)
    if standing is not None:
        best = standing["best"]
        found_so_far = f"; best: {100 * best['quality']:.1f} % at {best['num_parameters']:,} parameters" if best else ""
        of = f" of {standing['budget_trials']}" if standing["budget_trials"] else ""
        console.print(f"study: {standing['state']}, {standing['done']}{of} trials done{found_so_far}", soft_wrap=True)
    if found.state.over and found.state.value != "succeeded":
        console.print(f"[dim]distilsearch logs {handle.id}; the same submit continues it[/dim]", soft_wrap=True)


def logs(
    job: JobName,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on until the job ends")] = False,
) -> None:
    """Print what a job says: its progress, and its errors.

    $ distilsearch logs reviews-3f2a91 --follow
    """
    from cluster import book
    from cluster.launcher import launcher_of

    handle = book.find(job)
    for text in launcher_of(handle.profile).logs(handle, follow):
        typer.echo(text, nl=False)


def stop(job: JobName) -> None:
    """Stop a job. Nothing is lost: submitted again, its study continues.

    $ distilsearch stop reviews-3f2a91
    """
    from cluster import book
    from cluster.launcher import launcher_of

    handle = book.find(job)
    launcher = launcher_of(handle.profile)
    stderr = Console(stderr=True, highlight=False)
    if (state := launcher.status(handle).state).over:
        stderr.print(f"{handle.id} is over already: {state.value}", soft_wrap=True)
        return
    with stderr.status(f"stopping {handle.id}"):
        launcher.stop(handle)
    stderr.print(f"{handle.id} is stopped; the same submit continues it", soft_wrap=True)


def fetch(
    job: JobName,
    into: Annotated[
        Path | None, typer.Option("--into", help="an empty or new folder; NAME of the study by default", metavar="DIR")
    ] = None,
) -> None:
    """Copy what a job's study has found so far: front, report, best-configs, models and record, without checkpoints.

    $ distilsearch fetch reviews-3f2a91
    $ distilsearch report reviews  # as of any other output
    $ distilsearch fetch s3://bucket/reviews  # any output at a URL, a job's or not
    """
    if is_url(job):
        from search.study.output import fetch_output

        typer.echo(str(fetch_output(folder_of(job), into)))
        return
    from cluster import book
    from cluster.launcher import launcher_of

    handle = book.find(job)
    folder = into or Path(handle.study)
    if is_url(handle.output):
        from search.study.output import fetch_output

        typer.echo(str(fetch_output(folder_of(handle.output), folder)))
        return
    stderr = Console(stderr=True, highlight=False)
    with stderr.status(f"fetching {handle.output}"):
        launcher_of(handle.profile).fetch(handle, folder.resolve())
    typer.echo(str(folder))


def jobs(as_json: AsJson = False) -> None:
    """List the jobs that were submitted from here, the youngest first.

    $ distilsearch jobs
    """
    from cluster import book

    handles = book.known()
    with ThreadPoolExecutor(8) as asking:  # a place that does not answer holds up no other
        rows = list(zip(handles, asking.map(_status, handles), strict=True))
    if as_json:
        typer.echo(json.dumps([_row(handle, found) for handle, found in rows], indent=2))
        return
    if not rows:
        Console(stderr=True).print(
            "No job was submitted from here; `distilsearch submit STUDY --to PROFILE`.", soft_wrap=True
        )
        return
    table = Table("job", "state", "on", "submitted", "output", box=None, pad_edge=False)
    for handle, found in rows:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(handle.submitted_at))
        table.add_row(
            handle.id, found.state.value, f"{handle.profile_name} ({handle.profile.kind})", when, handle.output
        )
    Console(highlight=False).print(table)


def _status(handle: Any) -> Any:
    """A place that cannot be asked makes its own jobs unknown, and no others."""
    from cluster.job import JobState, JobStatus
    from cluster.launcher import launcher_of
    from spaces.errors import InputError, StudyError

    try:
        return launcher_of(handle.profile).status(handle)
    except (InputError, StudyError) as error:
        return JobStatus(state=JobState.UNKNOWN, message=str(error).splitlines()[0])


def _row(handle: Any, found: Any) -> dict[str, Any]:
    return {
        "id": handle.id, "state": found.state.value, "message": found.message, "profile": handle.profile_name,
        "kind": handle.profile.kind, "output": handle.output, "attempt": handle.attempt, "submitted_at": handle.submitted_at,
        "started_at": found.started_at, "ended_at": found.ended_at,
    }  # fmt: skip


def _standing(output: Path) -> dict[str, Any] | None:
    """Where the study stands, where its record can be read from here."""
    from search.trial import mirror
    from spaces.errors import InputError

    try:
        if not mirror.bring(output / "study.yaml", patient=False):
            return None
    except InputError:  # at a URL that cannot be reached from here
        return None
    from search.study.overview import summary_of

    return summary_of(output).model_dump(mode="json")


def _span(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
