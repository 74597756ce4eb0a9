"""Outputs and caches at a URL: what is one, and the bringing and sending, against a real S3 server."""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import THREE, Run, finish, record_of, results_written
from hypothesis import given, settings
from hypothesis import strategies as st
from postgres_server import PASSWORD, PostgresServer, postgres_server
from s3_server import UNSET, S3Server, s3_server
from training_toys import a_config

from cluster.bundle import make_job
from cluster.profile import KuberayProfile, RayJobsProfile, SlurmProfile
from cluster.rayjob import _volume_faults
from cluster.slurm import SlurmLauncher
from search.study.earlier import read_earlier
from search.study.output import claim_output, fingerprint, one_point_study, send_results
from search.trial import mirror, store
from search.trial.context import Dropped, WorkerContext
from spaces.errors import InputError, StudyError
from spaces.remote import folder_of, scratch_root, url_of, written
from spaces.study import StudySpec
from spaces.trial import WorkItem, WorkKind, WorkResult

POSTGRES = "postgresql://me@db.example.org/studies"


@pytest.fixture(autouse=True)
def _own_scratch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DISTILSEARCH_SCRATCH", str(tmp_path / "scratch"))


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    reach(monkeypatch, s3.environment)
    yield s3.bucket()
    s3.line.mend()


