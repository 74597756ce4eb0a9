"""The RayJob of a job, as plain data: what is sent, and what the operator and the scheduler say of it.

The submission mode is K8sJobMode. A small pod of its own hands the entrypoint to the head, where Ray runs the driver (in every
mode, as long as the entrypoint reserves nothing), and follows its log: that pod stays when the cluster is gone, and with it what
the driver said. HTTPMode and SidecarMode keep the log in the head alone.
"""

from __future__ import annotations

import base64
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

import yaml

from cluster.bundle import contents
from cluster.job import Job, JobHandle, JobState, JobStatus
from cluster.profile import KuberayProfile, Volume, WorkerGroup
from spaces.errors import Fault, InputError
from spaces.remote import is_url

Document = dict[str, Any]

BUNDLE = "/distilsearch"  # the job's folder in every pod, read-only
BUNDLE_BYTES = 1 << 20  # what a ConfigMap may hold
NAME_LENGTH = 47  # of a RayJob: KubeRay makes longer names of it, and refuses more
HEAD, WORKER, SUBMITTER, READER = "ray-head", "ray-worker", "ray-job-submitter", "reader"  # containers
JOB, RUN, STOPPED = "distilsearch/job", "distilsearch/run", "distilsearch/stopped"  # labels; what `stop` leaves
READER_SECONDS = 900
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_JOB_STOP_WAIT_TIME_S": "60",  # that a driver which was told to end may take to close its lanes
}
RAY_STATES = {"SUCCEEDED": JobState.SUCCEEDED, "STOPPED": JobState.STOPPED}
STARTING = ("", "ContainerCreating", "PodInitializing")


def documents(job: Job, profile: KuberayProfile, attempt: int) -> list[Document]:
    """The ConfigMap with the bundle, and the RayJob. Raises InputError for what cannot run there: all of it at once."""
    faults = [*_volume_faults(job, profile), *_bundle_faults(job)]
    if (ray_version := profile.ray_version or job.versions.get("ray")) is None:
        faults.append(Fault("ray_version", "Ray is not installed here; write the version that the image has"))
    if faults:
        raise InputError("profile", faults)
    name = name_of(job.id, attempt)
    labels = {"app.kubernetes.io/name": "distilsearch", JOB: job.id, RUN: name}
    metadata = {"name": name, "namespace": profile.namespace, "labels": labels}
    config_map, bundle = _bundle(job, name)
    least_most = [group.bounds for group in profile.workers]
    cluster: Document = {
        "rayVersion": ray_version,
        "enableInTreeAutoscaling": any(least < most for least, most in least_most),
        "headGroupSpec": _head(profile, labels, bundle),
        "workerGroupSpecs": [_workers(group, profile, labels, bundle) for group in profile.workers],
    }
    if profile.ray_token:
        cluster["authOptions"] = {"mode": "token"}
    spec: Document = {
        "submissionMode": "K8sJobMode",
        "entrypoint": f"python -m cluster.arrive {BUNDLE}",
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": profile.ttl_seconds,
        "backoffLimit": profile.backoff_limit,
        "rayClusterSpec": cluster,
        "submitterPodTemplate": _submitter(profile, labels),
    }
    if profile.deadline_seconds is not None:
        spec["activeDeadlineSeconds"] = profile.deadline_seconds
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, **config_map},
        {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": spec},
    ]


def name_of(job_id: str, attempt: int) -> str:
    """A DNS label that begins with a letter, as long as KubeRay takes it."""
    study, _, digest = job_id.rpartition("-")
    study, tail = study if study[0].isalpha() else f"s-{study}", f"-{digest}-{attempt}"
    return study[: NAME_LENGTH - len(tail)].rstrip("-") + tail


