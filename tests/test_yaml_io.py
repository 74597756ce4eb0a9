"""Files of YAML: what is read as what, what is refused, and that they appear whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from spaces import yaml_io
from spaces.errors import InputError
from spaces.yaml_io import load_study, parse_yaml, to_yaml, write_whole


def test_exponents_are_numbers_and_numbers_that_were_words_stay_words() -> None:
    assert parse_yaml("a: 1e-5\nb: 2.5E+3\nc: '1e5'", "x") == {"a": 1e-5, "b": 2500.0, "c": "1e5"}
    words = {"a": "1e5", "b": "null", "c": "yes", "d": "1:30", "e": "0x1f", "f": "~", "g": ""}
    assert parse_yaml(to_yaml(words), "x") == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &x [1]\nb: *x", "line 2, column 4: is not valid YAML: aliases"),
        ("a: 1\nb: 2\na: 3", "line 3, column 1: is not valid YAML: key 'a' stands there twice"),
        ("a: [1, 2", "line 1"),
        ("a: !!python/object/apply:os.system [echo]", "are not allowed; write the value alone"),
        ("a: \x07", "is not valid YAML"),
        ("[" * 5000, "is not valid YAML"),
        ("# " + "x" * yaml_io.MAX_STUDY_BYTES, "is larger than 1,000,000 bytes"),
    ],
)
def test_what_yaml_is_refused(text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_yaml(text, "study.yaml")
    assert words in str(caught.value)
    assert str(caught.value).startswith("study.yaml: ")
    assert len(caught.value.faults) == 1


def test_a_file_that_cannot_be_read_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        load_study(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        load_study(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(InputError, match="cannot be read"):
        load_study(tmp_path / "latin.yaml")


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "front.csv"
    write_whole(path, "old")
    assert path.read_text() == "old"

    def broken(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]
