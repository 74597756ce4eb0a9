"""kubectl as a subprocess, and what its errors mean."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

from cluster.profile import KuberayProfile
from spaces.errors import InputError, StudyError

REQUEST_SECONDS, ANSWER_SECONDS = 20, 60.0  # for one request to the API server, and for a command of several


class NotFound(StudyError):
    """The API server has no such object."""


class AlreadyThere(InputError):
    """Someone else's object has the name."""


class Kubectl:
    """With the profile's context and namespace."""

    def __init__(self, profile: KuberayProfile) -> None:
        self._profile = profile
        context = [f"--context={profile.context}"] if profile.context else []
        self.base = ["kubectl", *context, f"--namespace={profile.namespace}"]

    def run(self, *arguments: str, stdin: str | None = None, seconds: float = ANSWER_SECONDS) -> str:
        """What it prints. Raises NotFound, InputError for what the user can mend, StudyError for the rest."""
        limit = [f"--request-timeout={REQUEST_SECONDS}s"] if seconds == ANSWER_SECONDS else []
        command = [*self.base, *limit, *arguments]
        try:
            done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=seconds, check=False)
        except FileNotFoundError:
            raise missing() from None
        except subprocess.TimeoutExpired:
            raise self.failure("Unable to connect to the server: no answer", arguments[0]) from None
        if done.returncode:
            raise self.failure(done.stderr, arguments[0])
        return done.stdout

    def get(self, *arguments: str) -> Any:
        return json.loads(self.run("get", *arguments, "-o", "json"))

    def failure(self, text: str, verb: str) -> Exception:
        """Of kubectl's own words, what is wrong and what to do."""
        where, namespace = self._profile.context or "the current context", self._profile.namespace
        said = next((line for line in reversed(text.strip().splitlines()) if not _is_noise(line)), "it said nothing")
        said = re.sub(r"^[Ee]rror( from server)?( \(\w+\))?: (error when \w+ \"STDIN\": )?", "", said)
        if re.search(r"context .*(does not exist|not found)|context was not found|no context exists", text):
            return InputError.of("context", f"{said}; `kubectl config get-contexts` lists those that kubectl knows")
        if re.search(r"\(?Unauthorized\)?|must be logged in|provide credentials|getting credentials", text):
            return InputError.of("context", f"{where} does not let you in ({said}); log in to the cluster again")
        if re.search(r"no matches for kind|doesn't have a resource type|ensure CRDs are installed", text):
            return InputError.of(
                "context", f"{where} has no KubeRay ({said}); install its operator there, or choose another context"
            )
        if re.search(r"namespaces? .*not found", text):
            return InputError.of(
                "namespace", f"there is no namespace {namespace} in {where}; create it, or name another"
            )
        if "(NotFound)" in text:
            return NotFound(said)
        if "(AlreadyExists)" in text:
            return AlreadyThere.of("JOB", f"{said}: someone else launched it just now; try again")
        if re.search(r"\(Forbidden\)|is forbidden|denied the request", text):
            return InputError.of(
                "namespace",
                f"{namespace} does not allow it: {said}. docs/clusters/kuberay.md lists the rights it takes",
            )
        if "strict decoding error" in text or "unknown field" in text:
            return InputError.of(
                "context",
                f"the KubeRay of {where} is too old for this job: {said}; it takes 1.4 or later, and 1.6 for ray_token",
            )
        if re.search(r"[Uu]nable to connect|connection to the server|refused|timeout|no such host|x509|Timeout", text):
            return InputError.of(
                "context", f"the API server of {where} cannot be reached: {said}; does `kubectl get pods` work here?"
            )
        return StudyError(f"kubectl {verb}: {said}")


def missing() -> InputError:
    return InputError.of(
        "kubectl", "is not installed here, or not on PATH; kuberay needs it: kubernetes.io/docs/tasks/tools"
    )


def _is_noise(line: str) -> bool:
    return not line.strip() or line.startswith(("Warning:", "command terminated", "Defaulted container")) or bool(
        re.match(r"[EWI]\d{4} ", line)
    )  # fmt: skip
