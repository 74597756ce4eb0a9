"""What is shown while a study runs: at every size of a terminal, without a terminal, and at what cost to the driver."""

from __future__ import annotations

import io
import os
import pty
import select
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from search.results.front import Reference
from search.study.budget import Budget
from search.study.lane_hours import LaneHours
from search.study.progress import Progress, packed, sparkline
from search.study.standing import Standing, Standings, in_units
from spaces.study import PriceSpec, ResourcesSpec, StudySpec

FRONT = tuple(
    {"trial": trial, "parameters": size * 1e6, "accuracy": score, "of teacher": score / 0.9}
    for trial, size, score in (
        (12, 0.4, 0.71),
        (7, 0.9, 0.78),
        (3, 1.6, 0.81),
        (41, 2.2, 0.84),
        (9, 3.4, 0.86),
        (28, 5.9, 0.88),
    )
)
STANDING = Standing(
    counts=("28 of 64 trials done", "2 running", "1 failed"),
    columns=("parameters", "accuracy"),
    front=FRONT,
    course=((0, 0.0), (2, 0.2), (9, 0.41), (20, 0.52), (28, 0.53)),
    trials_per_hour=118.4,
    tokens_per_second=41_234.0,
    seconds_left=840.0,
    ends_by="trials",
    spent=("12 of 30 min", "340 M of 1 B training tokens", "1.20 of 8 GPU hours"),
)


def now() -> Standing:
    return replace(STANDING, made_at=time.monotonic())


def lane(key: str, done: int = 0, total: int = 0, state: str = "busy") -> dict[str, Any]:
    return {"key": key, "done": done, "total": total, "state": state}


LANES = {0: lane("trial:29@0.333", 64, 100), 1: lane("fine_tune:abc", 3, 9), 2: lane("", state="idle")}


def display(width: int = 110, height: int = 30, lanes: dict[int, Any] | None = None, **console: Any) -> Progress:
    made = Progress(Console(file=io.StringIO(), width=width, height=height, **console), "accuracy")
    made.watch(lambda: {"lanes": LANES if lanes is None else lanes}, now)
    made.look()
    return made


def shown(progress: Progress, width: int, height: int) -> list[str]:
    return [line.plain for line in progress.lines(width, height)]


def test_everything_is_there_where_there_is_room() -> None:
    text = "\n".join(shown(display(), 110, 30))
    for words in (
        "28 of 64 trials done", "1 failed", "about 14 min left (trials)", "best accuracy 88.0 %",
        "118 trials an hour", "41.2 k tokens/s", "12 of 30 min", "340 M of 1 B training tokens", "1.20 of 8 GPU hours",
        "validation accuracy", "of teacher", "5.9 M", "97.8 %", "hypervolume", "0.53", "+29.3 % over the last 10 trials",
        "trial 29 to 33%", "64%", "fine-tuning the teacher", "idle",
    ):  # fmt: skip
        assert words in text, words


@pytest.mark.parametrize("width", [20, 60, 80, 200])
@pytest.mark.parametrize("height", [3, 6, 9, 12, 20, 50])
def test_it_fits_every_terminal(width: int, height: int) -> None:
    many = {number: lane(f"trial:{number}", number, 64) for number in range(40)}
    for lanes in (LANES, many, {}):
        lines = shown(display(width, height, lanes), width, height)
        assert 1 <= len(lines) <= max(1, height - 2)
        assert all(len(line) <= width for line in lines)
    if width >= 60:
        text = "\n".join(shown(display(width, height), width, height))
        assert "28 of 64 trials done" in text
        if height >= 20:
            assert all(f"{row['parameters'] / 1e6:.3g} M" in text or row["parameters"] < 1e6 for row in FRONT)
            assert all(f"lane {number}" in text for number in LANES)


def test_a_long_front_keeps_its_ends_and_many_lanes_are_counted() -> None:
    front = tuple({"trial": n, "parameters": 1e6 * n, "accuracy": n / 100, "of teacher": n / 90} for n in range(1, 31))
    progress = display(80, 20, {number: lane(f"trial:{number}", 1, 4) for number in range(64)})
    progress.watch(lambda: {"lanes": {number: lane("trial:1", 1, 4) for number in range(64)}}, lambda: Standing(
        columns=("parameters", "accuracy"), front=front))  # fmt: skip
    progress.look()
    lines = shown(progress, 80, 20)
    assert len(lines) <= 18
    assert any(line.split()[:3] == ["1", "1", "M"] for line in lines)
    assert any(line.split()[:3] == ["30", "30", "M"] for line in lines)
    students = sum(line.endswith("%") and not {"lane", "best"} & {*line.split()} for line in lines)
    (left_out,) = [int(line.split()[1]) for line in lines if line.strip().startswith("...")]
    assert students + left_out == 30
    (rest,) = [line for line in lines if "more lanes" in line]
    assert sum(line.startswith("lane ") for line in lines) + int(rest.split()[1]) == 64
    assert "busy" in rest


def test_a_console_without_unicode_gets_none() -> None:
    console = Console(file=io.TextIOWrapper(io.BytesIO(), encoding="ascii"), width=110, height=30)
    progress = Progress(console, "accuracy")
    progress.watch(lambda: {"lanes": LANES}, now)
    progress.look()
    assert "".join(shown(progress, 110, 30)).isascii()


