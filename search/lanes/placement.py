"""Where lanes may stand: what a worker needs, which nodes have it, and how many lanes fit at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from spaces.errors import InputError
from spaces.study import ResourcesSpec

SLACK = 1e-9  # 0.1 does not divide 1 exactly
MOST_LANES = 100_000  # as a study may say


def needs_of(resources: ResourcesSpec) -> dict[str, float]:
    """What a worker needs, by Ray's names; memory in bytes."""
    needs = {
        "CPU": resources.cpus_per_worker,
        "GPU": resources.gpus_per_worker,
        "memory": resources.memory_gb_per_worker * 1e9,
        **resources.custom_per_worker,
    }
    return {name: need for name, need in needs.items() if need}


def plan_lanes(resources: ResourcesSpec, nodes: Mapping[str, float] | Sequence[Mapping[str, float]]) -> int:
    """How many lanes to run: what the study says, or as many as the nodes hold at once.

    `nodes` are what Ray says of each (or of the only one). Raises InputError where not even one lane fits: what is missing.
    """
    nodes = [nodes] if isinstance(nodes, Mapping) else nodes
    needs = needs_of(resources)
    workers = [min(math.floor(node.get(name, 0.0) / need + SLACK) for name, need in needs.items()) for node in nodes]
    num_fitting = _lanes_of(workers, resources)
    if num_fitting == 0:
        raise InputError.of("resources", _missing(resources, needs, nodes, sum(workers)))
    return num_fitting if resources.lanes == "auto" else resources.lanes


def unused_gpus(resources: ResourcesSpec, nodes: Sequence[Mapping[str, float]]) -> str:
    """What to say where there are GPUs and no lane asks for any; nothing otherwise."""
    found = sum(node.get("GPU", 0.0) for node in nodes)
    if resources.gpus_per_worker or not found:
        return ""
    return f"{_amount('GPU', found)} there, and no lane uses one; with resources: {{gpus_per_worker: 0.25}} four lanes share each"


def _lanes_of(workers: Sequence[int], resources: ResourcesSpec) -> int:
    """Lanes, where each node has room for so many workers."""
    size = resources.workers_per_lane
    if resources.placement == "strict-pack":
        return sum(room // size for room in workers)
    if resources.placement == "strict-spread":  # each node gives a lane one worker at most
        low, high = 0, min(MOST_LANES, sum(workers) // size)
        while low < high:
            lanes = (low + high + 1) // 2
            fits = sum(min(room, lanes) for room in workers) >= lanes * size
            low, high = (lanes, high) if fits else (low, lanes - 1)
        return low
    return sum(workers) // size


def _missing(
    resources: ResourcesSpec, needs: Mapping[str, float], nodes: Sequence[Mapping[str, float]], room: int
) -> str:
    short = []
    for name, need in needs.items():
        most = max((node.get(name, 0.0) for node in nodes), default=0.0)
        if most + SLACK < need:
            short.append(
                f"a worker needs {_amount(name, need)}, but no node has more than {_amount(name, most)}: lower {_key(name)}"
            )
    if short:
        return "; ".join(short)
    together = ", ".join(_amount(name, need) for name, need in needs.items())
    if not room:
        return f"a worker needs {together}, and no node has all of it: lower one of {', '.join(map(_key, needs))}"
    strict = f", {resources.placement}" if resources.placement.startswith("strict") else ""
    return (
        f"one lane needs {resources.workers_per_lane} workers of {together}{strict}, but the cluster has room for {room} over "
        f"{len(nodes)} node{'s' * (len(nodes) > 1)}: lower resources.workers_per_lane or what a worker needs"
    )


def _amount(name: str, value: float) -> str:
    if name == "memory":
        return f"{value / 1e9:g} GB of memory"
    return f"{value:g} {name}{'s' * (name in ('CPU', 'GPU') and value != 1)}"


def _key(name: str) -> str:
    known = {"CPU": "cpus_per_worker", "GPU": "gpus_per_worker", "memory": "memory_gb_per_worker"}
    return f"resources.{known.get(name, f'custom_per_worker.{name}')}"
