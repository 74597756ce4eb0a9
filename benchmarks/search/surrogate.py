"""A surrogate of the recorded table: what any point of its space would score at each rung, and what training it would take.

    python benchmarks/search/surrogate.py     how well it fits, by cross-validation

A Gaussian process on the logit of the accuracy, one a rung, and one on the logarithm of the seconds. It is of another kind than
the forest with which distilsearch itself models trials, so that no searcher plays on its own ground. Noise is drawn for each trial
as the trials that were recorded with two seeds differ, shared between rungs as theirs is.
"""

from __future__ import annotations

import csv
import json
import math
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.model_selection import KFold

from search.results.front import hypervolume
from spaces.space import PARAMETERS
from spaces.student import StudentShape, TeacherShape
from spaces.study import StudySpec
from spaces.yaml_io import parse_study, parse_yaml

HERE = Path(__file__).resolve().parent
SHARES = (1 / 9, 1 / 3, 1.0)
DENSE = 30_000  # points among which the best reachable front is looked for
Point = dict[str, Any]


class Table:
    """The recorded trials: points, accuracies (N, rungs), seconds (N, rungs) and sizes; and the same trials with another seed."""

    def __init__(self, path: Path = HERE / "trec.csv") -> None:
        self.about = json.loads(path.with_suffix(".json").read_text())
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        self.first = {int(row["trial"]): row for row in rows if row["seed"] == "0"}
        self.again = {int(row["trial"]): row for row in rows if row["seed"] == "1"}
        self.points = [_point(row) for row in self.first.values()]
        self.accuracies = np.array([_rungs(row, "accuracy") for row in self.first.values()])
        self.seconds = np.array([_rungs(row, "seconds") for row in self.first.values()])
        self.sizes = np.array([int(row["parameters"]) for row in self.first.values()])

    def seed_pairs(self) -> np.ndarray:
        """(pairs, 2, rungs) accuracies of the trials recorded twice."""
        both = self.first.keys() & self.again.keys()
        return np.array([[_rungs(self.first[n], "accuracy"), _rungs(self.again[n], "accuracy")] for n in sorted(both)])


def _rungs(row: dict[str, str], what: str) -> list[float]:
    return [float(row[f"{what}@{share:.3f}"]) for share in SHARES]


def _point(row: dict[str, str]) -> Point:
    def value(text: str) -> Any:
        try:
            number = float(text)
        except ValueError:
            return text
        return int(number) if number.is_integer() and "." not in text and "e" not in text else number

    return {name: value(row[name]) for name in PARAMETERS if row.get(name, "") != ""}


