"""`ray-jobs`: a Ray cluster that runs already, through its Jobs API, by Ray's own client."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from cluster.arrive import SOURCE
from cluster.bundle import contents, write_zip
from cluster.collect import check_empty, copy_output
from cluster.job import Job, JobHandle, JobState, JobStatus, Sent
from cluster.pack import unpack
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
YOUNG_SECONDS = 30.0  # that a cluster which has just begun may take until it takes jobs
ANSWER_SECONDS = 15.0  # that the dashboard may take to answer at all


class RayJobsLauncher:
    """What is sent goes in parts: the study, the data, the teacher, the code. Ray keeps each by its content, and is sent again only
    what it does not have; it forgets a part some minutes after the last job that uses it."""

    sees_our_files = False

    def __init__(self, profile: RayJobsProfile) -> None:
        self._profile, self._client = profile, None

    def preview(self, job: Job) -> str:
        told = [f"--- {name}\n{content.decode()}" for name, content in contents(job) if isinstance(content, bytes)]
        told += [f"--- {file.name}: {file.path}, {file.num_bytes:,} bytes, sha256 {file.sha256}" for file in job.files]
        installed = self._profile.code == "installed"
        told.append(f"--- distilsearch: {'as it is installed there' if installed else f'from {self._profile.code}'}")
        return "\n".join([*told, f"--- to {self._profile.address}", self._entrypoint()])

    def submit(self, job: Job, attempt: int) -> dict[str, str]:
        with tempfile.TemporaryDirectory() as folder, self._asked() as client:
            there = client.list_jobs()
            taken = {each.submission_id for each in there}  # also by somebody whose book is another
            while f"{job.id}-{attempt}" in taken:
                attempt += 1
            for each in there:
                if (each.metadata or {}).get("distilsearch") == job.id and not STATES[each.status].over:
                    raise InputError.of(
                        "JOB",
                        f"{each.submission_id} runs there already, into {job.output}: two would write one record",
                    )
            study = Path(folder) / "study.zip"
            write_zip(study, ((name, content) for name, content in contents(job) if isinstance(content, bytes)))
            name = _once_it_can(
                client.submit_job,
                entrypoint=self._entrypoint(),
                submission_id=f"{job.id}-{attempt}",
                runtime_env={"working_dir": str(study), **self._modules(job.files, Path(folder))},
                metadata={"distilsearch": job.id, "output": job.output},
                entrypoint_num_cpus=self._profile.cpus or None,
            )
        return {"submission": name}

    def status(self, handle: JobHandle) -> JobStatus:
        try:
            with self._asked() as client:
                found = client.get_job_info(handle.reference["submission"])
        except StudyError as error:
            if "does not exist" in str(error):
                return JobStatus(state=JobState.LOST, message=f"{self._profile.address} knows no such job any more")
            raise
        times = {
            "started_at": found.start_time / 1000 if found.start_time else None,
            "ended_at": found.end_time / 1000 if found.end_time else None,
        }
        state = STATES[found.status]
        message = "" if state in (JobState.RUNNING, JobState.SUCCEEDED) else _first_line(found.message or "")
        return JobStatus(state=state, message=message, **times)

    def logs(self, handle: JobHandle, follow: bool) -> Iterator[str]:
        told = 0
        while True:
            over = not follow or self.status(handle).state.over  # asked first: what it says last is read
            with self._asked() as client:
                text = client.get_job_logs(handle.reference["submission"])
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
        with self._asked() as client:
            client.stop_job(handle.reference["submission"])
        deadline = time.monotonic() + STOP_SECONDS
        while not self.status(handle).state.over:
            if time.monotonic() > deadline:
                raise StudyError(f"{handle.id} was told to stop and did not within {STOP_SECONDS:.0f} s")
            time.sleep(LOOK_SECONDS)

    def fetch(self, handle: JobHandle, folder: Path) -> None:
        """From the folder itself where this machine sees it, else by a small job there that packs it into its log."""
        if any(Path(handle.output).is_relative_to(shared) for shared in self._profile.shared):
            return copy_output(Path(handle.output), folder)
        with tempfile.TemporaryDirectory() as scratch, self._asked() as client:
            check_empty(folder)
            name = client.submit_job(
                entrypoint=f"{self._profile.python} -m cluster.pack {shlex.quote(handle.output)}",
                submission_id=f"{handle.id}-fetch-{time.time_ns() // 1_000_000}",
                runtime_env=self._modules((), Path(scratch)),
                metadata={"distilsearch-fetch": handle.id},
            )
            try:
                while not (state := STATES[client.get_job_status(name)]).over:
                    time.sleep(LOOK_SECONDS)
                text = client.get_job_logs(name)
            except BaseException:
                with contextlib.suppress(Exception):
                    client.stop_job(name)
                raise
            client.delete_job(name)
        if state is not JobState.SUCCEEDED:
            raise StudyError(f"{handle.output} could not be fetched: {_last_line(text)}")
        unpack(text, handle.output, folder)

    @contextlib.contextmanager
    def _asked(self) -> Iterator[Any]:
        """Ray's client. Raises InputError for what is wrong with the address, the token or the certificate, StudyError for what
        goes wrong afterwards."""
        self._client = self._client or self._made()
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield self._client
        except (RuntimeError, ConnectionError, requests.RequestException, AuthenticationError) as error:
            raise StudyError(f"{self._profile.address}: {_first_line(error)}") from None

    def _made(self) -> Any:
        # No .gitignore leaves out a file of the teacher's.
        os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_RUNTIME_ENV_IGNORE_GITIGNORE": "1"}
        import logging

        try:
            import requests
            import urllib3
            from ray.job_submission import JobSubmissionClient
        except ImportError:
            raise InputError.of(
                "kind", "ray-jobs needs Ray's client here, which is not installed: pip install 'ray[default]'"
            ) from None
        for name in ("dashboard_sdk", "job.sdk"):  # "Uploading package ..."
            logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.ERROR)
        profile, address = self._profile, self._profile.address.rstrip("/")
        headers = {name: _from_environment(text) for name, text in profile.headers.items()}
        verify: bool | str = profile.verify and (self._authority() or True)
        if token := self._token():
            headers["Authorization"] = f"Bearer {token}"
        if verify is False:
            urllib3.disable_warnings()  # at every request that nothing is verified: the profile says so itself
        dashboard = "it is the address of Ray's dashboard, http://HOST:8265"
        try:
            answer = requests.get(f"{address}/api/version", headers=headers, verify=verify, timeout=ANSWER_SECONDS)
        except requests.exceptions.SSLError as error:
            why = f"its certificate is not trusted ({_reason(error)}); name one's own by certificate_authority"
            raise InputError.of("address", f"{address}: {why}") from None
        except (requests.ConnectionError, requests.Timeout):
            raise InputError.of("address", f"{address}: nothing answers there; {dashboard}") from None
        except (requests.RequestException, ValueError) as error:
            raise InputError.of("address", f"{address} is no address ({_first_line(error)}); {dashboard}") from None
        if answer.status_code in (401, 403):
            wrong = "does not accept the token" if token else "asks for a token"
            raise InputError.of(
                "token_file", f"{address} {wrong}; name a file that holds the cluster's, or set RAY_AUTH_TOKEN"
            )
        if answer.status_code != 200 or "ray_version" not in answer.text:
            raise InputError.of(
                "address", f"{address} answers, but not as Ray does ({answer.status_code}); {dashboard}"
            )
        return JobSubmissionClient(address, headers=headers or None, verify=verify)

    def _authority(self) -> str | None:
        if self._profile.certificate_authority is None:
            return None
        path = Path(self._profile.certificate_authority).expanduser()
        if not path.exists():
            raise InputError.of("certificate_authority", f"there is no {path}")
        return str(path)

    def _token(self) -> str:
        if self._profile.token_file is None:
            return os.environ.get("RAY_AUTH_TOKEN", "")
        try:
            return Path(self._profile.token_file).expanduser().read_text("utf-8").strip()
        except OSError as error:
            raise InputError.of("token_file", f"{self._profile.token_file} cannot be read: {error.strerror}") from None

    def _entrypoint(self) -> str:
        return f"{shlex.quote(self._profile.python)} -m cluster.arrive ."

    def _modules(self, files: Iterable[Sent], folder: Path) -> dict[str, Any]:
        """The parts beside the study, as folders: Ray puts each where Python finds it, on every node."""
        parts: dict[str, Path] = {}
        for file in files:
            part = "teacher" if file.name.startswith("inputs/teacher/") else "data"
            link = folder / part / file.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.path.resolve())
            parts[part] = folder / part / "inputs"
        modules = [str(path) for path in (*parts.values(), *self._code(folder / "code"))]
        return {"py_modules": modules, "excludes": ["__pycache__"]} if modules else {}

    def _code(self, folder: Path) -> Iterator[Path]:
        """distilsearch's own packages, and beside them what says their version."""
        if self._profile.code == "installed":
            return
        root = Path(self._profile.code).expanduser()
        if root.suffix == ".whl":
            try:
                with zipfile.ZipFile(root) as wheel:
                    wheel.extractall(folder)
            except (OSError, zipfile.BadZipFile) as error:
                raise InputError.of("code", f"{root} cannot be read as a wheel: {error}") from None
            root = folder
        else:
            _write_metadata(root, folder)
        if missing := [name for name in SOURCE if not (root / name).is_dir()]:
            problem = f"{self._profile.code} is neither a wheel nor a folder with distilsearch's source: it has no {missing[0]}"
            raise InputError.of("code", problem)
        yield from (root / name for name in SOURCE)
        yield from folder.glob("*.dist-info")


