"""Successive halving on Pareto rank: which trial goes on to its next rung. Pure functions over what was measured.

Asynchronous, by promotion (ASHA; Li et al. 2020): of the trials measured at a rung, 1 in `reduction` goes on, the best of them
first, as soon as there are enough. The best are those of the first non-dominated front, then of the second, and so on (NSGA-II's
sorting; Deb et al. 2002); within one front, whoever lies farthest from those that went on before (an epsilon-net, as in MO-ASHA;
Schmucker et al. 2021).

Legend: N trials, M objectives.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

GROWS_TO = 2.0  # times as many trials as are measured at a rung now: what a trial that waits there may still hope for
GROWS_BY = 9  # and at least so many more


@dataclass(frozen=True)
class Rung:
    """What was measured at one rung, in the order in which it came.

    `losses` (N, M) are to be minimised: sizes as log10, scores negated. `violations` (N,) say by how much a trial misses the
    bounds, 0 where it keeps them. `waits` (N,) holds for trials that were not promoted yet and still could be; `promoted`
    (N,) for those that went on. `dominators` (N,) counts those that are better in everything.
    """

    trials: np.ndarray
    losses: np.ndarray
    violations: np.ndarray
    waits: np.ndarray
    promoted: np.ndarray
    dominators: np.ndarray


def halving(rungs: Sequence[Rung], reduction: float, last: bool = False) -> tuple[int, int] | None:
    """(place of the rung, trial) that is to go on from there, or None where none is due. The highest rung comes first.

    `rungs` are all but the last, the lowest first. `last`: no trial will join, so that a third of four is two, and somebody
    reaches the end however few there are.
    """
    for place in reversed(range(len(rungs))):
        rung = rungs[place]
        room = len(rung.trials) / reduction
        if rung.promoted.sum() < (math.ceil(room) if last else int(room)) and rung.waits.any():
            return place, int(rung.trials[_best(rung)])
    return None


def hopeless(rung: Rung, reduction: float, most: float) -> list[int]:
    """Trials that wait at the rung and will not be promoted: more trials are better than they in everything than could go on
    from there if it had `most` trials, or GROWS_TO times as many as now."""
    number = len(rung.trials)
    room = math.ceil(min(most, max(GROWS_TO * number, number + GROWS_BY)) / reduction)
    return rung.trials[rung.waits & (rung.dominators >= room)].tolist()


def _best(rung: Rung) -> int:
    """The place of the trial to promote: of those that wait, the first front's; of these, the farthest from who went on."""
    for front in fronts(_ranked(rung)):
        waiting = front[rung.waits[front]]
        if len(waiting):
            break
    low = rung.losses[front].min(0)
    span = np.maximum(rung.losses[front].max(0) - low, 1e-12)
    scaled = (rung.losses - low) / span
    gone = scaled[rung.promoted]
    if len(gone) == 0:
        return int(waiting[scaled[waiting].sum(1).argmin()])
    distances = ((scaled[waiting][:, None] - gone[None]) ** 2).sum(2).min(1)
    return int(waiting[distances.argmax()])


def _ranked(rung: Rung) -> np.ndarray:
    """(N, M) to be compared: whoever violates a bound comes after all who do not, and by how much alone."""
    violates = rung.violations > 0
    if not violates.any():
        return rung.losses
    worst = rung.losses.max(0) + 1
    return np.where(violates[:, None], worst + rung.violations[:, None], rung.losses)


def dominates(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Whether each row of `left` is nowhere above `right` and somewhere below it; (..., M) both, broadcast."""
    return np.asarray((left <= right).all(-1) & (left < right).any(-1))


def fronts(losses: np.ndarray) -> Iterator[np.ndarray]:
    """The places (into N) of the first non-dominated front, of the next without it, and so on. Equal rows share theirs."""
    # By the first objective, then the second ...: what dominates a row stands before it.
    left = np.lexsort(losses.T[::-1])
    while len(left):
        on_front = _first_front(losses[left])
        yield left[on_front]
        left = left[~on_front]


def _first_front(rows: np.ndarray) -> np.ndarray:
    """Which of the rows, sorted, none dominates."""
    if rows.shape[1] == 2:  # one pass: below whatever came before, or equal to the last that was
        lowest = np.minimum.accumulate(rows[:, 1])
        first = np.r_[True, rows[1:, 1] < lowest[:-1]]
        return first | ((rows == rows[np.maximum.accumulate(np.where(first, np.arange(len(rows)), 0))]).all(1))
    on_front = np.ones(len(rows), bool)
    for place in range(len(rows)):
        if on_front[place]:
            later = np.flatnonzero(on_front[place + 1 :]) + place + 1
            on_front[later[dominates(rows[place], rows[later])]] = False
    return on_front
