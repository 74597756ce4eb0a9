"""The report's page in a real browser: it draws, answers pointer and keyboard, sorts, filters and copies, and asks nobody."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from big_study import REFERENCES, a_big_spec, a_big_study
from browser import Watched, chromium, until
from small_search import a_spec as a_small_spec
from test_report import EVIL
from test_results import an_outcome

from search.results.front import ParetoFront
from search.results.report import report_page, write_report
from search.results.students import student_rows
from spaces.trial import TrialState
from spaces.yaml_io import parse_study

pytestmark = pytest.mark.timeout(300)
NUM_TRIALS = 120


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def study() -> tuple[Any, ...]:
    return a_big_study(NUM_TRIALS)


@pytest.fixture(scope="module")
def report(study: tuple[Any, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, *study)
    return path


@pytest.fixture
def opened(browser: Any, report: Path) -> Iterator[Callable[..., Watched]]:
    """Opens a report, and sees to it that it was quiet: nothing on the console, and no request but for itself."""
    pages: list[tuple[Watched, str]] = []

    def open_it(path: Path = report, **settings: Any) -> Watched:
        watched = Watched(browser, path.as_uri(), **settings)
        pages.append((watched, path.as_uri()))
        return watched

    yield open_it
    for watched, url in pages:
        assert watched.said == []
        assert watched.asked == [url]
        watched.context.close()


@pytest.mark.parametrize("phone", [False, True], ids=["desktop", "phone"])
def test_it_draws_everything_light_and_dark_and_never_scrolls_sideways(
    opened: Callable[..., Watched], phone: bool
) -> None:
    backgrounds = set()
    for dark in (False, True):
        page = opened(phone=phone, dark=dark).page
        assert page.locator(".chart svg").count() == 4  # the front, learning curves, latency, hypervolume
        assert page.locator(".chart svg").evaluate_all("charts => charts.every(one => one.getBBox().width > 200)")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        backgrounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(backgrounds) == 2


def test_the_front_is_drawn_among_what_it_is_held_against(
    opened: Callable[..., Watched], study: tuple[Any, ...]
) -> None:
    chart = opened().page.locator("#front-chart")
    trials = study[1].trials
    assert chart.locator("[role=button]").count() == len(trials)
    assert chart.locator("polygon.test").count() == len(trials)
    assert chart.locator("path.whisker").count() >= len(trials)
    recipes = chart.locator("polygon.recipe").count() + chart.locator("[role=button] polygon").count()
    assert recipes == 8
    assert chart.locator(".bound-line").count() == 2
    text = chart.text_content().replace("\u00a0", " ")
    for words in ("teacher", "at most 60.0 M", "at least 78.5 %", "bag of n-grams 82.3 %", "majority 50.9 %"):
        assert words in text
    boxes = chart.locator("text").evaluate_all(
        "texts => texts.map(one => one.getBoundingClientRect()).map(box => [box.left, box.top, box.right, box.bottom])"
    )
    crossing = [
        (one, other)
        for place, one in enumerate(boxes)
        for other in boxes[:place]
        if one[0] < other[2] - 1 and one[2] > other[0] + 1 and one[1] < other[3] - 3 and one[3] > other[1] + 3
    ]
    assert crossing == []


def test_hovering_shows_a_trial_and_choosing_it_its_settings(
    opened: Callable[..., Watched], study: tuple[Any, ...]
) -> None:
    page, knee = opened().page, study[1].knee
    page.evaluate("document.getElementById('front').scrollIntoView({behavior: 'instant'})")
    tip = page.locator("#front-chart .tip")
    assert not tip.is_visible()
    mark = page.locator("#front-chart [role=button]", has=page.locator(".knee"))
    box = mark.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert tip.is_visible()
    assert tip.inner_text().startswith(f"Trial {knee}")
    assert ", the knee" in tip.inner_text()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert page.locator("#detail-title").inner_text() == f"Trial {knee}"
    assert page.locator("#detail-command").inner_text() == f"distilsearch run best/trial-{knee}.yaml"
    assert "trial_seeds" in page.locator("#detail-config").inner_text()
    page.mouse.move(5, 5)
    assert not tip.is_visible()


def test_the_settings_of_any_trial_make_the_same_student(
    opened: Callable[..., Watched], study: tuple[Any, ...]
) -> None:
    """Put into the study file, they are a study of this one point with its seed."""
    page = opened().page
    outcomes = {outcome.number: outcome for outcome in study[4] if "of" not in outcome.labels}
    ended = next(outcome for outcome in outcomes.values() if outcome.state is TrialState.ENDED)
    page.fill("#filter", f"{ended.number}")
    page.locator(f"#trials-table tr[data-trial='{ended.number}'] .open").click()
    assert page.locator("#detail-command").inner_text() == f"distilsearch run trial-{ended.number}.yaml"
    changes = yaml.safe_load(page.locator("#detail-config").inner_text())
    file = {**json.loads(json.dumps(a_big_spec().resolved())), **changes}
    again = parse_study(file, "trial.yaml", Path(), files_must_exist=False)
    point = again.space.point(lambda name, _: pytest.fail(f"{name} is left open"))
    assert ended.parameters.items() <= point.items()
    assert (again.trial_seeds, again.budget.trials, again.bounds) == ((ended.config.seed,), 1, {})
    assert again.name == f"sst2-students.trial-{ended.number}"


def test_the_table_sorts_filters_and_turns_its_pages(opened: Callable[..., Watched]) -> None:
    page = opened().page

    def column(place: int) -> list[str]:
        return page.locator(f"#trials-table tbody tr td:nth-child({place})").all_inner_texts()

    assert column(1) == [str(number) for number in range(50)]
    page.click("#next")
    assert column(1)[0] == "50"
    assert page.locator("#trials-count").inner_text() == f"51 to 100 of {NUM_TRIALS}"
    head = page.locator("#trials-table thead button", has_text="accuracy")
    head.click()
    values = [float(text.split()[0]) for text in column(4) if text]
    assert values == sorted(values, reverse=True)
    assert len(values) == 50  # back on the first page
    assert page.locator("#trials-table th[aria-sort]").get_attribute("aria-sort") == "descending"
    head.click()
    assert page.locator("#trials-table th[aria-sort]").get_attribute("aria-sort") == "ascending"
    page.fill("#filter", "albert 75%")
    assert set(column(2)) >= {"ended early"}
    assert page.locator("#trials-table tbody tr").count() < 50
    assert all("albert" in line and "75%" in line for line in page.locator("#trials-table tbody tr").all_inner_texts())
    page.fill("#filter", "no such thing")
    assert page.locator("#trials-table tbody").inner_text() == "No trial is like this."
    page.fill("#filter", "")
    page.select_option("#state", "recipe")
    assert sorted(column(3))[0] == "ALBERT"
    assert len(column(3)) == 8
    page.select_option("#state", "failed")
    assert set(column(2)) == {"failed"}


def test_what_is_shown_can_be_copied(opened: Callable[..., Watched], study: tuple[Any, ...]) -> None:
    watched = opened()
    page = watched.page
    watched.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.select_option("#state", "front")
    page.click("#copy-csv")

    def copied() -> str:
        return page.evaluate("navigator.clipboard.readText()")  # type: ignore[no-any-return]

    until(lambda: "copied" in page.locator("#said").text_content())
    lines = list(csv.DictReader(io.StringIO(copied())))
    outcomes = {outcome.number: outcome for outcome in study[4] if "of" not in outcome.labels}
    assert [int(line["trial"]) for line in lines] == sorted(study[1].trials)
    for line in lines:
        outcome = outcomes[int(line["trial"])]
        assert float(line["learning_rate"]) == outcome.parameters["learning_rate"]  # to the last digit
        assert int(line["parameters"]) == outcome.config.shape.num_parameters
    page.click("#copy-tsv")
    until(lambda: copied().startswith("trial\tstate"))
    page.locator("#trials-table .open").first.click()
    page.locator("[data-copies=detail-command]").click()
    until(lambda: copied().startswith("distilsearch run best/"))


def test_it_needs_no_pointer(opened: Callable[..., Watched], study: tuple[Any, ...]) -> None:
    page = opened().page
    focused = "document.activeElement.getAttribute('aria-label')"
    page.locator("#everything").focus()
    page.keyboard.press("Tab")
    first = page.evaluate(focused)
    assert first.startswith("Trial ")
    page.keyboard.press("ArrowRight")
    second = page.evaluate(focused)
    assert second.startswith("Trial ")
    assert second != first
    assert page.locator("#front-chart .tip").is_visible()
    page.keyboard.press("Enter")
    assert page.locator("#detail").is_visible()
    assert page.evaluate("document.activeElement.id") == "detail-title"
    page.keyboard.press("Escape")
    assert not page.locator("#detail").is_visible()
    assert page.evaluate(focused) == second
    page.locator("#trials-table thead button").nth(1).focus()
    page.keyboard.press("Enter")
    assert page.locator("#trials-table th[aria-sort]").inner_text().startswith("state")
    page.locator("#trials-table .open").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("#detail").is_visible()
    names = page.locator("button:visible, select:visible, input:visible").evaluate_all(
        "all => all.map(one => one.getAttribute('aria-label') || one.textContent || one.labels[0]?.textContent || '')"
    )
    assert all(name.strip() for name in names)


def test_the_axes_can_be_chosen(opened: Callable[..., Watched]) -> None:
    page = opened().page
    page.select_option("#front-controls select", "latency_ms")
    text = page.locator("#front-chart").text_content().replace("\u00a0", " ")
    assert "Latency (ms), log scale" in text
    for tick in ("1 ms", "10 ms", "30 ms"):
        assert f"{tick}" in text
    assert "100 ms" not in text
    assert page.locator("#front-chart .front-line").count() == 0  # these two are not what the front is of
    page.select_option("#course-controls select", "finished")
    assert "Trials finished" in page.locator("#course-chart").text_content()
    marks = page.locator("#front-chart .partial").count()
    page.check("#everything")
    assert page.locator("#front-chart .partial").count() > marks


def test_what_comes_from_outside_stays_text(opened: Callable[..., Watched], tmp_path: Path) -> None:
    spec = a_small_spec(tmp_path)
    references = tuple(reference.model_copy(update={"label": EVIL}) for reference in REFERENCES)
    done, failed = an_outcome(0, 0.9), an_outcome(1, 0.0, state=TrialState.FAILED, error=EVIL)
    done = done.model_copy(update={"labels": {"start": EVIL}, "parameters": {"layers": EVIL, "depth": 3}})
    front = ParetoFront.of([done], spec, references)
    rows = [
        row.model_copy(update={"architecture": EVIL}) for row in student_rows(spec, front, [done], [], {}, references)
    ]
    write_report(tmp_path / "report.html", spec, front, rows, references, [done, failed])
    page = opened(tmp_path / "report.html").page
    page.locator("#trials-table .open").nth(1).click()
    assert EVIL in page.locator("#detail-facts").inner_text()
    page.locator("#trials-table .open").nth(0).click()
    assert EVIL in yaml.safe_load(page.locator("#detail-config").inner_text())["space"]["layers"]
    assert page.locator("img").count() == 0


def test_a_study_without_a_trial_has_a_page_too(opened: Callable[..., Watched], tmp_path: Path) -> None:
    spec = a_small_spec(tmp_path)
    (tmp_path / "report.html").write_text(report_page(spec, ParetoFront.of([], spec, REFERENCES), [], REFERENCES, []))
    page = opened(tmp_path / "report.html", phone=True).page
    assert page.locator("#trials-table tbody").inner_text() == "No trial has begun."
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
