"""What each of several Ray nodes on this machine is sent of a transfer set, and holds of it.

python benchmarks/speed/nodes.py nodes [3]    processes side by side
python benchmarks/speed/nodes.py hosts [3]    each with a network, an address and shared memory of its own (root)
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from search.lanes.quiet import quieten

STORE = 400 * 2**20  # bytes of each node's object store
LANES_EACH = 2


def nodes(count: int) -> None:
    """Nodes as processes side by side."""
    import ray
    from ray.cluster_utils import Cluster

    quieten()
    each = {"object_store_memory": STORE, "num_cpus": LANES_EACH}
    cluster = Cluster(initialize_head=True, head_node_args=each)
    for _ in range(count - 1):
        cluster.add_node(**each)
    share(cluster.address)
    ray.shutdown()
    cluster.shutdown()


def hosts(count: int) -> None:
    """A network namespace for each node, with an address behind a bridge, its own /dev/shm and its own /tmp/ray."""
    quieten()  # the nodes inherit it
    nodes: list[subprocess.Popen[bytes]] = []
    names = [f"dshost{number}" for number in range(count)]
    ray_command = Path(sys.executable).with_name("ray")
    command = f"{ray_command} start --block --disable-usage-stats --num-cpus={LANES_EACH} --object-store-memory={STORE}"
    try:
        do("ip link add dsbridge type bridge", "ip link set dsbridge up")
        for number, name in enumerate(names):
            address = f"10.77.0.{number + 1}"
            do(
                f"ip netns add {name}",
                f"ip link add {name} type veth peer name eth0 netns {name}",
                f"ip link set {name} master dsbridge up",
                f"ip -n {name} addr add {address}/24 dev eth0",
                f"ip -n {name} link set eth0 up",
                f"ip -n {name} link set lo up",
            )
            role = f"--head --port=6379 --node-ip-address={address}"
            if number:
                role = f"--address=10.77.0.1:6379 --node-ip-address={address}"
            own = "mount -t tmpfs tmpfs /dev/shm; mkdir -p /tmp/ray; mount -t tmpfs tmpfs /tmp/ray"
            line = ["ip", "netns", "exec", name, "sh", "-c", f"{own}; exec {command} {role}"]
            nodes.append(subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            time.sleep(10 if number == 0 else 3)
        time.sleep(5)
        before = {name: sent_to(name) for name in names}
        inside = ["nsenter", "-t", str(nodes[0].pid), "-n", "-m", sys.executable, __file__, "share", "10.77.0.1:6379"]
        subprocess.run(inside, check=True)
        for name in names:
            print(f"{name}: {(sent_to(name) - before[name]) / 2**20:.0f} MB went over the network to it")
    finally:
        for node in reversed(nodes):
            node.terminate()
            node.wait(60)
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", "dsbridge"], check=False, capture_output=True)


def do(*commands: str) -> None:
    for command in commands:
        subprocess.run(command.split(), check=True)


def sent_to(name: str) -> int:
    """Bytes that left the bridge towards this host."""
    return int(Path(f"/sys/class/net/{name}/statistics/tx_bytes").read_text())


def share(address: str, megabytes_shared: int = 100) -> None:
    """Lanes on several nodes read one transfer set: each node holds it once, however many lanes it has."""
    import ray
    from ray._private.internal_api import node_stats
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    quieten()
    ray.init(address=address, log_to_driver=False)
    shared = ray.put(np.zeros(megabytes_shared * 2**20, np.uint8))

    @ray.remote(num_cpus=1)
    class Lane:
        def read(self, held: list[ray.ObjectRef]) -> float:
            begun = time.perf_counter()
            self.kept = ray.get(held[0])
            return time.perf_counter() - begun

    alive = [node for node in ray.nodes() if node["Alive"]]
    readers = {
        node["NodeID"]: [
            Lane.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote()
            for _ in range(LANES_EACH)
        ]
        for node in alive
    }
    for node in alive:
        times = ray.get([lane.read.remote([shared]) for lane in readers[node["NodeID"]]])
        print(f"node {node['NodeManagerAddress']}: read in {', '.join(f'{each:.3f} s' for each in times)}")
    for node in alive:
        held = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], include_memory_info=False).store_stats
        print(
            f"node {node['NodeManagerAddress']}: {held.object_store_bytes_used / 2**20:.0f} MB held for {LANES_EACH} lanes"
        )
    ray.shutdown()


if __name__ == "__main__":
    what, *more = sys.argv[1:]
    if what == "share":  # on a cluster that runs
        share(more[0])
    else:
        {"nodes": nodes, "hosts": hosts}[what](int(more[0]) if more else 3)
