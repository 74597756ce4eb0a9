"""Nothing that is read as data runs: pickles, tags, a model's own code, archives. Each would leave a file behind if it did."""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import pickle
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.pack import END, START, unpack
from search.study.inputs import read_inputs
from search.study.teachers import find_teacher
from search.trial.checkpoint import load_progress
from search.trial.teacher import load_teacher
from spaces.errors import InputError, StudyError
from spaces.study import StudySpec, TeacherSpec
from spaces.yaml_io import parse_yaml

ROOT = Path(__file__).parent.parent


class Evil:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


@pytest.fixture
def ran(tmp_path: Path) -> Iterator[Path]:
    """Where code that ran would leave a file; the test ends with none there."""
    path = tmp_path / "ran"
    yield path
    assert not path.exists()


def test_the_pickle_would_run(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Evil(tmp_path / "x")))
    assert (tmp_path / "x").exists()


def test_a_checkpoint_that_is_a_pickle_of_something_else(ran: Path, tmp_path: Path) -> None:
    torch.save({"optimizer": Evil(ran)}, tmp_path / "progress.pt")
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        load_progress(tmp_path)


def test_a_teacher_whose_weights_are_a_pickle_is_refused(ran: Path, copied: Callable[..., Path]) -> None:
    folder = copied()
    (folder / "model.safetensors").unlink()
    torch.save({"evil": Evil(ran)}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="is a pickle, which distilsearch does not read"):
        find_teacher(TeacherSpec(model=str(folder)))
    with pytest.raises(OSError, match="safetensors"):  # nor would a lane
        load_teacher(str(folder))


def test_a_pickle_beside_the_weights_is_not_read(ran: Path, copied: Callable[..., Path]) -> None:
    folder = copied()
    torch.save({"evil": Evil(ran)}, folder / "pytorch_model.bin")
    assert find_teacher(TeacherSpec(model=str(folder))).labels == ("food", "music", "sport")
    load_teacher(str(folder))


CODE = """
from pathlib import Path
from transformers import BertForSequenceClassification, BertTokenizer
Path({path!r}).touch()
class Model(BertForSequenceClassification): pass
class Tokenizer(BertTokenizer): pass
"""


def test_a_model_with_code_of_its_own_is_refused(ran: Path, copied: Callable[..., Path]) -> None:
    """Its kind is a known one, so that transformers alone would load it as a plain BERT, without a word."""
    folder = copied(auto_map={"AutoModelForSequenceClassification": "own.Model"})
    (folder / "own.py").write_text(CODE.format(path=str(ran)))
    with pytest.raises(
        InputError, match=r"needs code of its own .auto_map in config.json., which is not executed, and no setting"
    ):
        find_teacher(TeacherSpec(model=str(folder)))
    load_teacher(str(folder))


