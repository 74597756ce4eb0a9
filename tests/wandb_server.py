"""A Weights & Biases server in small, on loopback: runs with their history, resuming, scans and artifacts, as wandb 0.31 asks for
them. What it does not know it answers with nothing."""

from __future__ import annotations

import json
import re
import time
from typing import Any

from loopback import Handler, LoopbackServer

ENTITY, PROJECT = {"id": "E", "name": "me"}, "p"


class WandbServer(LoopbackServer):
    """`histories` are the rows by run id, `artifacts` what was asked to be made, `uses` which of them went into which run. With
    `refuses` every request is answered by 401; `drops` lets no history through; with `hangs` it never answers that."""

    def __init__(self, refuses: bool = False) -> None:
        self.histories: dict[str, list[dict[str, Any]]] = {}
        self.configs: dict[str, dict[str, Any]] = {}
        self.groups: dict[str, str] = {}
        self.artifacts: list[dict[str, Any]] = []
        self.uses: list[dict[str, Any]] = []
        self.refuses, self.drops, self.hangs = refuses, False, False
        self.bodies: list[bytes] = []  # all that was ever sent here
        server = self

        class Wandb(Handler):
            def answer(self) -> None:
                status, body = server.answer(self.path, self.body())
                self.whole(status, "application/json", json.dumps(body).encode())

            do_GET = do_POST = do_PUT = answer

        self.serve(Wandb)

    def answer(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        if "/otel/" in path:  # wandb's own telemetry
            return 200, {}
        self.bodies.append(body)
        if self.refuses:
            return 401, {"errors": [{"message": "invalid API key"}]}
        if path == "/graphql":
            asked = json.loads(body)
            name = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
            reply = getattr(self, f"_{name[1]}", None) if name else None
            return 200, {"data": reply(asked.get("variables") or {}) if reply else {}}
        if path.endswith("/file_stream"):
            return self._stream(path.split("/")[-2], json.loads(body))
        return 200, {}

    def _stream(self, run: str, sent: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        part = (sent.get("files") or {}).get("wandb-history.jsonl")
        if part and self.hangs:
            time.sleep(600)
        if part and self.drops:
            return 400, {"error": "no"}
        if part:
            rows = self.histories.setdefault(run, [])
            assert part["offset"] <= len(rows), "a gap in the history"
            rows[part["offset"] :] = [json.loads(line) for line in part["content"]]
        return 200, {}

    # -- what is asked by name

    def _RunResumeStatus(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        run = asked["name"]
        bucket = None
        if run in self.configs:
            rows = self.histories.get(run, [])
            bucket = {
                "id": run, "name": run, "displayName": run, "summaryMetrics": json.dumps(rows[-1] if rows else {}),
                "logLineCount": 0, "historyLineCount": len(rows), "eventsLineCount": 0,
                "historyTail": json.dumps([json.dumps(row) for row in rows[-1:]]), "eventsTail": "[]",
                "config": json.dumps(self.configs[run]), "tags": [], "notes": None, "wandbConfig": '{"t": 1}',
            }  # fmt: skip
        return {"model": {"id": "P", "name": PROJECT, "entity": ENTITY, "bucket": bucket}}

    def _UpsertBucket(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        run = asked["name"]
        self.configs[run] = {**self.configs.get(run, {}), **json.loads(asked["config"] or "{}")}
        if asked["groupName"]:
            self.groups[run] = asked["groupName"]
        bucket = {
            "id": run, "name": run, "displayName": run, "description": "", "config": json.dumps(self.configs[run]),
            "sweepName": None, "project": {"id": "P", "name": PROJECT, "entity": ENTITY},
            "historyLineCount": len(self.histories.get(run, [])),
        }  # fmt: skip
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def _CreateRunFiles(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in asked["files"]]
        return {"createRunFiles": {"runID": asked["run"], "uploadHeaders": [], "files": files}}

    def _Viewer(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        about = {"id": "U", "entity": "me", "username": "me", "email": "", "flags": "{}", "teams": {"edges": []}}
        return {"viewer": about}

    def _GetDefaultEntity(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"viewer": {"id": "U", "entity": "me"}}

    def _Run(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        run = asked["name"]
        rows = self.histories.get(run, [])
        about = {
            "id": run, "name": run, "displayName": run, "tags": [], "sweepName": None, "state": "finished", "group": None,
            "jobType": None, "commit": None, "readOnly": False, "createdAt": "2026-01-01T00:00:00",
            "heartbeatAt": "2026-01-01T00:00:00", "description": None, "notes": None, "historyLineCount": len(rows),
            "user": {"name": "me", "username": "me"}, "projectId": "1", "config": "{}", "summaryMetrics": "{}",
            "systemMetrics": "{}", "historyKeys": {"lastStep": len(rows) - 1, "keys": {}},
        }  # fmt: skip
        return {"project": {"internalId": "1", "id": "P", "run": about}}

    _RunHistoryKeys = _Run

    def _RunParquetHistory(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        rows = self.histories.get(asked["runName"], [])
        return {"project": {"run": {"parquetHistory": {"parquetUrls": [], "liveData": rows}}}}

    def _SampledHistoryPage(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        spec = json.loads(asked["spec"])
        found = [
            {key: row[key] for key in spec["keys"]}
            for row in self.histories.get(asked["run"], [])
            if all(key in row for key in spec["keys"]) and spec["minStep"] <= row["_step"] <= spec["maxStep"]
        ]
        return {"project": {"run": {"sampledHistory": [found]}}}

    def _ServerFeaturesQuery(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"serverInfo": {"features": []}}

    def _ArtifactType(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"project": {"artifact": None}}

    def _CreateArtifact(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        """It is there, as where its digest is known: no file is asked for."""
        self.artifacts.append(asked["input"])
        number = str(len(self.artifacts))
        made = {
            "id": number,
            "state": "COMMITTED",
            "artifactSequence": {"id": "S", "latestArtifact": {"id": number, "versionIndex": 0}},
        }
        return {"createArtifact": {"artifact": made}}

    def _UseArtifact(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self.uses.append(asked)
        return {"useArtifact": {"artifact": {"id": "1"}}}

    def _ArtifactByID(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        made = self.artifacts[int(asked["id"]) - 1]
        project = {"id": "P", "internalId": "1", "name": PROJECT, "entity": ENTITY}
        source = {"__typename": "ArtifactSequence", "name": made["artifactCollectionName"], "project": project}
        about = {
            "__typename": "Artifact", "id": asked["id"], "artifactSequence": source, "versionIndex": 0,
            "artifactType": {"name": made["artifactTypeName"]}, "description": None, "metadata": made["metadata"],
            "ttlDurationSeconds": -1, "ttlIsInherited": False, "tags": [], "historyStep": 0, "state": "COMMITTED",
            "size": 1, "digest": made["digest"], "commitHash": "c", "fileCount": 1, "createdAt": "2026-01-01T00:00:00",
            "updatedAt": None, "aliases": [],
        }  # fmt: skip
        return {"artifact": about}
