"""Runs one model as a user would, in a process of its own, and says how long it takes and what it holds.

    python -P probe.py

Imports nothing but the runtime, so that the memory is that of whoever serves the model. Reads a line of JSON (runtime, path or
builder, batch_size, length, threads, vocabulary_size), answers "ready" once it is warm, waits for a line, measures, and
answers with a line of JSON.
"""

import importlib
import inspect
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

WARM_SECONDS, WARM_RUNS = 0.3, 5
ROUNDS, ROUND_SECONDS, ROUND_RUNS = (
    10,
    0.08,
    3,
)  # less than a tenth of a second each: a median of medians sheds what disturbs one
STEADY = 0.05  # rounds that differ by more are done again,
TIMES = 3  # so often in all


def runner(settings: dict[str, Any]) -> Callable[[], object]:
    """A function that runs one batch."""
    import numpy as np

    rng = np.random.default_rng(0)
    size = (settings["batch_size"], settings["length"])
    inputs = {
        "input_ids": rng.integers(0, settings["vocabulary_size"], size),
        "attention_mask": np.ones(size, np.int64),
        "token_type_ids": np.zeros(size, np.int64),
    }
    if settings["runtime"] == "pytorch":
        import torch

        torch.set_num_threads(settings["threads"])
        module, _, function = settings["builder"].partition(":")
        model = getattr(importlib.import_module(module), function)(settings).eval()
        names = inspect.signature(model.forward).parameters
        tensors = {name: torch.from_numpy(array) for name, array in inputs.items() if name in names}

        def run() -> None:
            with torch.inference_mode():
                model(**tensors)

        return run
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = settings["threads"], 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(settings["path"], options, providers=["CPUExecutionProvider"])
    taken = {each.name: inputs[each.name] for each in session.get_inputs()}
    return lambda: session.run(None, taken)


def timed(run: Callable[[], object]) -> list[list[float]]:
    """Seconds of each run, by rounds."""
    rounds = []
    for _ in range(ROUNDS):
        taken: list[float] = []
        begun = time.perf_counter()
        while len(taken) < ROUND_RUNS or time.perf_counter() - begun < ROUND_SECONDS:
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
        rounds.append(taken)
    return rounds


def typical(rounds: list[list[float]]) -> float:
    """Seconds of a run: the median of the rounds' medians."""
    return statistics.median(map(statistics.median, rounds))


def noise(rounds: list[list[float]]) -> float:
    """How much the rounds' medians differ: the distance of their quartiles, as a share of their median."""
    medians = [statistics.median(taken) for taken in rounds]
    low, middle, high = statistics.quantiles(medians, n=4)
    return (high - low) / middle


def peak_memory_bytes() -> int:
    """Of this program alone; what its parent held before does not count (as it would in ru_maxrss)."""
    try:
        with open("/proc/self/status") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    settings = json.loads(sys.stdin.readline())
    run = runner(settings)
    begun, count = time.perf_counter(), 0
    while count < WARM_RUNS or time.perf_counter() - begun < WARM_SECONDS:
        run()
        count += 1
    print("ready", flush=True)
    sys.stdin.readline()
    best = timed(run)
    for _ in range(TIMES - 1):
        if noise(best) <= STEADY:
            break
        best = min(best, timed(run), key=typical)  # what disturbs only slows
    runs = [1e3 * seconds for taken in best for seconds in taken]
    found = {
        "latency_ms": 1e3 * typical(best),
        "latency_ms_p95": statistics.quantiles(runs, n=20)[-1],
        "latency_noise": noise(best),
        "latency_runs": len(runs),
        "peak_memory_bytes": peak_memory_bytes(),
    }
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
