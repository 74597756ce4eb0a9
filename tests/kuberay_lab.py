"""A job for `kuberay`, and a place for it: an API server in small, behind a real kubectl, where a test plays the operator."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kubernetes_server import KubernetesServer

from cluster.job import Job, JobHandle, Sent
from cluster.kuberay import KuberayLauncher
from cluster.profile import KuberayProfile, parse_profile

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden" / "kuberay"
PROFILES = ("minimal", "spot", "volumes")
VERSIONS = {"distilsearch": "0.1.0", "ray": "2.60.0"}


def profile_of(**keys: Any) -> KuberayProfile:
    made = parse_profile(
        {"kind": "kuberay", "image": "i", "output": "/runs", "volumes": [{"claim": "runs", "mount": "/runs"}], **keys},
        "lab.yaml",
    )
    assert isinstance(made, KuberayProfile)
    return made


def job_of(profile: KuberayProfile, folder: Path | None = None, **files: bytes) -> Job:
    sent = []
    for name, content in files.items():
        assert folder is not None
        (folder / name).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        sent.append(Sent(name=f"inputs/{name}.tsv", path=folder / name, num_bytes=len(content), sha256=digest))
    study = {"name": "reviews", "data": {"train": "inputs/train.tsv"}, "teacher": {"model": "bert-base-uncased"}}
    output = f"{profile.output}/reviews"
    return Job(study=study, files=tuple(sent), output=output, profile=profile, versions=VERSIONS)


class Lab:
    """A launcher, its server and a job; the test plays the operator and the kubelets."""

    def __init__(self, server: KubernetesServer, profile: KuberayProfile) -> None:
        self.server, self.profile, self.job = server, profile, job_of(profile)
        self.launcher = KuberayLauncher(profile)

    def submit(self, attempt: int = 1) -> JobHandle:
        return JobHandle(
            id=self.job.id, study="reviews", output=self.job.output, profile_name="lab", profile=self.profile,
            attempt=attempt, submitted_at=1.0, reference=self.launcher.submit(self.job, attempt),
        )  # fmt: skip

    @property
    def rayjob(self) -> dict[str, Any]:
        [found] = self.server.of("rayjobs")
        return found

    def becomes(self, deployed: str, job: str = "", **status: Any) -> None:
        named = {"jobId": "reviews-x", "rayClusterName": "reviews-cluster"}
        self.rayjob["status"] = {"jobDeploymentStatus": deployed, "jobStatus": job, **named, **status}

    def pod(
        self, name: str, labels: Mapping[str, str], container: str = "c", phase: str = "Running", **status: Any
    ) -> None:
        run = self.rayjob["metadata"]["name"]
        self.server.add(
            {
                "kind": "Pod",
                "metadata": {"name": name, "labels": {"distilsearch/run": run, **labels}},
                "spec": {"containers": [{"name": container}]},
                "status": {"phase": phase, **status},
            }
        )

    def submitter(self, name: str) -> None:
        self.pod(name, {"job-name": self.rayjob["metadata"]["name"]}, "ray-job-submitter")

    def head(self) -> None:
        self.pod("head", {"ray.io/node-type": "head", "ray.io/group": "headgroup"}, "ray-head")


def deep(document: dict[str, Any], *path: str | int, value: Any) -> dict[str, Any]:
    changed: dict[str, Any] = json.loads(json.dumps(document))  # nothing in it is shared
    node: Any = changed
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    return changed


CLUSTER = ("spec", "rayClusterSpec")
POD = (*CLUSTER, "workerGroupSpecs", 0, "template", "spec")
