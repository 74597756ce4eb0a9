"""The verbs of `kuberay`, by a real kubectl before an API server in small; skipped where there is no kubectl."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import Run
from kuberay_lab import GOLDEN, POD, PROFILES, ROOT, Lab, deep, job_of, profile_of
from kubernetes_server import KubernetesServer

from cluster.job import JobHandle, JobState
from cluster.kubectl import Kubectl
from cluster.kuberay import KuberayLauncher
from cluster.profile import KuberayProfile, parse_profile
from cluster.rayjob import as_yaml, documents, name_of
from spaces.errors import InputError, StudyError

KUBECTL = shutil.which("kubectl")
TALKS = pytest.mark.skipif(KUBECTL is None, reason="kubectl is not installed here")


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


@pytest.mark.slow
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
@pytest.mark.parametrize("has_head", [True, pytest.param(False, marks=pytest.mark.slow)])
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

        wrong = deep(documents(job, profile, 7)[1], *POD, "volume", value=[])
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