def _volume_faults(job: Job, profile: KuberayProfile) -> Iterator[Fault]:
    mounts = ", ".join(volume.mount for volume in profile.volumes if not volume.read_only) or "none yet"
    below = [volume for volume in profile.volumes if PurePosixPath(job.output).is_relative_to(volume.mount)]
    if is_url(job.output):
        pass
    elif not below:
        yield Fault(
            "output",
            f"{job.output} is on no volume, and what a pod writes beside them goes with it; write output: MOUNT/FOLDER, with the "
            f"mount of one of volumes ({mounts})",
        )
    elif max(below, key=lambda volume: len(volume.mount)).read_only:
        yield Fault("output", f"{job.output} is on a volume that is read_only; take another one ({mounts})")
    for index, volume in enumerate(profile.volumes):
        mount = PurePosixPath(volume.mount)
        if mount.is_relative_to(BUNDLE) or PurePosixPath(BUNDLE).is_relative_to(mount):
            yield Fault(
                f"volumes[{index}].mount", f"{volume.mount} hides {BUNDLE}, the job's own folder; choose another"
            )


def _bundle_faults(job: Job) -> Iterator[Fault]:
    sizes = {
        name: len(content) if isinstance(content, bytes) else content.stat().st_size for name, content in contents(job)
    }
    if (total := sum(sizes.values())) > BUNDLE_BYTES:
        largest = ", ".join(
            f"{name} {sizes[name]:,} bytes" for name in sorted(sizes, key=lambda name: -sizes[name])[:3]
        )
        yield Fault(
            "",
            f"{total:,} bytes would be sent ({largest}), and a ConfigMap holds {BUNDLE_BYTES:,}. Put the large ones on a volume, "
            "and write their path there into the study (below the mount of one of volumes), or name a hub id",
        )


def _bundle(job: Job, name: str) -> tuple[Document, Document]:
    """The ConfigMap's content, and the volume of it. All lies below one folder, since a mount of that folder has plain files; in
    a mount of the whole they are links into a folder that has another name in every pod."""
    data, binary, items = dict[str, str](), dict[str, str](), []
    for index, (file, content) in enumerate(contents(job)):
        if isinstance(content, bytes):
            key, data[file] = file, content.decode()
        else:
            key = f"{index}.{re.sub(r'[^-._a-zA-Z0-9]', '_', file)[-200:]}"
            binary[key] = base64.b64encode(content.read_bytes()).decode()
        items.append({"key": key, "path": f"job/{file}"})
    config_map = {"immutable": True, "data": data, **({"binaryData": binary} if binary else {})}
    return config_map, {"name": "bundle", "configMap": {"name": name, "items": items}}


def _head(profile: KuberayProfile, labels: Mapping[str, str], bundle: Document) -> Document:
    resources = {"cpu": _cpus(profile.head.cpus), "memory": profile.head.memory}
    container = _ray_container(HEAD, profile, resources)
    return {
        "rayStartParams": {"num-cpus": "0", "num-gpus": "0"},  # the driver's: no lane is placed there
        "template": _pod(profile, labels, container, _place_of_driver(profile), bundle),
    }


def _workers(group: WorkerGroup, profile: KuberayProfile, labels: Mapping[str, str], bundle: Document) -> Document:
    resources = {"cpu": _cpus(group.cpus), "memory": group.memory}
    if group.gpus:
        resources[group.gpu_resource] = str(group.gpus)
    least, most = group.bounds
    place = _place(group.node_selector, group.tolerations)
    return {
        "groupName": group.name,
        "replicas": group.replicas,
        "minReplicas": least,
        "maxReplicas": most,
        "rayStartParams": {"num-gpus": str(group.gpus)},  # said, since Ray knows few of the resources' names
        "template": _pod(profile, labels, _ray_container(WORKER, profile, resources), place, bundle),
    }


def _submitter(profile: KuberayProfile, labels: Mapping[str, str]) -> Document:
    resources = {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}}
    container = {"name": SUBMITTER, "image": profile.image, "resources": resources}
    return _pod(profile, labels, container, {"restartPolicy": "Never", **_place_of_driver(profile)})


