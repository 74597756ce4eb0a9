"""What a student will score at the end of its training, from its shape and settings and from what it scored on the way.

Legend: N trials, F features, R rungs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sklearn.ensemble import ExtraTreesRegressor

TREES = 40
FEW = 8  # trials measured at a rung and the next, below which their mean gain is all that is learnt


class Curves:
    """One score's learning curve, rung by rung: a forest of extremely randomised trees (Geurts et al. 2006) says what is scored at
    the first rung, another by how much the next is better, given what was scored there; and so on. So every measurement counts,
    also of trials that ended early, and no rung is taken for another.

    `predict` gives mean and standard deviation; the latter between trees, as of a random forest in SMAC (Hutter et al. 2011).
    """

    def __init__(self, features: np.ndarray, scores: np.ndarray, seed: int) -> None:
        """`features` (N, F); `scores` (N, R), NaN where not measured; at least one is."""
        from sklearn.ensemble import ExtraTreesRegressor

        self._stages: list[ExtraTreesRegressor | tuple[float, float]] = []
        known = np.full(len(features), np.nan)  # the score at the rung before, or what is expected of it
        for rung in range(scores.shape[1]):
            measured = np.isfinite(scores[:, rung])
            if rung == 0:
                rows, gains = features[measured], scores[measured, 0]
            else:
                rows = np.column_stack([features, known])[measured]
                gains = scores[measured, rung] - known[measured]
            if len(gains) < (FEW if rung else 1):
                spread = float(gains.std()) if len(gains) > 1 else 0.05
                self._stages.append((float(gains.mean()) if len(gains) else 0.0, max(spread, 0.01)))
            else:
                forest = ExtraTreesRegressor(TREES, min_samples_leaf=3, random_state=seed)
                self._stages.append(forest.fit(rows, gains))
            mean, _ = self._stage(rung, features, known)
            known = np.where(measured, scores[:, rung], mean)

    def predict(self, features: np.ndarray, scores: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(N,), (N,): at the last rung. `scores` (N, R) are those known already, else NaN."""
        mean, variance = np.full(len(features), np.nan), np.zeros(len(features))
        for rung in range(len(self._stages)):
            at, spread = self._stage(rung, features, mean)
            variance = variance + spread**2
            mean = at
            if scores is not None:
                known = np.isfinite(scores[:, rung])
                mean, variance = np.where(known, scores[:, rung], mean), np.where(known, 0.0, variance)
        return mean, np.sqrt(variance)

    def _stage(self, rung: int, features: np.ndarray, before: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        stage = self._stages[rung]
        start = np.zeros(len(features)) if rung == 0 else before
        if isinstance(stage, tuple):
            return start + stage[0], np.full(len(features), stage[1])
        rows = features if rung == 0 else np.column_stack([features, before])
        rows = rows.astype(np.float32)
        trees = np.stack([tree.tree_.predict(rows)[:, 0] for tree in stage.estimators_])
        return start + trees.mean(0), trees.std(0)
