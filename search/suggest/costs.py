"""What students cost where they will run: counted, measured, or expected from those that were measured."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from search.results.front import SMALLEST
from spaces.deployment import COSTS, DeploymentSpec
from spaces.student import StudentShape

ENOUGH = 5  # shapes that were measured, for a fit; fewer scale what arithmetic says of them
LEAST_SPREAD = 0.01  # of a fit's relative errors: what measuring again would differ by
FIRST_SPREAD = 0.3  # of what is only scaled
CAREFUL = 2.0  # spreads that a cost may turn out lower by


class Costs:
    """The costs that a study asks for (`names`), of any shape. `learn` what was measured of one, the teacher's too.

    Expected is a sum of what layers, products, tables and files take, fitted to what was measured with no part below 0: it grows
    with each dimension of a shape, also outside of what was measured.
    """

    def __init__(self, deployment: DeploymentSpec, names: Iterable[str]) -> None:
        self._deployment = deployment
        self._names = [name for name in COSTS if name in set(names)]
        self._known: dict[StudentShape, dict[str, float]] = {}
        self._fits: dict[str, tuple[np.ndarray | None, float]] = {}  # weights (or none), spread
        self._expected: dict[StudentShape, dict[str, float]] = {}

    def learn(self, shape: StudentShape, found: Mapping[str, float]) -> None:
        if self.measured and self._known.get(shape) != found:
            self._known[shape] = dict(found)
            self._fits, self._expected = {}, {}

    @property
    def measured(self) -> list[str]:
        """Which of them arithmetic does not know."""
        return [name for name in self._names if self._deployment.is_measured(name)]

    def knows(self, shape: StudentShape) -> bool:
        return shape in self._known

    def of(self, shape: StudentShape) -> dict[str, float]:
        """Each cost, exact or expected; NaN where nothing was measured at all."""
        if shape not in self._expected:
            known = self._known.get(shape, {})
            counted = self._deployment.counted(shape)
            self._expected[shape] = {
                name: known.get(name, math.nan) if name in known else counted[name] if name in counted
                else self._predicted(name, shape)
                for name in self._names
            }  # fmt: skip
        return self._expected[shape]

    def spread(self, name: str, shape: StudentShape) -> float:
        """The standard deviation of its relative error; 0 where the cost is known."""
        if name not in self.measured or self.knows(shape):
            return 0.0
        return self._fit(name)[1]

    def at_best(self, shape: StudentShape) -> dict[str, float]:
        """Each cost, as low as it may turn out."""
        found = self.of(shape)
        return {name: value * math.exp(-CAREFUL * self.spread(name, shape)) for name, value in found.items()}

    def log10(self, name: str, shapes: Sequence[StudentShape]) -> np.ndarray:
        """(N,) of one cost."""
        return np.log10([max(self.of(shape)[name], SMALLEST) for shape in shapes])

    def _predicted(self, name: str, shape: StudentShape) -> float:
        weights, _ = self._fit(name)
        if weights is not None:
            return float(np.array(_parts(shape)) @ weights)
        ratios = [found[name] / _proxy(name, other) for other, found in self._known.items() if name in found]
        return float(np.median(ratios)) * _proxy(name, shape) if ratios else math.nan

    def _fit(self, name: str) -> tuple[np.ndarray | None, float]:
        if name not in self._fits:
            shapes = [shape for shape, found in self._known.items() if name in found]
            self._fits[name] = (None, FIRST_SPREAD)
            if len(shapes) >= ENOUGH:
                costs = np.array([self._known[shape][name] for shape in shapes])
                self._fits[name] = fitted(np.array([_parts(shape) for shape in shapes]), costs)
        return self._fits[name]


def fitted(parts: np.ndarray, costs: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights (P,) none below 0 of `parts` (N, P), by least squares of the relative errors, and the spread of these."""
    from scipy.optimize import nnls

    rows = parts / costs[:, None]
    scale = np.maximum(rows.max(0), 1e-12)
    weights, _ = nnls(rows / scale, np.ones(len(costs)))
    errors = rows / scale @ weights - 1
    free = max(1, len(costs) - int((weights > 0).sum()))
    return weights / scale, max(LEAST_SPREAD, math.sqrt(float((errors**2).sum()) / free))


@functools.lru_cache(maxsize=65_536)
def _parts(shape: StudentShape) -> tuple[float, ...]:
    """What a cost may grow with: being there, layers, stored layers, element-wise work, products of attention and of the
    feed-forward block, projections, tables, weights."""
    depth, hidden = shape.depth, shape.hidden_size
    factorised = hidden * shape.embedding_size if shape.embedding_size < hidden else 0
    return (
        1.0,
        float(depth),
        float(shape.num_hidden_groups),
        float(depth * (hidden + shape.intermediate_size)),
        float(depth * hidden * (shape.bottleneck_size or hidden) / shape.num_conv_groups),
        float(depth * (shape.bottleneck_size or hidden) * shape.intermediate_size)
        * shape.num_feedforwards
        / shape.num_conv_groups,
        float(factorised),
        float(shape.vocabulary_size * shape.embedding_size),
        float(shape.num_parameters),
    )


def _proxy(name: str, shape: StudentShape) -> float:
    """What a cost is about proportional to."""
    return float(shape.flops(32) if name == "latency_ms" else shape.num_parameters)


def spread_out(shapes: Sequence[StudentShape], count: int) -> list[StudentShape]:
    """At most so many of them, as different as can be: the largest, the smallest, then whichever lies farthest from all chosen."""
    different = list(dict.fromkeys(shapes))
    if len(different) <= count:
        return different
    rows = np.log(np.array([_parts(shape) for shape in different]) + 1.0)
    rows = rows / np.maximum(np.ptp(rows, axis=0), 1e-9)
    sizes = [shape.num_parameters for shape in different]
    chosen = [int(np.argmax(sizes)), int(np.argmin(sizes))][:count]
    while len(chosen) < count:
        far = np.min([np.square(rows - rows[place]).sum(1) for place in chosen], axis=0)
        chosen.append(int(np.argmax(far)))
    return [different[place] for place in chosen]
