"""`slurm`: the script that is submitted, and the life of jobs, on a real Slurm of this machine where its packages are (slurm-wlm,
munge), and on commands that say what its own say."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import Run
from slurm_places import (
    ARRIVE,
    GOLDEN,
    LONG,
    QUICK,
    RAY,
    Place,
    command,
    fake_place,
    job_of,
    launcher,
    name_of,
    over,
    real_place,
    said,
    status,
    until,
)
from tiny import write_study

from cluster.book import find
from cluster.bundle import versions
from cluster.job import JobState
from cluster.profile import SlurmProfile, parse_profile
from cluster.slurm import SlurmLauncher, batch_script
from spaces.errors import InputError, StudyError

PROFILES: dict[str, dict[str, Any]] = {
    "one-node": {"partition": "short", "cpus_per_node": 16, "memory_per_node": "32G", "time": "4:00:00"},
    "four-gpu-nodes": {
        "partition": "gpu", "account": "nlp-42", "qos": "high", "nodes": 4, "cpus_per_node": 32, "gpus_per_node": 4,
        "gpu_type": "a100", "time": "1-12", "constraint": "ib&nvme", "grace_seconds": 180,
        "setup": ["module purge", "module load cuda/12.8", "source /shared/team/venv/bin/activate"],
        "environment": {"NCCL_SOCKET_IFNAME": "ib0", "HF_HOME": "/shared/team/hugging face"},
        "extra": ["--mail-type=END,FAIL", "--reservation=nlp"],
    },
    "no-requeue": {
        "output": "/shared/50% of 'ours'/runs", "time": "90", "requeue": False, "grace_seconds": 0,
        "python": "/shared/team/venv/bin/python",
    },
}  # fmt: skip


def golden(name: str) -> str:
    profile = SlurmProfile(**PROFILES[name])
    output = f"{profile.output or '/shared/team/runs'}/reviews"
    job = job_of(output, profile)
    return batch_script(job, profile, Path(output).parent / ".jobs" / job.id)


@pytest.mark.parametrize("name", PROFILES)
def test_script(name: str) -> None:
    """What is submitted, whole. After a change that is meant: `python tests/test_slurm.py`, and read the difference."""
    assert golden(name) == (GOLDEN / f"{name}.sh").read_text()
    checked = subprocess.run(["bash", "-n"], input=golden(name), capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_what_a_profile_asks_of_slurm() -> None:
    def options(name: str) -> dict[str, str]:
        lines = [line for line in golden(name).splitlines() if line.startswith("#SBATCH ")]
        return dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in lines)

    assert options("one-node")["signal"] == "B:TERM@60"
    assert options("four-gpu-nodes")["gpus-per-node"] == "a100:4"
    assert "signal" not in options("no-requeue")
    assert "no-requeue" in options("no-requeue")
    assert "--object-store-memory=10307921510" in golden("one-node")  # 0.3 * 32 * 2**30, rounded down
    assert "ray_start 3 " in golden("four-gpu-nodes")
    assert "cluster.slurm" not in golden("one-node")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"time": 86400}, "in quotes"),  # what YAML makes of 24:00:00
        ({"time": "one day"}, "'24:00:00'"),
        ({"time": "1", "grace_seconds": 60}, "grace_seconds, 60, is not below time"),
        ({"extra": ["reservation=x"]}, "extra[0]"),
        ({"memory_per_node": "32 GB"}, "memory_per_node"),
        ({"partitions": "gpu"}, 'did you mean "partition"?'),
        ({"setup": ["module load cuda\n#SBATCH --qos=high"]}, "setup[0]"),
    ],
)
def test_a_wrong_profile_is_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError) as error:
        parse_profile({"kind": "slurm", **wrong}, "lab.yaml")
    assert told in str(error.value)
    assert "grace_seconds: 60" in str(error.value)  # the options, with their defaults


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 5400), ("90:30", 5430), ("1:00:00", 3600), ("2-12", 216_000), ("1-0:30", 88_200), ("1-00:00:01", 86_401)],
)
def test_times(text: str, seconds: int) -> None:
    assert SlurmProfile(time=text).time_seconds == seconds


def test_the_page_is_right() -> None:
    """Its profile is one, and every key stands in its table or below it."""
    page = (Path(__file__).parent.parent / "docs" / "clusters" / "slurm.md").read_text()
    (profile,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert parse_profile(yaml.safe_load(profile), "page").output == "/shared/team/runs"
    assert [key for key in SlurmProfile.model_fields if f"`{key}`" not in page and key != "kind"] == []


@pytest.fixture(params=["fake", "slurm"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    made = (
        fake_place(tmp_path, monkeypatch)
        if request.param == "fake"
        else real_place(tmp_path, request.getfixturevalue("slurm"))
    )
    yield made
    for handle in made.handles:
        with suppress(StudyError):
            launcher(handle).stop(handle)


# -- the life of a job


def test_a_job_that_succeeds(place: Place) -> None:
    handle = place.submit(QUICK, environment={"HF_HOME": "/a b"})
    found = over(handle)
    assert found.state is JobState.SUCCEEDED, said(handle)
    assert found.started_at is not None
    assert found.ended_at is not None
    assert handle.submitted_at - 2 <= found.started_at <= found.ended_at <= time.time() + 1
    assert said(handle) == "10.0.0.1:6379, token of 64, mode token\n"
    words = (Path(handle.reference["folder"]) / f"ray-{handle.reference['job']}.txt").read_text()
    assert "--head --port=0" in words
    (temporary,) = re.findall("--temp-dir=(/tmp/ray-[0-9]+-[0-9a-f]{8})/r ", words)
    assert not Path(temporary).exists()


def test_versions_that_differ_are_told(place: Place) -> None:
    handle = place.submit(ARRIVE, versions={**versions(), "ray": "1.0.0"})
    found = over(handle)
    assert (found.state, found.message) == (JobState.FAILED, "exit status 2")
    assert "versions: ray is " in said(handle)
    assert "nothing was run" in said(handle)
    assert not (Path(handle.reference["folder"]) / f"ray-{handle.reference['job']}.txt").exists()  # Ray was not started


def test_a_job_that_waits_says_for_what(place: Place) -> None:
    place.fill(True)
    handle = place.submit(QUICK)
    until(handle, lambda: status(handle).message not in ("", "None"))
    found = status(handle)
    assert (found.state, found.message) in [(JobState.PENDING, "Resources"), (JobState.PENDING, "Priority")]
    assert said(handle) == ""
    with pytest.raises(InputError, match="is in Slurm's queue already, as job"):
        place.submit(QUICK)
    launcher(handle).stop(handle)
    assert status(handle).state is JobState.STOPPED
    place.fill(False)


def test_stopped_it_ends_in_order_and_is_not_queued_again(place: Place) -> None:
    handle = place.submit(LONG)
    until(handle, lambda: "begun" in said(handle))
    assert status(handle).state is JobState.RUNNING
    launcher(handle).stop(handle)
    found = status(handle)
    assert (found.state, found.message) == (JobState.STOPPED, "exit status 130")
    assert said(handle) == "begun\nended in order\n"
    launcher(handle).stop(handle)  # once more is no error
    assert status(handle).state is JobState.STOPPED


@pytest.mark.slow
def test_told_to_end_it_queues_itself_again(place: Place) -> None:
    """What Slurm does before the time is up, and in a preemption with a grace: a TERM to the script."""
    handle = place.submit(LONG)
    until(handle, lambda: "begun" in said(handle))
    command("scancel", "--batch", "--signal=TERM", handle.reference["job"])
    until(handle, lambda: "the study will continue" in said(handle))
    assert not status(handle).state.over
    until(handle, lambda: "begun again, for the 1. time\nbegun\n" in said(handle), 180)
    assert status(handle).state is JobState.RUNNING


def test_told_to_end_without_requeue_it_is_stopped(place: Place) -> None:
    handle = place.submit(LONG, requeue=False)
    until(handle, lambda: "begun" in said(handle))
    command("scancel", "--batch", "--signal=TERM", handle.reference["job"])
    assert over(handle).state is JobState.STOPPED
    assert said(handle) == "begun\nended in order\n"


def test_cancelled_by_others_it_is_not_queued_again(place: Place) -> None:
    handle = place.submit(LONG)
    until(handle, lambda: "begun" in said(handle))
    command("scancel", handle.reference["job"])
    assert over(handle).state is JobState.STOPPED
    time.sleep(1)
    assert "queued again" not in said(handle)
    assert status(handle).state is JobState.STOPPED


@pytest.mark.slow
def test_preempted_it_waits_and_begins_again(slurm: Path, tmp_path: Path) -> None:
    place = real_place(tmp_path, slurm)
    handle = place.submit(LONG, partition="spot", nodes=2, cpus_per_node=2)
    until(handle, lambda: "begun" in said(handle))
    place.fill(True)  # on the same nodes, in a partition that comes first
    until(handle, lambda: status(handle).state is JobState.PENDING)
    assert "ended in order" in said(handle)
    assert "queued again" not in said(handle)  # Slurm itself has seen to that
    place.fill(False)
    until(handle, lambda: "begun again, for the 1. time\nbegun\n" in said(handle))
    launcher(handle).stop(handle)
    assert status(handle).state is JobState.STOPPED


@pytest.mark.slow
def test_its_time_is_up(slurm: Path, tmp_path: Path) -> None:
    handle = real_place(tmp_path, slurm).submit(LONG, time="1", grace_seconds=20)
    until(handle, lambda: "the study will continue" in said(handle), 90)
    assert "ended in order" in said(handle)
    until(handle, lambda: "begun again, for the 1. time\nbegun\n" in said(handle))
    launcher(handle).stop(handle)
    assert status(handle).state is JobState.STOPPED


def test_followed_until_the_end(place: Place) -> None:
    handle = place.submit("for word in one two three; do echo $word; sleep 0.5; done; exit 3")
    assert "".join(launcher(handle).logs(handle, follow=True)) == "one\ntwo\nthree\n"
    assert (status(handle).state, status(handle).message) == (JobState.FAILED, "exit status 3")


def test_several_nodes(place: Place) -> None:
    handle = place.submit(QUICK, nodes=2)
    assert over(handle).state is JobState.SUCCEEDED, said(handle)
    words = (Path(handle.reference["folder"]) / f"ray-{handle.reference['job']}.txt").read_text()
    assert words.count("ray started") == 2
    assert words.count("--address=10.0.0.1:6379") == 1


def test_nodes_that_do_not_come(place: Place) -> None:
    handle = place.submit(QUICK, nodes=2, setup=["export WAITED=1"])
    assert (over(handle).state, status(handle).message) == (JobState.FAILED, "exit status 1")
    assert "Ray is not on all 2 nodes; its last words:" in said(handle)
    assert "ray started" in said(handle)


def test_no_such_python(place: Place) -> None:
    handle = place.submit(QUICK, python="/nowhere/python")
    assert over(handle).state is JobState.FAILED
    assert "there is no /nowhere/python on n" in said(handle)


@pytest.mark.parametrize(
    ("wrong", "words", "asked"),
    [
        (
            {"partition": "gpus"},
            "invalid partition specified: gpus; Batch job submission failed: Invalid partition name specified",
            "partition: gpus; there are debug, spot",
        ),
        (
            {"time": "5:00:00"},
            "Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)",
            "time: 5:00:00",
        ),
        (
            {"nodes": 5, "cpus_per_node": 2},
            "Batch job submission failed: More processors requested than permitted",
            "nodes: 5, cpus_per_node: 2",
        ),
    ],
)
def test_slurm_refuses(place: Place, wrong: dict[str, Any], words: str, asked: str) -> None:
    with pytest.raises(InputError) as error:
        place.submit(QUICK, **wrong)
    assert str(error.value) == f"sbatch: {words} (the profile's {asked})"
    assert command("squeue", "--noheader", f"--name={name_of(place)}", "--format=%i") == ""
    assert not (place.folder / "runs").exists()  # nothing is left
    earlier = over(place.submit(QUICK))
    with pytest.raises(InputError):
        place.submit(QUICK, **wrong)
    assert status(place.handles[-1]) == earlier
    assert said(place.handles[-1])  # of the attempt before all is there


def test_gpus_and_memory_are_the_steps_too(slurm: Path, tmp_path: Path) -> None:
    look = 'echo "GPUs $CUDA_VISIBLE_DEVICES, memory $SLURM_MEM_PER_NODE"'
    handle = real_place(tmp_path, slurm).submit(
        f"{look}; exit 0", ray=f"{look}; {RAY}", nodes=2, gpus_per_node=2, gpu_type="a100", memory_per_node="1G"
    )
    assert over(handle).state is JobState.SUCCEEDED, said(handle)
    assert said(handle) == "GPUs 0,1, memory 1024\n"
    words = (Path(handle.reference["folder"]) / f"ray-{handle.reference['job']}.txt").read_text()
    assert words.count("0: GPUs 0,1, memory 1024\n") == 2
    assert words.count("--num-gpus=2 --memory=751619277 --object-store-memory=322122547") == 2


def test_a_folder_with_an_odd_name(place: Place) -> None:
    handle = place.submit(QUICK, "50%job of 'ours'/reviews")
    assert over(handle).state is JobState.SUCCEEDED
    assert said(handle).startswith("10.0.0.1:6379")


def test_lost(place: Place) -> None:
    handle = place.submit(QUICK)
    over(handle)
    number = handle.reference["job"]
    gone = handle.model_copy(update={"reference": {**handle.reference, "job": "4711"}})
    assert status(gone).state is JobState.LOST
    assert "4711" in status(gone).message
    shutil.copy(
        Path(handle.reference["folder"]) / f"ended-{number}.json", Path(handle.reference["folder"]) / "ended-4711.json"
    )
    assert status(gone).state is JobState.SUCCEEDED  # by its own word
    others = handle.model_copy(update={"id": "another-123456"})
    assert (
        status(others.model_copy(update={"reference": {**handle.reference, "folder": "/nowhere"}})).state
        is JobState.LOST
    )


def test_fetched(place: Place) -> None:
    handle = place.submit('mkdir -p "$3/../../reviews"; echo "fingerprint: x" > "$3/../../reviews/study.yaml"; exit 0')
    with pytest.raises(StudyError, match="holds no study yet"):
        launcher(handle.model_copy(update={"output": "/nowhere"})).fetch(
            handle.model_copy(update={"output": "/nowhere"}), place.folder / "x"
        )
    over(handle)
    launcher(handle).fetch(handle, place.folder / "here")
    assert (place.folder / "here" / "study.yaml").is_file()


# -- Ray itself


@pytest.mark.slow
@pytest.mark.ray
def test_two_jobs_on_one_machine_have_a_ray_each(slurm: Path, tmp_path: Path) -> None:
    """At the same time, with ports of their own; without its token nobody is let in."""
    look = "import ray; ray.init(logging_level=40); print('CPUs', ray.cluster_resources()['CPU'], flush=True)"
    wait = f"while [ ! -e {tmp_path}/go ]; do sleep 0.2; done"
    driver = f'echo "$RAY_ADDRESS" > "$3/address"; {sys.executable} -c "{look}"; {wait}; exit 0'
    place = real_place(tmp_path, slurm)
    handles = [place.submit(driver, f"runs/{name}", ray=ARRIVE) for name in ("one", "two")]
    for handle in handles:
        until(handle, lambda handle=handle: "CPUs 1.0\n" in said(handle), 240)  # type: ignore[misc]
    address = (tmp_path / "runs" / ".jobs" / handles[0].id / "address").read_text().strip()
    environment = {**os.environ, "RAY_ADDRESS": address, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    refused = subprocess.run([sys.executable, "-c", look], env=environment, capture_output=True, text=True, timeout=120)
    assert refused.returncode != 0
    assert "oken" in refused.stderr
    (tmp_path / "go").touch()
    assert [over(handle).state for handle in handles] == [JobState.SUCCEEDED] * 2


# -- a study


@pytest.mark.slow
@pytest.mark.ray
def test_a_study_is_stopped_half_way_continued_and_fetched(
    slurm: Path, tmp_path: Path, distilsearch: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real, on two nodes of a real Slurm, by the command line alone."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    monkeypatch.setenv("RAY_ADDRESS", "10.9.9.9:1")  # of another cluster: not the job's
    (tmp_path / "profiles").mkdir()
    profile = {"kind": "slurm", "nodes": 2, "cpus_per_node": 1, "time": "30", "python": sys.executable}
    (tmp_path / "profiles" / "lab.yaml").write_text(yaml.safe_dump(profile))
    study = write_study(tmp_path, budget={"trials": 6})

    def standing() -> dict[str, Any]:
        return json.loads(distilsearch("status", "--json")[1])

    def wait_for(wanted: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        deadline = time.monotonic() + 600
        while not wanted(found := standing()):
            assert time.monotonic() < deadline, (found, distilsearch("logs", found["id"])[1])
            time.sleep(1)
        return found

    code, name, told = distilsearch("submit", study, "--to", "lab")
    assert (code, name.startswith("tiny-")) == (0, True), told
    name = name.strip()
    assert "is running already" in distilsearch("submit", study, "--to", "lab")[2]
    found = wait_for(
        lambda found: found["state"] not in ("pending", "running") or (found["standing"] or {}).get("done")
    )
    assert found["state"] == "running", distilsearch("logs", name)[1]
    command("scancel", "--batch", "--signal=TERM", find(name).reference["job"])  # as before its time is up
    found = wait_for(lambda found: "continuing: " in distilsearch("logs", found["id"])[1])
    assert (found["state"], found["attempt"]) == ("running", 1)
    assert "queued again; the study will continue from its record" in distilsearch("logs", name)[1]

    assert distilsearch("stop", name)[0] == 0
    found = standing()
    assert found["state"] == "stopped", found
    done = found["standing"]["done"]
    assert 1 <= done < 6

    assert distilsearch("submit", study, "--to", "lab")[0] == 0
    found = wait_for(lambda found: found["state"] not in ("pending", "running"))
    log = distilsearch("logs", name)[1]
    assert (found["state"], found["attempt"], found["standing"]["done"]) == ("succeeded", 2, 6), log
    assert f"continuing: {done} of 6 trials are done" in log
    assert "on 2 lanes" in log
    assert distilsearch("fetch", name, "--into", tmp_path / "here")[0] == 0
    points = json.loads(distilsearch("front", tmp_path / "here", "--json")[1])
    assert points
    assert (tmp_path / "here" / "report.html").is_file()


# -- what is told before anything is launched


def test_no_slurm_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="squeue: is no command here; a slurm profile is for a login node"):
        SlurmLauncher(SlurmProfile()).submit(job_of(tmp_path / "runs" / "reviews", SlurmProfile()), 1)
    assert not (tmp_path / "runs").exists()


def test_output_that_cannot_be_written(place: Place) -> None:
    (place.folder / "runs").write_text("a file")
    with pytest.raises(InputError) as error:
        place.submit(QUICK)
    assert str(error.value).startswith(f"output: {place.folder}/runs is no folder that you may write to; name one")
    assert command("squeue", "--noheader", f"--name={name_of(place)}", "--format=%i") == ""


REFUSALS = {  # as Slurm 22.05 says them
    "squeue: slurm_load_jobs error: Unable to contact slurm controller (connect failure)": "",
    "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified": (
        " (the profile's account: none, partition: none)"
    ),
}


@pytest.mark.parametrize("words", REFUSALS)
def test_a_controller_that_is_not_reached_or_lets_nobody_in(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = words.partition(":")[0]
    for name in ("squeue", "sbatch", "sinfo"):
        fails = f"echo '{words.removeprefix('squeue: ')}' >&2; exit 1" if name == failing else "exit 0"
        (tmp_path / name).write_text(f"#!/bin/sh\n{fails}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises((InputError, StudyError)) as error:
        SlurmLauncher(SlurmProfile()).submit(job_of(tmp_path / "runs" / "reviews", SlurmProfile()), 1)
    assert str(error.value) == words.replace("sbatch: error: ", "sbatch: ") + REFUSALS[words]
    assert not (tmp_path / "runs").exists()


def test_relative_output(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="output: runs/reviews is relative; write the whole path"):
        SlurmLauncher(SlurmProfile()).preview(job_of("runs/reviews", SlurmProfile()))


def test_preview_is_what_is_submitted(place: Place) -> None:
    handle = place.submit(QUICK)
    assert isinstance(handle.profile, SlurmProfile)
    folder = Path(handle.reference["folder"])
    told = launcher(handle).preview(job_of(handle.output, handle.profile))
    assert folder == place.folder / "runs" / ".jobs" / handle.id
    for name in ("study.yaml", "job.json"):
        assert f"--- {folder}/{name}\n{(folder / name).read_text()}" in told
    assert told.endswith((folder / "job.sh").read_text())
    assert yaml.safe_load((folder / "study.yaml").read_text())["name"] == "reviews"
    assert json.loads((folder / "job.json").read_text())["versions"] == versions()


if __name__ == "__main__":
    for each in PROFILES:
        (GOLDEN / f"{each}.sh").write_text(golden(each))
