"""What TPE loses by seeing the latest trials and a part of the older ones: hypervolume against the number of trials, with and
without, on a made-up problem with noise.

    python benchmarks/speed/forgetting.py [trials 2000] [seen 300] [seeds 3]
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
from simulated import TEACHER

from search.results.front import hypervolume
from search.study.searcher import trial_config
from search.suggest import samplers as module
from search.suggest.sampling import Sampling
from spaces.trial import Measurement, TrialOutcome, TrialState
from spaces.yaml_io import parse_study

DIRECTIONS, WORST = ["maximize", "minimize"], (0.5, math.log10(109_483_778))


def true_accuracy(outcome: TrialOutcome) -> float:
    """Larger is better; rate, temperature and share have their best values, the rate's falls with size."""
    config, size = outcome.config, math.log10(outcome.config.shape.num_parameters)
    rate = math.log10(config.learning_rate) - (1.2 - 0.7 * size)
    lost = 0.05 * rate**2 + 0.02 * math.log2(config.temperature / 3) ** 2 + 0.2 * (config.soft_share - 0.8) ** 2
    shape = config.shape
    width = math.log2(shape.hidden_size / 50 / shape.depth)
    return 0.5 + 0.09 * (size - 5) - lost - 0.01 * width**2


def searched(trials: int, seed: int) -> list[float]:
    """The hypervolume of the true values after each quarter of the trials."""
    spec = parse_study(
        {"name": "many", "data": {"builtin": "docstrings"}, "teacher": "x/y", "budget": {"trials": trials}, "seed": seed,
            "search": {"sampler": "tpe"}},
        "the benchmark", Path.cwd(),
    )  # fmt: skip
    sampling, rng = Sampling(spec, TEACHER, {"full": 30522, "used": 12000}, {}), np.random.default_rng(seed)
    outcomes: list[TrialOutcome] = []
    found = []
    for number in range(trials):
        parameters, shape = sampling.suggest(outcomes, number)
        config = trial_config(spec, parameters, shape, TEACHER.depth, number)
        outcome = TrialOutcome(number=number, config=config, parameters=parameters, state=TrialState.DONE)
        measured = Measurement(
            trial=number, attempt=1, step=1, share=1.0, cost={"finished_at": float(number)},
            metrics={"validation/accuracy": true_accuracy(outcome) + rng.normal(0, 0.005)},
        )  # fmt: skip
        outcomes.append(outcome.model_copy(update={"measurements": (measured,)}))
        if (number + 1) % (trials // 4) == 0:
            points = [(true_accuracy(o), math.log10(o.config.shape.num_parameters)) for o in outcomes]
            found.append(hypervolume(points, WORST, DIRECTIONS))
    return found


def main(trials: int = 2000, seen: int = 300, seeds: int = 3) -> None:
    for name, most in (("sees all", 10**9), (f"sees {seen} to {seen + seen // 2}", seen)):
        module.MOST_SEEN, module.BLOCK = most, seen // 2
        rows = np.array([searched(trials, seed) for seed in range(seeds)])
        shown = ", ".join(f"{mean:.4f} ± {spread:.4f}" for mean, spread in zip(rows.mean(0), rows.std(0), strict=True))
        print(f"{name}: hypervolume after quarters of {trials} trials, {seeds} seeds: {shown}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
