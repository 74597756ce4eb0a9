"""A short pass of the fuzzing; the long one is `make fuzz`. And, by name, what it found and what a person would try first."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile
import pytest
from hypothesis import HealthCheck, given, settings

from spaces.errors import InputError, near_miss, printable
from spaces.yaml_io import load_study, parse_yaml

EXAMPLES = {"study": 120, "best-config": 60, "profile": 120, "change": 60, "texts": 25}


@pytest.mark.parametrize("kind", hostile.KINDS)
def test_hostile_input_is_taken_or_refused(kind: str, tmp_path: Path) -> None:
    seen: set[str] = set()

    @settings(max_examples=EXAMPLES[kind], suppress_health_check=list(HealthCheck), database=None)
    @given(hostile.KINDS[kind])
    def one(drawn: Any) -> None:
        seen.add(hostile.drive(kind, drawn, tmp_path / "in"))

    one()
    assert "refused" in seen


def refused(read: Callable[[], Any]) -> str:
    begun = time.monotonic()
    with pytest.raises(InputError) as caught:
        read()
    assert time.monotonic() - begun < 60  # on a machine with nothing else to do, seconds
    shown = str(caught.value)
    assert len(shown) < hostile.LONGEST_ERROR
    return shown


LAUGHS = "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "name: !!python/object/apply:os.system ['touch ran']",
            "tags (tag:yaml.org,2002:python/object/apply:os.system) are not allowed",
        ),
        ("name: !!int ''", "tags (tag:yaml.org,2002:int) are not allowed"),
        (LAUGHS, "aliases (*name) are not allowed"),
        ("[" * 900_000, "is not valid YAML"),
        ("[" + "a," * 400_000, "more than 50,000 values"),
        ("seed: 0x" + "f" * 6000, "a number of 6,002 digits is not allowed"),
        ("seed: 1" + ":1" * 400_000, "a number of 800,001 digits is not allowed"),
        ("name: a\nname: b", "key 'name' stands there twice"),
        ("x" * 1_000_001, "is larger than 1,000,000 bytes"),
        ("a: \0", "special characters are not allowed"),
        ("task: {}", "task: {} is not allowed"),
        ("training: {epochs: .nan}", "training.epochs: nan is not allowed"),
        ("budget: {minutes: 'nan'}", "budget.minutes: 'nan' is not allowed"),
        ("resources: {recycle_above_gb: 1e999}", "resources.recycle_above_gb: inf is not allowed"),
        ("bounds: {parameters: {max: .nan}}", "bounds.parameters.max: nan is not allowed"),
        (
            "name: a\ndata: {builtin: docstrings}\nteacher: x/y\n" + "\n".join(f"nam{n}: 1" for n in range(20_000)),
            "and more; mend these first",
        ),
        ("? " + "k" * 900_000 + "\n: 1", "kkk...: unknown key"),
    ],
    ids=lambda text: text[:30],
)
def test_a_study_file_that_is_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    whole = "name: a\ndata: {builtin: docstrings}\nteacher: x/y\n" if ":" in text and "nam" not in text else ""
    path.write_text(whole + text)
    assert words in refused(lambda: load_study(path))
    assert not (tmp_path / "ran").exists()
    assert not Path("ran").exists()


def test_what_json_writes_in_two_halves_is_one_letter() -> None:
    assert parse_yaml('{"name": "\\ud83d\\ude00"}', "x") == {"name": "\U0001f600"}
    assert "half a surrogate" in refused(lambda: parse_yaml('{"name": "\\ud83d"}', "x"))


def test_no_more_of_a_file_is_read_than_a_study_may_have() -> None:
    assert "is larger than" in refused(lambda: load_study("/dev/zero"))


def test_a_near_miss_is_not_looked_for_in_megabytes() -> None:
    assert near_miss("temprature", ["temperature"])
    assert near_miss("temperature" + "x" * 10_000_000, ["temperature"]) == ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a plain line\n\tand another: é, 漢字", "a plain line\n\tand another: é, 漢字"),
        ("\x1b[2J\x07\r", "\\x1b[2J\\x07\\r"),
        ("\u202egnp.exe\u2066", "\\u202egnp.exe\\u2066"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_a_terminal_would_obey_is_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize("labels", ["²\t³", "--5\t4", "9" * 5000 + "\t1", "\u0661\t\u0662"])
def test_labels_that_look_like_numbers(labels: str, tmp_path: Path) -> None:
    first, second = labels.split("\t")
    rows = "".join(f"text {n}\t{first if n % 2 else second}\n" for n in range(30))
    file = f"text\tlabel\n{rows}".encode()
    for task in ("text-classification", "multi-label-classification"):  # any word is a class
        assert hostile.drive("texts", ("train.tsv", file, task), tmp_path / "in") == "taken"


@pytest.mark.parametrize("name", ["train.json", "train.jsonl", "train.csv", "train.tsv", "train.txt"])
def test_bytes_that_are_no_text_are_refused(name: str, tmp_path: Path) -> None:
    rows = [f'{{"text": "text {n}", "label": "{n % 2}"}}' if "json" in name else f"text {n},{n % 2}" for n in range(30)]
    content = (
        "\n".join(["text,label", *rows][1 if "json" in name else 0 :]).encode().replace(b"text 7", b"\xe2\xf2\xff")
    )
    assert hostile.drive("texts", (name, content, "text-classification"), tmp_path / "in") == "refused"


def test_a_time_without_a_year_of_pythons_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    far = pa.array([2**62] * 30, pa.timestamp("us"))
    pq.write_table(pa.table({"text": [f"text {n}" for n in range(30)], "label": far}), tmp_path / "far.parquet")
    drawn = ("train.parquet", (tmp_path / "far.parquet").read_bytes(), "text-classification")
    assert hostile.drive("texts", drawn, tmp_path / "in") == "refused"
