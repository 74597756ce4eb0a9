"""The kind `kuberay`: what is sent, held against files of what it was and against KubeRay's own schema, where that is to be had;
what is told; what cannot be."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from kuberay_lab import CLUSTER, GOLDEN, POD, PROFILES, ROOT, deep, job_of, profile_of

from cluster.job import JobState
from cluster.profile import KuberayProfile, load_profile
from cluster.rayjob import BUNDLE, as_yaml, documents, name_of, state_of, waiting_for
from spaces.errors import InputError

CRDS = Path(os.environ.get("DISTILSEARCH_KUBERAY_CRDS") or ROOT.parent / "shared" / "kuberay")


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
    assert len(schema_faults(deep(rayjob, *path, value=value))) == 1


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
