"""The report: what it answers, that it is safe and self-contained, and what its page is given. test_page.py opens it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from test_results import REFERENCES, a_spec, a_study, an_outcome

from search.results.account import Account
from search.results.answers import answers
from search.results.asked import asked, opening
from search.results.figure import front_figure
from search.results.front import ParetoFront, Reference
from search.results.report import report_page, write_report
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


def data_of(page: str) -> dict[str, Any]:
    """What the page's script is given."""
    found = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])  # type: ignore[no-any-return]


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
    nothing = ParetoFront.of([], spec, REFERENCES)
    assert answers(spec, nothing, [], REFERENCES)[0].answer == "None"
    assert answers(spec, nothing, [], REFERENCES, is_running=True)[0].answer == "None yet"


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
    assert text.count("</script>") == text.count("<script") == 2
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text)
    assert "unsafe-inline" not in text
    data = data_of(text)
    assert data["trials"]["error"]["20"] == EVIL
    assert [reference["label"] for reference in data["references"]] == [EVIL] * 4
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
    assert text.count("<tr class=near>") == 1
    assert data_of(text)["near"][0]["trial"] == 1
    text = text.replace("\u00a0", " ")
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
    text = (tmp_path / "report.html").read_text().replace("\u00a0", " ")
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


def test_the_page_is_given_every_trial_and_no_number_that_is_none() -> None:
    spec, front, rows, outcomes = found()
    spec = a_spec(bounds={"parameters": {"max": 40_000_000}, "accuracy": {"min": "90%"}})
    outcomes[1] = outcomes[1].model_copy(update={"labels": {"start": "TinyBERT 4-312"}})
    broken = an_outcome(21, float("nan"))
    data = data_of(report_page(spec, front, rows, REFERENCES, [*outcomes, broken]))
    assert data["trials"]["number"] == [0, 1, 2, 3, 4, 5, 21]  # no confirmations
    assert data["trials"]["start"] == {"1": "TinyBERT 4-312"}
    assert data["trials"]["values"]["accuracy"] == [0.84, 0.83, 0.89, 0.9, 0.9, None, None]
    assert data["trials"]["parameters"] == {"depth": [1, 2, 2, 3, 4, 3, 3]}
    assert data["trials"]["state"][5] == "failed"
    assert data["trials"]["curve"][0] == [1.0, 0.84]
    assert data["bounds"] == {"parameters": [None, 4e7], "accuracy": [pytest.approx(0.828), None]}
    assert [student["trial"] for student in data["front"]] == [0, 2, 3]
    assert data["front"][1]["test"]["accuracy"]["seeds"] == 3
    assert (data["knee"], data["rungs"], list(data["costs"])) == (2, [1.0], ["parameters"])


def test_what_was_asked_in_plain_words() -> None:
    spec = a_spec(
        bounds={"parameters": {"max": 6_000_000}, "accuracy": {"min": "97%"}},
        budget={"trials": 64, "minutes": 30},
        search={"halving": {"rungs": ["1/9", 1], "reduction": 3}},
    )
    assert opening(spec) == (
        "Students of teacher for text classification on the embedded docstrings (8,000 pairs): high accuracy and few parameters. "
        "Asked for: at most 6,000,000 parameters and at least 97 % of the teacher's accuracy."
    )
    known = asked(spec, REFERENCES, {"train": 4000, "test": 500})
    assert known["Teacher"] == "teacher, 109.5 M parameters, validation accuracy 92.0 %"
    assert known["Data"].endswith("; rows: train 4,000, test 500")
    assert known["Budget"] == "64 trials, 30 minutes a command: whichever ended first"
    assert known["Space"] == "depth 1 to 6"
    assert known["Searched by"].endswith("measured after 11 % of the training, of which 1 in 3 goes on")


def test_where_the_time_went_by_hand() -> None:
    """Each of five finished trials and three confirmations took 12 s."""
    spec, front, rows, outcomes = found()
    facts = {
        "stages": {"search": 90.0, "delivery": 10.0},
        "lanes": {
            "status": {"lanes": {"0": {"seconds": {"busy": 60.0, "idle": 30.0}}, "1": {"seconds": {"busy": 10.0}}}}
        },
        "gpu_hours": 1.5,
        "paid": {"USD": 1234.5, "EUR": 0.255},
        "runs": [1.0, 2.0],
    }
    page = report_page(spec, front, rows, REFERENCES, outcomes, account=Account.of(facts.get)).replace("\u00a0", " ")
    for words in (
        "<span>5 trials that finished</span><b>60 s</b>",
        "<span>3 confirmations</span><b>24 s</b>",
        "<span>1 student without distillation</span><b>12 s</b>",
        "<span>1 trial that failed</span><b>0 s</b>",
        "Stages of the last run that ended, 100 s",
        "<span>search</span><b>90 s, 90 %</b>",
        "Its 2 lanes together, 100 s",
        "<span>at work</span><b>70 s, 70 %</b>",
        "GPU hours held by its lanes: 1.50.",
        "Its lanes cost 1,234.50 USD and 0.26 EUR",
    ):
        assert words in page
    assert "Stages of the last run" not in report_page(spec, front, rows, REFERENCES, outcomes)


def test_failures_by_cause_those_of_delivery_too() -> None:
    spec, front, rows, outcomes = found()
    lost = {7: "OSError: no space left\nwritten below /x", 9: "OSError: no space left", 8: "<b>"}
    page = report_page(spec, front, rows, REFERENCES, outcomes, undelivered=lost).replace("\u00a0", " ")
    assert "<h3>Trained, and not delivered</h3>" in page
    assert "<b>2 ×</b> OSError: no space left <small>trial 7, 9</small>" in page
    assert "<b>1 ×</b> &lt;b&gt; <small>trial 8</small>" in page
    assert "not delivered" not in report_page(spec, front, rows, REFERENCES, outcomes)


def test_what_became_of_the_trials_at_each_rung() -> None:
    spec = a_spec(search={"halving": {"rungs": ["1/3", 1], "reduction": 2}})
    done = an_outcome(0, 0.9)
    early = done.last.model_copy(update={"share": 1 / 3})  # type: ignore[union-attr]
    done = done.model_copy(update={"measurements": (early, *done.measurements)})
    ended = an_outcome(1, 0.8, state=TrialState.ENDED)
    ended = ended.model_copy(update={"measurements": (early,)})
    waiting = ended.model_copy(update={"number": 2, "state": TrialState.WAITING})
    front = ParetoFront.of([done], spec, REFERENCES)
    rows = student_rows(spec, front, [done], [], {}, REFERENCES)
    page = report_page(spec, front, rows, REFERENCES, [done, ended, waiting]).replace("\u00a0", " ")
    cells = ["<td>3</td>", "<td>1</td>", "<td>0</td>", "<td>1</td>", "<td>1</td>", "<td>12 s</td>"]
    assert f'<th scope="row">33 %</th>{"".join(cells)}' in page
    assert "Learning curves" in page
    assert '<section class="panel" hidden>' in report_page(
        *found()[:3], REFERENCES, [done]
    )  # trained whole: nothing to draw