def reader(handle: JobHandle, profile: KuberayProfile, name: str) -> Document:
    """A pod that only sees the volumes, for a job whose cluster is gone; it ends by itself, whatever becomes of this side."""
    container = {
        "name": READER,
        "image": profile.image,
        "command": ["sleep", str(READER_SECONDS)],
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "2Gi"}},
        "volumeMounts": _mounts(profile),
    }
    labels = {"app.kubernetes.io/name": "distilsearch", JOB: handle.id}
    ends = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": READER_SECONDS,
        "terminationGracePeriodSeconds": 1,
    }
    pod = _pod(profile, labels, container, {**ends, **_place_of_driver(profile)})
    metadata = {"name": name, "namespace": profile.namespace, **pod["metadata"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod["spec"]}


def _ray_container(name: str, profile: KuberayProfile, resources: Mapping[str, str]) -> Document:
    """Requests are the limits: Ray reads the limits, and a pod that has them for certain is the last to be evicted."""
    plain = {**ENVIRONMENT, **({} if profile.ray_token else {"RAY_AUTH_MODE": "disabled"}), **profile.environment}
    environment: list[Document] = [
        {"name": variable, "value": value.replace("$(", "$$(")} for variable, value in plain.items()
    ]
    for variable, reference in profile.secrets.items():
        secret, _, key = reference.partition("/")
        environment.append({"name": variable, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}})
    bundle = {"name": "bundle", "mountPath": BUNDLE, "subPath": "job", "readOnly": True}
    return {
        "name": name,
        "image": profile.image,
        "env": environment,
        "resources": {"requests": dict(resources), "limits": dict(resources)},
        "volumeMounts": [bundle, *_mounts(profile)],
    }


def _pod(
    profile: KuberayProfile,
    labels: Mapping[str, str],
    container: Document,
    place: Document,
    bundle: Document | None = None,
) -> Document:
    spec: Document = {"containers": [container], **place}
    if container.get("volumeMounts"):
        claims = [
            {"name": name, "persistentVolumeClaim": {"claimName": claim}} for claim, name in claims_of(profile).items()
        ]
        spec["volumes"] = [*([bundle] if bundle else []), *claims]
        if profile.fs_group is not None:
            spec["securityContext"] = {"fsGroup": profile.fs_group, "fsGroupChangePolicy": "OnRootMismatch"}
    if profile.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": each} for each in profile.image_pull_secrets]
    if profile.service_account:
        spec["serviceAccountName"] = profile.service_account
    return {"metadata": {"labels": dict(labels)}, "spec": spec}


def claims_of(profile: KuberayProfile) -> dict[str, str]:
    """Claims, with the volumes' names in the pods; one may be mounted twice."""
    claims = dict.fromkeys(volume.claim for volume in profile.volumes)
    return {claim: f"claim-{index}" for index, claim in enumerate(claims)}


def _mounts(profile: KuberayProfile) -> list[Document]:
    def mount(volume: Volume) -> Document:
        read_only = {"readOnly": True} if volume.read_only else {}
        return {"name": claims_of(profile)[volume.claim], "mountPath": volume.mount, **read_only}

    return [mount(volume) for volume in profile.volumes]


def _place(node_selector: Mapping[str, str], tolerations: Iterable[Mapping[str, Any]]) -> Document:
    selector = {"nodeSelector": dict(node_selector)} if node_selector else {}
    tolerated = [dict(each) for each in tolerations]
    return {**selector, **({"tolerations": tolerated} if tolerated else {})}


def _place_of_driver(profile: KuberayProfile) -> Document:
    """Never where a spot group's selector chooses. A machine is another one when any of the selector's labels differs: one of the
    terms has to hold, and in a term all of it."""
    place = _place(profile.head.node_selector, profile.head.tolerations)
    selectors = [sorted(group.node_selector.items()) for group in profile.workers if group.spot]
    if not selectors:
        return place
    terms = [
        {"matchExpressions": [{"key": key, "operator": "NotIn", "values": [value]} for key, value in dict.fromkeys(one)]}
        for one in itertools.product(*selectors)
    ]  # fmt: skip
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    return {**place, "affinity": {"nodeAffinity": required}}