def reach(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    store.filesystem_of.cache_clear()  # the environment is read once a process
    for name in UNSET:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """From its call on this is another machine, with an empty scratch."""

    def move() -> None:
        monkeypatch.setenv("DISTILSEARCH_SCRATCH", str(tmp_path / f"other-{time.monotonic_ns()}"))

    return move


# -- what a URL is

PARTS = st.text("abcXYZ019 ._-+=,é", min_size=1, max_size=12).filter(lambda part: part not in (".", ".."))


@settings(max_examples=40)
@given(st.sampled_from(["s3", "gs", "abfs", "sftp"]), st.lists(PARTS, min_size=1, max_size=5))
def test_a_urls_folder_says_the_url(scheme: str, parts: list[str]) -> None:
    url = f"{scheme}://{'/'.join(parts)}"
    folder = folder_of(url)
    assert folder.is_relative_to(scratch_root())
    assert url_of(folder) == written(folder) == url
    assert url_of(folder / "best" / "trial-3") == f"{url}/best/trial-3"
    assert folder_of(url + "/") == folder


def test_what_is_no_url_is_a_path() -> None:
    assert folder_of("runs/a") == Path("runs/a")
    assert folder_of("file:///mnt/runs/a") == Path("/mnt/runs/a")
    assert url_of(Path("runs/a")) is url_of(Path("/mnt/runs/a")) is url_of(scratch_root()) is None


REFUSED = {
    "s3b://bucket/folder": 's3b:// is no place for it; did you mean "s3"',
    "s4://bucket/folder": "s4:// is no place for it; write a folder, s3://BUCKET/FOLDER, or another of abfs, ",
    "nowhere://x/y": "nowhere:// is no place for it",
    "memory://x/y": "memory:// is no place for it",
    "s3:/bucket/folder": "two slashes follow its colon",
    "s3://": "names no place",
    "s3:///folder": "names no place",
    "s3://bucket/../other": "is no folder's URL",
    "s3://bucket//folder": "is no folder's URL",
    "s3://bucket/folder?x=1": "is no folder's URL",
    "s3://AKIA:hunter22@bucket/folder": "a URL with a user or a password in it is not taken",
    "s3://AKIA@bucket/folder": "a URL with a user or a password in it is not taken",
    "sftp://me:hunter22@host/folder": "a URL with a user or a password in it is not taken",
    "file://host/folder": "names no machine",
}


@pytest.mark.parametrize("key", ["output", "cache"])
@pytest.mark.parametrize("url", REFUSED)
def test_a_url_that_names_no_place_is_refused(url: str, key: str, study_of: Callable[..., StudySpec]) -> None:
    with pytest.raises(InputError) as refused:
        study_of(**{key: url})
    assert len(refused.value.faults) == 1
    told = str(refused.value)
    assert told.startswith(f"study.yaml: {key}: ")
    assert REFUSED[url] in told
    assert "hunter22" not in told
    assert "AKIA" not in told


def test_a_study_keeps_its_url(study_of: Callable[..., StudySpec], finished: StudySpec) -> None:
    spec = study_of(output="s3://bucket/runs/a", cache="s3://bucket/cache", storage=POSTGRES)
    assert spec.output == scratch_root() / "s3" / "bucket" / "runs" / "a"
    assert spec.resolved()["output"] == "s3://bucket/runs/a"
    assert spec.resolved()["cache"] == "s3://bucket/cache"
    assert fingerprint(spec) == fingerprint(finished.model_copy(update={"search": spec.search}))
    again = one_point_study(spec, record_of(finished).outcomes()[1]).resolved()
    assert again["output"] == "s3://bucket/runs/a.trial-1"
    assert again["storage"] == POSTGRES


@pytest.mark.parametrize("arguments", [("run",), ("plan",), ("submit",)])
def test_sqlite_with_a_url_is_refused(arguments: tuple[str], study: Callable[..., Path], distilsearch: Run) -> None:
    status, out, err = distilsearch(*arguments, study(output="s3://bucket/runs/a"))
    assert (status, out) == (2, "")
    assert err.startswith("storage: an SQLite record is a file of one machine, and s3://bucket/runs/a is a URL")
    assert "storage: postgresql://" in err


def test_the_command_lines_output(study: Callable[..., Path], distilsearch: Run) -> None:
    assert "s4:// is no place" in distilsearch("run", study(), "--output", "s4://bucket/a")[2]
    assert "an SQLite record" in distilsearch("run", study(), "--output", "s3://bucket/a")[2]
    status, _, err = distilsearch("front", "s3:/bucket/a")
    assert status == 2
    assert "two slashes follow its colon" in err


def test_a_missing_package_is_named() -> None:
    with pytest.raises(InputError, match=r"sftp://host: needs a package that is not installed here: .*paramiko"):
        mirror.bring(folder_of("sftp://host/folder/study.yaml"))


# -- bringing and sending


def filled(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_folder_there_and_back(s3: S3Server, bucket: str, elsewhere: Callable[[], None]) -> None:
    url = f"s3://{bucket}/out/teacher"
    mirror.send(filled(folder_of(url), config="c" * 10, inner__weights="w" * 1000))
    assert s3.keys(bucket) == ["out/teacher/.whole", "out/teacher/config", "out/teacher/inner/weights"]
    elsewhere()
    folder = folder_of(url)
    assert not folder.exists()
    assert mirror.there(folder)
    assert not folder.exists()
    assert mirror.bring(folder)
    assert contents(folder) == {"config": "c" * 10, "inner/weights": "w" * 1000}
    filled(folder, more="m")
    (folder / "config").unlink()
    mirror.send(folder)
    elsewhere()
    assert mirror.bring(folder_of(url))
    assert contents(folder_of(url)) == {"inner/weights": "w" * 1000, "more": "m"}
    assert mirror.names(folder_of(f"s3://{bucket}/out")) == {"teacher"}


def test_what_is_here_is_not_brought_again(s3: S3Server, bucket: str, elsewhere: Callable[[], None]) -> None:
    url = f"s3://{bucket}/out/teacher"
    mirror.send(filled(folder_of(url), weights="w" * 3_000_000))
    elsewhere()
    mirror.bring(folder_of(url))
    before = (folder_of(url) / "weights").stat()
    mirror.bring(folder_of(url))
    assert (folder_of(url) / "weights").stat().st_ino == before.st_ino
    s3.line.cut_after(100_000)  # and not sent again either
    mirror.send(folder_of(url))
    assert not s3.line.is_cut


def test_a_file_that_changed_there_is_brought(bucket: str, elsewhere: Callable[[], None]) -> None:
    url = f"s3://{bucket}/out/study.yaml"
    path = filled(folder_of(url).parent, **{"study.yaml": "one"}) / "study.yaml"
    mirror.send(path)
    first = scratch_root()
    elsewhere()
    time.sleep(1.1)  # its time is in seconds
    filled(folder_of(url).parent, **{"study.yaml": "two"})
    mirror.send(folder_of(url))
    os.environ["DISTILSEARCH_SCRATCH"] = str(first)
    assert mirror.bring(path)
    assert path.read_text() == "two"


def test_what_another_lane_writes_in_a_folder_stays(bucket: str, elsewhere: Callable[[], None]) -> None:
    """Such as the ranking of the teacher's parts, while others bring the teacher; until the folder is sent anew."""
    url = f"s3://{bucket}/out/teacher"
    mirror.send(filled(folder_of(url), config="c", weights="w"))
    first = scratch_root()
    elsewhere()
    mirror.bring(folder_of(url))
    filled(folder_of(url), importance="i")
    second = scratch_root()
    mirror.bring(folder_of(url))
    assert contents(folder_of(url)) == {"config": "c", "importance": "i", "weights": "w"}
    os.environ["DISTILSEARCH_SCRATCH"] = str(first)
    time.sleep(1.1)
    (folder_of(url) / "config").unlink()
    mirror.send(folder_of(url))
    os.environ["DISTILSEARCH_SCRATCH"] = str(second)
    mirror.bring(folder_of(url))
    assert contents(folder_of(url)) == {"weights": "w"}


def test_a_folder_whose_files_others_sent_is_sealed(bucket: str, elsewhere: Callable[[], None]) -> None:
    url = f"s3://{bucket}/cache/states"
    mirror.send(filled(folder_of(url), **{"0.npy": "a"}) / "0.npy")
    assert not mirror.there(folder_of(url))
    elsewhere()
    mirror.seal(folder_of(url))  # by the driver, which has none of them
    assert mirror.there(folder_of(url))
    elsewhere()
    assert mirror.bring(folder_of(url))
    assert contents(folder_of(url)) == {"0.npy": "a"}


def test_what_is_no_longer_there_is_no_longer_here(s3: S3Server, bucket: str) -> None:
    folder = filled(folder_of(f"s3://{bucket}/out/teacher"), weights="w")
    mirror.send(folder)
    for key in s3.keys(bucket):
        s3.delete(bucket, key)
    assert not mirror.there(folder)
    assert not mirror.bring(folder)
    assert not folder.exists()


@pytest.mark.parametrize(
    "size",
    [pytest.param(4_000_000, id="one request", marks=pytest.mark.slow), pytest.param(14_000_000, id="in parts")],
)
@pytest.mark.parametrize("again", [False, True], ids=["killed", "goes on"])
def test_a_folder_that_was_sent_in_part_is_none(
    again: bool, size: int, s3: S3Server, bucket: str, elsewhere: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "PAUSES", (0.1,))
    url = f"s3://{bucket}/out/attempt-1"
    folder = filled(folder_of(url), a="a" * 1000, b="b" * size)
    s3.line.cut_after(2_000_000)
    with pytest.raises(StudyError, match=f"{url} cannot be reached for .* run the same command again"):
        mirror.send(folder)
    s3.line.mend()
    assert s3.keys(bucket) == ["out/attempt-1/a"]
    if again:
        mirror.send(folder)
    elsewhere()
    assert mirror.there(folder_of(url)) is again
    assert mirror.bring(folder_of(url)) is again
    assert list(contents(folder_of(url))) == (["a", "b"] if again else [])


def test_half_of_a_new_version_is_not_the_old_one(
    s3: S3Server, bucket: str, elsewhere: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "PAUSES", ())
    url = f"s3://{bucket}/out/model"
    mirror.send(filled(folder_of(url), a="a", b="b"))
    filled(folder_of(url), a="A" * 100, b="B" * 5_000_000)
    s3.line.cut_after(2_000_000)
    with pytest.raises(StudyError):
        mirror.send(folder_of(url))
    s3.line.mend()
    elsewhere()
    assert not mirror.bring(folder_of(url))


def test_a_url_that_is_away_for_a_moment(s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    beats: list[int] = []

    def beat(done: int, total: int) -> None:
        beats.append(done)
        s3.line.mend()

    monkeypatch.setattr(store, "PAUSES", (0.2, 0.2))
    folder = filled(folder_of(f"s3://{bucket}/out/model"), a="a")
    s3.line.cut()
    mirror.send(folder, beat)
    assert beats
    assert s3.keys(bucket) == ["out/model/.whole", "out/model/a"]


def test_whoever_is_not_patient_is_told_at_once(s3: S3Server, bucket: str, distilsearch: Run) -> None:
    s3.line.cut()
    begun = time.monotonic()
    status, _, err = distilsearch("front", f"s3://{bucket}/out")
    assert time.monotonic() - begun < 20
    assert status == 2
    assert err.startswith(f"s3://{bucket}/out/study.yaml: cannot be reached: ")
    assert "AWS_ENDPOINT_URL" in err


def test_whom_nobody_waits_for_any_more_does_not_try_again(s3: S3Server, bucket: str) -> None:
    def beat(done: int, total: int) -> None:
        raise Dropped

    folder = filled(folder_of(f"s3://{bucket}/out/model"), a="a")
    with pytest.raises(Dropped):
        mirror.send(folder, beat)
    assert s3.keys(bucket, "out/model/.whole") == []


def test_removed_here_and_there(s3: S3Server, bucket: str) -> None:
    folder = filled(folder_of(f"s3://{bucket}/out/trials/3/1.000/attempt-1"), a="a")
    mirror.send(folder)
    other = filled(folder_of(f"s3://{bucket}/out/trials/30/1.000/attempt-1"), a="a")
    mirror.send(other)
    mirror.remove(folder_of(f"s3://{bucket}/out/trials/3"))
    mirror._sweeper().done()
    assert s3.keys(bucket) == ["out/trials/30/1.000/attempt-1/.whole", "out/trials/30/1.000/attempt-1/a"]
    assert not folder.exists()
    assert other.exists()


def test_a_full_scratch_is_told_as_that(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as a URL that is away, and not tried for a minute."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    folder = filled(folder_of(f"s3://{bucket}/out/model"), a="a" * 100_000)
    mirror.send(folder)
    (folder / "a").unlink()
    (folder / f".a.{os.getpid()}.writing").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        mirror.bring(folder)


# -- what is refused


def claimed(url: str, study_of: Callable[..., StudySpec]) -> None:
    claim_output(study_of(output=url, storage=POSTGRES))


def test_no_such_bucket(bucket: str, study_of: Callable[..., StudySpec]) -> None:
    with pytest.raises(InputError, match=r"s3://no-such-bucket/a/study.yaml: there is no such bucket; make it"):
        claimed("s3://no-such-bucket/a", study_of)


def test_no_rights(monkeypatch: pytest.MonkeyPatch, study_of: Callable[..., StudySpec]) -> None:
    with s3_server() as server:
        name = server.bucket()
        reach(monkeypatch, server.user_without_rights())
        with pytest.raises(InputError, match=r"may not be written or read with the credentials that there are"):
            claimed(f"s3://{name}/a", study_of)
        reach(monkeypatch, server.credentials("AKIAUNKNOWN000000000", "x" * 40))
        with pytest.raises(InputError, match="Credentials come from the environment: AWS_ACCESS_KEY_ID"):
            claimed(f"s3://{name}/a", study_of)


def test_another_study_and_a_folder_of_somebodys(
    s3: S3Server, bucket: str, study_of: Callable[..., StudySpec], elsewhere: Callable[[], None]
) -> None:
    claimed(f"s3://{bucket}/a", study_of)
    assert yaml.safe_load(s3.get(bucket, "a/study.yaml"))["study"]["output"] == f"s3://{bucket}/a"
    elsewhere()
    claimed(f"s3://{bucket}/a", study_of)
    with pytest.raises(InputError, match=f"s3://{bucket}/a holds another study .*with another seed"):
        claim_output(study_of(output=f"s3://{bucket}/a", storage=POSTGRES, seed=7))
    mirror.send(filled(folder_of(f"s3://{bucket}/b"), **{"somebodys.txt": "x"}) / "somebodys.txt")
    with pytest.raises(InputError, match=f"s3://{bucket}/b is not empty and holds no study"):
        claimed(f"s3://{bucket}/b", study_of)


def test_an_output_that_cannot_be_written_is_told_before_ray_starts(
    bucket: str, study: Callable[..., Path], distilsearch: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    def started(*_: Any, **__: Any) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray, "init", started)
    status, _, err = distilsearch("run", study(output="s3://no-such-bucket/a", storage=POSTGRES))
    assert status == 2
    assert "s3://no-such-bucket/a/study.yaml: there is no such bucket" in err


# -- looked at from anywhere


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


def test_whoever_looks_needs_the_url_alone(
    bucket: str, s3: S3Server, postgres: PostgresServer, study_of: Callable[..., StudySpec], distilsearch: Run,
    elsewhere: Callable[[], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    output, storage = f"s3://{bucket}/runs/tiny", postgres.database()
    monkeypatch.chdir(tmp_path)  # where nobody's runs/ lies
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    spec = finish(study_of(output=output, storage=storage, search=THREE))
    send_results(results_written(spec))
    record_of(spec).keep("made_from", {"data": "of these texts", "study": fingerprint(spec)})
    mirror.send(filled(spec.output / "best" / "trial-1", **{"model.safetensors": "not one"}))
    mirror.send(filled(spec.output / "trials" / "1" / "1.000" / "attempt-1", **{"weights.safetensors": "not either"}))
    before = s3.keys(bucket)
    elsewhere()
    looks: dict[tuple[str, ...], str] = {
        ("front", output): "50.0 %",
        ("analyse", output): "Hypervolume",
        ("show", output): f"output: {output}",
        ("show", output, "--trial", "1"): f"{output}/best/trial-1",
        ("list", output): "interrupted",
        ("list", f"s3://{bucket}/runs"): "interrupted",
        ("report", output): str(folder_of(output) / "report.html"),
        ("fetch", output, "--into", str(tmp_path / "fetched")): "fetched",
        ("export", output, "--pick", "trial=0"): f"{output}: the weights of trial 0 are not in best/trial-0 (yet)",
        ("clean", output): "clean a folder",
        ("front", f"s3://{bucket}/runs"): f"s3://{bucket}/runs: holds no study.yaml",
        ("fetch", f"s3://{bucket}/runs"): f"s3://{bucket}/runs: holds no study.yaml",
    }
    for arguments, says in looks.items():
        status, out, err = distilsearch(*arguments)
        told = out + err
        assert says in told, (arguments, told)
        assert status == (0 if says in out else 2), (arguments, told)
        assert PASSWORD not in told
    assert s3.keys(bucket) == before  # who looks writes nothing there
    assert (tmp_path / "fetched" / "best" / "trial-1" / "model.safetensors").read_text() == "not one"
    assert not (tmp_path / "fetched" / "trials").exists()
    assert read_earlier(study_of(search={"from": output})) is not None


# -- a lane


@pytest.mark.parametrize("lanes", ["elsewhere", "beside the driver"])
def test_a_lanes_files_come_from_the_url_and_go_there(
    lanes: str, bucket: str, s3: S3Server, teacher: Path, transfer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each segment on a machine of its own, or all on the driver's: what it leaves is at the URL alone."""
    from search.trial.work import perform

    output, driver = folder_of(f"s3://{bucket}/run"), scratch_root()
    shutil.copytree(teacher, output / "teacher")
    mirror.send(output / "teacher")
    data = {"transfer": transfer, **mirror.for_lanes(output)}
    payload: dict[str, Any] = {"teacher": str(output / "teacher")}
    shares, config = (0.0, 0.5, 1.0), a_config(transfer, epochs=2.0)
    plain, mirrored = [], []
    for start, end in itertools.pairwise(shares):
        item = WorkItem(
            key="trial:1", kind=WorkKind.TRAIN, trial=1, config=config, start_share=start, end_share=end,
            folder=str(output / "trials" / "1" / f"{end:.3f}"), payload=payload,
        )  # fmt: skip
        with monkeypatch.context() as there:
            if lanes == "elsewhere":
                there.setenv("DISTILSEARCH_SCRATCH", str(tmp_path / f"lane-{end}"))
            measured, _ = perform(item, WorkerContext(data=dict(data)))
            assert measured is not None
            mirrored.append(measured.metrics)
            assert (scratch_root() / output.relative_to(driver) / "teacher" / "model.safetensors").is_file()
        payload = {**payload, "continues": str(item.leaves)}
        local = item.model_copy(
            update={
                "folder": str(tmp_path / "plain" / f"{end}"),
                "payload": {
                    "teacher": str(teacher),
                    **({"continues": str(tmp_path / "plain" / f"{start}" / "attempt-1")} if start else {}),
                },
            }
        )
        measured, _ = perform(local, WorkerContext(data={"transfer": transfer}))
        assert measured is not None
        plain.append(measured.metrics)
    assert mirrored == plain
    assert "run/trials/1/0.500/attempt-1/progress.pt" in s3.keys(bucket)
    assert "run/trials/1/1.000/attempt-1/.whole" in s3.keys(bucket)
    kept = [
        path for path in tmp_path.rglob("*") if "trials" in path.parts and path.is_file() and path.suffix != ".lock"
    ]
    assert not kept, "nobody keeps checkpoints"


def test_a_student_is_delivered_to_the_url_and_exported_from_it(
    bucket: str, s3: S3Server, postgres: PostgresServer, teacher: Path, transfer: Any, distilsearch: Run,
    study_of: Callable[..., StudySpec], elsewhere: Callable[[], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    from search.trial.work import perform

    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    output = f"s3://{bucket}/run"
    spec = finish(study_of(output=output, storage=postgres.database(), search=THREE))
    shutil.copytree(teacher, spec.output / "teacher")
    mirror.send(spec.output / "teacher")
    config = a_config(transfer)  # of a shape that this teacher has
    payload = {"teacher": str(spec.output / "teacher")}
    trained = WorkItem(
        key="trial:0", kind=WorkKind.TRAIN, trial=0, config=config, payload=payload,
        folder=str(spec.output / "trials" / "0" / "1.000"),
    )  # fmt: skip
    delivered = WorkItem(
        key="deliver:0", kind=WorkKind.DELIVER, trial=0, config=config,
        payload={**payload, "weights": str(trained.leaves)}, folder=str(spec.output / "best" / "trial-0"),
    )  # fmt: skip
    for item in (trained, delivered):
        perform(item, WorkerContext(data={"transfer": transfer, **mirror.for_lanes(spec.output)}))
    assert "run/best/trial-0/.whole" in s3.keys(bucket)
    elsewhere()
    status, _, err = distilsearch("export", output, "--pick", "trial=0", "--to", tmp_path / "exported")
    assert status == 0, err
    weights = (tmp_path / "exported" / "hf" / "model.safetensors").read_bytes()
    assert weights == s3.get(bucket, "run/best/trial-0/model.safetensors")


def test_a_lane_whose_output_is_away_fails_no_trial(
    bucket: str, s3: S3Server, transfer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from search.trial.work import perform
    from search.trial.worker import describe

    monkeypatch.setattr(store, "PAUSES", ())
    output = folder_of(f"s3://{bucket}/run")
    s3.line.cut()
    item = WorkItem(
        key="trial:1", kind=WorkKind.TRAIN, trial=1, config=a_config(transfer),
        payload={"teacher": str(output / "teacher")},
    )  # fmt: skip
    with pytest.raises(StudyError) as away:
        perform(item, WorkerContext(data={"transfer": transfer, **mirror.for_lanes(output)}))
    result = WorkResult(key="trial:1", kind=WorkKind.TRAIN, trial=1, attempt=1, lane=0, error=describe(away.value))
    assert result.remedy == "Run the same command again"
    assert not result.model_copy(update={"error": "TrialError: the loss became NaN"}).remedy


# -- as a job's output


def test_a_jobs_output_in_a_bucket(study_of: Callable[..., StudySpec]) -> None:
    profile = RayJobsProfile(output="s3://bucket/results")
    job = make_job(study_of(storage=POSTGRES), profile, sees_our_files=False)
    assert job.study["output"] == job.output == "s3://bucket/results/tiny"
    assert job.study["cache"] == "s3://bucket/results/.cache"
    assert job.arrival["keep_in"].startswith("~/.cache/distilsearch/.jobs/tiny-")
    own = make_job(study_of(storage=POSTGRES, output="s3://bucket/own"), RayJobsProfile(), sees_our_files=False)
    assert (own.output, own.study["cache"]) == ("s3://bucket/own", "s3://bucket/own/.cache")
    slurm = make_job(study_of(storage=POSTGRES), SlurmProfile(output="s3://bucket/results"), sees_our_files=True)
    assert "--- " + str(Path("~/.cache/distilsearch/.jobs").expanduser()) in SlurmLauncher(SlurmProfile()).preview(
        slurm
    )
    pods = KuberayProfile(image="x", output="s3://bucket/results")
    assert not list(_volume_faults(make_job(study_of(storage=POSTGRES), pods, sees_our_files=False), pods))
    with pytest.raises(InputError, match="an SQLite record is a file of one machine"):
        make_job(study_of(), profile, sees_our_files=False)
    with pytest.raises(InputError, match="output: s4:// is no place for it"):
        make_job(study_of(storage=POSTGRES), RayJobsProfile(output="s4://bucket/results"), sees_our_files=False)
    with pytest.raises(InputError, match=r"does not see this machine's folders; .* or s3://BUCKET/FOLDER"):
        make_job(study_of(storage=POSTGRES), RayJobsProfile(), sees_our_files=False)
