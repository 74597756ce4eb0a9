"""Hostile input, drawn: study files, best-config files, profiles, files of texts, and changes by `--set`. `drive` gives one to what
reads it, and returns whether it was taken or refused; anything else is a finding."""

from __future__ import annotations

import json
import shutil
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from cluster.profile import read_profile
from search.study.inputs import label_array
from search.study.output import fingerprint
from search.study.texts import read_texts
from spaces.changes import load_changed
from spaces.errors import InputError, StudyError, printable
from spaces.secrets import mask_secrets
from spaces.study import StudySpec
from spaces.task import TASKS
from spaces.yaml_io import load_study, parse_study, parse_yaml, preset_names, preset_text, to_yaml

SAMPLES = Path(__file__).parent.parent / "samples"
LONGEST_ERROR = 300_000  # characters: all faults of a file at once, and none of them its content over again
DATA = ("train.tsv", "train.csv", "train.jsonl", "train.json", "train.txt", "train.parquet")

# what is drawn

WORDS = st.sampled_from(
    [
        "",
        "x",
        "text",
        "label",
        "none",
        "auto",
        "full",
        "bert",
        "0",
        "-1",
        "--5",
        "²",
        "1/9",
        "97%",
        "nan",
        "inf",
        "1e400",
        "~nobody/x",
        "../../etc/x",
        "/dev/null",
        ".",
        "a\0b",
        "\u202egnp.exe",
        "\x1b[2J",
        "\ud800",
        "\ufeff",
        "a:b",
        "nowhere.py:f",
        "json:loads",
        "package:x/..",
        "s3://b/k",
        "postgresql://u:p@h/d",
        "${HOME}",
        "$(id)",
        "`id`",
        "'; id #",
        "<script>",
        "=1+1",
        "é",
        "e\u0301",
        "𝔘",
        "a" * 5000,
    ]
)
NUMBERS = st.sampled_from(
    [
        0,
        -1,
        1,
        2,
        0.5,
        1e-300,
        1e308,
        float("inf"),
        float("nan"),
        2**31,
        2**63,
        2**64,
        10**40,
        -(10**400),
        10**4000,
        0.1 + 0.2,
    ]
)
LEAVES = st.none() | st.booleans() | NUMBERS | st.integers() | st.floats() | WORDS | st.text(max_size=20)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
SNIPPETS = st.sampled_from(
    [
        b"\0",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\xed\xa0\x80",
        b"\t",
        b"\r",
        b"\n\n",
        b"\x85",
        "\u2028\u202e\u2066".encode(),
        b"&a ",
        b"*a",
        b"<<: ",
        b"? ",
        b"- ",
        b"!!python/object/apply:os.system ['id']\n",
        b"!!python/name:os.system\n",
        b"!!int ''\n",
        b"!!bool x\n",
        b"!!timestamp x\n",
        b"!!set {a}\n",
        b"!!binary /w==\n",
        b"!local x\n",
        b"%YAML 1.9\n---\n",
        b"--- ",
        b"...\n",
        b"'",
        b'"',
        b"|\n",
        b">-\n",
        b"[" * 3000,
        b"{a: " * 800,
        b"- " * 900,
        b"0x" + b"f" * 6000,
        b"9" * 6000,
        b"1" + b":1" * 3000,
        b"2001-99-99",
        b"0001-01-01 00:00:00 +23:59",
        b".nan",
        b"-.inf",
        b"1e999",
        b"=",
        b"~",
        b"0o8",
        b"{",
        b"}",
        b"]",
        b",",
        b": ",
        b"#",
        b"\\u0000",
        b'"\\ud800"',
        b'"\\U0010ffff"',
        b"a" * 20000,
    ]
)


def _written_again(raw: Any) -> bytes:
    """Plain data as a file; half a surrogate as the bytes that some programs write."""
    return to_yaml(raw).encode("utf-8", "surrogatepass")


