"""`kuberay`: a RayJob of KubeRay, a Ray cluster on Kubernetes for this job alone; all by kubectl."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cluster.collect import check_empty
from cluster.job import Job, JobHandle, JobState, JobStatus
from cluster.kubectl import AlreadyThere, Kubectl, NotFound, missing
from cluster.pack import unpack
from cluster.profile import KuberayProfile
from cluster.rayjob import (
    HEAD,
    JOB,
    READER,
    RUN,
    STOPPED,
    SUBMITTER,
    Document,
    as_yaml,
    claims_of,
    documents,
    name_of,
    reader,
    state_of,
    waiting_for,
)
from spaces.errors import InputError, StudyError

STOP_SECONDS, READY_SECONDS, FETCH_SECONDS = 120.0, 300, 3600.0
LOOK_SECONDS = 1.0


class KuberayLauncher:
    """A job is a RayJob and a ConfigMap that goes with it, both by the name of the job and its attempt."""

    sees_our_files = False

    def __init__(self, profile: KuberayProfile) -> None:
        self._profile = profile
        self._kubectl = Kubectl(profile)

    def preview(self, job: Job) -> str:
        return as_yaml(documents(job, self._profile, 1))

    def submit(self, job: Job, attempt: int) -> dict[str, str]:
        """The server tries it first, without keeping anything. What is left of earlier attempts goes, but never the volumes."""
        earlier = self._kubectl.get("rayjobs.ray.io", f"--selector={JOB}={job.id}")["items"]
        running = [each["metadata"]["name"] for each in earlier if not state_of(each).state.over]
        if running:
            raise InputError.of(
                "JOB", f"{running[0]} runs there already, into {job.output}: two would write one record"
            )
        numbers = [each["metadata"]["name"].rpartition("-")[2] for each in earlier]
        attempt = max([attempt, *(int(number) + 1 for number in numbers if number.isdecimal())])
        text, name = as_yaml(documents(job, self._profile, attempt)), name_of(job.id, attempt)
        self._kubectl.run("create", "--dry-run=server", "--filename=-", stdin=text)
        self._check_claims()
        try:
            printed = 'jsonpath={.kind} {.metadata.uid}{"\\n"}'
            made = self._kubectl.run("create", "--filename=-", "--output", printed, stdin=text)
            uid = dict(line.split() for line in made.splitlines())["RayJob"]
            owner = {"apiVersion": "ray.io/v1", "kind": "RayJob", "name": name, "uid": uid}
            patch = json.dumps({"metadata": {"ownerReferences": [owner]}})  # it goes when the RayJob goes
            self._kubectl.run("patch", "configmap", name, "--type=merge", f"--patch={patch}")
        except AlreadyThere:
            raise
        except BaseException:
            self._delete("rayjobs.ray.io", name)
            self._delete("configmaps", name)
            raise
        for each in earlier:
            self._delete("rayjobs.ray.io", each["metadata"]["name"])
        return {"rayjob": name}

    def status(self, handle: JobHandle) -> JobStatus:
        name = handle.reference["rayjob"]
        try:
            rayjob = self._kubectl.get("rayjobs.ray.io", name)
        except NotFound:
            return JobStatus(state=JobState.LOST, message=f"{self._profile.namespace} has no RayJob {name} any more")
        found = state_of(rayjob)
        if found.state not in (JobState.PENDING, JobState.RUNNING):
            return found
        pods = self._pods(f"{RUN}={name}")
        events: list[Document] = []
        if found.state is JobState.PENDING:
            with contextlib.suppress(InputError, StudyError):  # rights to read events are often not given
                listed = self._kubectl.get("events", "--field-selector=type=Warning")["items"]
                events = [each for each in listed if each["involvedObject"].get("name", "").startswith(name)]
        message = "; ".join(part for part in (found.message, waiting_for(pods, events)) if part)
        return found.model_copy(update={"message": message})

    def logs(self, handle: JobHandle, follow: bool) -> Iterator[str]:
        name, shown = handle.reference["rayjob"], Counter[str]()  # lines, by the pod
        while True:
            over = not follow or self.status(handle).state.over  # asked first: what it says last is read
            pod = self._youngest(f"{RUN}={name},job-name={name}")
            if pod is None and over and self.status(handle).state.over:
                raise StudyError(f"{handle.id} has no logs there any more: they went with the pod of {name}")
            if pod is not None:
                for number, line in enumerate(self._stream(pod, follow), start=1):
                    if number > shown[pod]:
                        shown[pod] = number
                        yield line
            if over:
                return
            time.sleep(LOOK_SECONDS)

    def stop(self, handle: JobHandle) -> None:
        """A driver that runs is told to end by Ray, and its log and state stay to be seen; the cluster goes at once. Before there
        is a driver the RayJob is suspended, with a word of ours on it, and what it has is taken down by the operator."""
        name = handle.reference["rayjob"]
        if self.status(handle).state.over:
            return
        told = self._kubectl.get("rayjobs.ray.io", name).get("status") or {}
        if not self._tell_driver(name, told.get("jobId", "")):
            patch = json.dumps({"metadata": {"annotations": {STOPPED: "true"}}, "spec": {"suspend": True}})
            self._kubectl.run("patch", "rayjobs.ray.io", name, "--type=merge", f"--patch={patch}")
        deadline = time.monotonic() + STOP_SECONDS
        while not self.status(handle).state.over:
            if time.monotonic() > deadline:
                raise StudyError(
                    f"{handle.id} was told to stop and did not within {STOP_SECONDS:.0f} s; "
                    f"`kubectl delete rayjob {name}` ends it whatever happens"
                )
            time.sleep(LOOK_SECONDS)
        if cluster := told.get("rayClusterName"):
            self._delete("rayclusters.ray.io", cluster)

    def fetch(self, handle: JobHandle, folder: Path) -> None:
        """From the head, or, when the cluster is gone, from a pod of our own with the same volumes."""
        head = self._youngest(f"{RUN}={handle.reference['rayjob']},ray.io/node-type=head", phase="Running")
        check_empty(folder)
        with contextlib.ExitStack() as stack:
            pod, container = (head, HEAD) if head else (stack.enter_context(self._reader(handle)), READER)
            packer = ("python", "-m", "cluster.pack", handle.output)
            try:
                text = self._kubectl.run("exec", pod, f"--container={container}", "--", *packer, seconds=FETCH_SECONDS)
            except StudyError as error:
                raise StudyError(f"{handle.output} could not be fetched: {error}") from None
        unpack(text, handle.output, folder)

    def _check_claims(self) -> None:
        """Pods would wait for a volume that does not exist, and for ever."""
        for index, volume in enumerate(self._profile.volumes):
            try:
                self._kubectl.run("get", "persistentvolumeclaims", volume.claim, "--output=name")
            except InputError:
                return  # no rights to look: the pods will say it
            except NotFound:
                namespace = self._profile.namespace
                raise InputError.of(
                    f"volumes[{index}].claim",
                    f"{namespace} has no claim {volume.claim}; `kubectl get pvc --namespace {namespace}` lists them",
                ) from None

    def _tell_driver(self, name: str, submission: str) -> bool:
        """Whether Ray ended the driver."""
        head = self._youngest(f"{RUN}={name},ray.io/node-type=head", phase="Running")
        if head is None or not submission:
            return False
        ended = ["ray", "job", "stop", "--address=http://127.0.0.1:8265", submission]
        try:
            self._kubectl.run("exec", head, f"--container={HEAD}", "--", *ended, seconds=STOP_SECONDS)
        except (InputError, StudyError):
            return False
        return True

    @contextlib.contextmanager
    def _reader(self, handle: JobHandle) -> Iterator[str]:
        name = name_of(f"fetch-{handle.id}", int(time.time()))
        self._kubectl.run("create", "--filename=-", stdin=as_yaml([reader(handle, self._profile, name)]))
        try:
            try:
                self._kubectl.run(
                    "wait",
                    "--for=condition=Ready",
                    f"pod/{name}",
                    f"--timeout={READY_SECONDS}s",
                    seconds=READY_SECONDS + 30,
                )
            except (InputError, StudyError) as error:
                why = waiting_for([self._kubectl.get("pod", name)]) or str(error)
                claims = ", ".join(claims_of(self._profile))
                raise StudyError(
                    f"{handle.output} could not be fetched: the cluster is gone, and a pod to read it did not start ({why}). Copy "
                    f"it from the volume ({claims}) yourself, or let the cluster stay longer (ttl_seconds)"
                ) from None
            yield name
        finally:
            self._delete("pods", name)

    def _pods(self, selector: str) -> list[Document]:
        items: list[Document] = self._kubectl.get("pods", f"--selector={selector}")["items"]
        return [each for each in items if not each["metadata"].get("deletionTimestamp")]

    def _youngest(self, selector: str, phase: str | None = None) -> str | None:
        """The name of the pod that was made last."""
        pods = [each for each in self._pods(selector) if phase in (None, each.get("status", {}).get("phase"))]
        made = sorted(pods, key=lambda each: each["metadata"].get("creationTimestamp", ""))
        return made[-1]["metadata"]["name"] if made else None

    def _stream(self, pod: str, follow: bool) -> Iterator[str]:
        """The lines of the submitter's log; none while it has not started, or when it is just gone."""
        command = [*self._kubectl.base, "logs", pod, f"--container={SUBMITTER}", *(["--follow"] if follow else [])]
        try:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        except FileNotFoundError:
            raise missing() from None
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            yield from process.stdout
            error = process.stderr.read()
            if process.wait() and "waiting to start" not in error and "(NotFound)" not in error:
                raise self._kubectl.failure(error, "logs")
        finally:
            process.kill()
            process.wait()

    def _delete(self, kind: str, name: str) -> None:
        """What cannot be deleted stays, and is not worth failing for."""
        with contextlib.suppress(InputError, StudyError):
            self._kubectl.run("delete", kind, name, "--ignore-not-found", "--wait=false")