class Surrogate:
    """`spec` is the table's study; `majority` and `teacher_accuracy` are of its validation split."""

    def __init__(self, table: Table | None = None) -> None:
        self.table = table or Table()
        about = self.table.about
        path = HERE / "trec-table.yaml"
        self.spec: StudySpec = parse_study(parse_yaml(path.read_text("utf-8"), str(path)), str(path), HERE)
        self.teacher = TeacherShape.model_validate(about["teacher"])
        self.vocabularies: dict[str, int] = about["vocabularies"]
        self.majority, self.teacher_accuracy = about["majority"], about["teacher_accuracy"]
        self._features = np.array([self.features(point) for point in self.table.points])
        self._low, self._span = self._features.min(0), np.maximum(np.ptp(self._features, axis=0), 1e-9)
        self._models = [self._fitted(_logit(self.table.accuracies[:, rung])) for rung in range(len(SHARES))]
        self._time = self._fitted(np.log(self.table.seconds.sum(1)))
        self.shares_of_time = np.median(self.table.seconds / self.table.seconds.sum(1, keepdims=True), axis=0)

    def shape(self, point: Point) -> StudentShape:
        return self.spec.space.shape(point, self.teacher, self.vocabularies)

    def features(self, point: Point) -> list[float]:
        """Numbers as their logarithms where they span decades, words one column each."""
        shape = self.shape(point)
        numbers = [
            shape.depth, shape.num_hidden_groups, shape.hidden_size / 100, shape.intermediate_size / 300,
            math.log(shape.vocabulary_size), math.log(shape.embedding_size), math.log10(shape.num_parameters),
            math.log(point["temperature"]), point["soft_share"], math.log(point["learning_rate"]),
            math.log(point["batch_size"]), point["warmup_share"], point["dropout"],
        ]  # fmt: skip
        words = [("family", "albert"), ("layers", "first-and-last"), ("layers", "skip-first-with-last")]
        return [*numbers, *(float(point[name] == word) for name, word in words)]

    def scaled(self, features: np.ndarray) -> np.ndarray:
        return (features - self._low) / self._span

    def _fitted(self, targets: np.ndarray) -> GaussianProcessRegressor:
        return gaussian_process(self.scaled(self._features), targets)

    def accuracies(self, points: list[Point]) -> np.ndarray:
        """(N, rungs), without noise."""
        scaled = self.scaled(np.array([self.features(point) for point in points]))
        return np.stack([1 / (1 + np.exp(-model.predict(scaled))) for model in self._models], axis=1)

    def seconds(self, point: Point) -> float:
        """Of the whole training."""
        return float(np.exp(self._time.predict(self.scaled(np.array([self.features(point)])))[0]))

    @cached_property
    def noise_factor(self) -> np.ndarray:
        """(rungs, rungs) whose product with a standard normal draw is a trial's noise, on the logit scale."""
        pairs = _logit(self.table.seed_pairs())
        differences = (pairs[:, 0] - pairs[:, 1]) / math.sqrt(2)
        return np.linalg.cholesky(np.cov(differences.T) + 1e-9 * np.eye(len(SHARES)))

    def noisy(self, accuracies: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """What one training of a point of these true accuracies (rungs,) would measure."""
        noise = self.noise_factor @ rng.normal(size=len(SHARES))
        return 1 / (1 + np.exp(-(_logit(accuracies) + noise)))

    def random_points(self, count: int, seed: int = 0) -> list[Point]:
        rng = np.random.default_rng(seed)
        found: list[Point] = []
        architectures = [values for values, _ in self.spec.space.architectures(self.teacher, self.vocabularies)]
        for _ in range(count):
            given = architectures[int(rng.integers(len(architectures)))]

            def draw(name: str, parameter: Any, given: Point = given) -> Any:
                if name in given:
                    return given[name]
                if hasattr(parameter, "values"):
                    return parameter.values[int(rng.integers(len(parameter.values)))]
                low, high = (math.log(v) if parameter.log else v for v in (parameter.low, parameter.high))
                drawn = float(rng.uniform(low, high))
                return math.exp(drawn) if parameter.log else drawn

            found.append(self.spec.space.point(draw))
        return found

    @cached_property
    def reference(self) -> tuple[float, float]:
        """(majority's error, log10 of the largest shape's parameters)."""
        largest = max(
            shape.num_parameters for _, shape in self.spec.space.architectures(self.teacher, self.vocabularies)
        )
        return 1 - self.majority, math.log10(largest)

    def volume(self, errors: Any, sizes: Any) -> float:
        rows = [(float(error), math.log10(size)) for error, size in zip(errors, sizes, strict=True)]
        return hypervolume(rows, self.reference, ["minimize", "minimize"])

    @cached_property
    def best_volume(self) -> float:
        """Of the front among DENSE points, and among points near that one; without noise."""
        points = self.random_points(DENSE)
        truth = self.accuracies(points)[:, -1]
        return self.volume(1 - truth, [self.shape(point).num_parameters for point in points])


def gaussian_process(rows: np.ndarray, targets: np.ndarray, kernel: Any = None) -> GaussianProcessRegressor:
    if kernel is None:
        matern = Matern(np.ones(rows.shape[1]), (0.05, 100), nu=2.5)
        kernel = ConstantKernel(1.0, (1e-2, 1e2)) * matern + WhiteKernel(0.1, (1e-4, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=0).fit(rows, targets)


def _logit(share: np.ndarray) -> np.ndarray:
    clipped = np.clip(share, 0.01, 0.99)
    return np.log(clipped / (1 - clipped))


def main() -> None:
    from scipy.stats import kendalltau

    table = Table()
    surrogate = Surrogate(table)
    rows = surrogate.scaled(surrogate._features)
    pairs = table.seed_pairs()
    print(f"{len(table.points)} trials, {len(pairs)} of them with two seeds")
    for rung, share in enumerate(SHARES):
        truth, found = table.accuracies[:, rung], np.zeros(len(rows))
        for fit, held in KFold(10, shuffle=True, random_state=0).split(rows):
            model = gaussian_process(rows[fit], _logit(truth[fit]), surrogate._models[rung].kernel_)
            found[held] = 1 / (1 + np.exp(-model.predict(rows[held])))
        explained = 1 - ((found - truth) ** 2).sum() / ((truth - truth.mean()) ** 2).sum()
        seeds = (pairs[:, 0, rung] - pairs[:, 1, rung]) / math.sqrt(2)
        possible = 1 - (seeds**2).mean() / truth.var()
        print(
            f"rung {share:.3f}: R2 {explained:.3f} (two trainings of one point allow {possible:.3f}), Kendall's tau "
            f"{kendalltau(found, truth).statistic:.3f}, RMS error {np.sqrt(((found - truth) ** 2).mean()):.4f}, "
            f"between seeds {np.sqrt((seeds**2).mean()):.4f}, range {truth.min():.3f} to {truth.max():.3f}"
        )
    for rung in range(len(SHARES) - 1):
        tau = kendalltau(table.accuracies[:, rung], table.accuracies[:, -1]).statistic
        print(f"rung {SHARES[rung]:.3f} against the end: Kendall's tau {tau:.3f}")
    volume = surrogate.volume(1 - table.accuracies[:, -1], table.sizes)
    print(f"hypervolume: table as measured {volume:.4f}, of the surrogate's best front {surrogate.best_volume:.4f}")


if __name__ == "__main__":
    main()