def _places(raw: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = raw.items() if isinstance(raw, dict) else enumerate(raw) if isinstance(raw, list) else ()
    return [path, *(place for key, value in items for place in _places(value, (*path, key)))]


def _changed(raw: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = dict(raw) if isinstance(raw, dict) else list(raw)
    copy[path[0]] = _changed(raw[path[0]], path[1:], value)
    return copy


@st.composite
def files(draw: st.DrawFn, whole: tuple[Any, ...]) -> bytes:
    """One of `whole` with some values replaced or keys added, then perhaps some of its bytes."""
    raw = draw(st.sampled_from(whole))
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.sampled_from(_places(raw)))
        value = draw(VALUES)
        if draw(st.booleans()):
            there = raw
            for key in place:
                there = there[key]
            if isinstance(there, dict):
                value = {**there, draw(WORDS | st.text(max_size=8)): value}
        raw = _changed(raw, place, value)
    text = _written_again(raw) if draw(st.booleans()) else json.dumps(raw, default=str).encode()
    return draw(spoilt(text)) if draw(st.integers(0, 3)) == 0 else text


@st.composite
def spoilt(draw: st.DrawFn, text: bytes) -> bytes:
    """The bytes with pieces put in, doubled or cut out."""
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(text)))
        length = draw(st.integers(0, 40))
        kind = draw(st.integers(0, 3))
        put = (b"", draw(SNIPPETS), text[at : at + length], draw(st.binary(max_size=8)))[kind]
        text = text[:at] + put + text[at + (length if kind == 0 else 0) :]
    return text


CELLS = (
    WORDS
    | st.text(max_size=12)
    | st.sampled_from(["a text", "good", "1", "0", "2.5", "a,b", '"', 'a"b', "2020-01-01", "99999-01-01T00:00:00"])
)


def _jsonl(rows: list[dict[str, Any]]) -> bytes:
    lines = []
    for row in rows:
        with suppress(ValueError):
            lines.append(json.dumps(row))
    return "\n".join(lines).encode()


def _separated(rows: list[list[str]], between: str) -> bytes:
    return "\n".join(between.join(row) for row in [["text", "label"], *rows]).encode("utf-8", "surrogatepass")


@st.composite
def texts(draw: st.DrawFn) -> tuple[str, bytes, str]:
    """A file of texts with the name that says its format, and the task that it is for."""
    name = draw(st.sampled_from(DATA))
    hostile = draw(st.sampled_from([(0,), (1,), (0, 1)]))  # in the texts, in the labels, or in both
    cells = draw(st.lists(CELLS, max_size=6))
    rows = [[cell if 0 in hostile else f"text {n}", cell if 1 in hostile else "1"] for n, cell in enumerate(cells)]
    if name.endswith((".tsv", ".csv", ".txt")):
        content = _separated(
            [*rows, *([["a good text", "1"], ["a bad one", "0"]] * 6)],
            "\t" if name.endswith("v") and "t" in name[-3:] else ",",
        )
    elif name.endswith(".parquet"):
        content = _parquet()
    else:
        keys = st.sampled_from(["text", "label", "text_pair", "x"]) | st.text(max_size=4)
        more = draw(st.lists(st.dictionaries(keys, VALUES | CELLS, max_size=3), max_size=3))
        content = _jsonl(
            [
                *more,
                *({"text": text, "label": label} for text, label in rows),
                *({"text": f"text {n}", "label": str(n % 2)} for n in range(12)),
            ]
        )
    content = draw(spoilt(content)) if draw(st.integers(0, 2)) == 0 else content
    return name, content, draw(st.sampled_from(list(TASKS)))


def _parquet() -> bytes:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    into = io.BytesIO()
    pq.write_table(pa.table({"text": [f"text {n}" for n in range(20)], "label": [n % 2 for n in range(20)]}), into)
    return into.getvalue()


