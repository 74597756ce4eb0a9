"""A Kubernetes API server in small, on loopback, as far as a real kubectl asks for it: discovery, the objects of some kinds with
selectors, dry runs and merge patches, logs that are followed, and commands in pods (over WebSockets), which run here. It schedules
nothing: a test plays the operator and the kubelets."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from loopback import Handler, LoopbackServer

Document = dict[str, Any]
Key = tuple[str, str, str]  # resource, namespace, name

KINDS = {
    "v1": {
        "namespaces": "Namespace",
        "pods": "Pod",
        "configmaps": "ConfigMap",
        "persistentvolumeclaims": "PersistentVolumeClaim",
        "events": "Event",
    },
    "ray.io/v1": {"rayjobs": "RayJob", "rayclusters": "RayCluster"},
}
PATH = re.compile(
    r"/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+/[^/]+))"
    r"(?:/namespaces/(?P<namespace>[^/]+))?/(?P<resource>[a-z]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>log|exec))?"
)
REASONS = {401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 409: "AlreadyExists", 400: "BadRequest"}
WEBSOCKET = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class KubernetesServer(LoopbackServer):
    """`refusals` answer what they match (a method and a part of the path) with a status and a message. `seen` are requests."""

    def __init__(self, *, has_kuberay: bool = True) -> None:
        self.objects: dict[Key, Document] = {}
        self.refusals: list[tuple[str, str, int, str]] = []
        self.seen: list[str] = []
        self.logs: dict[str, str] = {}  # by pod
        self.ended: set[str] = set()  # pods whose log ends
        self.runs: list[tuple[str, list[str]]] = []  # what was run, and in which pod
        self.run: Callable[[list[str]], subprocess.CompletedProcess[str]] = lambda command: subprocess.run(
            command, capture_output=True, text=True, check=False
        )
        self.made: Callable[[Document], None] = lambda document: None  # is told of each new object
        self.rules: list[Document] | None = None  # of a Role: what they do not grant is forbidden
        self.kinds = KINDS if has_kuberay else {"v1": KINDS["v1"]}
        self.add({"kind": "Namespace", "metadata": {"name": "default"}})
        server = self

        class Kubernetes(Handler):
            def handle_request(self) -> None:
                body = self.body()
                url = urlsplit(self.path)
                asked = parse_qs(url.query)
                server.seen.append(f"{self.command} {self.path}")
                found = PATH.fullmatch(url.path)
                if found and not server.grants(self.command, found, watches="watch" in asked):
                    return self.whole(
                        403, "application/json", json.dumps(refused(403, f"{url.path} is forbidden")).encode()
                    )
                if found and found["sub"] == "log":
                    return self.log(found["name"], "follow" in asked)
                if found and found["sub"] == "exec":
                    return self.execute(found["name"], asked["command"])
                if "watch" in asked:
                    return self.watch(min(float(asked.get("timeoutSeconds", ["1"])[0]), 1.0))
                status, answer = server.answer(self.command, url.path, asked, body)
                self.whole(status, "application/json", json.dumps(answer).encode())

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_request

            def watch(self, seconds: float) -> None:
                time.sleep(seconds)
                self.whole(200, "application/json", b"")

            def log(self, pod: str, follow: bool) -> None:
                if pod not in server.logs:
                    message = f'container "c" in pod "{pod}" is waiting to start: ContainerCreating'
                    return self.whole(400, "application/json", json.dumps(refused(400, message)).encode())
                if not follow:
                    return self.whole(200, "text/plain", server.logs[pod].encode())
                self.send_response(200)
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                sent, ended = 0, False
                while not ended:
                    ended = pod in server.ended
                    new = server.logs[pod][sent:].encode()
                    if new:
                        self.wfile.write(f"{len(new):x}\r\n".encode() + new + b"\r\n")
                        self.wfile.flush()
                        sent = len(server.logs[pod])
                    time.sleep(0.02)
                self.wfile.write(b"0\r\n\r\n")

            def execute(self, pod: str, command: list[str]) -> None:
                """The fifth version of the protocol: in each message a byte says which stream it is of."""
                key = base64.b64encode(hashlib.sha1(self.headers["Sec-WebSocket-Key"].encode() + WEBSOCKET).digest())
                self.send_response(101)
                for name, value in {
                    "Upgrade": "websocket",
                    "Connection": "Upgrade",
                    "Sec-WebSocket-Accept": key.decode(),
                    "Sec-WebSocket-Protocol": "v5.channel.k8s.io",
                }.items():
                    self.send_header(name, value)
                self.end_headers()
                server.runs.append((pod, command))
                done = server.run(command)
                self.message(1, done.stdout.encode())
                self.message(2, done.stderr.encode())
                ended: Document = {"metadata": {}, "status": "Success"}
                if done.returncode:
                    causes = {"causes": [{"reason": "ExitCode", "message": str(done.returncode)}]}
                    ended = {"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode", "details": causes}
                    ended["message"] = f"command terminated with non-zero exit code: exit status {done.returncode}"
                self.message(3, json.dumps(ended).encode())
                self.wfile.write(b"\x88\x02" + struct.pack(">H", 1000))
                self.wfile.flush()
                self.close_connection = True

            def message(self, stream: int, content: bytes) -> None:
                for start in range(0, len(content), 30_000):
                    part = bytes([stream]) + content[start : start + 30_000]
                    self.wfile.write(b"\x82\x7e" + struct.pack(">H", len(part)) + part)

        self.serve(Kubernetes)

    def write_config(self, path: Path, *contexts: str) -> None:
        named = [{"name": each, "context": {"cluster": "here", "user": "me"}} for each in contexts]
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": contexts[0], "contexts": named,
            "clusters": [{"name": "here", "cluster": {"server": self.url}}], "users": [{"name": "me", "user": {}}],
        }  # fmt: skip
        path.write_text(json.dumps(config))

    def add(self, document: Document) -> Document:
        """As created by someone else; with the identity that a server gives."""
        version, resource = next(
            (version, name)
            for version, kinds in KINDS.items()
            for name, kind in kinds.items()
            if kind == document["kind"]
        )
        document.setdefault("apiVersion", version)
        metadata = document.setdefault("metadata", {})
        if resource != "namespaces":
            metadata.setdefault("namespace", "default")
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": now, "resourceVersion": str(len(self.seen) + 1)}
        self.objects[resource, metadata.get("namespace", ""), metadata["name"]] = document
        return document

    def of(self, resource: str) -> list[Document]:
        return [document for (kind, _, _), document in self.objects.items() if kind == resource]

    def grants(self, method: str, path: re.Match[str], *, watches: bool) -> bool:
        verb = {"POST": "create", "PATCH": "patch", "DELETE": "delete", "GET": "get" if path["name"] else "list"}[
            method
        ]
        verb = "watch" if watches else verb
        resource = path["resource"] + (f"/{path['sub']}" if path["sub"] else "")
        group = (path["group"] or "").split("/")[0]
        return self.rules is None or any(
            group in rule["apiGroups"] and resource in rule["resources"] and verb in rule["verbs"]
            for rule in self.rules
        )

    def answer(self, method: str, path: str, asked: dict[str, list[str]], body: bytes) -> tuple[int, Document]:
        for refused_method, part, status, message in self.refusals:
            if method == refused_method and part in f"{path}?{urlencode(asked, doseq=True)}":
                return status, refused(status, message)
        if (discovered := self._discovery(path)) is not None:
            return 200, discovered
        found = PATH.fullmatch(path)
        if found is None:
            return 404, refused(404, "the server could not find the requested resource")
        version, resource = found["core"] or found["group"], found["resource"]
        if resource not in self.kinds.get(version, {}):
            return 404, refused(404, "the server could not find the requested resource")
        key = (resource, found["namespace"] or "", found["name"] or "")
        full = resource if version == "v1" else f"{resource}.{version.split('/')[0]}"
        if method == "GET" and found["name"] is None:
            kind = f"{self.kinds[version][resource]}List"
            return 200, {"kind": kind, "apiVersion": version, "metadata": {}, "items": self._listed(key, asked)}
        if method == "POST":
            return self._create(key, full, json.loads(body), dry="dryRun" in asked)
        if key not in self.objects:
            return 404, refused(404, f'{full} "{found["name"]}" not found')
        if method == "PATCH":
            merge(self.objects[key], json.loads(body))
        if method == "DELETE":
            return 200, self._delete(key)
        return 200, self.objects[key]

    def _listed(self, key: Key, asked: dict[str, list[str]]) -> list[Document]:
        labels = [each.split("=") for each in asked.get("labelSelector", [""])[0].split(",") if each]
        fields = [each.split("=") for each in asked.get("fieldSelector", [""])[0].split(",") if each]

        def chosen(document: Document) -> bool:
            of = {"type": document.get("type"), "metadata.name": document["metadata"]["name"]}
            has = document["metadata"].get("labels", {})
            return all(has.get(name) == value for name, value in labels) and all(
                of[name] == value for name, value in fields
            )

        return [
            each for (kind, namespace, _), each in self.objects.items() if (kind, namespace) == key[:2] and chosen(each)
        ]

    def _create(self, key: Key, full: str, document: Document, *, dry: bool) -> tuple[int, Document]:
        resource, namespace, _ = key
        name = document["metadata"]["name"]
        if ("namespaces", "", namespace) not in self.objects:
            return 404, refused(404, f'namespaces "{namespace}" not found')
        if (resource, namespace, name) in self.objects:
            return 409, refused(409, f'{full} "{name}" already exists')
        if not dry:
            self.made(self.add(document))
        return 201, document

    def _delete(self, key: Key) -> Document:
        gone = self.objects.pop(key)
        for other, document in list(self.objects.items()):  # what it owned goes with it
            owners = [each["uid"] for each in document["metadata"].get("ownerReferences", ())]
            if gone["metadata"]["uid"] in owners:
                self._delete(other)
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}

    def _discovery(self, path: str) -> Document | None:
        groups = [version for version in self.kinds if "/" in version]
        if path == "/version":
            return {"major": "1", "minor": "32", "gitVersion": "v1.32.0"}
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            listed = [{"groupVersion": each, "version": each.split("/")[1]} for each in groups]
            named = [
                {"name": each["groupVersion"].split("/")[0], "versions": [each], "preferredVersion": each}
                for each in listed
            ]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": named}
        for version, kinds in self.kinds.items():
            if path == (f"/apis/{version}" if "/" in version else f"/api/{version}"):
                verbs = ["create", "delete", "get", "list", "patch", "watch"]
                resources = [
                    {"name": name, "singularName": kind.lower(), "namespaced": kind != "Namespace", "kind": kind, "verbs": verbs}
                    for name, kind in kinds.items()
                ]  # fmt: skip
                return {"kind": "APIResourceList", "groupVersion": version, "resources": resources}
        if path == "/openapi/v3":
            paths = [f"apis/{version}" if "/" in version else f"api/{version}" for version in self.kinds]
            return {"paths": {each: {"serverRelativeURL": f"/openapi/v3/{each}?hash=1"} for each in paths}}
        if path.startswith("/openapi/v3/"):
            version = path.split("/", 4)[4]
            parameters = [{"name": name, "in": "query"} for name in ("dryRun", "fieldValidation")]
            group, _, number = version.rpartition("/")
            return {
                "openapi": "3.0.0",
                "info": {"title": "Kubernetes", "version": "v1.32.0"},
                "paths": {
                    f"/{name}": {
                        "patch": {
                            "parameters": parameters,
                            "responses": {},
                            "x-kubernetes-group-version-kind": {"group": group, "version": number, "kind": kind},
                        }
                    }
                    for name, kind in self.kinds[version].items()
                },
            }
        return None


def refused(status: int, message: str) -> Document:
    return {
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
        "reason": REASONS.get(status, "Invalid"), "code": status,
    }  # fmt: skip


def merge(document: Document, change: Document) -> None:
    """RFC 7396, but for null."""
    for name, value in change.items():
        if isinstance(value, dict) and isinstance(document.get(name), dict):
            merge(document[name], value)
        else:
            document[name] = value
