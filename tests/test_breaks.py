"""The list of breaks (benchmarks/breaks.py) still fits the code and the tests that it names; running it is another matter."""

from __future__ import annotations

from pathlib import Path

from spaces.named import function_named

ROOT = Path(__file__).parent.parent


def test_every_break_finds_its_line_its_test_and_its_place_in_the_page() -> None:
    breaks = function_named(f"{ROOT / 'benchmarks' / 'breaks.py'}:BREAKS")
    page = (ROOT / "docs" / "right.md").read_text()
    assert len(breaks) > 20
    for entry in breaks:
        assert entry.old in (ROOT / entry.file).read_text(), entry.point
        file, name = entry.test.split("::")
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(), entry.point
        assert f"| {entry.point} | `{entry.test}` |" in page, entry.point
    assert "not noticed" not in page
