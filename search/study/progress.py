"""Progress on stderr: a live display on a terminal, plain lines elsewhere. What it shows is made when something happened, in a
thread of its own, and never more often than costs the driver a twentieth of its time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from search.results.students import architecture_in_words
from search.results.table import millions, percent
from search.study.standing import Standing, in_units, short
from spaces.deployment import COSTS
from spaces.trial import TrialOutcome, TrialState

PLAIN_EVERY = 30.0  # seconds between lines of a plain display when nothing happens
LOOK_EVERY = 1.0  # seconds between looks at the lanes
SHARE = 0.05  # of the time, at most, for making what is shown
BAR = 14  # characters
DOING = {
    "trial": "trial {}",
    "confirm": "confirming {}",
    "deliver": "delivering trial {}",
    "floor": "floor: {}",
    "fine_tune": "fine-tuning the teacher",
    "teach": "the teacher reads",
    "states": "the teacher's hidden states",
    "rank": "ranking the teacher's parts",
    "make_up": "making texts up",
    "measure": "measuring latency",
}  # by the first word of a work item's key

Lanes = Callable[[], dict[str, Any]]


class Display(Protocol):
    """What the driver tells whoever watches. `lanes` and `standing` are asked by the display when it wants to know."""

    def say(self, text: str) -> None: ...
    def told(self, outcome: TrialOutcome) -> None: ...
    def watch(self, lanes: Lanes, standing: Callable[[], Standing]) -> None: ...


class Silent:
    """Nobody watches."""

    def say(self, text: str) -> None: ...
    def told(self, outcome: TrialOutcome) -> None: ...
    def watch(self, lanes: Lanes, standing: Callable[[], Standing]) -> None: ...


class Progress:
    """A display for people. `quality` is the metric shown of each trial."""

    def __init__(self, console: Console, quality: str) -> None:
        self._console, self._quality = console, quality
        self._begun = self._last_line = time.monotonic()
        self._lanes: Lanes | None = None
        self._make: Callable[[], Standing] | None = None
        self._shown: dict[str, Any] = {}
        self._standing = Standing()
        self._stale, self._not_before = True, 0.0
        self._live: Live | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=2, transient=True)
            self._live.start()
        self._thread = threading.Thread(target=self._poll, name="progress", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join(timeout=3)
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        self._last_line = time.monotonic()
        self._console.print(Text(f"[{_clock(time.monotonic() - self._begun)}] {text}"), soft_wrap=True)

    def told(self, outcome: TrialOutcome) -> None:
        """A trial began, was measured, or ended."""
        self._stale = True
        if outcome.state is TrialState.RUNNING:
            return
        kind, of = outcome.labels.get("kind", ""), outcome.labels.get("of", "")
        name = {
            "": f"trial {outcome.number}",
            "confirm": f"trial {of} again, seed {outcome.labels.get('seed')}",
            "without_distillation": f"trial {of} without distillation",
        }[kind]
        if outcome.state is TrialState.FAILED:
            return self.say(f"{name} failed: {outcome.error}")
        assert outcome.last is not None
        split = "test" if kind else "validation"
        value = percent(outcome.last.metrics.get(f"{split}/{self._quality}"))
        size = millions(outcome.config.shape.num_parameters)
        seconds = outcome.last.cost.get("train_seconds", 0)
        so_far = "" if outcome.share >= 1 else f" after {outcome.share:.0%} of its training"
        self.say(
            f"{name}{so_far}: {self._quality} {value} ({split}), {size} ({architecture_in_words(outcome.config)}), {seconds:.0f} s"
        )

    def watch(self, lanes: Lanes, standing: Callable[[], Standing]) -> None:
        self._lanes, self._make, self._not_before = lanes, standing, 0.0
        self._stale = True

    def _poll(self) -> None:
        while not self._stop.wait(LOOK_EVERY):
            self.look()
            if self._live is None and time.monotonic() - self._last_line >= PLAIN_EVERY:
                self.say("; ".join(part for part in (*self.facts(), *self._lanes_in_words()) if part) or "working")

    def look(self) -> None:
        """Asks the lanes, and for what is shown if anything happened since and it is not too soon."""
        if self._lanes is not None:
            try:
                self._shown = self._lanes()
            except Exception:  # the pool is closing
                self._lanes, self._shown = None, {}
        begun = time.monotonic()
        if self._make is None or not self._stale or begun < self._not_before:
            return
        self._stale = False
        try:
            self._standing = self._make()
        except Exception:  # likewise: a display must not end a study
            return
        now = time.monotonic()
        self._not_before = now + (now - begun) / SHARE

    # -- in words, for both kinds of display

    def facts(self) -> list[str]:
        """Counts, the best, rate, time and cost, the most telling first."""
        now, words = self._standing, [self._standing.stage, *self._standing.counts]
        if now.seconds_left is not None:
            left = max(0.0, now.seconds_left - (time.monotonic() - now.made_at))
            words.append(f"about {_duration(left)} left ({now.ends_by})")
        best = max((row[self._quality] for row in now.front if self._quality in row), default=None)
        if best is not None:
            words.append(f"best {self._quality} {percent(best)}")
        if now.trials_per_hour is not None and not now.stage:
            words.append(f"{now.trials_per_hour:.3g} trials an hour")
            words.append(f"{short(now.tokens_per_second or 0)} tokens/s")
        return [word for word in (*words, *now.spent) if word]

    def _lanes_in_words(self) -> list[str]:
        lanes = self._shown.get("lanes", {})
        if len(lanes) > 8:
            return [f"{len(lanes)} lanes: {_states(lanes.values())}"]
        return [f"lane {number}: {doing(lane)}{_share(lane)}" for number, lane in _in_order(lanes)]

    # -- the live display: what matters most stays where there is little room

    def _render(self) -> Group:
        return Group(*self.lines(self._console.width, self._console.height))

    def lines(self, width: int, height: int) -> list[Text]:
        """At most `height` - 2 lines of at most `width` characters, so that one line of what was said stays in sight."""
        room = max(1, height - 2)
        lines = [
            Text(line, "bold") for line in packed([f"[{_clock(time.monotonic() - self._begun)}]", *self.facts()], width)
        ]
        lines = lines[:room]
        room -= len(lines)
        lanes = self._shown.get("lanes", {})
        course = self._course(width) if room >= 3 else []
        room -= len(course)
        front = len(self._standing.front) + 1 if self._standing.front else 0
        for_lanes = min(len(lanes), max(min(room, 1), room - front, room // 2))
        table = self._front(room - for_lanes, width)
        lines += table + course + self._lane_lines(lanes, for_lanes)
        for line in lines:
            line.no_wrap, line.overflow = True, "ellipsis"
            line.truncate(width, overflow="ellipsis")
        return lines

    def _front(self, room: int, width: int) -> list[Text]:
        """The front as a table; where there are more students than room the middle ones are left out, and columns where it is too
        wide, the last first."""
        rows = list(self._standing.front)
        if not rows or room < min(4, len(rows) + 1):
            return []
        left_out = max(0, len(rows) - (room - 1))
        if left_out:
            left_out += 1  # the line that says so
            keep = len(rows) - left_out
            rows = rows[: (keep + 1) // 2] + rows[len(rows) - keep // 2 :] if keep > 0 else []
        columns = ["trial", "parameters", self._quality, "of teacher"]
        columns += [name for name in self._standing.columns if name not in columns]
        titles = [f"validation {name}" if name not in (*COSTS, "trial", "of teacher") else name for name in columns]
        cells = [[_cell(name, row) for name in columns] for row in rows]
        sizes = [max(len(name), *(len(row[i]) for row in cells), 0) for i, name in enumerate(titles)]
        while len(sizes) > 4 and sum(sizes) + 2 * len(sizes) - 2 > width:
            titles, sizes, cells = titles[:-1], sizes[:-1], [row[:-1] for row in cells]
        lines = [Text("  ".join(name.rjust(size) for name, size in zip(titles, sizes, strict=True)), "dim")]
        lines += [Text("  ".join(cell.rjust(size) for cell, size in zip(row, sizes, strict=True))) for row in cells]
        if left_out:
            lines.insert(1 + (len(rows) + 1) // 2, Text(f"{'...'.rjust(sizes[0])}  {left_out} more", "dim"))
        return lines

    def _course(self, width: int) -> list[Text]:
        course = self._standing.course
        if not course or not course[-1][1]:
            return []
        ticks = "▁▂▃▄▅▆▇█" if self._utf8 else "_.-~=+*#"
        finished, volume = course[-1]
        trend = sparkline(course, max(8, min(40, width - 44)), ticks)
        earlier = _at(course, finished - 10)
        grown = f", {100 * (volume / earlier - 1):+.1f} % over the last 10 trials" if finished > 10 and earlier else ""
        return [Text(f"hypervolume {trend} {volume:.4g}{grown}", "cyan")]

    def _lane_lines(self, lanes: dict[Any, dict[str, Any]], room: int) -> list[Text]:
        if room <= 0:
            return []
        if len(lanes) > room:
            shown = _in_order(lanes)[: room - 1]
            rest = [lane for _, lane in _in_order(lanes)[room - 1 :]]
            last = [Text(f"{'and ' * bool(shown)}{len(rest)} {'more ' * bool(shown)}lanes: {_states(rest)}", "dim")]
        else:
            shown, last = _in_order(lanes), []
        full, empty = ("━", "─") if self._utf8 else ("=", ".")
        lines = []
        for number, lane in shown:
            share = _share_done(lane)
            bar = full * round(BAR * share) + empty * (BAR - round(BAR * share)) if share is not None else " " * BAR
            lines.append(Text(f"lane {number:<3} {bar} {_share(lane).strip():>5}  {doing(lane)}", "dim"))
        return lines + last

    @property
    def _utf8(self) -> bool:
        return self._console.encoding.lower().replace("-", "").startswith("utf8")


def packed(parts: Iterable[str], width: int, between: str = "  ") -> list[str]:
    """The parts one after the other, in as few lines of `width` as hold them whole."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(between) + len(part) <= width:
            lines[-1] += between + part
        else:
            lines.append(part)
    return lines


