"""The one protocol that every kind of place follows, and the kinds there are. docs/clusters.md shows how to add one."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Protocol

from cluster.job import Job, JobHandle, JobStatus
from cluster.profile import Profile


class Launcher(Protocol):
    """Launches and looks; the engine is Ray everywhere, and nothing here schedules.

    Every method raises InputError for what the user can mend (address, token, rights, a command that is missing) and StudyError for
    the rest; after either nothing is half launched.
    """

    sees_our_files: bool  # the place shares this machine's folders: nothing but the study is sent

    def preview(self, job: Job) -> str:
        """Exactly what `submit` would send; reaches nothing."""

    def submit(self, job: Job, attempt: int) -> dict[str, str]:
        """Launches it and returns the handle's `reference`."""

    def status(self, handle: JobHandle) -> JobStatus:
        """LOST where the place has forgotten it."""

    def logs(self, handle: JobHandle, follow: bool) -> Iterator[str]:
        """What the job has said, in pieces; with `follow` until it ends."""

    def stop(self, handle: JobHandle) -> None:
        """Ends it; the study continues when it is submitted again. No error where it is over already."""

    def fetch(self, handle: JobHandle, folder: Path) -> None:
        """Copies the output, but for checkpoints, into an empty or new folder."""


LAUNCHERS = {  # a kind of profile -> its launcher: imported when it is needed
    "local": "cluster.local:LocalLauncher",
    "ray-jobs": "cluster.ray_jobs:RayJobsLauncher",
    "kuberay": "cluster.kuberay:KuberayLauncher",
    "slurm": "cluster.slurm:SlurmLauncher",
}


def launcher_of(profile: Profile) -> Launcher:
    module, _, name = LAUNCHERS[profile.kind].partition(":")
    made: Launcher = getattr(import_module(module), name)(profile)
    return made
