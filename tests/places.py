"""Real places to launch at, started for the tests and ended with them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_raylet_start_wait_time_s": "120"}
NODE_SECONDS = 120.0
TOKEN = "0123456789abcdef" * 2  # of `one_node`


def free_ports(count: int) -> list[int]:
    """Chosen at random over a wide range: two that ask one after the other must not be given the same."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class RayCluster:
    """`ray start --head` with its dashboard, and nodes that are added and killed, each a process group of its own."""

    def __init__(self, folder: Path, cpus: int = 1, environment: dict[str, str] | None = None) -> None:
        self.port, self.dashboard_port, agent = free_ports(3)
        self.folder, self.cpus = folder, cpus
        self.environment = {**os.environ, **QUIET, "PYTHONPATH": str(ROOT), **(environment or {})}
        self.nodes: list[subprocess.Popen[bytes]] = []
        self.address = f"http://127.0.0.1:{self.dashboard_port}"
        self._start(
            "--head", f"--port={self.port}", "--include-dashboard=true", "--dashboard-host=127.0.0.1",
            f"--dashboard-port={self.dashboard_port}", f"--dashboard-agent-listen-port={agent}", f"--temp-dir={folder}",
        )  # fmt: skip
        deadline = time.monotonic() + NODE_SECONDS
        while not self._answers():
            if time.monotonic() > deadline:
                self.close()
                raise TimeoutError("the head did not start")
            time.sleep(0.3)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/api/version", timeout=2):
                return True
        except urllib.error.HTTPError:  # for want of a token
            return True
        except OSError:
            return False

    def add_node(self) -> subprocess.Popen[bytes]:
        return self._start(f"--address=127.0.0.1:{self.port}", f"--dashboard-agent-listen-port={free_ports(1)[0]}")

    def kill_node(self, node: subprocess.Popen[bytes]) -> None:
        os.killpg(node.pid, signal.SIGKILL)
        node.wait()
        self.nodes.remove(node)

    def close(self) -> None:
        for node in reversed(self.nodes):
            node.send_signal(signal.SIGTERM)  # --block ends what it started
        for node in self.nodes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                node.wait(30)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGKILL)

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        here = [f"--num-cpus={self.cpus}"]
        command = [str(Path(sys.executable).parent / "ray"), "start", "--block", *here, *arguments]
        with open(self.folder.parent / f"{self.folder.name}-{len(self.nodes)}.log", "wb") as log:
            node = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, start_new_session=True)
        self.nodes.append(node)
        return node


@contextlib.contextmanager
def ray_cluster(folder: Path, cpus: int = 1, environment: dict[str, str] | None = None) -> Iterator[RayCluster]:
    cluster = RayCluster(folder, cpus, environment)
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="session")
def one_node() -> Iterator[RayCluster]:
    """A head of two processors that asks for a token."""
    # Ray's sockets lie below its folder, and their names may have 107 characters.
    folder = Path(f"/tmp/ds-ray-{time.time_ns() % 10**9}")
    with ray_cluster(folder, cpus=2, environment={"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}) as cluster:
        yield cluster
