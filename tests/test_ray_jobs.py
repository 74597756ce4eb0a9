"""`ray-jobs`: what is sent and what is not, the code that is sent, and all that can be wrong with a cluster. On a real one."""

from __future__ import annotations

import http.server
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import Run
from places import ROOT, TOKEN, RayCluster
from relay import Relay, own_certificate, relay_to

from cluster import book, bundle, ray_jobs
from cluster.arrive import SOURCE

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.fixture
def relay(one_node: RayCluster) -> Iterator[Relay]:
    with relay_to(one_node.address) as relay:
        yield relay


@pytest.fixture
def profile(tmp_path: Path, relay: Relay, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A maker of the profile `lab`, of the cluster behind the relay."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    (tmp_path / "token").write_text(f"{TOKEN}\n")

    def write(**keys: Any) -> None:
        usual = {"address": relay.url, "token_file": str(tmp_path / "token"), "output": str(tmp_path / "outputs")}
        (tmp_path / "profiles").mkdir(exist_ok=True)
        told = {"kind": "ray-jobs", "python": sys.executable, **usual, **keys}
        left = {key: value for key, value in told.items() if value is not None}
        (tmp_path / "profiles" / "lab.yaml").write_text(yaml.safe_dump(left))

    write()
    return write


def state_after(distilsearch: Run, job: str, seconds: float = 600) -> dict[str, Any]:
    """How it stands once it is over."""
    deadline = time.monotonic() + seconds
    while (found := json.loads(distilsearch("status", job, "--json")[1]))["state"] in ("pending", "running"):
        assert time.monotonic() < deadline, distilsearch("logs", job)[1]
        time.sleep(0.3)
    return dict(found)


def submitted(distilsearch: Run, study: Path, *arguments: object) -> str:
    status, out, err = distilsearch("submit", study, "--to", "lab", *arguments)
    assert status == 0, err
    return out.strip()


# what is sent


@pytest.mark.slow
def test_only_what_changed_is_sent(
    profile: Callable[..., None], relay: Relay, study: Callable[..., Path], distilsearch: Run,
    data_folder: Path, copied: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Counted on the way. The jobs end at once, at another version: they have been sent all the same. Data and teacher are this
    test's own: what another one sent the cluster has already."""
    monkeypatch.setattr(bundle, "versions", lambda: {"torch": "1.0.0"})
    profile(code=str(ROOT))
    data, rows = tmp_path / "train.tsv", (data_folder / "train.tsv").read_text()
    data.write_text(rows + "only here\tfood\n")
    others = {name: str(data_folder / f"{name}.tsv") for name in ("validation", "test")}
    path = study(teacher=str(copied(hidden_dropout_prob=0.123)), data={"train": str(data), **others, "max_length": 32})
    teacher = tmp_path / "copy" / "model.safetensors"
    (tmp_path / ".gitignore").write_text("*.safetensors\n")

    def sent(*arguments: object) -> list[int]:
        relay.sent.clear()
        found = state_after(distilsearch, submitted(distilsearch, path, *arguments))
        assert found["state"] == "failed"
        assert "torch is" in distilsearch("logs", found["id"])[1]  # it arrived, by the code that was sent
        return sorted(relay.sent.values())

    first = sent()
    assert len(first) == len(SOURCE) + 4  # the code's metadata, the study, the data, the teacher
    assert first[-1] > 0.8 * teacher.stat().st_size
    for changes in (["budget.trials=7"], ["training.epochs=9"], ["name=another"]):
        (study_alone,) = sent("--set", changes[0])
        assert study_alone < 10_000
    assert sent() == []  # as the first was
    monkeypatch.setattr(bundle, "versions", lambda: {"torch": "1.0.1"})
    data.write_text(rows + "one more\tfood\n")
    changed = sent()
    assert len(changed) == 2  # the study and the data
    assert sum(changed) < first[-1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "folder"])
def test_the_code_that_is_sent_is_what_runs(
    kind: str, profile: Callable[..., None], study: Callable[..., Path], distilsearch: Run, tmp_path: Path
) -> None:
    """The whole way, by a copy of this project that says another build of its version."""
    source = tmp_path / "source"
    source.mkdir()
    for name in SOURCE:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    text = (ROOT / "pyproject.toml").read_text()
    version = f"{bundle.versions()['distilsearch']}+sent"
    (source / "pyproject.toml").write_text(
        text.replace(f'version = "{version.partition("+")[0]}"', f'version = "{version}"')
    )
    shutil.copy(ROOT / "README.md", source)
    code = source
    if kind == "wheel":
        build = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--no-deps",
            "--no-build-isolation",
            "--wheel-dir",
            tmp_path,
            source,
        ]
        subprocess.run(build, check=True, capture_output=True)
        (code,) = tmp_path.glob("*.whl")
        shutil.rmtree(source)
    profile(code=str(code))
    job = submitted(distilsearch, study(budget={"trials": 2}, resources={"lanes": 1}, confirm={"seeds": 1}))
    found = state_after(distilsearch, job)
    assert found["state"] == "succeeded", distilsearch("logs", job)[1]
    output = tmp_path / "outputs" / "tiny"
    assert yaml.safe_load((output / "study.yaml").read_text())["versions"]["distilsearch"] == version
    assert (tmp_path / "outputs" / ".jobs" / job / "code" / "search" / "cli" / "__init__.py").is_file()
    assert distilsearch("fetch", job, "--into", tmp_path / "fetched")[0] == 0
    assert (tmp_path / "fetched" / "report.html").read_bytes() == (output / "report.html").read_bytes()


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("/nowhere", "code: /nowhere is no folder with distilsearch's source"),
        ("/nowhere/x.whl", "code: /nowhere/x.whl cannot be read as a wheel"),
        ("{here}/torn.whl", "torn.whl cannot be read as a wheel: File is not a zip file"),
        ("{here}/other", "other is neither a wheel nor a folder with distilsearch's source: it has no search"),
    ],
)
def test_code_that_is_none(
    code: str, problem: str, profile: Callable[..., None], relay: Relay, study: Callable[..., Path], distilsearch: Run,
    tmp_path: Path,
) -> None:  # fmt: skip
    (tmp_path / "torn.whl").write_text("torn")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "pyproject.toml").write_text("")
    profile(code=code.format(here=tmp_path))
    status, _, err = distilsearch("submit", study(), "--to", "lab")
    assert status == 2
    assert problem in err
    assert relay.sent == {}
    assert book.known() == []