def test_a_tokenizer_with_code_of_its_own_does_not_run(
    ran: Path, copied: Callable[..., Path], study_of: Callable[..., StudySpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied()
    path = folder / "tokenizer_config.json"
    raw = {
        **json.loads(path.read_text()),
        "auto_map": {"AutoTokenizer": ["own.Tokenizer", None]},
        "tokenizer_class": "Tokenizer",
    }
    path.write_text(json.dumps(raw))
    (folder / "own.py").write_text(CODE.format(path=str(ran)))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody is asked whether to trust it"))
    with contextlib.suppress(InputError):  # refused or read as a plain one: either way nothing of its own ran
        read_inputs(study_of(teacher=str(folder)), lambda text: None)


@pytest.mark.parametrize("config", ["[]", "3", "{", "[" * 100_000, '{"model_type": ["bert"]}', "\xff"])
def test_a_config_that_is_none_is_refused(config: str, copied: Callable[..., Path]) -> None:
    folder = copied()
    (folder / "config.json").write_bytes(config.encode("latin-1"))
    with pytest.raises(InputError):
        find_teacher(TeacherSpec(model=str(folder)))


@pytest.mark.parametrize(
    "changes",
    [
        {"id2label": {"x": "a"}},
        {"id2label": [1]},
        {"hidden_size": "big"},
        {"num_labels": "two", "id2label": None},
        {"vocab_size": [1]},
    ],
    ids=str,
)
def test_a_config_of_the_wrong_kinds_is_refused(changes: dict[str, Any], copied: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="make no model"):
        find_teacher(TeacherSpec(model=str(copied(**changes))))


def test_weights_that_are_none_are_refused(copied: Callable[..., Path]) -> None:
    folder = copied()
    (folder / "model.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")
    with pytest.raises(InputError, match="make no model"):
        find_teacher(TeacherSpec(model=str(folder)))


def test_a_tag_of_pythons_is_no_yaml(ran: Path) -> None:
    for tag in ("object/apply:pathlib.Path.touch", "object/new:os.system", "name:os.system", "module:os"):
        with pytest.raises(InputError, match=r"tags .* are not allowed"):
            parse_yaml(f"a: !!python/{tag} [{ran}]", "study.yaml")


# archives


def archive(*members: tuple[str, str, str]) -> bytes:
    """Of (kind, name, what it holds or points to)."""
    into = io.BytesIO()
    with tarfile.open(fileobj=into, mode="w:gz") as packed:
        for kind, name, inside in members:
            entry = tarfile.TarInfo(name)
            if kind == "file":
                entry.size = len(inside)
                packed.addfile(entry, io.BytesIO(inside.encode()))
                continue
            entry.type = {"link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "device": tarfile.CHRTYPE}[kind]
            entry.linkname = inside
            packed.addfile(entry)
    return into.getvalue()


@pytest.mark.parametrize(
    "members",
    [
        [("file", "../out", "x")],
        [("file", "a/../../out", "x")],
        [("link", "a", ".."), ("file", "a/out", "x")],
        [("link", "a", "/"), ("file", "a/out", "x")],
        [("hard", "a", "../secret"), ("file", "a", "x")],
        [("device", "a", "")],
    ],
    ids=str,
)
def test_an_archive_cannot_write_outside_its_folder(members: list[tuple[str, str, str]], tmp_path: Path) -> None:
    """As `fetch` unpacks what a job's log brought."""
    (tmp_path / "secret").write_text("kept")
    folder = tmp_path / "fetched"
    folder.mkdir()
    with pytest.raises(StudyError, match="could not be unpacked"):
        unpack(as_a_log_says_it(archive(*members)), "/runs/x", folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fetched", "secret"]
    assert (tmp_path / "secret").read_text() == "kept"


def as_a_log_says_it(packed: bytes) -> str:
    return f"[a line of Ray's]\n{START}\n{base64.encodebytes(packed).decode()}{END}\n"


def test_an_archive_is_whole_of_bounded_size_and_an_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = archive(("file", "front.csv", "x" * 1000))
    unpack(as_a_log_says_it(packed), "/runs/x", tmp_path)
    assert (tmp_path / "front.csv").read_text() == "x" * 1000
    for text, words in (
        (as_a_log_says_it(packed)[:-20], "did not come whole"),
        (as_a_log_says_it(packed[:50]), "could not be unpacked"),
        (as_a_log_says_it(b"no archive"), "could not be unpacked"),
    ):
        with pytest.raises(StudyError, match=words):
            unpack(text, "/runs/x", tmp_path)
    monkeypatch.setattr("cluster.pack.UNPACKED_BYTES", 999)
    with pytest.raises(StudyError, match="would unpack to more"):
        unpack(as_a_log_says_it(packed), "/runs/x", tmp_path)


# what the source says: a loader that is added later has to be as careful


def calls() -> Iterator[tuple[str, str, dict[str, ast.expr], ast.Call]]:
    for path in sorted(
        file for room in ("search", "spaces", "cluster", "examples") for file in (ROOT / room).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                named = {keyword.arg or "**": keyword.value for keyword in node.keywords}
                yield f"{path.relative_to(ROOT)}:{node.lineno}", ast.unparse(node.func), named, node


def test_every_loader_says_that_it_runs_nothing() -> None:
    seen, wrong = dict[str, int](), list[str]()
    for where, function, named, node in calls():
        name = function.rpartition(".")[2]
        kind = {"from_pretrained": "model", "extractall": "archive", "extract": "archive"}.get(name, "")
        kind = {"torch.load": "torch", "yaml.load": "yaml", "np.load": "numpy"}.get(function, kind)
        if not kind or function in ("extract", "wheel.extractall"):  # zipfile itself stays inside
            continue
        seen[kind] = seen.get(kind, 0) + 1
        ok = {
            "model": "trust_remote_code" in named,
            "archive": ast.unparse(named.get("filter", ast.Constant(None))) == "'data'",
            "torch": ast.unparse(named.get("weights_only", ast.Constant(None))) == "True",
            "numpy": ast.unparse(named.get("allow_pickle", ast.Constant(None))) == "False",
            "yaml": ast.unparse(named.get("Loader", ast.Constant(None))) == "_Loader",
        }[kind]
        if not ok:
            wrong.append(f"{where} {ast.unparse(node)}")
    assert not wrong
    assert seen.keys() == {"model", "archive", "torch", "numpy", "yaml"}
    assert seen["model"] >= 10


def test_nothing_is_evaluated_unpickled_or_given_to_a_shell() -> None:
    forbidden = {
        "eval",
        "exec",
        "compile",
        "os.system",
        "os.popen",
        "pickle.load",
        "pickle.loads",
        "joblib.load",
        "marshal.loads",
        "shelve.open",
    }
    wrong = [
        f"{where} {function}" for where, function, named, _ in calls() if function in forbidden or "shell" in named
    ]
    assert not wrong
    assert sum(1 for _ in calls()) > 3000


def test_only_a_head_of_the_studys_own_is_trusted() -> None:
    """`trust_remote_code` is true for a folder that distilsearch wrote, with the head that the study names under `heads`."""
    trusted = {
        (where.partition(":")[0], ast.unparse(named["trust_remote_code"]))
        for where, _, named, _ in calls()
        if "trust_remote_code" in named and ast.unparse(named["trust_remote_code"]) != "False"
    }
    assert trusted == {("search/trial/teacher.py", "own_code")}
    given = {
        (where.partition(":")[0], ast.unparse(node.args[1]))
        for where, function, _, node in calls()
        if function.rpartition(".")[2] == "load_with_head" and len(node.args) + len(node.keywords) > 1
    }
    assert given == {
        ("search/trial/deliver/huggingface.py", "own_code"),
        ("search/trial/deliver/formats.py", "self._own_code"),
    }
