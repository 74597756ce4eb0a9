"""Where a study's time and money went: stages, lanes, and what was trained for trials of each kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

from spaces.student import Frozen
from spaces.trial import TrialOutcome, TrialState

# A trial that failed, or still runs, has spent more than it measured: how much, nobody knows.
TRAINED_FOR = {
    "done": ("trial", " that finished"),
    "ended": ("trial", " ended early"),
    "running": ("trial", " still in play"),
    "failed": ("trial", " that failed"),
    "confirm": ("confirmation", ""),
    "without_distillation": ("student", " without distillation"),
}
IN_PLAY = (TrialState.RUNNING, TrialState.WAITING, TrialState.PROMOTED)


class Account(Frozen):
    """What the record says of a study's time and money. `stages` and `lanes` (seconds by a lane's state, over all lanes) are of
    the last run that came so far; `runs` are all of them, and GPU hours and what was `paid` (by currency) are over all of them."""

    stages: dict[str, float] = {}
    lanes: dict[str, float] = {}
    num_lanes: int = 0
    gpu_hours: float = 0.0
    paid: dict[str, float] = {}
    runs: int = 0

    @classmethod
    def of(cls, fact: Callable[[str], Any]) -> Self:
        """`fact` is the record's: what it kept under a name, or None."""
        status = (fact("lanes") or {}).get("status", {}).get("lanes", {})
        by_state: dict[str, float] = {}
        for lane in status.values():
            for state, seconds in lane["seconds"].items():
                by_state[state] = by_state.get(state, 0.0) + seconds
        return cls(
            stages=fact("stages") or {},
            lanes=by_state,
            num_lanes=len(status),
            gpu_hours=float(fact("gpu_hours") or 0.0),
            paid=fact("paid") or {},
            runs=len(fact("runs") or []),
        )


class Spending(Frozen):
    """What was trained for trials of one kind, as far as it was measured; `whom` such as `5 trials that finished`."""

    whom: str
    seconds: float
    tokens: float


def spending(outcomes: Sequence[TrialOutcome]) -> list[Spending]:
    """By kind, in the order of TRAINED_FOR; a kind without trials is left out. `outcomes` are all, confirmations too."""
    kinds: dict[str, list[TrialOutcome]] = {}
    for outcome in outcomes:
        state = "running" if outcome.state in IN_PLAY else outcome.state.value
        kinds.setdefault(outcome.labels.get("kind", "confirm") if "of" in outcome.labels else state, []).append(outcome)
    return [
        Spending(
            whom=f"{len(kinds[kind]):,} {noun}{'s' * (len(kinds[kind]) != 1)}{more}",
            seconds=sum(outcome.train_seconds for outcome in kinds[kind]),
            tokens=sum(outcome.train_tokens for outcome in kinds[kind]),
        )
        for kind, (noun, more) in TRAINED_FOR.items()
        if kind in kinds
    ]
