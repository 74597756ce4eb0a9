"""By which network a lane's workers reach each other: that of the address which Ray knows their node by.

Left alone gloo takes the address that a machine's own name resolves to, which on many (Debian's, containers) is a loopback
one: it works on one node, and not between two. NCCL looks for itself.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from typing import Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

from spaces.study import ResourcesSpec

VARIABLE = "GLOO_SOCKET_IFNAME"
SIOCGIFADDR = 0x8915  # Linux: an interface's IPv4 address


def interface_of(address: str) -> str:
    """The name of the interface that has the IPv4 address; empty where none is found."""
    with contextlib.suppress(ImportError, OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        import fcntl  # not everywhere

        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # an interface without an address
                told = fcntl.ioctl(asked.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                if socket.inet_ntoa(told[20:24]) == address:
                    return name
    return ""


def choose_interface() -> None:
    """Of this worker, unless the user did."""
    name = interface_of(ray.util.get_node_ip_address())
    if name:
        os.environ.setdefault(VARIABLE, name)


def backend_of(resources: ResourcesSpec) -> str | None:
    """gloo where workers may share a GPU, which NCCL refuses; else what Train takes: NCCL with GPUs, gloo without."""
    return "gloo" if resources.workers_per_lane > 1 and resources.gpus_per_worker % 1 else None


class _Backend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        if len(worker_group) > 1:
            worker_group.execute(choose_interface)
        super().on_start(worker_group, backend_config)


class LaneTorchConfig(TorchConfig):
    """TorchConfig that has gloo talk over the nodes' own network."""

    @property
    def backend_cls(self) -> type[_Backend]:
        return _Backend
