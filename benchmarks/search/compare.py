"""Compares searchers over the surrogate: hypervolume against the training that it took.

    python benchmarks/search/compare.py [seeds 30] [searchers, separated by ;] [records/search.jsonl]

Writes a line a replay as it goes, and goes on where it was cut off; prints the tables of benchmarks/README.md. Compute is counted
in whole trainings of the space's average student. `replay.SEARCHERS` has the names.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

HERE = Path(__file__).resolve().parent
RECORDS = HERE.parent / "records" / "search.jsonl"
LANES = (2, 8, 32)
PEERS = "random;optunasearch;nsga2;moasha;moasha, mended;ours;ours, whole"
LEAST, MOST, ENOUGH = 25.0, 100.0, 0.95
GRID = [2.5, 5, 10, 15, 20, 25]
WORLD: dict[str, Any] = {}


def world() -> dict[str, Any]:
    if not WORLD:
        threadpool_limits(1)  # a process a core
        import optuna
        from surrogate import Surrogate

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        made = Surrogate()
        unit = float(np.mean([made.seconds(point) for point in made.random_points(500, seed=1)]))
        WORLD.update(surrogate=made, best=made.best_volume, unit=unit)
    return WORLD


def one(name: str, lanes: int, seed: int) -> dict[str, Any]:
    from replay import SEARCHERS, replay

    made, best, unit = (world()[key] for key in ("surrogate", "best", "unit"))
    searcher = SEARCHERS[name](made, seed, lanes)
    run = replay(searcher, made, lanes, seed, least=LEAST * unit, most=MOST * unit, enough=ENOUGH * best)
    spent, share = np.array(run.seconds) / unit, np.array(run.volumes) / best
    reached = spent[share >= ENOUGH]
    return {
        "searcher": name, "lanes": lanes, "seed": seed, "trials": run.trials, "whole": run.whole,
        "to_95": round(float(reached[0]), 3) if len(reached) else None,
        "shares": [round(float(share[spent <= at].max(initial=0)), 4) for at in GRID],
    }  # fmt: skip


def main(seeds: int = 30, names: str = PEERS, records: str = str(RECORDS)) -> None:
    path = Path(records)
    known = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(row["searcher"], row["lanes"], row["seed"]) for row in known}
    wanted = [
        (name, lanes, seed) for seed in range(seeds) for lanes in LANES for name in names.split(";")
        if (name, lanes, seed) not in done
    ]  # fmt: skip
    with ProcessPoolExecutor(os.cpu_count()) as pool, open(path, "a") as file:
        for number, future in enumerate(as_completed([pool.submit(one, *each) for each in wanted]), start=1):
            known.append(future.result())
            print(json.dumps(known[-1]), file=file, flush=True)
            print(f"\r{number} of {len(wanted)}", end="", file=sys.stderr, flush=True)
    report([row for row in known if row["searcher"] in names.split(";")], names.split(";"))


def report(rows: list[dict[str, Any]], names: list[str]) -> None:
    rng = np.random.default_rng(0)

    def interval(values: np.ndarray, of: Any) -> tuple[float, float]:
        drawn = of(rng.choice(values, (2000, len(values))), axis=1)
        low, high = np.quantile(drawn, [0.025, 0.975], method="nearest")
        return float(low), float(high)

    def figure(value: float) -> str:
        return f"{value:.1f}" if value < MOST else f"above {MOST:.0f}"

    print("\n\ntrainings to 95 % of the best hypervolume: median (95 % interval), seeds that reached it")
    for lanes in LANES:
        for name in names:
            found = [row["to_95"] for row in rows if (row["searcher"], row["lanes"]) == (name, lanes)]
            values = np.array([MOST if value is None else value for value in found])
            if not len(values):
                continue
            low, high = interval(values, np.median)
            print(
                f"  {lanes:2d} lanes  {name:16s} {figure(float(np.median(values))):>10s} ({figure(low)} to {figure(high)}), "
                f"{sum(value is not None for value in found)} of {len(found)}"
            )
    print(f"\nmean share of the best hypervolume after so many trainings ({', '.join(f'{at:g}' for at in GRID)})")
    for lanes in LANES:
        for name in names:
            found = np.array([row["shares"] for row in rows if (row["searcher"], row["lanes"]) == (name, lanes)])
            if not len(found):
                continue
            shown = []
            for column in found.T:
                low, high = interval(column, np.mean)
                shown.append(f"{column.mean():.3f} ({low:.3f}-{high:.3f})")
            print(f"  {lanes:2d} lanes  {name:16s} " + "  ".join(shown))


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(*([int(arguments[0]), *arguments[1:]] if arguments else []))
