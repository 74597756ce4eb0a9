"""What is served: the report while a study runs, and Optuna's dashboard on its record. Both by the real command."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from browser import Watched, chromium, until
from small_search import REFERENCES, TEACHER, a_sampling, a_spec

from search.record.record import Record, open_storage
from search.study.live import LiveReport, report_server
from search.study.output import claim_output
from search.study.searcher import trial_config
from spaces.study import StudySpec
from spaces.trial import Measurement, TrialState

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
]


class Study:
    """A study that somebody else is running: its record grows when told to."""

    def __init__(self, folder: Path) -> None:
        self.spec: StudySpec = a_spec(folder)
        claim_output(self.spec)
        storage = open_storage("sqlite", folder)
        self.record = Record(storage, self.spec.name, self.spec.objectives)
        Record(storage, f"{self.spec.name}.confirm", self.spec.objectives)
        self.sampling = a_sampling(self.spec)

    def prepared(self) -> None:
        self.record.keep("references", [reference.model_dump() for reference in REFERENCES])
        self.record.keep("num_rows", {"train": 120, "validation": 30})

    def trial(self, accuracy: float | None, recipe: str = "") -> int:
        """Begins one more, and finishes it with this accuracy, if any."""
        number = self.record.next_number()
        parameters, shape = self.sampling.suggest(self.record.outcomes(), number)  # type: ignore[misc]
        config = trial_config(self.spec, parameters, shape, TEACHER.depth, number)
        self.record.start(config, parameters, self.spec.space, {"start": recipe} if recipe else {})
        if accuracy is not None:
            cost = {"train_seconds": 4.0, "tokens": 900.0, "finished_at": 1e9 + number}
            metrics = {"validation/accuracy": accuracy}
            self.record.measured(Measurement(trial=number, attempt=1, step=9, share=1.0, metrics=metrics, cost=cost))
            self.record.set_state(number, TrialState.DONE, [accuracy, shape.num_parameters])
        return number


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path / "run")


@contextmanager
def served(study: Study, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr("search.study.live.LOOK_EVERY_SECONDS", 0.0)
    with report_server(study.spec.output, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


def text_of(url: str) -> str:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=60) as answer:
        return answer.read().decode()  # type: ignore[no-any-return]


def test_the_live_report_waits_for_the_first_measurement_and_then_follows(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(study.spec.output.iterdir())
    with served(study, monkeypatch) as url:
        assert "has measured nothing yet" in text_of(url)
        study.prepared()
        study.trial(None)
        until(lambda: "there is no front to choose from" in text_of(url))
        first = text_of(f"{url}version")
        assert text_of(f"{url}version") == first
        study.record.keep("lease", {"host": "elsewhere", "pid": 1, "expires": 1e12})  # renewed four times a minute
        assert text_of(f"{url}version") == first
        study.trial(0.8)
        until(lambda: text_of(f"{url}version") != first)
        assert "Trial 1" in text_of(url)
    assert [path for path in sorted(study.spec.output.iterdir()) if not path.name.startswith("study.db-")] == [
        path for path in before if not path.name.startswith("study.db-")
    ]


def test_it_answers_to_its_own_address_alone(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(study, monkeypatch) as url:
        connection = http.client.HTTPConnection("127.0.0.1", urlsplit(url).port, timeout=60)
        for host, path, status in (
            ("evil.example", "/", 403),
            (urlsplit(url).netloc, "/", 200),
            (urlsplit(url).netloc, "/study.db", 404),
            (urlsplit(url).netloc, "/../study.yaml", 404),
        ):
            connection.request("GET", path, headers={"Host": host})
            answer = connection.getresponse()
            assert (answer.status, host) == (status, host)
            answer.read()


def test_a_study_is_not_looked_at_more_often_than_need_be(study: Study) -> None:
    study.prepared()
    now = [100.0]
    live = LiveReport(study.spec.output, lambda: now[0])
    first = live.version()
    study.trial(0.8)
    now[0] += 1
    assert live.version() == first
    now[0] += 2
    assert live.version() != first


@pytest.mark.slow
def test_the_page_loads_itself_again_and_keeps_the_readers_place(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    study.prepared()
    for accuracy in (0.7, 0.8, 0.75):
        study.trial(accuracy)
    with chromium() as browser, served(study, monkeypatch) as url:
        watched = Watched(browser, url)
        page = watched.page
        until(lambda: page.locator("#live").text_content().startswith("Live"))
        page.fill("#filter", "done")
        page.locator("#trials-table thead button", has_text="accuracy").click()
        page.locator("#trials-table .open").first.click()
        opened = page.locator("#detail-title").inner_text()
        page.evaluate("scrollTo({top: 700, behavior: 'instant'})")
        study.trial(0.5)
        page.locator("#state option", has_text="all 4").wait_for(state="attached", timeout=60_000)
        assert page.input_value("#filter") == "done"
        assert page.locator("#trials-table th[aria-sort]").get_attribute("aria-sort") == "descending"
        assert page.locator("#detail-title").inner_text() == opened
        assert abs(page.evaluate("scrollY") - 700) < 60
        assert watched.said == []
        assert {urlsplit(asked).netloc for asked in watched.asked} == {urlsplit(url).netloc}


@contextmanager
def command(*arguments: object) -> Iterator[str]:
    """The real command, which prints where it serves; Ctrl-C ends it, and that is success."""
    line = [sys.executable, "-m", "search.cli", *map(str, arguments)]
    process = subprocess.Popen(
        line,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.default_int_handler
        ),  # whoever runs the tests may ignore it
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert "Ctrl-C ends it" in err
        assert "Traceback" not in err
    finally:
        process.kill()


def test_the_command_serves_until_ctrl_c(study: Study) -> None:
    study.prepared()
    study.trial(0.8)
    with command("report", study.spec.output, "--watch") as url:
        assert urlsplit(url).hostname == "127.0.0.1"
        page = text_of(url)
        assert 'data-live="live"' in page
        assert "connect-src &#x27;self&#x27;" in page or "connect-src 'self'" in page
    assert not (study.spec.output / "report.html").exists()


@pytest.mark.slow
def test_optunas_dashboard_shows_the_study_in_words(study: Study) -> None:
    pytest.importorskip("optuna_dashboard")
    study.prepared()
    study.trial(0.7, "DistilBERT")
    study.trial(0.8)
    study.record.set_state(study.trial(None), TrialState.FAILED, error="the loss became NaN")
    with command("dashboard", study.spec.output) as url:
        ask: Callable[[str], Any] = lambda path: json.loads(text_of(f"{url}api/{path}"))  # noqa: E731
        summaries = {each["study_name"]: each["study_id"] for each in ask("studies")["study_summaries"]}
        assert set(summaries) == {"tiny", "tiny.confirm"}
        shown = ask(f"studies/{summaries['tiny']}")
        assert shown["objective_names"] == ["accuracy", "parameters"]
        assert shown["directions"] == ["maximize", "minimize"]
        assert [trial["state"] for trial in shown["trials"]] == ["Complete", "Complete", "Fail"]
        first, _, failed = ({each["key"]: each["value"] for each in t["user_attrs"]} for t in shown["trials"])
        assert first["recipe"] == "DistilBERT"
        assert first["student"].split(",")[0] in ("bert", "albert")
        assert float(first["validation/accuracy"]) == 0.7
        assert not any("{" in value for value in (*first.values(), *failed.values()))
        assert failed["error"] == "the loss became NaN"
        assert {each["name"] for each in shown["trials"][0]["params"]} >= {"depth", "learning_rate"}
        rows = {each["key"]: each["value"] for each in shown["user_attrs"]}["rows"]
        assert rows == "train 120, validation 30"
        request = urllib.request.Request(f"{url}api/studies/{summaries['tiny']}", method="DELETE")
        with pytest.raises(OSError, match="500"):
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60)
    assert len(study.record.outcomes()) == 3
