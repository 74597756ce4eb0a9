"""Real places to launch at, started for the tests and ended with them."""

from __future__ import annotations

import contextlib
import os
import shutil
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
from hosts import Hosts

ROOT = Path(__file__).parent.parent
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_raylet_start_wait_time_s": "120",
         "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}  # fmt: skip  # a study of this process had a Ray that none may join
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

    def __init__(
        self, folder: Path, cpus: int = 1, environment: dict[str, str] | None = None, hosts: Hosts | None = None
    ) -> None:
        self.port, self.dashboard_port, agent = free_ports(3)
        self._hosts = hosts
        self.folder, self.cpus = folder, cpus
        self.environment = {**os.environ, **QUIET, "PYTHONPATH": str(ROOT), **(environment or {})}
        self.nodes: list[subprocess.Popen[bytes]] = []
        self._logs: list[Path] = []
        self.head_host = self._start(
            "--head", f"--port={self.port}", "--include-dashboard=true", f"--dashboard-port={self.dashboard_port}",
            f"--dashboard-agent-listen-port={agent}", f"--temp-dir={folder}",
        )  # fmt: skip
        self.address = f"http://{self.head_host}:{self.dashboard_port}"
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
        """Returns once it has joined: two that start at once on one machine choose the same sockets."""
        self._start(f"--address={self.head_host}:{self.port}", f"--dashboard-agent-listen-port={free_ports(1)[0]}")
        node = self.nodes[-1]
        deadline, log = time.monotonic() + NODE_SECONDS, self._logs[-1]
        while "Ray runtime started" not in log.read_text():
            assert node.poll() is None, log.read_text()
            assert time.monotonic() < deadline, f"the node did not join: {log.read_text()}"
            time.sleep(0.3)
        return node

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
        shutil.rmtree(self.folder, ignore_errors=True)
        for log in self._logs:
            log.unlink(missing_ok=True)

    def _start(self, *arguments: str) -> str:
        """Returns the address it was started at."""
        host, there = ("127.0.0.1", []) if self._hosts is None else self._hosts.add()
        here = [] if self._hosts is None else [f"--node-ip-address={host}"]
        here += [f"--dashboard-host={host}"] if "--head" in arguments else []
        ray = str(Path(sys.executable).parent / "ray")
        command = [*there, ray, "start", "--block", f"--num-cpus={self.cpus}", *here, *arguments]
        self._logs.append(self.folder.parent / f"{self.folder.name}-{len(self._logs)}.log")
        with open(self._logs[-1], "wb") as log:
            node = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, start_new_session=True)
        self.nodes.append(node)
        return host


@contextlib.contextmanager
def ray_cluster(
    folder: Path, cpus: int = 1, environment: dict[str, str] | None = None, hosts: Hosts | None = None
) -> Iterator[RayCluster]:
    cluster = RayCluster(folder, cpus, environment, hosts)
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
