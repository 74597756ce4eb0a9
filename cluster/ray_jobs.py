"""`ray-jobs`: a Ray cluster that runs already, through its Jobs API, by Ray's own client."""

from __future__ import annotations

import base64
import io
import os
import re
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.bundle import contents, write_zip
from cluster.collect import check_empty, copy_output
from cluster.job import Job, JobHandle, JobState, JobStatus
from cluster.pack import END, START
from cluster.profile import RayJobsProfile
from spaces.errors import InputError, StudyError

STATES = {
    "PENDING": JobState.PENDING,
    "RUNNING": JobState.RUNNING,
    "SUCCEEDED": JobState.SUCCEEDED,
    "FAILED": JobState.FAILED,
    "STOPPED": JobState.STOPPED,
}
LOOK_SECONDS = 0.5
STOP_SECONDS = 90.0
GONE_SECONDS = 60.0  # that a cluster may take to say that a job has begun to end

SOURCE = ("search", "spaces", "cluster", "examples", "pyproject.toml")


class RayJobsLauncher:
    """The bundle is the job's working directory; Ray keeps it by content, and takes it once."""

    sees_our_files = False

    def __init__(self, profile: RayJobsProfile) -> None:
        self._profile = profile

    def preview(self, job: Job) -> str:
        told = [f"--- {name}\n{content.decode()}" for name, content in contents(job) if isinstance(content, bytes)]
        told += [f"--- {file.name}: {file.path}, {file.num_bytes:,} bytes, sha256 {file.sha256}" for file in job.files]
        installed = self._profile.code == "installed"
        told.append(f"--- distilsearch: {'as it is installed there' if installed else f'from {self._profile.code}'}")
        return "\n".join([*told, f"--- to {self._profile.address}", self._entrypoint()])

    def submit(self, job: Job, attempt: int) -> dict[str, str]:
        client = self._client()
        name = f"{job.id}-{attempt}"
        while any(each.submission_id == name for each in client.list_jobs()):  # of somebody's whose book is another
            attempt += 1
            name = f"{job.id}-{attempt}"
        running = [
            each.submission_id
            for each in client.list_jobs()
            if (each.metadata or {}).get("distilsearch") == job.id and not STATES[each.status].over
        ]
        if running:
            raise InputError.of(
                "JOB", f"{running[0]} runs there already, into {job.output}: two would write one record"
            )
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder) / "bundle.zip"
            write_zip(archive, iter([*contents(job), *self._code()]))
            try:
                client.submit_job(
                    entrypoint=self._entrypoint(),
                    submission_id=name,
                    runtime_env={"working_dir": str(archive)},
                    metadata={"distilsearch": job.id, "output": job.output},
                    entrypoint_num_cpus=self._profile.cpus or None,
                )
            except RuntimeError as error:
                raise StudyError(f"{self._profile.address} did not take the job: {_first_line(error)}") from None
        return {"submission": name}

    def status(self, handle: JobHandle) -> JobStatus:
        client = self._client()
        try:
            found = client.get_job_info(handle.reference["submission"])
        except RuntimeError as error:
            if "does not exist" in str(error):
                return JobStatus(state=JobState.LOST, message=f"{self._profile.address} knows no such job any more")
            raise StudyError(f"{self._profile.address}: {_first_line(error)}") from None
        times = {
            "started_at": found.start_time / 1000 if found.start_time else None,
            "ended_at": found.end_time / 1000 if found.end_time else None,
        }
        state = STATES[found.status]
        message = "" if state in (JobState.RUNNING, JobState.SUCCEEDED) else _first_line(found.message or "")
        return JobStatus(state=state, message=message, **times)

    def logs(self, handle: JobHandle, follow: bool) -> Iterator[str]:
        client, told = self._client(), 0
        while True:
            over = not follow or self.status(handle).state.over  # asked first: what it says last is read
            try:
                text = client.get_job_logs(handle.reference["submission"])
            except RuntimeError as error:
                raise StudyError(f"{handle.id} has no logs there any more: {_first_line(error)}") from None
            if len(text) > told:
                yield text[told:]
                told = len(text)
            if over:
                return
            time.sleep(LOOK_SECONDS)

    def stop(self, handle: JobHandle) -> None:
        """Ray tells the driver to end, and kills it where it does not within some seconds; nothing is lost either way."""
        if self.status(handle).state.over:
            return
        self._client().stop_job(handle.reference["submission"])
        deadline = time.monotonic() + STOP_SECONDS
        while not self.status(handle).state.over:
            if time.monotonic() > deadline:
                raise StudyError(f"{handle.id} was told to stop and did not within {STOP_SECONDS:.0f} s")
            time.sleep(LOOK_SECONDS)

    def fetch(self, handle: JobHandle, folder: Path) -> None:
        """From the folder itself where this machine sees it, else by a small job there that packs it into its log."""
        if any(Path(handle.output).is_relative_to(shared) for shared in self._profile.shared):
            return copy_output(Path(handle.output), folder)
        check_empty(folder)
        client = self._client()
        name = f"{handle.id}-fetch-{int(time.time())}"
        client.submit_job(
            entrypoint=f"{self._profile.python} -m cluster.pack {_quoted(handle.output)}",
            submission_id=name,
            runtime_env=self._code_alone(),
            metadata={"distilsearch-fetch": handle.id},
        )
        while not STATES[client.get_job_status(name)].over:
            time.sleep(LOOK_SECONDS)
        text = client.get_job_logs(name)
        packed = text.partition(START)[2].partition(END)[0] if END in text else ""
        state = STATES[client.get_job_status(name)]
        client.delete_job(name)
        if state is not JobState.SUCCEEDED or not packed:
            raise StudyError(f"{handle.output} could not be fetched: {_last_line(text)}")
        with tarfile.open(fileobj=io.BytesIO(base64.b64decode(packed)), mode="r:gz") as archive:
            archive.extractall(folder, filter="data")

    def _client(self) -> Any:
        """Raises InputError: what is wrong with the address, the token, or the certificate."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import logging

        import requests
        from ray.job_submission import JobSubmissionClient

        logging.getLogger("ray.dashboard").setLevel(logging.ERROR)  # "Uploading package ..."
        address, headers = (
            self._profile.address,
            {name: _from_environment(text) for name, text in self._profile.headers.items()},
        )
        verify: bool | str = self._profile.verify and (self._profile.certificate_authority or True)
        token = self._token()
        if token:
            headers["Authorization"] = f"Bearer {token}"
        try:
            return JobSubmissionClient(address, headers=headers or None, verify=verify)
        except (ConnectionError, requests.exceptions.ConnectionError) as error:
            certificate = "certificate" in str(error).lower() or "ssl" in str(error).lower()
            why = "its certificate is not trusted (certificate_authority)" if certificate else "nothing answers there"
            raise InputError.of(
                "address", f"{address}: {why}; it is the address of Ray's dashboard, http://HOST:8265"
            ) from None
        except Exception as error:
            text = str(error)
            if "401" in text or "403" in text or "authenti" in text.lower() or "token" in text.lower():
                raise InputError.of(
                    "token_file",
                    f"{address} does not accept the token; name a file that holds the cluster's, or set RAY_AUTH_TOKEN",
                ) from None
            raise InputError.of("address", f"{address}: {_first_line(error)}") from None

    def _token(self) -> str:
        if self._profile.token_file is None:
            return os.environ.get("RAY_AUTH_TOKEN", "")
        try:
            return Path(self._profile.token_file).expanduser().read_text("utf-8").strip()
        except OSError as error:
            raise InputError.of("token_file", f"{self._profile.token_file} cannot be read: {error.strerror}") from None

    def _entrypoint(self) -> str:
        return f"{self._profile.python} -m cluster.arrive ."

    def _code(self) -> list[tuple[str, Path | bytes]]:
        """distilsearch's own files, in the bundle: the working directory is first on Python's path."""
        if self._profile.code == "installed":
            return []
        root = Path(self._profile.code).expanduser()
        if root.suffix == ".whl" and root.is_file():
            import zipfile

            with zipfile.ZipFile(root) as wheel:
                return [(name, wheel.read(name)) for name in sorted(wheel.namelist()) if not name.endswith("/")]
        if not (root / "search").is_dir() or not (root / "cluster").is_dir():
            raise InputError.of("code", f"{root} is neither a wheel nor a folder with distilsearch's source")
        found: list[tuple[str, Path | bytes]] = []
        for name in SOURCE:
            path = root / name
            files = sorted(path.rglob("*")) if path.is_dir() else [path] * path.is_file()
            found += [
                (each.relative_to(root).as_posix(), each)
                for each in files
                if each.is_file() and "__pycache__" not in each.parts
            ]
        return found

    def _code_alone(self) -> dict[str, str]:
        return {} if self._profile.code == "installed" else {"working_dir": str(Path(self._profile.code).expanduser())}


def _from_environment(text: str) -> str:
    """`$NAME` is the environment's."""
    return re.sub(r"\$([A-Za-z_]\w*)", lambda found: os.environ.get(found[1], ""), text)


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["the job said nothing"])[-1]
