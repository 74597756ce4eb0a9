"""Progress on stderr: a live display on a terminal, plain lines elsewhere. It says what runs, what is done, the best so
far and the time left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from search.results.students import architecture_in_words
from search.results.table import millions, percent
from spaces.trial import TrialOutcome, TrialState

PLAIN_EVERY = 30.0  # seconds between lines of a plain display when nothing happens


class Display(Protocol):
    """What the driver tells whoever watches."""

    def say(self, text: str) -> None: ...
    def told(self, outcome: TrialOutcome) -> None: ...
    def watch(self, lanes: Callable[[], dict[str, Any]], summary: Callable[[], str]) -> None: ...


class Silent:
    """Nobody watches."""

    def say(self, text: str) -> None: ...
    def told(self, outcome: TrialOutcome) -> None: ...
    def watch(self, lanes: Callable[[], dict[str, Any]], summary: Callable[[], str]) -> None: ...


class Progress:
    """A display for people. `quality` is the metric shown of each trial."""

    def __init__(self, console: Console, quality: str) -> None:
        self._console, self._quality = console, quality
        self._begun = time.monotonic()
        self._lanes: Callable[[], dict[str, Any]] | None = None
        self._summary: Callable[[], str] | None = None
        self._shown: dict[str, Any] = {}
        self._live: Live | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._last_line = time.monotonic()

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
        self._console.print(Text(f"[{self._clock()}] {text}"), soft_wrap=True)

    def told(self, outcome: TrialOutcome) -> None:
        """A trial began, was measured, or ended."""
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

    def watch(self, lanes: Callable[[], dict[str, Any]], summary: Callable[[], str]) -> None:
        self._lanes, self._summary = lanes, summary

    def _poll(self) -> None:
        while not self._stop.wait(1.0):
            if self._lanes is not None:
                try:
                    self._shown = self._lanes()
                except Exception:  # the pool is closing
                    self._lanes, self._shown = None, {}
            if self._live is None and time.monotonic() - self._last_line >= PLAIN_EVERY:
                self.say(
                    "; ".join([part for part in (self._summary and self._summary(), *self._lane_lines()) if part])
                    or "working"
                )

    def _lane_lines(self) -> list[str]:
        lines = []
        for number, lane in sorted(self._shown.get("lanes", {}).items(), key=lambda entry: int(entry[0])):
            done, total = lane.get("done") or 0, lane.get("total") or 0
            part = f" {done / total:.0%}" if total else ""
            doing = f"{lane['key']}{part}" if lane.get("key") else str(lane.get("state", ""))
            lines.append(f"lane {number}: {doing}")
        return lines

    def _render(self) -> Group:
        summary = self._summary() if self._summary else ""
        lines = [f"[{self._clock()}] {summary}", *(f"  {line}" for line in self._lane_lines())]
        return Group(*(Text(line, style="dim", no_wrap=True, overflow="ellipsis") for line in lines))

    def _clock(self) -> str:
        seconds = int(time.monotonic() - self._begun)
        return f"{seconds // 60}:{seconds % 60:02d}"
