"""docs/examples: the files on the pages, run as a reader writes them. The studies take minutes: they are parsed."""

from __future__ import annotations

import io
import random
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny

from search.trial.metrics import measure
from spaces.yaml_io import parse_study, parse_yaml

PAGES = Path(__file__).parent.parent / "docs" / "examples"
INTENTS = ["abbreviation", "description", "entity", "human", "location", "number"]
DOCSTRING = """Return the   value of a key.

    Args:
        key: text

The key has to be a text.  A missing key
raises an error! It is a string > 3. Values are kept for an hour.
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Writes a page's files, blocks whose first line names them, into the test's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in ("answered", "rank", "sentences"):
        monkeypatch.delitem(sys.modules, module, raising=False)

    def files(page: str) -> list[str]:
        blocks = re.findall(r"```(?:python|yaml)\n(# (\S+)\n.*?)```", (PAGES / page).read_text(), re.DOTALL)
        for text, name in blocks:
            Path(name).write_text(text)
        return [name for _, name in blocks]

    return files


@pytest.mark.parametrize(
    ("page", "study", "code", "objective"),
    [
        ("intents.md", "intents.yaml", ["answered.py", "assistant.py"], "answered"),
        ("summaries.md", "summaries.yaml", ["hits.py", "rank.py", "sentences.py"], "f1"),
    ],
)
def test_a_page_has_its_files_whole(
    page: str, study: str, code: list[str], objective: str, write: Callable[[str], list[str]], tmp_path: Path
) -> None:
    assert sorted(write(page)) == sorted([study, *code])
    spec = parse_study(parse_yaml(Path(study).read_text(), study), study, tmp_path, files_must_exist=False)
    assert list(spec.objectives) == [objective, "parameters"]
    for name in code:
        compile(Path(name).read_text(), name, "exec")


def test_answered_by_hand(write: Callable[[str], list[str]], tmp_path: Path) -> None:
    """Confidences 0.98, 0.95, 0.88, 0.73; the third is wrong, so that two of four may be answered."""
    write("intents.md")
    outputs, labels = np.array([[4.0, 0.0], [0.0, 3.0], [0.0, 2.0], [1.0, 0.0]]), np.array([0, 1, 0, 0])
    own = {"answered": f"{tmp_path}/answered.py:answered"}
    assert measure("class", own, outputs, labels)["answered"] == 0.5
    import answered  # type: ignore[import-not-found]

    assert answered.threshold(outputs, labels) == pytest.approx(1 / (1 + np.exp(-3)))
    assert answered.answered(outputs, 1 - labels) == 0  # the surest answer is wrong
    tied, labels = np.tile([2.0, 0.0], (20, 1)), np.zeros(20, int)
    assert answered.answered(tied, labels) == 1
    labels[0] = 1
    assert answered.answered(tied, labels) == 1  # 19 of 20
    labels[1] = 1
    assert answered.answered(tied, labels) == 0  # of one confidence: all or none


def test_the_assistant_answers_with_the_threshold_of_validation(
    write: Callable[[str], list[str]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("intents.md")
    model = tiny.write_teacher(Path("model"), INTENTS)
    for split in ("validation", "test"):
        tiny.write_tsv(Path(f"{split}.tsv"), [{"text": f"{word} with bread", "label": "0"} for word in "abcdefghij"])
    monkeypatch.setattr(sys, "argv", ["assistant.py", str(model), "soup"])
    ran = runpy.run_path("assistant.py", run_name="__main__")
    outputs, labels = ran["read"]("test.tsv")
    assert (outputs.shape, set(labels.tolist())) == ((10, 6), {INTENTS.index("description")})
    assert capsys.readouterr().out.splitlines()[-1].startswith("soup ")
    sure = float(ran["confidence"](ran["outputs_of"](["soup"]))[0])
    assert ran["answer"]("soup", sure - 1e-6) in INTENTS
    assert ran["answer"]("soup", sure + 1e-6) is None


def test_the_rows_of_one_docstring(write: Callable[[str], list[str]]) -> None:
    write("summaries.md")
    code = runpy.run_path("sentences.py")
    first, *others = code["sentences"](DOCSTRING)
    assert (first, others) == (
        "Return the value of a key.",
        ["The key has to be a text.", "A missing key raises an error!", "Values are kept for an hour."],
    )
    (sentence, document, label), *rest = code["rows"](DOCSTRING, random.Random(0))
    assert (sentence, label) == (first, 1)
    assert sorted(code["sentences"](document)) == sorted([first, *others])
    assert len(rest) == 2
    assert {(document, 0)} == {row[1:] for row in rest}
    assert {row[0] for row in rest} < set(others)
    assert code["rows"]("Return the value of a key. The key has to be a text.", random.Random(0)) == []
    assert sum(1 for _, text in zip(range(40), code["documents"](), strict=False) if text[1]) > 9  # of this Python


def test_a_new_document_is_ranked(
    write: Callable[[str], list[str]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("summaries.md")
    model = tiny.write_teacher(Path("model"), ["0", "1"], positions=96)
    monkeypatch.setattr(sys, "argv", ["rank.py", str(model), "2"])
    monkeypatch.setattr(sys, "stdin", io.StringIO(DOCSTRING))
    ran = runpy.run_path("rank.py", run_name="__main__")
    found = ran["sentences"](DOCSTRING)
    best = sorted(ran["scores"](found).argsort(descending=True)[:2].tolist())
    assert capsys.readouterr().out.splitlines() == [found[place] for place in best]
    assert ran["summary"](DOCSTRING, 9) == found
    rows = ran["sentences"].__globals__["rows"](DOCSTRING, random.Random(0))
    tiny.write_tsv(
        Path("test.tsv"), [dict(zip(("sentence", "document", "summary"), map(str, row), strict=True)) for row in rows]
    )
    runpy.run_path("hits.py")
    assert re.fullmatch(r"[01]\.000 of 1 docstrings; a guess hits 0\.250\n", capsys.readouterr().out)
