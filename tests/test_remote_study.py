"""A whole study whose output is a bucket: its lanes share no folder with the driver; killed, and gone on with from elsewhere."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
import yaml
from commands import Run
from postgres_server import PASSWORD, PostgresServer, postgres_server
from s3_server import S3Server, s3_server
from test_postgres import NOWHERE, until
from test_remote import reach
from whole_study import environment

from search.record.record import existing_record
from search.trial import mirror
from spaces.remote import folder_of
from spaces.trial import TrialState

pytestmark = [pytest.mark.xdist_group("postgres"), pytest.mark.ray, pytest.mark.slow]
NUM_TRIALS = 6
DRIVER = """
import functools, search.study.prepare as prepare, search.study.run as run
prepare.STEPS_A_PART = 45  # so that the teacher's 90 steps are two parts
run.LanePool = functools.partial(run.LanePool, perform="remote_toys:perform")
from search.cli import main
main()
"""


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


def test_a_study_in_a_bucket(
    postgres: PostgresServer, s3: S3Server, tmp_path: Path, distilsearch: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, bucket, errors = postgres.database(), s3.bucket(), tmp_path / "errors.txt"
    output = f"s3://{bucket}/runs/tiny"
    first = [
        {"family": "bert", "depth": 1, "hidden_size": "50%", "hidden_share": 0.3, "hidden_loss": "mse"},
        {"family": "bert", "depth": 3, "vocabulary": "full"},
    ]
    path = tiny.write_study(
        tmp_path, storage=url.replace(f":{PASSWORD}", ""), output=output, cache="~/.cache/distilsearch",
        budget={"trials": NUM_TRIALS}, search={"first": first, "halving": {"rungs": ["1/2", 1], "reduction": 2}},
        resources={"lanes": 1}, tracking="none", confirm={"seeds": 1, "without_distillation": "none"},
    )  # fmt: skip
    drivers: list[subprocess.Popen[bytes]] = []

    def start(machine: str) -> subprocess.Popen[bytes]:
        scratch = tmp_path / machine
        scratch.mkdir()
        hidden = [scratch, tmp_path / "teacher", tmp_path / "data"]
        given = {
            **environment(tmp_path), **s3.environment, "PGPASSWORD": PASSWORD, "DISTILSEARCH_SCRATCH": str(scratch),
            "TOYS_HIDDEN": os.pathsep.join(map(str, hidden)),
        }  # fmt: skip
        with open(errors, "w") as file:
            command = [sys.executable, "-c", DRIVER, "run", str(path)]
            drivers.append(subprocess.Popen(command, env=given, stdout=file, stderr=file, start_new_session=True))
        return drivers[-1]

    try:
        driver = start("one")
        until(driver, errors, url, 1)
        s3.line.cut()  # it is away for a moment
        time.sleep(4)
        s3.line.mend()
        until(driver, errors, url, 2)
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
        record = existing_record(url, NOWHERE, "tiny", {"accuracy": "maximize", "parameters": "minimize"})
        before = {outcome.number: outcome for outcome in record.outcomes()}
        assert start("two").wait(1200) == 0, errors.read_text()
    finally:
        for driver in drivers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(driver.pid, signal.SIGKILL)

    reach(monkeypatch, {**s3.environment, "PGPASSWORD": PASSWORD, "DISTILSEARCH_SCRATCH": str(tmp_path / "three")})
    status, out, err = distilsearch("front", output, "--json")  # from a third machine
    assert status == 0, err
    front = [point["trial"] for point in json.loads(out)["rows"]]
    outcomes = {outcome.number: outcome for outcome in record.outcomes()}
    assert len(outcomes) == NUM_TRIALS
    done = [number for number, outcome in before.items() if outcome.state is TrialState.DONE]
    assert len(done) >= 2
    assert [outcomes[number] for number in done] == [before[number] for number in done]
    log = Counter(tuple(line.split()[:2]) for line in (tmp_path / "log.txt").read_text().splitlines())
    assert log["fine_tune", "None"] == 2  # its two parts, and none of them again

    keys = s3.keys(bucket, "runs/tiny/")
    tops = {key.removeprefix("runs/tiny/").split("/")[0] for key in keys}
    assert tops == {"study.yaml", "front.csv", "report.html", "best", "teacher", "trials", ".cache"}
    assert {key.split("/")[3] for key in keys if "/trials/" in key} <= {str(trial) for trial in front}
    for trial in front:
        assert f"runs/tiny/best/trial-{trial}/.whole" in keys
        assert f"runs/tiny/best/trial-{trial}/README.md" in keys
        best = yaml.safe_load(s3.get(bucket, f"runs/tiny/best/trial-{trial}.yaml"))
        assert best["trial"] == trial
        assert best["study"]["output"] == f"{output}.trial-{trial}"
        assert best["config"] == outcomes[trial].config.model_dump(mode="json")
    csv = s3.get(bucket, "runs/tiny/front.csv").decode().splitlines()
    column = csv[0].split(",").index("trial")
    assert sorted(int(line.split(",")[column]) for line in csv[1:] if ",front," in line) == sorted(front)
    assert PASSWORD not in s3.get(bucket, "runs/tiny/study.yaml").decode()
    assert not any(PASSWORD in file.read_text(errors="ignore") for file in (tmp_path / "two").rglob("*.yaml"))

    # looked at from there
    assert distilsearch("list", f"s3://{bucket}/runs")[1].count("finished") == 1
    assert (
        f"tiny: finished\ntrials: {sum(each.state is TrialState.DONE for each in outcomes.values())} of {NUM_TRIALS} done"
        in (distilsearch("show", output)[1])
    )
    assert f"{output}/best/trial-{front[0]}" in distilsearch("show", output, "--trial", front[0])[1]
    report = distilsearch("report", output)[1].splitlines()[0]
    assert Path(report).is_relative_to(tmp_path / "three")
    assert Path(report).is_file()
    status, out, err = distilsearch("export", output, "--pick", f"trial={front[0]}", "--to", tmp_path / "exported")
    assert status == 0, err
    assert (tmp_path / "exported" / "hf" / "model.safetensors").is_file()
    assert distilsearch("fetch", output, "--into", tmp_path / "fetched")[0] == 0
    assert (tmp_path / "fetched" / "best" / f"trial-{front[0]}" / "model.safetensors").is_file()
    assert not (tmp_path / "fetched" / "trials").exists()
    assert distilsearch("clean", output)[0] == 2

    # and it is done: the same command says so, and begins nothing
    status, _, err = distilsearch("run", path)
    assert status == 0
    assert "This study is done" in err
    assert not mirror.there(folder_of(f"s3://{bucket}/runs/tiny/.ray"))
