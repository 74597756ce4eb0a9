"""The kind `kuberay`: what is sent, held against KubeRay's own schema and against files of what it was; and the verbs, by a
real kubectl before an API server in small. Both are skipped where they are not to be had."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from commands import Run
from kubernetes_server import KubernetesServer

from cluster.job import Job, JobHandle, JobState, Sent
from cluster.kubectl import Kubectl
from cluster.kuberay import KuberayLauncher
from cluster.profile import KuberayProfile, load_profile, parse_profile
from cluster.rayjob import BUNDLE, as_yaml, documents, name_of, state_of, waiting_for
from spaces.errors import InputError, StudyError

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden" / "kuberay"
PROFILES = ("minimal", "spot", "volumes")
CRDS = Path(os.environ.get("DISTILSEARCH_KUBERAY_CRDS") or ROOT.parent / "shared" / "kuberay")
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


@pytest.fixture(params=PROFILES)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, list[dict[str, Any]]]:
    profile = load_profile(str(GOLDEN / f"{request.param}.profile.yaml"))
    assert isinstance(profile, KuberayProfile)
    return request.param, documents(job_of(profile, tmp_path, train=b"text\tlabel\nfine\t1\n"), profile, 1)


# What is sent


def test_what_is_sent_is_what_it_was(made: tuple[str, list[dict[str, Any]]]) -> None:
    """DISTILSEARCH_WRITE_GOLDEN=1 writes the files anew: read the difference then."""
    name, sent = made
    path = GOLDEN / f"{name}.manifest.yaml"
    if os.environ.get("DISTILSEARCH_WRITE_GOLDEN"):
        path.write_text(as_yaml(sent), "utf-8")
    assert as_yaml(sent) == path.read_text("utf-8")
    assert list(yaml.safe_load_all(path.read_text("utf-8"))) == sent, "it is read as it was meant"


@functools.cache
def rayjob_schema() -> dict[str, Any]:
    """Of ray.io/v1, unknown fields refused as a server does: where properties are listed, nothing else may stand."""
    path = CRDS / "ray.io_rayjobs.yaml"
    if not path.is_file():
        pytest.skip(f"no {path.name}: DISTILSEARCH_KUBERAY_CRDS names the folder of KubeRay's resource definitions")
    found = yaml.load(path.read_text("utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    [version] = [each for each in found["spec"]["versions"] if each["name"] == "v1"]
    schema = version["schema"]["openAPIV3Schema"]

    def close(node: Any) -> int:
        if not isinstance(node, dict):
            return sum(map(close, node)) if isinstance(node, list) else 0
        closed = "properties" in node and isinstance(node["properties"], dict) and node.get("type") == "object"
        if closed and not node.get("x-kubernetes-preserve-unknown-fields"):
            node.setdefault("additionalProperties", False)
        return closed + sum(map(close, node.values()))

    assert close(schema) > 500, "the pods' templates are in it"
    return schema  # type: ignore[no-any-return]


def schema_faults(rayjob: Mapping[str, Any]) -> list[str]:
    found = jsonschema.Draft202012Validator(rayjob_schema()).iter_errors(rayjob)
    return [f"{each.json_path}: {each.message[:200]}" for each in found]


def test_kuberays_schema_takes_it(made: tuple[str, list[dict[str, Any]]]) -> None:
    assert schema_faults(made[1][1]) == []


def _deep(document: dict[str, Any], *path: str | int, value: Any) -> dict[str, Any]:
    changed: dict[str, Any] = json.loads(json.dumps(document))  # nothing in it is shared
    node: Any = changed
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    return changed


CLUSTER = ("spec", "rayClusterSpec")
POD = (*CLUSTER, "workerGroupSpecs", 0, "template", "spec")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "entryPoint"), "python"),
        ((*CLUSTER, "autoscaling"), True),
        ((*CLUSTER, "workerGroupSpecs", 0, "minReplicas"), "1"),
        ((*POD, "volume"), []),
        ((*POD, "containers", 0, "env", 0, "value"), 1),
        ((*POD, "containers", 0, "resources", "limits", "memory"), "8 GB"),
        ((*POD, "volumes", 0, "configMap", "item"), []),
        (("spec", "submitterPodTemplate", "spec", "restartpolicy"), "Never"),
    ],
    ids=lambda each: str(each[-1]) if isinstance(each, tuple) else "",
)
def test_the_schema_finds_a_wrong_field(path: tuple[str | int, ...], value: Any, tmp_path: Path) -> None:
    profile = profile_of()
    rayjob = documents(job_of(profile), profile, 1)[1]
    assert schema_faults(rayjob) == []
    assert len(schema_faults(_deep(rayjob, *path, value=value))) == 1


def test_the_driver_stays_off_spot_machines_and_lanes_off_its_pod() -> None:
    """A machine is chosen by a selector when all its labels are as it says: then no term may hold."""
    spot = [
        {"name": "a", "spot": True, "node_selector": {"spot": "true", "pool": "gpus"}},
        {"name": "b", "spot": True, "node_selector": {"life": "short"}},
        {"name": "c", "node_selector": {"pool": "cpus"}},
    ]
    profile = profile_of(workers=spot, head={"node_selector": {"pool": "cpus"}})
    spec = documents(job_of(profile), profile, 1)[1]["spec"]
    cluster = spec["rayClusterSpec"]

    def allowed(pod: Mapping[str, Any], machine: Mapping[str, str]) -> bool:
        terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        assert {each["operator"] for term in terms for each in term["matchExpressions"]} == {"NotIn"}
        return any(
            all(machine.get(each["key"]) not in each["values"] for each in term["matchExpressions"]) for term in terms
        )

    for pod in (cluster["headGroupSpec"]["template"]["spec"], spec["submitterPodTemplate"]["spec"]):
        assert pod["nodeSelector"] == {"pool": "cpus"}
        assert not allowed(pod, {"spot": "true", "pool": "gpus"})
        assert not allowed(pod, {"life": "short", "pool": "cpus"})
        assert allowed(pod, {"spot": "true", "pool": "cpus"})
        assert allowed(pod, {"spot": "false", "pool": "gpus", "life": "long"})
    assert all("affinity" not in group["template"]["spec"] for group in cluster["workerGroupSpecs"])
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert "entrypointNumCpus" not in spec, "reserving any, the driver could be placed on a worker"


def test_secrets_are_sent_by_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "geheim")
    profile = profile_of(secrets={"WANDB_API_KEY": "wandb/api-key"})
    sent = documents(job_of(profile), profile, 1)
    cluster = sent[1]["spec"]["rayClusterSpec"]
    reference = {"valueFrom": {"secretKeyRef": {"name": "wandb", "key": "api-key"}}, "name": "WANDB_API_KEY"}
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert reference in group["template"]["spec"]["containers"][0]["env"]
    assert "geheim" not in as_yaml(sent)


def test_the_bundle_lies_below_one_folder_and_is_whole(tmp_path: Path) -> None:
    profile = profile_of()
    job = job_of(profile, tmp_path, train=bytes(range(256)), test=b"")
    config_map, rayjob = documents(job, profile, 1)
    pod = rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    mount, volume = pod["containers"][0]["volumeMounts"][0], pod["volumes"][0]["configMap"]
    assert (mount["mountPath"], mount["readOnly"], volume["name"]) == (BUNDLE, True, config_map["metadata"]["name"])
    paths = [f"{mount['subPath']}/{name}" for name in ("study.yaml", "job.json", "inputs/train.tsv", "inputs/test.tsv")]
    assert [each["path"] for each in volume["items"]] == paths
    keys = [each["key"] for each in volume["items"]]
    assert set(keys) == set(config_map["data"]) | set(config_map["binaryData"])
    assert all(re.fullmatch(r"[-._a-zA-Z0-9]{1,253}", key) for key in keys)
    assert yaml.safe_load(config_map["data"]["study.yaml"]) == job.study


@pytest.mark.parametrize("job_id", ["reviews-3f2a91", "2024-3f2a91", f"{'long-' * 8}x-3f2a91", "a-b-c-3f2a91"])
@pytest.mark.parametrize("attempt", [1, 12, 100_000])
def test_names_are_labels_that_kuberay_takes(job_id: str, attempt: int) -> None:
    name = name_of(job_id, attempt)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert len(name) <= 47
    assert name.endswith(f"-3f2a91-{attempt}")
    assert "--" not in name


# What is told


def told(deployed: str = "", job: str = "", **status: Any) -> dict[str, Any]:
    return {"metadata": {}, "status": {"jobDeploymentStatus": deployed, "jobStatus": job, **status}}


@pytest.mark.parametrize(
    ("rayjob", "state", "message"),
    [
        ({"metadata": {}}, JobState.PENDING, "the KubeRay operator has not taken it up"),
        (told("Initializing"), JobState.PENDING, ""),
        (told("Running"), JobState.PENDING, ""),
        (told("Running", "PENDING"), JobState.PENDING, ""),
        (told("Running", "RUNNING"), JobState.RUNNING, ""),
        (told("Running", "FAILED"), JobState.RUNNING, ""),  # the operator may begin it again
        (told("Retrying", failed=2), JobState.PENDING, "begun again, after 2 failures"),
        (told("Running", "RUNNING", failed=1), JobState.RUNNING, "begun again, after 1 failure"),
        (told("Complete", "SUCCEEDED", message="Job finished."), JobState.SUCCEEDED, ""),
        (told("Complete", "STOPPED", message="stopped by a user\nx"), JobState.STOPPED, "stopped by a user"),
        (told("Failed", "FAILED", reason="AppFailed", message="exit 2"), JobState.FAILED, "AppFailed: exit 2"),
        (told("Failed", reason="DeadlineExceeded"), JobState.FAILED, "DeadlineExceeded"),
        (told("ValidationFailed", message="name too long"), JobState.FAILED, "name too long"),
        (told("Suspending", "RUNNING"), JobState.RUNNING, "it is being stopped"),
        (told("Suspended"), JobState.PENDING, "it is suspended, by a queue or by someone"),
        ({"metadata": {"annotations": {"distilsearch/stopped": "true"}}}, JobState.STOPPED, ""),
        (
            {**told("Suspended"), "metadata": {"annotations": {"distilsearch/stopped": "true"}}},
            JobState.STOPPED,
            "",
        ),
        (
            {**told("Running", "RUNNING"), "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}},
            JobState.RUNNING,
            "it is being deleted",
        ),
        (told("SomethingNew"), JobState.PENDING, ""),
    ],
)
def test_the_operators_words_are_states(rayjob: dict[str, Any], state: JobState, message: str) -> None:
    found = state_of(rayjob)
    assert (found.state, found.message) == (state, message)


def test_times_are_the_drivers_where_there_was_one() -> None:
    times = {"startTime": "2026-01-01T00:00:00Z", "endTime": "2026-01-01T01:00:00Z"}
    info = {"startTime": "2026-01-01T00:02:00Z", "endTime": "2026-01-01T00:59:00Z"}
    found = state_of(told("Complete", "SUCCEEDED", **times, rayJobInfo=info))
    assert found.started_at is not None
    assert found.ended_at is not None
    assert (found.started_at % 3600, found.ended_at - found.started_at) == (120, 57 * 60)
    assert state_of(told("Failed", **times)).ended_at == found.ended_at + 60
    assert state_of(told("Running", "RUNNING", **times)).ended_at is None


def pod(group: str = "workers", **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"labels": {"ray.io/group": group}, "name": "p"},
        "spec": {"containers": [{"name": "ray-worker"}]},
        "status": status,
    }


def waits(reason: str, message: str = "") -> dict[str, Any]:
    waiting = {"reason": reason, **({"message": message} if message else {})}
    return {"containerStatuses": [{"state": {"waiting": waiting}}]}


def test_what_pods_wait_for_is_said_once() -> None:
    where = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    unschedulable = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": where}
    fine = {"conditions": [{"type": "PodScheduled", "status": "True"}], **waits("ContainerCreating")}
    assert waiting_for([pod(**fine)]) == ""
    assert waiting_for([]) == ""
    assert (
        waiting_for([pod(conditions=[unschedulable])] * 3 + [pod("headgroup", **fine)]) == f"workers: {where} (3 pods)"
    )
    image = waits("ImagePullBackOff", 'Back-off pulling image "i"')
    assert waiting_for([pod("headgroup", **image)]) == 'head: ImagePullBackOff: Back-off pulling image "i"'
    secret = waits("CreateContainerConfigError", 'secret "hub" not found')
    assert 'secret "hub" not found; ' in waiting_for([pod(**secret), pod("headgroup", **image)])


def test_without_a_pods_reason_the_latest_warning_is_told() -> None:
    def event(kind: str, reason: str, at: str | None, made: str | None = None) -> dict[str, Any]:
        return {"type": kind, "reason": reason, "message": f"{reason}!", "lastTimestamp": at, "eventTime": made}

    events = [
        event("Warning", "FailedMount", "2026-01-01T00:00:00Z"),
        event("Warning", "FailedToCreateHeadPod", None, "2026-01-01T00:00:01.5Z"),
        event("Normal", "Pulled", "2026-01-01T00:00:09Z"),
    ]
    assert waiting_for([], events) == "FailedToCreateHeadPod: FailedToCreateHeadPod!"


# What cannot be


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"image": None}, "image"),
        ({"workers": []}, "workers"),
        ({"workers": [{"replicas": 4, "max_replicas": 2}]}, "write min_replicas <= replicas <= max_replicas"),
        ({"workers": [{"replicas": 0}]}, "a group of no pods"),
        ({"workers": [{"replicas": 0, "max_replicas": 9}]}, "all groups begin with no pod"),
        ({"workers": [{"name": "headgroup"}]}, "headgroup is KubeRay's own name"),
        ({"workers": [{"spot": True}]}, "spot needs node_selector"),
        ({"workers": [{}, {}]}, "two groups have the name workers"),
        (
            {"workers": [{"spot": True, "node_selector": {"a": "b"}}], "head": {"node_selector": {"a": "b", "c": "d"}}},
            "head.node_selector chooses the spot machines of workers",
        ),
        ({"workers": [{"memory": "8 GB"}]}, "workers[0].memory"),
        ({"secrets": {"TOKEN": "hf_abc"}}, "write SECRET/KEY"),
        ({"namespace": "Team A"}, "namespace"),
        ({"volumes": [{"claim": "a", "mount": "runs"}]}, "volumes[0].mount"),
        ({"volumes": [{"claim": "a", "mount": "/a"}, {"claim": "b", "mount": "/a/"}]}, "two are mounted at /a"),
        ({"gpu": 1}, "unknown key"),
        ({"ttl_seconds": -1}, "ttl_seconds"),
    ],
)
def test_a_wrong_profile_says_what_is_allowed(keys: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=re.escape(problem)) as caught:
        profile_of(**keys)
    assert "kuberay takes" in str(caught.value), "all keys and their defaults"


def test_what_lies_on_a_volume_is_shared_and_stays_so_when_it_is_kept() -> None:
    profile = profile_of(shared=["/elsewhere"])
    assert profile.shared == ("/elsewhere", "/runs")
    assert KuberayProfile.model_validate_json(profile.model_dump_json()) == profile


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"output": "/home/me"}, "output: /home/me/reviews is on no volume"),
        ({"volumes": []}, "(none yet)"),
        ({"volumes": [{"claim": "runs", "mount": "/runs", "read_only": True}]}, "read_only; take another one"),
        (
            {"volumes": [{"claim": "a", "mount": "/"}, {"claim": "b", "mount": "/runs", "read_only": True}]},
            "on a volume that is read_only; take another one (/)",
        ),
        (
            {"volumes": [{"claim": "a", "mount": "/runs"}, {"claim": "b", "mount": "/distilsearch/x"}]},
            "volumes[1].mount: /distilsearch/x hides",
        ),
    ],
)
def test_an_output_that_would_go_with_its_pod_is_refused(keys: dict[str, Any], problem: str) -> None:
    profile = profile_of(**keys)
    with pytest.raises(InputError, match=re.escape(problem)):
        documents(job_of(profile), profile, 1)


def test_more_than_a_config_map_holds_is_refused_and_all_faults_come_at_once(tmp_path: Path) -> None:
    profile = profile_of(output="/home/me")
    job = job_of(profile, tmp_path, train=b"x" * (1 << 20), test=b"x").model_copy(update={"versions": {}})
    with pytest.raises(InputError) as caught:
        documents(job, profile, 1)
    assert [each.where for each in caught.value.faults] == ["output", "", "ray_version"]
    assert "inputs/train.tsv 1,048,576 bytes, " in str(caught.value)
    assert "Put the large ones on a volume" in str(caught.value)
    room = (1 << 20) - 1000  # for the study and what the other side is told
    assert documents(job_of(profile_of(), tmp_path, train=b"x" * room), profile_of(), 1)


# The verbs

KUBECTL = shutil.which("kubectl")
TALKS = pytest.mark.skipif(KUBECTL is None, reason="kubectl is not installed here")


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


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesServer]:
    made = KubernetesServer()
    made.add({"kind": "PersistentVolumeClaim", "metadata": {"name": "runs"}})
    made.write_config(tmp_path / "kubeconfig", "lab")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("KUBECACHEDIR", str(tmp_path / "kubecache"))
    monkeypatch.setattr("cluster.kuberay.LOOK_SECONDS", 0.02)
    yield made
    made.close()


@pytest.fixture
def lab(server: KubernetesServer) -> Lab:
    return Lab(server, profile_of())


ODD = {"A": "1e5", "B": "y", "C": "0o17", "D": "12:30", "E": "off", "F": "~", "G": "a: b #c", "H": "é", "I": "$(B)"}


@TALKS
def test_what_is_kept_is_what_the_preview_says_and_the_bundle_goes_with_it(server: KubernetesServer) -> None:
    lab = Lab(server, profile_of(environment=ODD))
    handle = lab.submit()
    [config_map], [rayjob] = copy.deepcopy(server.of("configmaps")), copy.deepcopy(server.of("rayjobs"))
    assert handle.reference == {"rayjob": name_of(lab.job.id, 1)} == {"rayjob": rayjob["metadata"]["name"]}
    owner = config_map["metadata"].pop("ownerReferences")
    assert [(each["kind"], each["uid"]) for each in owner] == [("RayJob", rayjob["metadata"]["uid"])]
    previewed = list(yaml.safe_load_all(lab.launcher.preview(lab.job)))
    for kept, meant in zip((config_map, rayjob), previewed, strict=True):
        for given in ("uid", "creationTimestamp", "resourceVersion"):
            kept["metadata"].pop(given)
        assert kept == meant
    tried = [each for each in server.seen if each.startswith("POST")]
    assert ["dryRun=All" in each for each in tried] == [True, True, False, False]
    assert all("fieldValidation=Strict" in each for each in tried)
    server.answer("DELETE", "/apis/ray.io/v1/namespaces/default/rayjobs/" + handle.reference["rayjob"], {}, b"")
    assert server.of("rayjobs") == server.of("configmaps") == []


@TALKS
@pytest.mark.parametrize(
    ("method", "part", "status", "message", "problem"),
    [
        ("POST", "rayjobs", 403, 'rayjobs.ray.io is forbidden: User "me" cannot create', "does not allow it: rayjobs.ray.io"),
        ("POST", "configmaps", 403, "configmaps \"x\" is forbidden: exceeded quota: small", "exceeded quota: small"),
        ("POST", "rayjobs", 400, 'RayJob cannot be handled: strict decoding error: unknown field "spec.x"', "too old"),
        ("POST", "rayjobs?fieldManager=kubectl-create&", 403, "rayjobs.ray.io is forbidden", "does not allow it"),
        ("PATCH", "configmaps", 403, 'configmaps "x" is forbidden: User "me" cannot patch', "cannot patch"),
        ("PATCH", "configmaps", 500, "etcdserver: request timed out", "etcdserver"),
    ],
)  # fmt: skip
def test_nothing_is_half_launched(lab: Lab, method: str, part: str, status: int, message: str, problem: str) -> None:
    lab.server.refusals.append((method, part, status, message))
    with pytest.raises((InputError, StudyError), match=re.escape(problem)):
        lab.submit()
    assert lab.server.of("configmaps") == lab.server.of("rayjobs") == []
    lab.server.refusals.clear()
    assert lab.submit().reference, "and then it can be"


@TALKS
def test_a_job_that_runs_is_not_launched_twice_and_one_that_is_over_makes_room(lab: Lab) -> None:
    first = lab.submit()
    with pytest.raises(InputError, match=f"{first.reference['rayjob']} runs there already"):
        lab.submit()
    lab.becomes("Failed", "FAILED")
    second = lab.submit()  # of a book that knows of no first
    assert second.reference == {"rayjob": name_of(lab.job.id, 2)}
    assert [each["metadata"]["name"] for each in lab.server.of("rayjobs")] == [second.reference["rayjob"]]
    assert [each["metadata"]["name"] for each in lab.server.of("configmaps")] == [second.reference["rayjob"]]


@TALKS
def test_what_someone_else_launched_at_the_same_moment_is_left_alone(lab: Lab) -> None:
    name = name_of(lab.job.id, 1)
    theirs = [
        lab.server.add({"kind": kind, "metadata": {"name": name}, "spec": {}}) for kind in ("ConfigMap", "RayJob")
    ]
    with pytest.raises(InputError, match="already exists: someone else launched it"):
        lab.submit()
    lab.server.refusals += [
        ("POST", "rayjobs?fieldManager=kubectl-create&", 409, f'rayjobs.ray.io "{name}" already exists')
    ]
    dry = lab.server.answer  # which does not see it yet
    lab.server.answer = lambda method, path, asked, body: (  # type: ignore[method-assign]
        (201, json.loads(body)) if "dryRun" in asked else dry(method, path, asked, body)
    )
    with pytest.raises(InputError, match="already exists: someone else launched it"):
        lab.submit()
    assert [*lab.server.of("configmaps"), *lab.server.of("rayjobs")] == theirs


@TALKS
def test_a_claim_that_does_not_exist_is_told_before_anything_is_launched(server: KubernetesServer) -> None:
    profile = profile_of(volumes=[{"claim": "runs", "mount": "/runs"}, {"claim": "data", "mount": "/data"}])
    with pytest.raises(InputError, match=r"volumes\[1\]\.claim: .*default has no claim data"):
        Lab(server, profile).submit()
    assert server.of("configmaps") == server.of("rayjobs") == []
    server.refusals.append(("GET", "persistentvolumeclaims", 403, "persistentvolumeclaims is forbidden"))
    assert Lab(server, profile).submit().reference, "who may not look is not kept from it"


@TALKS
def test_status_says_what_it_waits_for(lab: Lab) -> None:
    handle = lab.submit()
    name = handle.reference["rayjob"]
    for about, reason in ((f"{name}-abcde", "FailedToCreateHeadPod"), ("other", "Failed")):
        event = {
            "type": "Warning",
            "reason": reason,
            "message": "exceeded quota",
            "lastTimestamp": "2026-01-01T00:00:00Z",
        }
        lab.server.add({"kind": "Event", "metadata": {"name": reason}, "involvedObject": {"name": about}, **event})
    found = lab.launcher.status(handle)
    assert (found.state, found.message) == (
        JobState.PENDING,
        "the KubeRay operator has not taken it up; FailedToCreateHeadPod: exceeded quota",
    )
    lab.becomes("Running", "RUNNING", startTime="2026-01-01T00:00:00Z")
    full = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}
    lab.pod("w", {"ray.io/group": "workers"}, phase="Pending", conditions=[full])
    found = lab.launcher.status(handle)
    assert (found.state, found.message) == (JobState.RUNNING, "workers: 0/3 nodes are available")
    lab.becomes("Complete", "SUCCEEDED")
    assert lab.launcher.status(handle).state is JobState.SUCCEEDED
    lab.server.objects.clear()
    assert lab.launcher.status(handle).state is JobState.LOST


@TALKS
def test_logs_are_followed_from_one_submitter_to_the_next(lab: Lab) -> None:
    handle = lab.submit()
    assert list(lab.launcher.logs(handle, follow=False)) == [], "nothing was said yet"
    lab.becomes("Running", "RUNNING")
    lab.submitter("submitter-1")
    assert list(lab.launcher.logs(handle, follow=False)) == [], "it is still starting"
    lab.server.logs["submitter-1"] = "one\n"
    heard = lab.launcher.logs(handle, follow=True)
    assert next(heard) == "one\n"
    lab.server.logs["submitter-1"] += "two\n"
    assert next(heard) == "two\n"
    time.sleep(1.1)  # pods are made a second apart, in what the server says of them
    lab.submitter("submitter-2")
    lab.server.logs["submitter-2"] = "one\ntwo\nthree\n"
    lab.server.ended |= {"submitter-1", "submitter-2"}
    assert [next(heard) for _ in range(3)] == ["one\n", "two\n", "three\n"]
    lab.server.logs["submitter-2"] += "four\n"
    lab.becomes("Complete", "SUCCEEDED")
    assert list(heard) == ["four\n"], "each line once"
    assert "".join(lab.launcher.logs(handle, follow=False)) == "one\ntwo\nthree\nfour\n"
    lab.server.objects.clear()
    with pytest.raises(StudyError, match="has no logs there any more"):
        list(lab.launcher.logs(handle, follow=True))


@TALKS
def test_a_log_that_is_no_longer_read_leaves_no_kubectl_behind(lab: Lab) -> None:
    handle = lab.submit()
    lab.becomes("Running", "RUNNING")
    lab.submitter("submitter-1")
    lab.server.logs["submitter-1"] = "one\n"
    heard = lab.launcher.logs(handle, follow=True)
    next(heard)
    before = _children()
    heard.close()  # type: ignore[attr-defined]
    assert len(before) == 1
    assert _children() == []


def _children() -> list[str]:
    return Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()


def done(returncode: int = 0, stdout: str = "", stderr: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess([], returncode, stdout, stderr)


@TALKS
def test_a_driver_that_runs_is_ended_by_ray_and_its_cluster_goes(lab: Lab) -> None:
    handle = lab.submit()
    lab.becomes("Running", "RUNNING")
    lab.head()
    lab.server.add({"kind": "RayCluster", "metadata": {"name": "reviews-cluster"}})

    def stopped(command: list[str]) -> subprocess.CompletedProcess[str]:
        lab.becomes("Complete", "STOPPED", message="Job was intentionally stopped.")
        return done(stdout="Job 'reviews-x' was stopped")

    lab.server.run = stopped
    lab.launcher.stop(handle)
    [(where, command)] = lab.server.runs
    assert (where, command[:3], command[-1]) == ("head", ["ray", "job", "stop"], "reviews-x")
    assert lab.server.of("rayclusters") == []
    assert lab.launcher.status(handle).state is JobState.STOPPED
    assert "suspend" not in lab.rayjob["spec"]
    lab.launcher.stop(handle)
    assert len(lab.server.runs) == 1, "what is over is left alone"


@TALKS
@pytest.mark.parametrize("has_head", [True, False])
def test_before_there_is_a_driver_or_when_it_does_not_hear_the_job_is_suspended(lab: Lab, has_head: bool) -> None:
    handle = lab.submit()
    lab.becomes("Initializing")
    if has_head:
        lab.head()
    lab.server.run = lambda command: done(1, stderr="ConnectionError: refused")
    ends = threading.Thread(target=_suspends, args=(lab,))
    ends.start()
    lab.launcher.stop(handle)
    ends.join()
    assert len(lab.server.runs) == has_head
    assert lab.rayjob["spec"]["suspend"] is True
    assert lab.launcher.status(handle).state is JobState.STOPPED
    assert lab.submit().reference == {"rayjob": name_of(lab.job.id, 2)}, "the study goes on"


def _suspends(lab: Lab) -> None:
    """As the operator does."""
    deadline = time.monotonic() + 20
    while not lab.rayjob["spec"].get("suspend") and time.monotonic() < deadline:
        time.sleep(0.02)
    lab.becomes("Suspending")
    time.sleep(0.3)
    lab.becomes("Suspended")


@TALKS
def test_one_that_does_not_stop_is_told_with_what_would_end_it(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.kuberay.STOP_SECONDS", 0.5)
    handle = lab.submit()
    lab.becomes("Running", "RUNNING")
    with pytest.raises(StudyError, match=f"kubectl delete rayjob {handle.reference['rayjob']}"):
        lab.launcher.stop(handle)


def _commands_in_pods() -> bool:
    """Over WebSockets, as kubectl runs them since 1.31; before, over SPDY."""
    if KUBECTL is None:
        return False
    told = subprocess.run([KUBECTL, "version", "--client", "-o", "json"], capture_output=True, text=True, check=False)
    version = re.match(r"v(\d+)\.(\d+)", json.loads(told.stdout or "{}").get("clientVersion", {}).get("gitVersion", ""))
    return version is not None and (int(version[1]), int(version[2])) >= (1, 31)


EXECUTES = pytest.mark.skipif(not _commands_in_pods(), reason="it takes kubectl 1.31 or later")


@pytest.fixture
def output(lab: Lab, tmp_path: Path) -> Path:
    """What a study left, and a server that runs commands here, with the output where the pods have it."""
    output = tmp_path / "volume"
    (output / "best").mkdir(parents=True)
    (output / "trials").mkdir()
    for name, content in {
        "study.yaml": "name: reviews\n",
        "best/trial-1.yaml": "x" * 200_000,
        "trials/large": "x",
    }.items():
        (output / name).write_text(content)
    with sqlite3.connect(output / "study.db") as record:
        record.execute("create table t (x)")
        record.execute("insert into t values (7)")

    def run(command: list[str]) -> subprocess.CompletedProcess[str]:
        assert command[:3] == ["python", "-m", "cluster.pack"]
        here = [sys.executable, *command[1:3], command[3].replace(lab.job.output, str(output))]
        return subprocess.run(here, capture_output=True, text=True, cwd=ROOT, check=False)

    lab.server.run = run
    return output


@EXECUTES
def test_results_come_from_the_head_while_it_lives(lab: Lab, output: Path, tmp_path: Path) -> None:
    handle = lab.submit()
    lab.head()
    lab.launcher.fetch(handle, tmp_path / "here")
    fetched = sorted(path.relative_to(tmp_path / "here").as_posix() for path in (tmp_path / "here").rglob("*.*"))
    assert fetched == ["best/trial-1.yaml", "study.db", "study.yaml"]
    assert (tmp_path / "here" / "best" / "trial-1.yaml").stat().st_size == 200_000
    assert sqlite3.connect(tmp_path / "here" / "study.db").execute("select x from t").fetchall() == [(7,)]
    assert [where for where, _ in lab.server.runs] == ["head"]
    with pytest.raises(InputError, match="not empty"):
        lab.launcher.fetch(handle, tmp_path / "here")


@EXECUTES
def test_results_come_from_a_pod_of_our_own_when_the_cluster_is_gone(lab: Lab, output: Path, tmp_path: Path) -> None:
    handle = lab.submit()
    lab.server.objects.pop(("rayjobs", "default", handle.reference["rayjob"]))
    lab.server.made = lambda pod: pod.update(
        status={"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    )
    lab.launcher.fetch(handle, tmp_path / "here")
    assert (tmp_path / "here" / "study.yaml").read_text() == "name: reviews\n"
    [(where, _)] = lab.server.runs
    assert where.startswith(f"fetch-{lab.job.id[:7]}")
    assert lab.server.of("pods") == [], "and it is deleted"


@EXECUTES
def test_what_cannot_be_fetched_says_why_and_what_to_do(
    lab: Lab, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = lab.submit()
    lab.head()
    (output / "study.yaml").unlink()
    with pytest.raises(StudyError, match="holds no study yet"):
        lab.launcher.fetch(handle, tmp_path / "one")
    lab.server.run = lambda command: done(stdout="-----BEGIN OUTPUT-----\nAAAA")
    with pytest.raises(StudyError, match="did not come whole"):
        lab.launcher.fetch(handle, tmp_path / "two")
    lab.server.objects.pop(("pods", "default", "head"))
    monkeypatch.setattr("cluster.kuberay.READY_SECONDS", 1)
    where = {"type": "PodScheduled", "status": "False", "message": 'persistentvolumeclaim "runs" not found'}
    lab.server.made = lambda pod: pod.update(status={"phase": "Pending", "conditions": [where]})
    with pytest.raises(
        StudyError, match=r"the cluster is gone.*\"runs\" not found.*from the volume \(runs\).*ttl_seconds"
    ):
        lab.launcher.fetch(handle, tmp_path / "three")
    assert lab.server.of("pods") == []


# What goes wrong before anything is launched


def test_without_kubectl_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    profile = profile_of()
    with pytest.raises(InputError, match="kubectl: is not installed here, or not on PATH"):
        KuberayLauncher(profile).submit(job_of(profile), 1)
    assert KuberayLauncher(profile).preview(job_of(profile)), "which needs none"


@TALKS
@pytest.mark.parametrize(
    ("keys", "refusal", "problem"),
    [
        ({"context": "elsewhere"}, None, 'context: context "elsewhere" does not exist'),
        ({"namespace": "nowhere"}, None, "namespace: there is no namespace nowhere in the current context"),
        ({}, ("GET", "/", 401, "Unauthorized"), "context: the current context does not let you in"),
        (
            {},
            ("GET", "rayjobs", 403, 'rayjobs.ray.io is forbidden: User "me" cannot list resource "rayjobs"'),
            'namespace: default does not allow it: rayjobs.ray.io is forbidden: User "me" cannot list',
        ),
    ],
)
def test_what_the_user_can_mend_is_one_error(
    server: KubernetesServer, keys: dict[str, Any], refusal: tuple[str, str, int, str] | None, problem: str
) -> None:
    server.refusals += [refusal] if refusal else []
    with pytest.raises(InputError) as caught:
        Lab(server, profile_of(**keys)).submit()
    assert str(caught.value).startswith(problem)
    assert "\n" not in str(caught.value)


@TALKS
def test_a_cluster_without_kuberay_and_one_that_does_not_answer(
    server: KubernetesServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = KubernetesServer(has_kuberay=False)
    bare.write_config(tmp_path / "bare", "bare")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "bare"))
    monkeypatch.setenv("KUBECACHEDIR", str(tmp_path / "other"))
    lab = Lab(bare, profile_of())
    with pytest.raises(InputError, match=r"context: the current context has no KubeRay .* install its operator"):
        lab.submit()
    bare.close()
    with pytest.raises(InputError, match="context: the API server of the current context cannot be reached"):
        lab.submit()
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(InputError, match="context: the API server of the current context cannot be reached"):
        lab.submit()


@TALKS
def test_the_command_line_launches_follows_and_stops(
    server: KubernetesServer, distilsearch: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "profiles").mkdir()
    shutil.copy(GOLDEN / "minimal.profile.yaml", tmp_path / "profiles" / "lab.yaml")
    (tmp_path / "train.tsv").write_text("text\tlabel\nfine\t1\npoor\t0\n")
    study = tmp_path / "study.yaml"
    study.write_text("name: reviews\ndata: {train: train.tsv}\nteacher: textattack/bert-base-uncased-SST-2\n")
    status, out, err = distilsearch("submit", study, "--to", "lab", "--dry-run")
    assert (status, server.seen) == (0, [])
    assert [each["kind"] for each in yaml.safe_load_all(out)] == ["ConfigMap", "RayJob"]
    status, out, err = distilsearch("submit", study, "--to", "lab")
    assert status == 0, err
    job = out.strip()
    [rayjob] = server.of("rayjobs")
    assert rayjob["metadata"]["labels"]["distilsearch/job"] == job
    assert distilsearch("submit", study, "--to", "lab")[0] == 2, "it runs already"
    told = json.loads(distilsearch("status", job, "--json")[1])
    assert (told["state"], told["output"]) == ("pending", "/runs/reviews")
    rayjob["status"] = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "message": "exit 1"}
    assert "failed (exit 1)" in distilsearch("status", job)[1]
    status, out, err = distilsearch("submit", study, "--to", "lab")
    assert (status, out.strip()) == (0, job)
    assert "it continues" in err
    server.refusals.append(("GET", "/", 401, "Unauthorized"))
    status, out, err = distilsearch("stop", job)
    assert status == 2
    assert "does not let you in" in err


@EXECUTES
def test_the_rights_that_the_docs_list_are_enough_and_each_is_needed(lab: Lab, output: Path, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "clusters" / "kuberay.md").read_text("utf-8")
    [role] = [each for each in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "kind: Role\n" in each]
    lab.server.rules = yaml.safe_load(role)["rules"]
    ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    lab.server.made = lambda made: made.update(status=ready) if made["kind"] == "Pod" else None
    handle = lab.submit()
    lab.becomes("Running", "RUNNING")
    assert lab.launcher.status(handle).state is JobState.RUNNING
    lab.submitter("submitter")
    lab.server.logs["submitter"] = "one\n"
    assert list(lab.launcher.logs(handle, follow=False)) == ["one\n"]
    lab.head()
    lab.server.add({"kind": "RayCluster", "metadata": {"name": "reviews-cluster"}})
    packs = lab.server.run

    def run(command: list[str]) -> subprocess.CompletedProcess[str]:
        if command[0] == "ray":
            lab.becomes("Complete", "STOPPED")
        return packs(command) if command[0] == "python" else done()

    lab.server.run = run
    lab.launcher.fetch(handle, tmp_path / "one")
    lab.launcher.stop(handle)
    assert lab.server.of("rayclusters") == []
    lab.server.objects.pop(("pods", "default", "head"))
    lab.launcher.fetch(handle, tmp_path / "two")
    assert len(lab.server.of("pods")) == 1, "the submitter's"
    lab.server.rules = [rule for rule in lab.server.rules if rule["resources"] != ["pods/log"]]
    with pytest.raises(InputError, match="does not allow it"):
        list(lab.launcher.logs(handle, follow=False))
    for rule in ("configmaps", "rayjobs"):
        lab.server.rules = [each for each in yaml.safe_load(role)["rules"] if each["resources"] != [rule]]
        with pytest.raises(InputError, match="does not allow it"):
            lab.submit()


def test_the_profile_in_the_docs_can_be_copied() -> None:
    text = (ROOT / "docs" / "clusters" / "kuberay.md").read_text("utf-8")
    first, second = [each for each in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "kind: Role" not in each]
    profile = parse_profile(yaml.safe_load(first), "lab.yaml")
    assert isinstance(profile, KuberayProfile)
    assert documents(job_of(profile), profile, 1)
    assert parse_profile({**yaml.safe_load(first), **yaml.safe_load(second)}, "lab.yaml")
    keys = text.partition("## The keys")[2].partition("## Rights")[0]
    listed = set(re.findall(r"^\| `(\w+)`", keys, re.MULTILINE))
    assert listed == set(KuberayProfile.model_fields) - {"kind"}, "each key is explained"


# A real API server: DISTILSEARCH_KUBECONFIG names a kubectl configuration whose context may make namespaces there


@pytest.mark.skipif("DISTILSEARCH_KUBECONFIG" not in os.environ, reason="DISTILSEARCH_KUBECONFIG names no API server")
def test_a_real_api_server_takes_keeps_and_lets_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One with the resource definitions of KubeRay, and without its operator, which the test plays."""
    monkeypatch.setenv("KUBECONFIG", os.environ["DISTILSEARCH_KUBECONFIG"])
    monkeypatch.setattr("cluster.kuberay.LOOK_SECONDS", 0.1)
    namespace = f"distilsearch-{os.getpid()}"

    def kubectl(*arguments: str, **options: Any) -> str:
        command = ["kubectl", f"--namespace={namespace}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, **options).stdout

    profile = profile_of(namespace=namespace, environment=ODD)
    job = job_of(profile, tmp_path, train=bytes(range(256)) * 4090)  # nearly all that there is room for
    launcher = KuberayLauncher(profile)
    with pytest.raises(InputError, match=f"namespace: there is no namespace {namespace}"):
        launcher.submit(job, 1)
    kubectl("create", "namespace", namespace)
    try:
        with pytest.raises(InputError, match=r"volumes\[0\]\.claim: .* has no claim runs"):
            launcher.submit(job, 1)
        claim = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
        made = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "runs"}, "spec": claim}
        kubectl("create", "--filename=-", input=json.dumps(made))
        for name in PROFILES:
            golden = (GOLDEN / f"{name}.manifest.yaml").read_text("utf-8")
            moved = re.sub(r"(?m)^  namespace: .*$", f"  namespace: {namespace}", golden)
            assert "created (server dry run)" in kubectl("create", "--dry-run=server", "--filename=-", input=moved)
        assert json.loads(kubectl("get", "rayjobs", "-o", "json"))["items"] == []

        reference = launcher.submit(job, 1)
        name = reference["rayjob"]
        handle = JobHandle(
            id=job.id, study="reviews", output=job.output, profile_name="lab", profile=profile,
            submitted_at=1.0, reference=reference,
        )  # fmt: skip
        kept = json.loads(kubectl("get", "rayjob", name, "-o", "json"))
        meant = documents(job, profile, 1)
        _is_within(meant[1]["spec"], kept["spec"])
        bundle = json.loads(kubectl("get", "configmap", name, "-o", "json"))
        assert bundle["data"] == meant[0]["data"]
        assert bundle["binaryData"] == meant[0]["binaryData"]
        assert [each["uid"] for each in bundle["metadata"]["ownerReferences"]] == [kept["metadata"]["uid"]]
        assert launcher.status(handle).state is JobState.PENDING
        assert list(launcher.logs(handle, follow=False)) == []
        with pytest.raises(InputError, match="runs there already"):
            launcher.submit(job, 1)

        def becomes(**status: str) -> None:
            patch = json.dumps({"status": status})
            kubectl("patch", "rayjob", name, "--subresource=status", "--type=merge", f"--patch={patch}")

        becomes(jobDeploymentStatus="Running", jobStatus="RUNNING", startTime="2026-01-01T00:00:00Z")
        assert launcher.status(handle).state is JobState.RUNNING
        threading.Timer(2.0, lambda: becomes(jobDeploymentStatus="Suspended", jobStatus="")).start()
        launcher.stop(handle)
        assert launcher.status(handle).state is JobState.STOPPED
        assert launcher.submit(job, 1) == {"rayjob": name_of(job.id, 2)}
        assert launcher.status(handle).state is JobState.LOST

        wrong = _deep(documents(job, profile, 7)[1], *POD, "volume", value=[])
        with pytest.raises(InputError, match=r"too old for this job: .*unknown field"):
            Kubectl(profile).run("create", "--dry-run=server", "--filename=-", stdin=as_yaml([wrong]))
    finally:
        kubectl("delete", "namespace", namespace, "--wait=false")


def _is_within(meant: Any, kept: Any) -> None:
    """All that was meant was kept; a server adds defaults."""
    if isinstance(meant, dict):
        assert meant.keys() <= kept.keys()
        for key in meant:
            _is_within(meant[key], kept[key])
    elif isinstance(meant, list):
        assert len(meant) == len(kept)
        for one, other in zip(meant, kept, strict=True):
            _is_within(one, other)
    else:
        assert meant == kept