def sparkline(course: Sequence[tuple[int, float]], width: int, ticks: str) -> str:
    """The course over the number of trials finished, in one line; from 0 to its highest."""
    finished, top = course[-1][0], max(value for _, value in course)
    width = max(1, min(width, finished))
    values = [_at(course, finished * (cell + 1) / width) for cell in range(width)]
    return "".join(ticks[min(len(ticks) - 1, int(value / top * len(ticks)))] for value in values)


def _at(course: Sequence[tuple[int, float]], finished: float) -> float:
    """What it was once so many trials had finished."""
    return next((value for count, value in reversed(course) if count <= finished), 0.0)


def _cell(name: str, row: dict[str, float]) -> str:
    if name == "trial":
        return f"{row[name]:.0f}"
    return percent(row.get(name)) if name == "of teacher" else in_units(name, row.get(name))


def _in_order(lanes: dict[Any, dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    return sorted((int(number), lane) for number, lane in lanes.items())


def doing(lane: dict[str, Any]) -> str:
    """What a lane does, in words."""
    if not lane.get("key"):
        return str(lane.get("state", ""))
    kind, _, rest = str(lane["key"]).partition(":")
    what, _, until = rest.partition("@")
    words = DOING.get(kind, f"{kind} {{}}").format(what)
    return words + (f" to {float(until):.0%}" if until else "")


def _share_done(lane: dict[str, Any]) -> float | None:
    return min(1.0, (lane.get("done") or 0) / lane["total"]) if lane.get("key") and lane.get("total") else None


def _share(lane: dict[str, Any]) -> str:
    share = _share_done(lane)
    return "" if share is None else f" {share:.0%}"


def _states(lanes: Iterable[dict[str, Any]]) -> str:
    counts: dict[str, int] = {}
    for lane in lanes:
        counts[str(lane.get("state"))] = counts.get(str(lane.get("state")), 0) + 1
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))


def _clock(seconds: float) -> str:
    whole = int(seconds)
    hours = f"{whole // 3600}:{whole // 60 % 60:02d}" if whole >= 3600 else f"{whole // 60}"
    return f"{hours}:{whole % 60:02d}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
