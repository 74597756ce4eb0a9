"""How many lanes fit, and what is missing where none does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.lanes.network import interface_of
from search.lanes.placement import plan_lanes, unused_gpus
from spaces.errors import InputError
from spaces.study import ResourcesSpec

ONE = {"CPU": 8.0, "GPU": 2.0}


def test_as_many_as_fit_or_as_the_study_says() -> None:
    assert plan_lanes(ResourcesSpec(), ONE) == 8
    assert plan_lanes(ResourcesSpec(workers_per_lane=3), ONE) == 2
    assert plan_lanes(ResourcesSpec(gpus_per_worker=0.5), ONE) == 4
    assert plan_lanes(ResourcesSpec(lanes=20), ONE) == 20, "what could fit one after another waits"
    assert plan_lanes(ResourcesSpec(cpus_per_worker=0.1), {"CPU": 1.0}) == 10
    spots = ResourcesSpec(cpus_per_worker=0.5, memory_gb_per_worker=4, custom_per_worker={"spot": 1})
    assert plan_lanes(spots, {"CPU": 8, "memory": 13e9, "spot": 5}) == 3


def test_gpus_that_no_lane_asks_for_are_told() -> None:
    assert unused_gpus(ResourcesSpec(), [ONE, {"CPU": 4.0}]).startswith("2 GPUs there, and no lane uses one")
    assert unused_gpus(ResourcesSpec(), [{"CPU": 4.0}]) == ""
    assert unused_gpus(ResourcesSpec(gpus_per_worker=0.5), [ONE]) == ""


def test_a_worker_stands_on_one_node_and_a_lane_on_several() -> None:
    small = [{"CPU": 2.0}] * 3
    assert plan_lanes(ResourcesSpec(cpus_per_worker=2), small) == 3
    with pytest.raises(
        InputError, match=r"a worker needs 4 CPUs, but no node has more than 2 CPUs: lower resources\.cpus_per_worker"
    ):
        plan_lanes(ResourcesSpec(cpus_per_worker=4, lanes=1), small)
    wide = {"workers_per_lane": 4, "cpus_per_worker": 1}
    assert plan_lanes(ResourcesSpec(**wide), small) == 1
    with pytest.raises(
        InputError, match=r"4 workers of 1 CPU, strict-pack, but the cluster has room for 6 over 3 nodes"
    ):
        plan_lanes(ResourcesSpec(**wide, placement="strict-pack"), small)
    assert plan_lanes(ResourcesSpec(workers_per_lane=3, placement="strict-spread"), small) == 2
    assert plan_lanes(ResourcesSpec(workers_per_lane=2, placement="strict-spread"), [{"CPU": 5.0}, {"CPU": 1.0}]) == 1


def test_what_is_missing_is_said() -> None:
    with pytest.raises(
        InputError, match="one lane needs 4 workers of 1 CPU, 1 GPU, but the cluster has room for 2 over 1 node:"
    ):
        plan_lanes(ResourcesSpec(workers_per_lane=4, gpus_per_worker=1), ONE)
    spots = ResourcesSpec(memory_gb_per_worker=4, custom_per_worker={"spot": 1})
    with pytest.raises(InputError) as refused:
        plan_lanes(spots, {"CPU": 8, "memory": 3e9})
    assert "a worker needs 4 GB of memory, but no node has more than 3 GB of memory" in str(refused.value)
    assert "a worker needs 1 spot, but no node has more than 0 spot: lower resources.custom_per_worker.spot" in str(
        refused.value
    )
    with pytest.raises(InputError, match="no node has all of it"):
        plan_lanes(ResourcesSpec(gpus_per_worker=1), [{"CPU": 4.0}, {"GPU": 1.0}])


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 4))
def test_strict_spread_is_what_counting_gives(rooms: list[int], size: int) -> None:
    def can(lanes: int) -> bool:
        left = list(rooms)
        for _ in range(lanes):
            best = sorted(range(len(left)), key=lambda node: -left[node])[:size]
            if len(best) < size or not all(left[node] for node in best):
                return False
            for node in best:
                left[node] -= 1
        return True

    expected = max(lanes for lanes in range(sum(rooms) + 1) if can(lanes))
    spec = ResourcesSpec(workers_per_lane=size, placement="strict-spread")
    nodes = [{"CPU": float(room)} for room in rooms]
    if expected == 0:
        with pytest.raises(InputError):
            plan_lanes(spec, nodes)
    else:
        assert plan_lanes(spec, nodes) == expected


def test_the_interface_of_an_address() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("203.0.113.9") == ""  # of nobody: kept for documentation
