"""Slurm's commands for machines that have no Slurm: one script under all their names, with the real ones' output. FAKE_SLURM is the
folder of its jobs, a file each. A file `full` in it keeps jobs pending."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

STATE = Path(os.environ["FAKE_SLURM"])
ROW = ("state", "reason", "start", "end")
WORKING = ("RUNNING", "PENDING", "COMPLETING")


def path_of(number: str) -> Path:
    return STATE / f"job-{number}.json"


def read(number: str) -> dict[str, Any]:
    return json.loads(path_of(number).read_text())


def change(number: str, **changes: Any) -> dict[str, Any]:
    job = {**(read(number) if path_of(number).exists() else {}), **changes}
    beside = STATE / f".{number}.{os.getpid()}"
    beside.write_text(json.dumps(job))
    beside.replace(path_of(number))
    return job


def refuse(message: str) -> NoReturn:
    sys.exit(f"{sys.argv[1]}: error: {message}")


def given(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """Options, and what follows them."""
    options: dict[str, str] = {}
    for index, word in enumerate(words):
        if not word.startswith("-"):
            return options, words[index:]
        name, _, value = word.partition("=")
        options[name] = value
    return options, []


def sbatch(options: dict[str, str], rest: list[str]) -> None:
    script = Path(rest[0]).read_text()
    for line in script.splitlines():
        if line.startswith("#SBATCH"):
            options |= given(shlex.split(line)[1:])[0]
    if options.get("--partition", "debug") not in ("debug", "spot"):
        print(f"sbatch: error: invalid partition specified: {options['--partition']}", file=sys.stderr)
        refuse("Batch job submission failed: Invalid partition name specified")
    if options["--time"] == "5:00:00":
        refuse("Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)")
    if int(options["--nodes"]) > 2:
        refuse("Batch job submission failed: More processors requested than permitted")
    number = str(len(list(STATE.glob("job-*.json"))) + 1)
    (STATE / f"{number}.sh").write_text(script)
    change(
        number, name=options["--job-name"], state="PENDING", reason="Resources" if (STATE / "full").exists() else "None",
        start=None, end=None, requeue="--requeue" in options, restarts=0, output=options["--output"], pid=None,
    )  # fmt: skip
    supervisor = [sys.executable, __file__, "supervise", number]
    subprocess.Popen(
        supervisor,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    print(number)


def supervise(options: dict[str, str], rest: list[str]) -> None:
    """Begins a job as often as it is queued again."""
    (number,) = rest
    while (STATE / "full").exists() and read(number)["state"] == "PENDING":
        time.sleep(0.05)
    while (job := read(number))["state"] == "PENDING":
        environment = {
            **os.environ, "SLURM_JOB_ID": number, "SLURMD_NODENAME": "n1", "SLURM_RESTART_COUNT": str(job["restarts"]),
        }  # fmt: skip
        output = re.sub("%([%j])", lambda found: "%" if found[1] == "%" else number, job["output"])
        change(number, steps=[])
        with open(output, "ab") as log:
            process = subprocess.Popen(
                ["bash", STATE / f"{number}.sh"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
                start_new_session=True,
            )  # fmt: skip
            change(number, state="RUNNING", reason="None", start=int(time.time()), pid=process.pid)
            status = process.wait()
        if (job := read(number))["state"] == "RUNNING":
            change(number, state="FAILED" if status else "COMPLETED", end=int(time.time()), pid=None)
        else:
            change(number, end=int(time.time()), pid=None, restarts=job["restarts"] + 1)
        time.sleep(0.2)


def squeue(options: dict[str, str], rest: list[str]) -> None:
    wanted = options.get("--jobs")
    if wanted and not path_of(wanted).exists():
        sys.exit("slurm_load_jobs error: Invalid job id specified")
    assert os.environ["SLURM_TIME_FORMAT"] == "%s"
    for path in sorted(STATE.glob("job-*.json")):
        number, job = path.stem.removeprefix("job-"), read(path.stem.removeprefix("job-"))
        shown = options["--format"]
        hidden = options.get("--states") != "all" and job["state"] not in WORKING
        if hidden or (wanted and number != wanted) or job["name"] != options["--name"]:
            continue
        for letter, value in zip("iuTrSe", (number, "somebody", *(job[key] for key in ROW)), strict=True):
            shown = shown.replace(f"%{letter}", "N/A" if value is None else str(value))
        print(shown)


def scancel(options: dict[str, str], rest: list[str]) -> None:
    number, dot, step = rest[0].partition(".")
    job = read(number)
    if dot:
        with suppress(ProcessLookupError):
            os.killpg(job["steps"][int(step)], signal.SIGTERM)
        return
    if options.get("--signal"):
        assert "--batch" in options
        os.kill(job["pid"], signal.SIGTERM)
        return
    if job["state"] in WORKING:
        change(number, state="CANCELLED", end=int(time.time()))
    if job["pid"]:
        os.killpg(job["pid"], signal.SIGTERM)


def scontrol(options: dict[str, str], rest: list[str]) -> None:
    verb, *names = rest
    if verb == "show":
        job = read(names[1])
        print(
            f"JobId={names[1]} JobName={job['name']} JobState={job['state']} Reason={job['reason']} Dependency=(null) "
            f"Requeue={int(job['requeue'])} Restarts={job['restarts']} BatchFlag=1"
        )
    elif verb == "update":
        assert names[1] == "Requeue=0"
        change(names[0].removeprefix("JobId="), requeue=False)
    elif verb == "requeue":
        if not read(names[0])["requeue"]:
            refuse("Requested operation is presently disabled")
        change(names[0], state="PENDING", reason="BeginTime")


def srun(options: dict[str, str], rest: list[str]) -> None:
    """The tasks in a process group; a signal reaches all of it, as a step's does."""
    number = os.environ["SLURM_JOB_ID"]
    os.setpgid(0, 0)
    change(number, steps=[*read(number)["steps"], os.getpid()])
    tasks = [subprocess.Popen(rest) for _ in range(int(options["--ntasks"]))]
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    sys.exit(max(task.wait() for task in tasks))


def sinfo(options: dict[str, str], rest: list[str]) -> None:
    print("debug\nspot")


if __name__ == "__main__":
    COMMANDS = {each.__name__: each for each in (sbatch, squeue, scancel, scontrol, srun, sinfo, supervise)}
    COMMANDS[sys.argv[1]](*given(sys.argv[2:]))