STUDIES: tuple[Any, ...] = (
    {"name": "a", "data": {"builtin": "docstrings"}, "teacher": "some/teacher"},
    {
        "name": "b",
        "task": "multi-label-classification",
        "data": {"builtin": "docstrings", "labels": {"0": "no"}, "columns": {"text": "a"}, "max_length": 32},
        "teacher": {"model": "m", "fine_tune": {"epochs": 2}},
        "space": {
            "depth": {"int": [1, 3]},
            "temperature": {"float": [1, 4], "log": True},
            "layers": [[0, 2]],
            "num_hidden_groups": {"int": [1, 2], "when": {"family": "albert"}},
            "family": ["bert", "albert"],
        },
        "metrics": {"own": "json:loads"},
        "objectives": {"micro_f1": "maximize", "bytes": "minimize"},
        "bounds": {"bytes": {"max": 1e6}, "micro_f1": {"min": "97%"}},
        "budget": {"trials": 3, "minutes": 2, "flat": {"trials": 3, "growth": "1%"}},
        "search": {"halving": {"rungs": ["1/9", 1]}, "first": [{"depth": 2}]},
        "resources": {"lanes": 2, "price": {"per_lane_hour": 1}, "custom_per_worker": {"spot": 1}},
        "confirm": {"seeds": 2},
        "tracking": {"wandb": {"project": "p"}},
        "deployment": {"runtime": "onnx", "threads": 1},
        "storage": "sqlite",
        "seed": 3,
        "trial_seeds": [1, 2],
    },
    *(parse_yaml(preset_text("studies", name), name) for name in preset_names("studies")),
)
BEST_CONFIGS = tuple(parse_yaml(path.read_text(), path.name) for path in sorted(SAMPLES.glob("best-config-*.yaml")))
PROFILES: tuple[Any, ...] = (
    {"kind": "local", "python": "python"},
    {
        "kind": "ray-jobs",
        "address": "http://h:1",
        "headers": {"X": "$A"},
        "shared": ["/a"],
        "environment": {"A": "b"},
        "secrets": {"K": "/f"},
    },
    {
        "kind": "slurm",
        "nodes": 2,
        "time": "1:00:00",
        "memory_per_node": "4G",
        "extra": ["--x"],
        "setup": ["true"],
        "partition": "p",
    },
    {
        "kind": "kuberay",
        "image": "i",
        "output": "/o/x",
        "volumes": [{"claim": "c", "mount": "/o"}],
        "workers": [{"replicas": 1, "max_replicas": 2}],
        "secrets": {"K": "a/b"},
        "head": {"cpus": 1, "tolerations": [{"key": "k"}]},
    },
)
CHANGED = json.dumps(STUDIES[1]).encode()
assert len(STUDIES) >= 5
assert len(BEST_CONFIGS) >= 3

KINDS: dict[str, st.SearchStrategy[Any]] = {
    "study": files(STUDIES),
    "best-config": files(BEST_CONFIGS),
    "profile": files(PROFILES),
    "change": st.tuples(
        st.sampled_from(["name", "space.depth", "budget", "data.labels", "teacher.fine_tune", "x.y", "a=b", ".", ""])
        | WORDS,
        VALUES.map(_written_again),
    ),
    "texts": texts(),
}

# what reads it


def _study(content: bytes, folder: Path) -> None:
    path = folder / "study.yaml"
    path.write_bytes(content)
    _means_the_same_again(load_study(path))


def _means_the_same_again(spec: StudySpec) -> None:
    """What a taken study goes through: a name for what it is, its resolved file, and that file read."""
    fingerprint(spec)
    text = to_yaml(mask_secrets(spec.resolved()))
    text.encode()
    plain = parse_yaml(to_yaml(spec.resolved()), "again")
    assert parse_study(plain, "again", Path("/elsewhere"), files_must_exist=False) == spec


def _profile(content: bytes, folder: Path) -> None:
    path = folder / "profile.yaml"
    path.write_bytes(content)
    profile = read_profile(path)
    profile.model_dump_json()


def _change(change: tuple[str, bytes], folder: Path) -> None:
    path = folder / "study.yaml"
    path.write_bytes(CHANGED)
    _means_the_same_again(load_changed(path, [f"{change[0]}={change[1].decode('utf-8', 'surrogateescape')}"]))


def _texts(file: tuple[str, bytes, str], folder: Path) -> None:
    name, content, task = file
    (folder / name).write_bytes(content)
    raw = {"name": "a", "data": {"train": name}, "teacher": "x/y", "cache": str(folder / "cache")}
    found = read_texts(parse_study({**raw, "task": task}, "study.yaml", folder))
    assert set(found.splits) == {"train", "validation", "test"}
    labelled = TASKS[task].target != "piece"
    assert all(len(split) > 0 and len(split.labels) == len(split) * labelled for split in found.splits.values())
    assert len(found.fingerprint) == 16
    for split in found.splits.values():
        "".join(split.texts).encode()
    if TASKS[task].target == "number":
        label_array(found.splits["train"].labels, found.label_names, "number").tobytes()


READERS: dict[str, Callable[[Any, Path], None]] = {
    "study": _study,
    "best-config": _study,
    "profile": _profile,
    "change": _change,
    "texts": _texts,
}


def drive(kind: str, drawn: Any, folder: Path) -> str:
    """`taken` or `refused`. Raises whatever else comes of it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        READERS[kind](drawn, folder)
    except (InputError, StudyError) as error:
        shown = printable(str(error))
        shown.encode()
        assert 0 < len(shown) < LONGEST_ERROR, len(shown)
        assert all(
            letter.isprintable() or letter in "\n\t" or unicodedata.category(letter) == "Zs" for letter in shown
        ), shown
        return "refused"
    return "taken"
