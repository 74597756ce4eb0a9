"""A study on a real Ray cluster of several nodes, submitted from outside: nodes leave and join, and it ends all the same."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import Run
from hosts import can_have_hosts, hosts
from places import RayCluster, ray_cluster
from test_clusters import state_after, told

from cluster import book
from search.study.output import open_record, spec_of
from spaces.trial import TrialState

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

SHAPES = [
    {"family": "bert", "depth": depth, "vocabulary": vocabulary, "embedding_size": rank}
    for depth in (3, 2, 1)
    for vocabulary in ("full", "used")
    for rank in ("full", 8)
]


def a_profile(folder: Path, address: str) -> None:
    import sys

    (folder / "profiles").mkdir(exist_ok=True)
    raw = {"kind": "ray-jobs", "address": address, "python": sys.executable, "output": str(folder / "outputs")}
    (folder / "profiles" / "there.yaml").write_text(json.dumps(raw))


@pytest.fixture(autouse=True)
def _own_book(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def until_done(distilsearch: Run, job: str, count: int, seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while (found := told(distilsearch, "status", job))["standing"] is None or found["standing"]["done"] < count:
        assert found["state"] in ("pending", "running"), distilsearch("logs", job)[1]
        assert time.monotonic() < deadline, found
        time.sleep(0.5)


@contextlib.contextmanager
def a_cluster(cpus: int) -> Iterator[RayCluster]:
    """Of hosts with addresses of their own, where this machine lets us."""
    folder = Path(f"/tmp/ds-ray-{time.time_ns() % 10**9}")
    with contextlib.ExitStack() as stack:
        own = stack.enter_context(hosts(folder)) if can_have_hosts() else None
        yield stack.enter_context(ray_cluster(folder, cpus, hosts=own))


def test_a_node_is_killed_and_another_joins(
    study: Callable[..., Path], base_teacher: Path, tmp_path: Path, distilsearch: Run
) -> None:
    """The head has no processors: the driver is there, and the lanes are elsewhere, as with spot machines. The teacher is trained:
    a study whose students are all better than theirs ends at once. Its trials are given, long enough for a lane to come back."""
    with a_cluster(cpus=0) as cluster:
        cluster.cpus = 1
        nodes = [cluster.add_node() for _ in range(3)]
        a_profile(tmp_path, cluster.address)
        path = study(
            budget={"trials": len(SHAPES)}, search={"first": SHAPES}, training={"steps": 1500},
            confirm={"seeds": 1, "without_distillation": "none"},
            teacher={"model": str(base_teacher), "fine_tune": {"epochs": 12, "learning_rate": 3e-3}},
        )  # fmt: skip
        job = distilsearch("submit", path, "--to", "there")[1].strip()
        until_done(distilsearch, job, 2)
        cluster.kill_node(nodes[0])
        cluster.add_node()
        found = state_after(distilsearch, job, "succeeded", "failed", "stopped", seconds=900)
        said = distilsearch("logs", job)[1]
        assert found["state"] == "succeeded", said
        assert distilsearch("fetch", job, "--into", tmp_path / "fetched")[0] == 0
    record, _ = open_record(spec_of(tmp_path / "outputs" / "tiny"))
    outcomes = record.outcomes()
    assert record.fact("finished") is not None
    assert len(outcomes) == len(SHAPES)
    assert {outcome.state for outcome in outcomes} == {TrialState.DONE}
    assert all(len(outcome.measurements) == 1 for outcome in outcomes)
    lanes = {outcome.last.cost["lane"] for outcome in outcomes if outcome.last is not None}
    assert lanes == {0.0, 1.0, 2.0}
    assert len(record.fact("lanes")["status"]["lanes"]) == 3
    again = [outcome.last.attempt for outcome in outcomes if outcome.last is not None and outcome.last.attempt > 1]
    assert again in ([], [2])  # what ran on the node that died, once more
    assert sum(lane["incarnation"] for lane in record.fact("lanes")["status"]["lanes"].values()) == 4  # one came back
    assert (tmp_path / "fetched" / "report.html").is_file()
    assert book.find(job).attempt == 1


def test_two_users_studies_side_by_side(
    study: Callable[..., Path], tmp_path: Path, distilsearch: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with a_cluster(cpus=2) as cluster:
        a_profile(tmp_path, cluster.address)
        jobs = []
        for user in ("ann", "ben"):
            monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / user))
            path = study(
                f"{user}.yaml", name=user, budget={"trials": 3}, resources={"lanes": 1, "cpus_per_worker": 1},
                confirm={"seeds": 1, "without_distillation": "none"},
            )  # fmt: skip
            jobs.append((user, distilsearch("submit", path, "--to", "there")[1].strip()))
        for user, job in jobs:
            monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / user))
            assert [handle.id for handle in book.known()] == [job]
            found = state_after(distilsearch, job, "succeeded", "failed", seconds=900)
            assert found["state"] == "succeeded", distilsearch("logs", job)[1]
            assert found["standing"]["done"] == 3


@pytest.mark.parametrize("workers", [2, 4])
def test_a_lane_over_two_nodes_follows_the_curve_of_one_worker(
    workers: int, study: Callable[..., Path], tmp_path: Path, distilsearch: Run
) -> None:
    """The same trial by one worker, and by several over two nodes (gloo)."""
    found = {}
    with a_cluster(cpus=0) as cluster:
        cluster.cpus = workers // 2
        cluster.add_node()
        cluster.add_node()
        a_profile(tmp_path, cluster.address)
        for name, resources in (("one", {"lanes": 1}), ("several", {"lanes": 1, "workers_per_lane": workers})):
            path = study(
                f"{name}.yaml", name=name, budget={"trials": 1}, resources=resources, training={"epochs": 2},
                search={"first": [{"family": "bert", "depth": 2, "vocabulary": "full", "embedding_size": "full"}]},
                space={"family": "bert", "depth": [1, 2], "learning_rate": 3e-3, "batch_size": 16, "dropout": 0.0},
                confirm={"seeds": 1, "without_distillation": "none"},
            )  # fmt: skip
            job = distilsearch("submit", path, "--to", "there")[1].strip()
            ended = state_after(distilsearch, job, "succeeded", "failed", seconds=600)
            assert ended["state"] == "succeeded", distilsearch("logs", job)[1]
            record, _ = open_record(spec_of(tmp_path / "outputs" / name))
            (outcome,) = record.outcomes()
            assert outcome.last is not None
            found[name] = outcome.last
            record.close()
    assert found["several"].cost["optimizer_steps"] == found["one"].cost["optimizer_steps"]
    assert found["several"].cost["mean_loss"] == pytest.approx(found["one"].cost["mean_loss"], rel=1e-4)
    assert found["several"].metrics["validation/accuracy"] == pytest.approx(
        found["one"].metrics["validation/accuracy"], abs=0.04
    )