def test_it_is_made_when_something_happened_and_not_each_time_it_is_drawn() -> None:
    made: list[float] = []

    def make() -> Standing:
        made.append(time.monotonic())
        time.sleep(0.02)
        return STANDING

    progress = Progress(Console(file=io.StringIO()), "accuracy")
    progress.watch(lambda: {"lanes": {}}, make)
    for _ in range(50):
        progress.look()
        progress.lines(100, 30)
    assert len(made) == 1  # nothing happened
    begun = time.monotonic()
    while time.monotonic() - begun < 1.5:  # things happen all the time: making it takes a twentieth of the time
        progress._stale = True
        progress.look()
    assert 2 <= len(made) <= 5
    assert made[-1] - made[-2] >= 0.4


def test_a_display_that_cannot_be_made_ends_nothing() -> None:
    progress = Progress(Console(file=io.StringIO()), "accuracy")

    def fails() -> Any:
        raise RuntimeError("dictionary changed size during iteration")

    progress.watch(fails, fails)
    progress.look()
    assert shown(progress, 80, 24)


def test_lines_without_a_terminal() -> None:
    progress = display()
    told = "; ".join([*progress.facts(), *progress._lanes_in_words()])
    assert told.startswith(
        "28 of 64 trials done; 2 running; 1 failed; about 14 min left (trials); best accuracy 88.0 %"
    )
    assert "lane 0: trial 29 to 33% 64%; lane 1: fine-tuning the teacher 33%; lane 2: idle" in told


def test_parts_are_packed_and_the_course_drawn() -> None:
    assert packed(["aa", "bb", "cccc"], 6) == ["aa  bb", "cccc"]
    assert packed(["much too long", "b"], 4) == ["much too long", "b"]
    assert sparkline([(0, 0.0), (1, 1.0), (4, 8.0)], 4, "12345678") == "2228"
    assert sparkline([(0, 0.0), (100, 5.0)], 10, "12345678") == "1111111118"
    assert [in_units(*pair) for pair in (("bytes", 2.5e6), ("latency_ms", 3.21), ("accuracy", 0.5), ("x", None))] == [
        "2.5 MB", "3.21 ms", "50.0 %", ""
    ]  # fmt: skip


def test_the_standing_of_a_record(finished: StudySpec) -> None:
    """By the trials of the fixture: 0.5, 0.8 and 0.4, of which the third is beaten; 32 to run."""
    from commands import record_of

    from search.results.front import ParetoFront

    record = record_of(finished)
    outcomes = record.outcomes()
    references = [Reference.model_validate(entry) for entry in record.fact("references")]

    class Searcher:
        def __init__(self) -> None:
            self.ordered, self.outcomes = outcomes, {outcome.number: outcome for outcome in outcomes}
            self.front = ParetoFront.of(outcomes, finished, references)

    budget = Budget(finished, num_lanes=2, tokens_per_text=8, deadline=None, front_size=lambda: 2)
    lane_hours = LaneHours(finished, record, num_lanes=2, begun=time.monotonic())
    standings = Standings(finished, lane_hours, 2, references, time.monotonic())
    standing = standings.made(Searcher(), budget)  # type: ignore[arg-type]
    assert standing.counts == ("3 of 32 trials done", "0 running")
    assert [(row["trial"], row["accuracy"]) for row in standing.front] == [(0, 0.5), (1, 0.8)]
    assert standing.front[1]["of teacher"] == pytest.approx(0.8 / 0.9)
    assert standing.course[0] == (0, 0)
    assert standing.course[-1] == (3, Searcher().front.hypervolume)
    assert [value for _, value in standing.course] == sorted(value for _, value in standing.course)
    assert standing.ends_by == "trials"
    assert standing.spent == ()
    priced = finished.model_copy(update={"resources": ResourcesSpec(price=PriceSpec(per_lane_hour=36, currency="EUR"))})
    paying = LaneHours(priced, record, num_lanes=2, begun=0.0, clock=lambda: 100.0)  # 0.02 EUR a second
    told = Standings(priced, paying, 2, references, time.monotonic()).made(Searcher(), budget)  # type: ignore[arg-type]
    assert told.seconds_left is not None
    assert told.spent == (f"2.00 of about {2 + 0.02 * told.seconds_left:.2f} EUR",)
    assert standings.made(Searcher(), budget).course == standing.course  # type: ignore[arg-type]  # nothing new, nothing added


TERMINAL = """
import time
from rich.console import Console
from search.study.progress import Progress
from test_display import LANES, now
with Progress(Console(stderr=True), "accuracy") as progress:
    progress.watch(lambda: {"lanes": LANES}, now)
    progress.say("searching")
    time.sleep(1.8)
"""


def test_a_real_terminal_shows_it_and_is_left_tidy() -> None:
    """A pseudo-terminal of 60 columns: the front is drawn, and taken away in the end; what was said stays."""
    import fcntl
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    hidden = {"COLUMNS", "LINES", "NO_COLOR", "TERM"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= {"PYTHONPATH": paths, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
    process = subprocess.Popen(
        [sys.executable, "-c", TERMINAL], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    seen = b""
    while True:
        ready, _, _ = select.select([ours], [], [], 60)
        assert ready, seen
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        seen += part
    os.close(ours)
    assert process.wait(60) == 0, seen
    text = seen.decode()
    assert "searching" in text
    assert "hypervolume" in text
    assert "97.8 %" in text
    assert "▁" in text
    assert "\x1b[?25l" in text  # the cursor is hidden,
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # and shown again
    assert text.rindex("\x1b[2K") > text.rindex("hypervolume")  # the last frame is wiped
