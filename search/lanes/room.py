"""Room for lanes on the cluster that Ray is connected to: what there is now, and waiting for what may still come."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources

from search.lanes.placement import needs_of, plan_lanes, unused_gpus
from spaces.errors import Fault, InputError
from spaces.study import ResourcesSpec, StudySpec

LOOK_SECONDS = 2.0
ANSWER_SECONDS = 2.0  # what a node may take to answer


def nodes_now() -> list[dict[str, float]]:
    """What each of the cluster's nodes has, and could give."""
    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"] and _answers(node)]


def _answers(node: dict[str, Any]) -> bool:
    """Ray takes a node that died for alive for some 15 s, until it has missed several of its answers. One that takes its
    place by then would be room for a lane more, which then waits as long as the study runs."""
    try:
        with socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), timeout=ANSWER_SECONDS):
            return True
    except OSError:
        return False


def joined() -> bool:
    """Whether the cluster was there before us, and may grow."""
    return bool(os.environ.get("RAY_ADDRESS"))


def wait_for_room(resources: ResourcesSpec, say: Callable[[str], None]) -> int:
    """How many lanes to begin with. Where a cluster has room for none yet, its autoscaler is asked for one lane's, and nodes may
    join for `resources.wait_minutes`; then, and at once on a Ray of our own, InputError says what is missing."""
    deadline = time.monotonic() + 60 * resources.wait_minutes
    asked = False
    while True:
        try:
            num_lanes = plan_lanes(resources, nodes_now())
        except InputError as error:
            if not joined():
                raise
            if time.monotonic() >= deadline:
                waited = Fault("", f"no node joined within {resources.wait_minutes:g} minutes (resources.wait_minutes)")
                raise InputError(error.source, [*error.faults, waited] if asked else error.faults) from None
            if not asked:
                say(f"waiting for room, up to {resources.wait_minutes:g} min: {error.faults[0].problem}")
                request_resources(bundles=[needs_of(resources)] * resources.workers_per_lane)
                asked = True
            time.sleep(LOOK_SECONDS)
            continue
        if asked:
            request_resources(bundles=[])  # from here on the lanes' own placement asks
        if note := unused_gpus(resources, nodes_now()):
            say(note)
        return num_lanes


def growing_room(spec: StudySpec) -> Callable[[], int] | None:
    """Lanes are added as a cluster grows, unless the study says how many, or how many GPU hours it may spend."""
    if spec.resources.lanes != "auto" or spec.budget.gpu_hours is not None or not joined():
        return None
    return lambda: plan_lanes(spec.resources, nodes_now())
