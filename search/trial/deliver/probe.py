"""Runs one model as a user would, in a process of its own, and says how long it takes and what it holds.

    python -P probe.py

Imports nothing but the runtime, so that the memory is that of whoever serves the model. Reads a line of JSON: runtime, batch_size,
length, threads, and of the model and the yardstick its path (ONNX) or what builds it (PyTorch) and vocabulary_size. Answers "ready"
once both are warm, waits for a line, measures, and answers with a line of JSON.

A machine is not equally fast at all times: where others share the host, the same run takes 3.0 or 3.9 ms from one tenth of a second
to the next. So the model takes turns with a yardstick, a small model that is always the same, and what counts is how
many yardsticks a run takes: over rounds of a fifth of a second that varies by 2.7 % where the time itself varies by 7 %.
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
ROUNDS, ROUND_SECONDS, BLOCK = 10, 0.12, 4
STEADY = 0.03  # while the rounds' ratios differ by more there are more rounds,
TIMES = 3  # up to so many times as many

Run = Callable[[], object]


def runner(settings: dict[str, Any], model: dict[str, Any]) -> Run:
    """A function that runs one batch through the model."""
    import numpy as np

    rng = np.random.default_rng(0)
    size = (settings["batch_size"], settings["length"])
    inputs = {
        "input_ids": rng.integers(0, model["vocabulary_size"], size),
        "attention_mask": np.ones(size, np.int64),
        "token_type_ids": np.zeros(size, np.int64),
    }
    if settings["runtime"] == "pytorch":
        import torch

        torch.set_num_threads(settings["threads"])
        module, _, function = settings["builder"].partition(":")
        built = getattr(importlib.import_module(module), function)(model).eval()
        names = inspect.signature(built.forward).parameters
        tensors = {name: torch.from_numpy(array) for name, array in inputs.items() if name in names}

        def run() -> None:
            with torch.inference_mode():
                built(**tensors)

        return run
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = settings["threads"], 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model["path"], options, providers=["CPUExecutionProvider"])
    taken = {each.name: inputs[each.name] for each in session.get_inputs()}
    return lambda: session.run(None, taken)


def warm(run: Run) -> None:
    begun, count = time.perf_counter(), 0
    while count < WARM_RUNS or time.perf_counter() - begun < WARM_SECONDS:
        run()
        count += 1


def timed(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def one_round(run: Run, yardstick: Run) -> tuple[list[float], list[float]]:
    """Seconds of the model's runs and of the yardstick's, in turns of BLOCK; the first of a turn, which finds the other's weights
    in the cache, does not count."""
    ours: list[float] = []
    its: list[float] = []
    begun = time.perf_counter()
    while not ours or time.perf_counter() - begun < ROUND_SECONDS:
        for each, taken in ((run, ours), (yardstick, its)):
            each()
            taken.extend(timed(each) for _ in range(BLOCK))
    return ours, its


def noise(ratios: list[float]) -> float:
    """How far the median over the rounds may be off: the distance of their quartiles over the root of their number, as a share."""
    low, middle, high = statistics.quantiles(ratios, n=4)
    return (high - low) / middle / len(ratios) ** 0.5


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
    run = runner(settings, settings["model"])
    warm(run)
    peak = peak_memory_bytes()  # before the yardstick is there
    yardstick = runner(settings, settings["yardstick"])
    warm(yardstick)
    print("ready", flush=True)
    sys.stdin.readline()
    rounds: list[tuple[list[float], list[float]]] = []
    ratios: list[float] = []
    while len(rounds) < ROUNDS or (len(rounds) < TIMES * ROUNDS and noise(ratios) > STEADY / ROUNDS**0.5):
        rounds.append(one_round(run, yardstick))
        ratios = [statistics.median(ours) / statistics.median(its) for ours, its in rounds]
    runs = [seconds / statistics.median(its) for ours, its in rounds for seconds in ours]
    found = {
        "yardsticks": statistics.median(ratios),
        "yardsticks_p95": statistics.quantiles(runs, n=20)[-1],
        "yardstick_ms": 1e3 * statistics.median(statistics.median(its) for _, its in rounds),
        "latency_noise": noise(ratios),
        "latency_runs": len(runs),
        "peak_memory_bytes": peak,
    }
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