# what is only there


@pytest.mark.slow
def test_data_that_only_the_cluster_has_is_looked_for_there(
    profile: Callable[..., None], study: Callable[..., Path], distilsearch: Run, tmp_path: Path
) -> None:
    profile(shared=["/mnt/only-there"])
    raw = yaml.safe_load(study().read_text())
    raw["data"] |= {split: f"/mnt/only-there/{split}.tsv" for split in ("train", "validation", "test")}
    raw["data"]["unlabelled"] = "/mnt/only-there/more.txt"
    raw["teacher"] = {"model": "/mnt/only-there/teacher"}
    path = tmp_path / "there.yaml"
    path.write_text(yaml.safe_dump(raw))
    job = submitted(distilsearch, path)
    assert state_after(distilsearch, job)["state"] == "failed"
    said = distilsearch("logs", job)[1]
    assert "data.train: there is no file /mnt/only-there/train.tsv" in said
    assert "data.unlabelled: there is no file /mnt/only-there/more.txt" in said


def test_an_output_that_the_driver_cannot_write(
    profile: Callable[..., None], study: Callable[..., Path], distilsearch: Run, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    profile(output=str(tmp_path / "file" / "outputs"))
    job = submitted(distilsearch, study())
    assert state_after(distilsearch, job)["state"] == "failed"
    said = distilsearch("logs", job)[1]
    assert f"output: {tmp_path / 'file'}" in said
    assert "cannot be written by the driver: Not a directory; nothing was run" in said
    assert "Traceback" not in said


# a cluster that does not answer, or does not let anyone in


def refused(distilsearch: Run, study: Path) -> str:
    status, out, err = distilsearch("submit", study, "--to", "lab")
    assert (status, out) == (2, "")
    assert book.known() == []
    return err


def test_the_token(
    profile: Callable[..., None], relay: Relay, study: Callable[..., Path], distilsearch: Run, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("f" * 32)
    assert f"token_file: {relay.url} does not accept the token; name a file" in refused(distilsearch, study())
    profile(token_file=None)
    assert f"token_file: {relay.url} asks for a token" in refused(distilsearch, study())
    profile(token_file="/nowhere/token")
    assert "token_file: /nowhere/token cannot be read: No such file or directory" in refused(distilsearch, study())
    assert relay.sent == {}


@pytest.mark.slow
def test_the_certificate(
    profile: Callable[..., None], one_node: RayCluster, study: Callable[..., Path], distilsearch: Run, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(bundle, "versions", lambda: {"torch": "1.0.0"})
    with relay_to(one_node.address, own_certificate(tmp_path)) as secure:
        profile(address=secure.url)
        problem = "its certificate is not trusted (self-signed certificate); name one's own by certificate_authority"
        assert f"address: {secure.url}: {problem}" in refused(distilsearch, study())
        profile(address=secure.url, certificate_authority="/nowhere/ca.pem")
        assert "certificate_authority: there is no /nowhere/ca.pem" in refused(distilsearch, study())
        assert secure.sent == {}
        for trusted in ({"certificate_authority": str(tmp_path / "authority.pem")}, {"verify": False}):
            profile(address=secure.url, **trusted)
            status, out, err = distilsearch("submit", study(), "--to", "lab")
            assert status == 0
            assert "Warning" not in err
            assert state_after(distilsearch, out.strip())["state"] == "failed"


def test_somebody_else_answers_or_nobody(
    profile: Callable[..., None], relay: Relay, study: Callable[..., Path], distilsearch: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    profile(address=f"http://127.0.0.1:{server.server_port}")
    assert "answers, but not as Ray does (404); it is the address of Ray's dashboard" in refused(distilsearch, study())
    server.shutdown()
    server.server_close()
    profile(address="lab:8265")
    assert "address: lab:8265 is no address" in refused(distilsearch, study())
    monkeypatch.setattr(ray_jobs, "ANSWER_SECONDS", 0.5)
    relay.silent_seconds = 2
    profile()
    assert f"address: {relay.url}: nothing answers there" in refused(distilsearch, study())


def test_a_cluster_that_is_gone(
    profile: Callable[..., None], relay: Relay, study: Callable[..., Path], distilsearch: Run, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Its jobs are unknown, nothing else is; nothing is launched beside what may run."""
    monkeypatch.setattr(bundle, "versions", lambda: {"torch": "1.0.0"})
    job = submitted(distilsearch, study())
    state_after(distilsearch, job)
    relay.close()
    status, out, err = distilsearch("status", job)
    assert (status, err) == (0, "")
    assert f"{job}  unknown (address: {relay.url}: nothing answers there" in out
    ((listed),) = json.loads(distilsearch("jobs", "--json")[1])
    assert (listed["id"], listed["state"]) == (job, "unknown")
    for command in (["logs", job], ["logs", job, "--follow"], ["stop", job], ["fetch", job, "--into", tmp_path / "x"]):
        status, out, err = distilsearch(*command)
        assert (status, out) == (2, ""), command
        assert "nothing answers there" in err
    assert not (tmp_path / "x").exists()
    status, _, err = distilsearch("submit", study(), "--to", "lab")
    assert status == 2
    assert "nothing answers there" in err
    assert book.find(job).attempt == 1


def test_without_ray_here(profile: Callable[..., None], study: Callable[..., Path], tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['ray'] = None\n"
        f"sys.argv = ['distilsearch', 'submit', {str(study())!r}, '--to', 'lab']\nfrom search import cli; cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(
        "kind: ray-jobs needs Ray's client here, which is not installed: pip install 'ray[default]'"
    )
