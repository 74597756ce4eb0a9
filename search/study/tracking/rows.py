"""The rows of a study's run: one a measurement, one a failure, with where the search stood then. Pure functions of the outcomes.

Each row has a key, such as `7@0.333333` or `confirm 2 failed`. By it a row is known again, in the record, in an offline file and
on the server, so that what is told twice is logged once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from search.results.front import ParetoFront, Reference, candidates
from spaces.secrets import mask_secrets
from spaces.study import StudySpec
from spaces.trial import Measurement, TrialOutcome, TrialState

ERROR_LENGTH = 500  # characters of a trial's error


@dataclass(frozen=True)
class Row:
    key: str
    values: dict[str, Any]


class History:
    """Tell it of trials in the order in which things befell them: it answers with rows, and keeps the front as it stands.

    `front/*` is the front of the finished trials within the bounds: its hypervolume, its size, the best quality on it. `spent/*` is
    what the search's measured segments took, `trials/*` how many ended how. Confirmations are no part of the search: their rows
    hold their own scores alone.
    """

    def __init__(self, spec: StudySpec, references: Sequence[Reference]) -> None:
        self._spec, self.references = spec, references
        self._keys = set[str]()
        self._best: float | None = None
        self._finished = self._failed = 0
        self._seconds = self._tokens = self._trainings = 0.0
        self._points: list[TrialOutcome] = []
        self.front = ParetoFront.of([], spec, references)
        self.outcomes: dict[int, TrialOutcome] = {}  # the search's, as they were told last

    def told(self, outcome: TrialOutcome) -> Row | None:
        """What is new about this trial; None where nothing is."""
        is_search = "of" not in outcome.labels
        if is_search:
            self.outcomes[outcome.number] = outcome
        row = row_of(outcome)
        if row is None or row.key in self._keys:
            return None
        self._keys.add(row.key)
        if not is_search:
            return row
        if outcome.state is TrialState.FAILED:
            self._failed += 1
        elif outcome.last is not None:
            self._count(outcome, outcome.last)
        return Row(row.key, {**row.values, **self._stands()})

    def _count(self, outcome: TrialOutcome, measured: Measurement) -> None:
        before = outcome.measurements[-2].share if len(outcome.measurements) > 1 else 0.0
        self._seconds += measured.cost.get("train_seconds", 0.0)
        self._tokens += measured.cost.get("tokens", 0.0)
        self._trainings += measured.share - before
        if measured.share < 1:
            return
        self._finished += 1
        whole = outcome.model_copy(update={"state": TrialState.DONE})
        if not candidates([whole], self._spec, self.references):
            return
        quality = whole.values().get(self._spec.quality)
        if quality is not None:
            self._best = quality if self._best is None else max(self._best, quality)
        # Who beats no point of the front belongs to no later one either: these alone decide.
        self.front = ParetoFront.of([*self._points, whole], self._spec, self.references)
        self._points = [each for each in (*self._points, whole) if each.number in self.front.trials]

    def _stands(self) -> dict[str, Any]:
        workers = self._spec.resources.workers_per_lane * self._spec.resources.gpus_per_worker
        return {
            "trials/finished": self._finished,
            "trials/failed": self._failed,
            "spent/train_seconds": self._seconds,
            "spent/tokens": self._tokens,
            "spent/trainings": self._trainings,
            **({"spent/gpu_hours": workers * self._seconds / 3600} if workers else {}),
            "front/hypervolume": self.front.hypervolume,
            "front/size": len(self.front.points),
            **({} if self._best is None else {f"front/best_{self._spec.quality}": self._best}),
        }


# Along what W&B draws the rest: step metric -> metrics
AXES = {
    "trials/finished": ("front/*", "spent/tokens", "spent/trainings", "spent/gpu_hours"),
    "spent/train_seconds": ("validation/*", "deployed/*", "trials/failed"),
}


def row_of(outcome: TrialOutcome) -> Row | None:
    """Of what befell this trial last; None where nothing has that is worth a row."""
    trial = f"confirm {outcome.number}" if "of" in outcome.labels else f"{outcome.number}"
    has_failed = outcome.state is TrialState.FAILED
    if not has_failed and outcome.last is None:
        return None
    key = f"{trial} failed" if has_failed else f"{trial}@{outcome.share:.6f}"
    if "of" in outcome.labels:
        return Row(key, _confirmation(outcome))
    if has_failed or outcome.last is None:
        return Row(key, _failure(outcome))
    return Row(key, measurement_row(outcome, outcome.last))


def replay(outcomes: Iterable[TrialOutcome]) -> list[TrialOutcome]:
    """Each trial as it stood after each thing that befell it, in the order in which these came in. When a trial failed is not
    known: at the earliest after what was measured of it, and of those begun before it."""
    events: list[tuple[float, int, float, TrialOutcome]] = []
    latest = 0.0
    for outcome in sorted(outcomes, key=lambda outcome: outcome.number):
        for count, measured in enumerate(outcome.measurements, start=1):
            state = TrialState.DONE if measured.share >= 1 else TrialState.WAITING
            stood = {"measurements": outcome.measurements[:count], "state": state, "error": ""}
            at = measured.cost.get("finished_at", 0.0)
            events.append((at, outcome.number, measured.share, outcome.model_copy(update=stood)))
            latest = max(latest, at)
        if outcome.state is TrialState.FAILED:
            events.append((latest, outcome.number, 2.0, outcome))
    return [outcome for *_, outcome in sorted(events, key=lambda event: event[:3])]


def measurement_row(outcome: TrialOutcome, measured: Measurement) -> dict[str, Any]:
    """What is logged of one measurement. Searched values stand under `config/`, seconds and counts under `cost/`, the costs where
    the student will run under `deployed/`."""
    shape = outcome.config.shape
    return {
        "trial": measured.trial,
        "attempt": measured.attempt,
        "optimizer_step": measured.step,
        "share": measured.share,
        "state": outcome.state.value,
        "kind": "search",
        **measured.metrics,
        "parameters": shape.num_parameters,
        "bytes": shape.num_bytes,
        **{f"config/{name}": value for name, value in outcome.parameters.items()},
        **{f"cost/{name}": value for name, value in measured.cost.items() if not name.endswith("_at")},
    }


def _failure(outcome: TrialOutcome) -> dict[str, Any]:
    return {
        "trial": outcome.number,
        "share": outcome.share,
        "state": outcome.state.value,
        "kind": "search",
        "error": short_error(outcome),
        **{f"config/{name}": value for name, value in outcome.parameters.items()},
    }


def _confirmation(outcome: TrialOutcome) -> dict[str, Any]:
    about = {
        "state": outcome.state.value,
        "kind": outcome.labels.get("kind", "confirm"),
        "trial": int(outcome.labels["of"]),
    }
    about |= {"seed": outcome.config.seed}
    if outcome.last is None or outcome.state is TrialState.FAILED:
        return {**about, "error": short_error(outcome)}
    return {
        **about,
        "share": outcome.share,
        **{f"confirmed/{name}": value for name, value in outcome.last.metrics.items()},
    }


def short_error(outcome: TrialOutcome) -> str:
    return str(mask_secrets(outcome.error))[:ERROR_LENGTH]
