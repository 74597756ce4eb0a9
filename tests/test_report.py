"""The report: what it answers, that it is safe and self-contained, and that a browser draws it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from test_results import REFERENCES, a_spec, a_study, an_outcome

from search.results.front import ParetoFront, Reference
from search.results.report import answers, front_figure, write_report
from search.results.students import StudentRow, near_rows, student_rows
from spaces.study import StudySpec
from spaces.trial import TrialOutcome, TrialState

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"


def found(
    references: tuple[Reference, ...] = REFERENCES,
) -> tuple[StudySpec, ParetoFront, list[StudentRow], list[TrialOutcome]]:
    spec, outcomes, confirmations, delivered = a_study()
    front = ParetoFront.of(outcomes, spec, references)
    rows = student_rows(spec, front, outcomes, confirmations, delivered, references)
    return spec, front, rows, [*outcomes, *confirmations]


def test_the_headline_by_hand() -> None:
    spec, front, rows, _ = found()
    cards = {card.question: card for card in answers(spec, front, rows, REFERENCES)}
    first = cards["The smallest student within 3 % of the teacher"]
    assert first.answer == "Trial 3"
    assert "test accuracy 89.5 %, 98.6 % of the teacher's (1.3 points lost)" in first.because
    assert cards["The knee of the front"].answer == "Trial 2"
    assert "88.0 % ± 1.0 over 3 seeds" in cards["The knee of the front"].because
    words = cards["Worth more than a bag of words?"]
    assert words.answer == "Yes"
    assert "6.1 points above bag of n-grams" in words.because  # 0.895 - 0.834
    assert "82 % is kept" in words.because  # 0.061 / 0.074


def test_the_headline_does_not_flatter() -> None:
    spec = a_spec()
    outcomes = [an_outcome(0, 0.83)]
    front = ParetoFront.of(outcomes, spec, REFERENCES)
    rows = student_rows(spec, front, outcomes, [], {0: {"test/accuracy": 0.82}}, REFERENCES)
    words = {card.question: card.answer for card in answers(spec, front, rows, REFERENCES)}
    assert words["Is there a student within 3 % of the teacher?"] == "No"
    assert words["Worth more than a bag of words?"] == "No"

    confirmations = [an_outcome(1, 0.83, test=0.9, labels={"kind": "confirm", "of": "0"})]
    rows = student_rows(spec, front, outcomes, confirmations, {0: {"test/accuracy": 0.82}}, REFERENCES)
    words = {card.question: card.answer for card in answers(spec, front, rows, REFERENCES)}
    assert words["Worth more than a bag of words?"] == "Not shown"  # 0.86 ± 0.057 against 0.834

    chosen_lucky = [an_outcome(0, 0.92)]
    front = ParetoFront.of(chosen_lucky, spec, REFERENCES)
    rows = student_rows(spec, front, chosen_lucky, [], {0: {"test/accuracy": 0.86}}, REFERENCES)
    assert "is not on test" in answers(spec, front, rows, REFERENCES)[0].because
    assert answers(spec, ParetoFront.of([], spec, REFERENCES), [], REFERENCES)[0].answer == "None"


def test_the_figure_holds_everything() -> None:
    _, front, rows, outcomes = found()
    spec = a_spec(bounds={"parameters": {"max": 40_000_000}, "accuracy": {"min": "90%"}})
    figure = front_figure(spec, front, rows, REFERENCES, outcomes)
    traces = {trace.name: trace for trace in figure.data}
    assert list(traces["other trials"].customdata) == [1, 4]  # finished, not on the front, no confirmation
    assert list(traces["front (validation)"].y) == [0.84, 0.89, 0.90]
    assert list(traces["front (test, mean ± std)"].y) == pytest.approx([0.88, 0.895])
    assert figure.layout.xaxis.type == "log"
    texts = [annotation.text for annotation in figure.layout.annotations]
    assert any("n-grams" in text for text in texts)
    assert any("majority 50.9 %" in text for text in texts)
    assert any("max 40,000,000" in text for text in texts)
    assert any("min 82.8 %" in text for text in texts)
    labels = [trace.text[0] for trace in figure.data if trace.showlegend is False]
    assert labels == ["teacher", "teacher, vocabulary cut", "bag of n-grams"]


def test_one_file_nothing_from_outside_nothing_injected(tmp_path: Path) -> None:
    evil = tuple(reference.model_copy(update={"label": EVIL}) for reference in REFERENCES)
    spec, front, rows, outcomes = found(evil)
    outcomes.append(an_outcome(20, 0.0, state=TrialState.FAILED, error=EVIL))
    rows[0] = rows[0].model_copy(update={"architecture": EVIL})
    path = tmp_path / "report.html"
    write_report(path, spec, front, rows, evil, outcomes)
    text = path.read_text()
    assert path.stat().st_size < 5_000_000
    assert "<script>alert" not in text
    assert "<img" not in text
    assert text.count("</script>") == text.count("<script") == 3
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text)
    figures = re.search(r'id="figures">(.*?)</script>', text, re.DOTALL)
    assert figures is not None
    drawn = json.loads(figures[1])
    assert drawn.keys() == {"plot", "course"}
    assert all(figure["data"] and f'<div id="{name}">' in text for name, figure in drawn.items())
    assert "the loss became NaN at step 3" in text
    assert "sqlite" not in text  # storage may hold a password; it is not shown at all


def test_students_near_the_front_are_shown_and_are_none_of_it(tmp_path: Path) -> None:
    spec, front, rows, outcomes = found()
    confirmations = [an_outcome(30, 0.83, layers=(0, 3), test=0.85, labels={"kind": "confirm", "of": "1"})]
    near = near_rows(spec, [1, 4], outcomes, confirmations, {}, REFERENCES, {"test": 872})
    assert [(row.trial, row.standing) for row in near] == [(1, "near")]  # 4 was not scored
    figure = front_figure(spec, front, rows, REFERENCES, outcomes, near)
    traces = {trace.name: list(trace.y) for trace in figure.data}
    assert traces["near the front (test, mean ± std)"] == [0.85]
    assert traces["front (validation)"] == [0.84, 0.89, 0.90]
    write_report(tmp_path / "report.html", spec, front, rows, REFERENCES, outcomes, near)
    text = (tmp_path / "report.html").read_text()
    assert "<tr class=near><td>1 (near)</td>" in text
    assert text.count("class=near>") == 1
    assert "82.5 to 87.2 %" in text  # Wilson's of 0.85 on 872 rows
    assert "Students marked near were not chosen" in text
    write_report(tmp_path / "report.html", spec, front, rows, REFERENCES, outcomes)
    assert "Students marked near" not in (tmp_path / "report.html").read_text()


def test_the_report_says_what_is_distinguishable_and_how_the_search_went(tmp_path: Path) -> None:
    spec, outcomes, confirmations, delivered = a_study()
    again = [an_outcome(30 + n, 0.9, test=0.89 + 0.002 * n, labels={"kind": "confirm", "of": "3"}) for n in range(2)]
    front = ParetoFront.of(outcomes, spec, REFERENCES)
    rows = student_rows(spec, front, outcomes, [*confirmations, *again], delivered, REFERENCES, {"test": 872})
    write_report(tmp_path / "report.html", spec, front, rows, REFERENCES, outcomes)
    text = (tmp_path / "report.html").read_text()
    smaller = f"{outcomes[2].config.shape.num_parameters / 1e6:.1f} M"
    assert f"is not shown to be better than the {smaller} one (trial 2): +1.2 points" in text
    assert "85.5 to 90.5 %" in text  # 0.88 ± 4.303 * 0.01 / sqrt(3)
    assert "Importance not said of depth: 5 trials finished, and it takes 10." in text
    assert "What the front's students have in common" in text.replace("&#x27;", "'")


def test_sizes_alone_may_be_the_objectives(tmp_path: Path) -> None:
    _, outcomes, confirmations, delivered = a_study()
    spec = a_spec(objectives={"parameters": "minimize", "bytes": "minimize"})
    front = ParetoFront.of(outcomes, spec, REFERENCES)
    assert front.trials == (0,)  # one layer: nothing is smaller
    rows = student_rows(spec, front, outcomes, confirmations, delivered, REFERENCES)
    write_report(tmp_path / "report.html", spec, front, rows, REFERENCES, outcomes)
    assert "Trial 0" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("teacher", "name"),
    [("package:a_model/model", "a_model"), ("an-org/a-model", "a-model"), ("/data/a-folder", "a-folder")],
)
def test_an_empty_study_still_reports(teacher: str, name: str, tmp_path: Path) -> None:
    spec = a_spec(teacher={"model": teacher})
    write_report(tmp_path / "report.html", spec, ParetoFront.of([], spec, REFERENCES), [], REFERENCES, [])
    text = (tmp_path / "report.html").read_text()
    assert "no front to choose from" in text
    assert f"Students of {name} for" in text


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")
def test_a_browser_draws_it(tmp_path: Path) -> None:
    spec, front, rows, outcomes = found()
    write_report(tmp_path / "report.html", spec, front, rows, REFERENCES, outcomes)
    switches = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    switches += " --disable-component-update --disable-sync --virtual-time-budget=8000 --dump-dom"
    command = [
        str(BROWSER),
        *switches.split(),
        f"--user-data-dir={tmp_path / 'profile'}",
        f"file://{tmp_path}/report.html",
    ]
    page = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    assert page.count('class="main-svg"') >= 2 * 2  # a figure is two layers or more
    assert "cannot be drawn" not in page.split('id="library"')[0]