def _write_metadata(root: Path, folder: Path) -> None:
    """What an installation would have: without it nobody there could say which version this is."""
    try:
        found = re.search(r'^version = "([^"]+)"', (root / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    except OSError as error:
        raise InputError.of("code", f"{root} is no folder with distilsearch's source: {error.strerror}") from None
    version = found[1] if found else "0"
    into = folder / f"distilsearch-{version}.dist-info"
    into.mkdir(parents=True)
    (into / "METADATA").write_text(f"Metadata-Version: 2.1\nName: distilsearch\nVersion: {version}\n")


def _from_environment(text: str) -> str:
    """`$NAME` is the environment's."""
    return re.sub(r"\$([A-Za-z_]\w*)", lambda found: os.environ.get(found[1], ""), text)


def _once_it_can(submit: Callable[..., str], **job: Any) -> str:
    """Ray's dashboard answers some seconds before an agent is there that starts jobs."""
    deadline = time.monotonic() + YOUNG_SECONDS
    while True:
        try:
            return submit(**job)
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(LOOK_SECONDS)


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _reason(error: Exception) -> str:
    """OpenSSL's words within those of three libraries."""
    found = re.search(r"\] (?:certificate verify failed: )?([^(]+) \(_ssl", str(error))
    return found[1] if found else _first_line(error)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["the job said nothing"])[-1]
