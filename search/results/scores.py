"""Scores and what chance does to them: standard errors, intervals, and which student is shown to be better.

scipy.special and not scipy.stats: the same functions in a fifth of the import's time.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import accumulate

from spaces.student import Frozen
from spaces.task import METRIC_WORDS

LEVEL = 0.95  # of an interval
ALPHA = 0.05  # a difference is shown where chance alone makes one like it less often
AGREEMENT = (
    0.5  # correlation of which texts two students err on: 0.52 to 0.81 over 21 pairs of delivered ones (decision 0018)
)
CORRELATIONS = ("matthews", "pearson", "spearman")
SHARES = tuple(name for name in METRIC_WORDS if name not in CORRELATIONS)  # from 0 to 1


class SeedScore(Frozen):
    """One metric over seeds. `std` is the sample's standard deviation; a single seed says nothing of it: None.

    `low` to `high` is a 95 % interval, None where there is none. Of two seeds and more it is Student's t and holds the mean
    over all seeds on these very rows. Of one seed it is Wilson's, for accuracy and exact match alone, and holds this one model's
    on all texts like these. It ends where the metric does.
    """

    mean: float
    std: float | None
    seeds: int
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, values: Sequence[float], metric: str = "", num_rows: int = 0) -> SeedScore:
        """`metric` without its split; `num_rows` that it was measured on, 0 where nobody knows."""
        mean = statistics.fmean(values)
        std = statistics.stdev(values) if len(values) > 1 else None
        ends = _t_interval(metric, mean, std, len(values)) if std is not None else None
        if std is None and metric in ("accuracy", "exact_match") and num_rows:
            ends = wilson(mean, num_rows)
        low, high = ends or (None, None)
        return cls(mean=mean, std=std, seeds=len(values), low=low, high=high)


def _t_interval(metric: str, mean: float, std: float, seeds: int) -> tuple[float, float]:
    from scipy.special import stdtrit

    half = float(stdtrit(seeds - 1, (1 + LEVEL) / 2)) * std / math.sqrt(seeds)
    least = 0.0 if metric in SHARES else -1.0 if metric in CORRELATIONS else -math.inf
    most = 1.0 if metric in METRIC_WORDS else math.inf
    return max(mean - half, least), min(mean + half, most)


def wilson(share: float, num_rows: int) -> tuple[float, float]:
    """The interval of a share of `num_rows` rows (Wilson 1927), which also holds near 0 and 1."""
    from scipy.special import ndtri

    z = float(ndtri((1 + LEVEL) / 2))
    scale = 1 + z * z / num_rows
    middle = (share + z * z / (2 * num_rows)) / scale
    half = z * math.sqrt(share * (1 - share) / num_rows + (z / (2 * num_rows)) ** 2) / scale
    return max(middle - half, 0.0), min(middle + half, 1.0)


def standard_error(metric: str, value: float, num_rows: int) -> float | None:
    """Of a score on `num_rows` rows, as a sample of all texts like these; None for a metric of the study's own, and where the
    rows are not known.

    Accuracy: binomial. F1 likewise, which is too little where what is looked for is rare. Correlations: (1 - r**2) / sqrt(N),
    right for Pearson's on normal values and near enough for the others.
    """
    if num_rows < 2 or metric not in METRIC_WORDS or not math.isfinite(value):
        return None
    if metric in CORRELATIONS:
        return (1 - min(abs(value), 1.0) ** 2) / math.sqrt(num_rows)
    share = min(max(value, 0.0), 1.0)
    return math.sqrt(share * (1 - share) / num_rows)


def chances(pairs: Sequence[tuple[SeedScore, SeedScore]], metric: str, num_rows: int) -> list[float | None]:
    """How likely each (smaller, larger) pair is to differ so much if the larger student were no better: p-values, one-sided, after
    Holm's correction over the pairs. None where a side has fewer than two seeds, for then its spread is not known, and where
    nobody knows how many rows there are.

    Welch's t-test over the seeds, with the rows' standard errors beside the seeds': seeds alone speak of these very rows, and
    three of them that happen to agree would call a difference of two texts real. Students of one teacher err on the same texts,
    by a correlation of AGREEMENT at least; the predictions of each text, which are not kept, would tell. Where the
    metric is the study's own there are the seeds alone.
    """
    found = [_chance(smaller, larger, metric, num_rows) for smaller, larger in pairs]
    tested = sorted((value, place) for place, value in enumerate(found) if value is not None)
    grown = [min(value * (len(tested) - rank), 1.0) for rank, (value, _) in enumerate(tested)]
    corrected: list[float | None] = [None] * len(found)
    for (_, place), value in zip(tested, accumulate(grown, max), strict=True):
        corrected[place] = value
    return corrected


def _chance(smaller: SeedScore, larger: SeedScore, metric: str, num_rows: int) -> float | None:
    from scipy.special import stdtr

    if smaller.std is None or larger.std is None or (metric in METRIC_WORDS and not num_rows):
        return None
    seeds = [(score.std or 0.0) ** 2 / score.seeds for score in (smaller, larger)]
    one, other = (standard_error(metric, score.mean, num_rows) or 0.0 for score in (smaller, larger))
    variance = sum(seeds) + one**2 + other**2 - 2 * AGREEMENT * one * other
    if variance == 0:
        return None  # seeds that all agree, on rows that nobody counted
    # Welch and Satterthwaite; a binomial error has no freedom of its own to lose.
    lost = sum(part**2 / (score.seeds - 1) for part, score in zip(seeds, (smaller, larger), strict=True))
    freedom = variance**2 / lost if lost else math.inf
    return float(stdtr(freedom, -(larger.mean - smaller.mean) / math.sqrt(variance)))