def _cpus(count: float) -> str:
    return str(int(count)) if count == int(count) else f"{round(count * 1000)}m"


def as_yaml(made: Iterable[Document]) -> str:
    return "---\n".join(
        yaml.dump(each, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120) for each in made
    )


class _Dumper(yaml.SafeDumper):
    """Files as blocks, and in quotes whatever another reader might take for a number or a truth value (1e5, y)."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, text: str) -> yaml.ScalarNode:
        plain = re.fullmatch(r"[A-Za-z/][-A-Za-z0-9._/]*", text) and text.lower() not in ("y", "n")
        style = "|" if "\n" in text else None if plain else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)


def state_of(rayjob: Mapping[str, Any]) -> JobStatus:
    """A RayJob's state. It is over only when the operator will not begin it again."""
    told, metadata = rayjob.get("status") or {}, rayjob["metadata"]
    deployed, ray = told.get("jobDeploymentStatus", ""), told.get("jobStatus", "")
    info = told.get("rayJobInfo") or {}
    started, ended = (_unix_time(info.get(key) or told.get(key)) if told else None for key in ("startTime", "endTime"))
    why = ": ".join(part for part in (told.get("reason", ""), first_line(told.get("message", ""))) if part)
    failed = told.get("failed") or 0
    again = f"begun again, after {failed} failure{'s' * (failed > 1)}" if failed else ""

    def status(state: JobState, message: str = "") -> JobStatus:
        return JobStatus(state=state, message=message, started_at=started, ended_at=ended if state.over else None)

    if metadata.get("deletionTimestamp"):
        return status(JobState.RUNNING, "it is being deleted")
    if deployed in ("", "Suspended") and STOPPED in metadata.get("annotations", {}):
        return status(JobState.STOPPED)
    match deployed:
        case "Suspended":
            return status(JobState.PENDING, "it is suspended, by a queue or by someone")
        case "Suspending":
            return status(JobState.RUNNING, "it is being stopped")
        case "Failed" | "ValidationFailed":
            return status(JobState.FAILED, why or deployed)
        case "Complete":
            state = RAY_STATES.get(ray, JobState.FAILED)
            return status(state, "" if state is JobState.SUCCEEDED else why)
        case "Running" if ray not in ("", "PENDING"):
            return status(JobState.RUNNING, again)
        case "":
            return status(JobState.PENDING, "the KubeRay operator has not taken it up")
    return status(JobState.PENDING, again)


def waiting_for(pods: Iterable[Mapping[str, Any]], events: Iterable[Mapping[str, Any]] = ()) -> str:
    """Why pods do not run, each reason once with how many wait for it; without one, the latest warning. Empty where all run."""
    reasons = Counter(reason for pod in pods for reason in [_reason_of(pod)] if reason)
    if reasons:
        return "; ".join(f"{reason}{f' ({count} pods)' if count > 1 else ''}" for reason, count in reasons.items())
    warnings = [each for each in events if each.get("type") == "Warning"]
    latest = max(warnings, key=lambda each: each.get("lastTimestamp") or each.get("eventTime") or "", default=None)
    return f"{latest.get('reason', '')}: {first_line(latest.get('message', ''))}" if latest else ""


def _reason_of(pod: Mapping[str, Any]) -> str:
    labels, told = pod["metadata"].get("labels", {}), pod.get("status") or {}
    group = labels.get("ray.io/group", pod["spec"]["containers"][0]["name"]).replace("headgroup", "head")
    for condition in told.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"{group}: {first_line(condition.get('message', '')) or condition.get('reason', '')}"
    for container in [*(told.get("initContainerStatuses") or ()), *(told.get("containerStatuses") or ())]:
        waiting = container.get("state", {}).get("waiting", {})
        if waiting.get("reason", "") not in STARTING:
            message = first_line(waiting.get("message", ""))
            return f"{group}: {waiting['reason']}{f': {message}' if message else ''}"
    return ""


def _unix_time(text: str | None) -> float | None:
    return datetime.fromisoformat(text).timestamp() if text else None


def first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "")
