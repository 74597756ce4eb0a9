"""Which nodes of a cluster have room for lanes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from places import ray_cluster

LOOKS = """
import ray
from search.lanes.room import nodes_now
ray.init(logging_level="ERROR", log_to_driver=False)
for line in iter(input, "end"):
    print(len(nodes_now()), sum(node["Alive"] for node in ray.nodes()), flush=True)
"""


@pytest.mark.ray
def test_a_node_that_died_has_no_room_though_ray_has_not_missed_it_yet() -> None:
    with ray_cluster(Path(f"/tmp/ds-ray-{time.time_ns() % 10**9}")) as cluster:
        node = cluster.add_node()
        environment = cluster.environment | {"RAY_ADDRESS": f"{cluster.head_host}:{cluster.port}"}
        driver = subprocess.Popen(
            [sys.executable, "-c", LOOKS], env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        with driver as looks:
            assert looks.stdin is not None
            assert looks.stdout is not None

            def look() -> str:
                print("", file=looks.stdin, flush=True)
                return looks.stdout.readline().strip()

            assert look() == "2 2"
            cluster.kill_node(node)
            assert look() == "1 2"
            looks.communicate("end\n", timeout=60)
        assert driver.returncode == 0
