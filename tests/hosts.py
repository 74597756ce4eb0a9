"""Hosts of one's own on this machine: network namespaces with an address each on one bridge, for root on Linux."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

NETWORK = f"10.{100 + os.getpid() % 100}.{os.getpid() // 100 % 250}"  # another one for each process


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)


@functools.cache
def can_have_hosts() -> bool:
    """Whether this process may make network namespaces."""
    if os.geteuid() or shutil.which("ip") is None:
        return False
    try:
        with hosts(Path("/tmp")):
            return True
    except (subprocess.SubprocessError, OSError):
        return False


class Hosts:
    """`add` makes one; `command` runs there what is appended to it. This machine itself is at `.254` of the network.

    A host has a file system of its own where `private` is: what lies below is another's business."""

    def __init__(self, private: Path) -> None:
        self.private = private
        self._name = f"ds{os.getpid() % 100_000}"  # of the bridge, which takes 15 characters
        self.names: list[str] = []
        _ip("link", "add", self._name, "type", "bridge")
        _ip("addr", "add", f"{NETWORK}.254/24", "dev", self._name)
        _ip("link", "set", self._name, "up")

    def add(self) -> tuple[str, list[str]]:
        """(its address, the command to prepend)."""
        number = len(self.names) + 1
        name, ours = f"{self._name}-{number}", f"{self._name}.{number}"
        _ip("netns", "add", name)
        self.names.append(name)
        _ip("link", "add", ours, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", ours, "master", self._name, "up")
        _ip("-n", name, "addr", "add", f"{NETWORK}.{number}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", name, "link", "set", device, "up")
        _ip("-n", name, "route", "add", "default", "via", f"{NETWORK}.254")
        alone = f'mkdir -p {self.private} && mount -t tmpfs none {self.private} && exec "$@"'
        return f"{NETWORK}.{number}", ["ip", "netns", "exec", name, "sh", "-c", alone, "sh"]

    def close(self) -> None:
        for number, name in enumerate(self.names, 1):
            for arguments in (("link", "del", f"{self._name}.{number}"), ("netns", "del", name)):
                with contextlib.suppress(subprocess.SubprocessError):
                    _ip(*arguments)
        with contextlib.suppress(subprocess.SubprocessError):
            _ip("link", "del", self._name)


@contextlib.contextmanager
def hosts(private: Path) -> Iterator[Hosts]:
    made = Hosts(private)
    try:
        yield made
    finally:
        made.close()
