"""What is launched, and what is known of it afterwards."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any

from cluster.profile import AnyProfile
from spaces.remote import is_url
from spaces.student import Frozen


class JobState(StrEnum):
    PENDING = "pending"  # queued, or its machines are on their way
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    LOST = "lost"  # the place knows nothing of it any more
    UNKNOWN = "unknown"  # the place cannot be asked

    @property
    def over(self) -> bool:
        """Whether nothing of it runs, as far as anyone knows."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.STOPPED, JobState.LOST)


class JobStatus(Frozen):
    """`message` is the place's own word on why. Unix times, None where the place does not say."""

    state: JobState
    message: str = ""
    started_at: float | None = None
    ended_at: float | None = None


class Sent(Frozen):
    """One file that goes with a job: its name there, its path here."""

    name: str
    path: Path
    num_bytes: int
    sha256: str


class Job(Frozen):
    """A study, as the place will read it, and what is sent along. `output` is where the place will keep what comes of it; the job's
    name follows from the two, so that the same study sent to the same output is the same job, and continues."""

    study: dict[str, Any]
    files: tuple[Sent, ...] = ()
    output: str
    profile: AnyProfile
    versions: dict[str, str]  # of this side

    @property
    def id(self) -> str:
        place = f"{self.profile.kind} {getattr(self.profile, 'address', '')} {getattr(self.profile, 'namespace', '')}"
        digest = hashlib.sha256(f"{place} {self.output}".encode()).hexdigest()[:6]
        return f"{_plain(str(self.study['name']))}-{digest}"

    @property
    def arrival(self) -> dict[str, Any]:
        """What `python -m cluster.arrive` on the other side is told."""
        beside = "~/.cache/distilsearch" if is_url(self.output) else str(PurePosixPath(self.output).parent)
        by_parts = {
            "keep_in": f"{beside}/.jobs/{self.id}",
            "inputs": [file.name for file in self.files],
            "code_is_sent": getattr(self.profile, "code", "installed") != "installed",
        }
        return {
            **(by_parts if self.profile.kind == "ray-jobs" else {}),
            "versions": self.versions,
            "policy": self.profile.versions,
            "environment": self.profile.environment,
            "secrets": {} if self.profile.kind == "kuberay" else self.profile.secrets,
        }


class JobHandle(Frozen):
    """A launched job, on whichever cluster. `reference` is the place's own name of it, and what else it takes to find it."""

    id: str
    study: str
    output: str
    profile_name: str
    profile: AnyProfile
    attempt: int = 1
    submitted_at: float
    reference: dict[str, str]


def _plain(name: str) -> str:
    """Letters, digits and dashes, in lower case: what every place takes for a name."""
    plain = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in name.lower()).strip("-")
    return plain[:40].strip("-") or "study"
