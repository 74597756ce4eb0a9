"""Does latency measured in a study, beside lanes that train, rank shapes as a quiet machine does?

    python benchmarks/latency_ranking.py FILE [RUNTIME] [SHAPES]

On the embedded task: `SHAPES` (20) drawn from the default space are measured by the lanes while the others train (`study`),
the same with nobody making way (`crowded`), and by this process alone (`alone`). What is right is measured another way (`quiet`,
and once more as `again`): all of them in this process, in turns, ROUNDS rounds of RUNS runs each, the median over rounds of a
round's median. Writes a line for each as it goes, and goes on from what FILE holds. Prints Kendall's tau of each against `quiet`,
and how far the ratio of two latencies is off. Stop whatever else runs.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
from scipy.stats import kendalltau

from search.lanes.placement import plan_lanes
from search.lanes.pool import LanePool
from search.lanes.quiet import start_ray
from search.study.inputs import read_inputs
from search.study.prepare import prepare
from search.study.run import known_limits
from search.study.searcher import trial_config
from search.suggest.sampling import Sampling
from search.trial import work
from search.trial.context import WorkerContext
from search.trial.deliver.costs import processor
from search.trial.deliver.onnx import export_onnx, load_session, quantise
from search.trial.students import build_student
from spaces.deployment import DeploymentSpec
from spaces.search import SamplingSpec
from spaces.space import parse_space
from spaces.student import StudentShape
from spaces.trial import WorkItem, WorkKind
from spaces.yaml_io import load_study, parse_yaml, preset_text

KINDS, ROUNDS, RUNS = ("study", "crowded", "alone"), 60, 5


def perform_crowded(item: WorkItem, context: WorkerContext) -> Any:
    """As the lanes do, but for having the machine to oneself."""
    return work.perform(item, replace(context, alone=WorkerContext().alone))


def measure(shape: StudentShape, deployment: DeploymentSpec, key: str, refs: dict[str, Any]) -> WorkItem:
    payload = {
        "shape": shape.model_dump(mode="json"),
        "teacher": "",
        "deployment": deployment.model_dump(),
        "max_positions": shape.max_positions,
        "refs": refs,
    }
    return WorkItem(key=key, kind=WorkKind.MEASURE, payload=payload)


def main(file: Path, runtime: str, count: int) -> None:
    deployment = DeploymentSpec.model_validate({"runtime": runtime})
    spec = load_study("docstrings")
    space, _ = parse_space(parse_yaml(preset_text("spaces", "default"), "default"))
    spec = spec.model_copy(
        update={"output": file.with_suffix(".output").resolve(), "space": space, "search": SamplingSpec()}
    )
    inputs = read_inputs(spec, print)
    sampling = Sampling(spec, inputs.teacher, inputs.vocabularies, known_limits(inputs))
    shapes = random.Random(0).sample(list(dict.fromkeys(sampling.shapes)), count)
    known = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    done = {(line["kind"], line["place"]) for line in known}

    def keep(kind: str, place: int, costs: dict[str, float]) -> None:
        line = {"kind": kind, "place": place, "runtime": runtime, "parameters": shapes[place].num_parameters, **costs}
        known.append({**line, "processor": processor()})
        with open(file, "a") as out:
            out.write(json.dumps(known[-1]) + "\n")
        print(f"{kind} {place}: {costs}", flush=True)

    beside = [kind for kind in ("study", "crowded") if any((kind, place) not in done for place in range(count))]
    for kind in beside:
        perform = "search.trial.work:perform" if kind == "study" else "latency_ranking:perform_crowded"
        with ExitStack() as stack:
            cluster = start_ray()
            stack.callback(ray.shutdown)
            lanes = plan_lanes(spec.resources, cluster)
            folder = spec.output / ".ray"
            pool = stack.enter_context(
                LanePool(spec.resources, lanes, {}, folder, silence_seconds=300, perform=perform)
            )
            prepared = prepare(inputs, ray.put(inputs.transfer), pool, lanes, print)
            payload = {"teacher": str(prepared.teacher_folder), "refs": {"transfer": prepared.transfer}}
            trained = 0

            def train(pool: LanePool = pool, payload: dict[str, Any] = payload) -> str:
                nonlocal trained
                trained += 1
                point = sampling.suggest([], trained)
                assert point is not None
                config = trial_config(spec, *point, inputs.teacher.depth, trained).model_copy(
                    update={"epochs": 0.2, "steps": None}
                )
                item = WorkItem(
                    key=f"train:{trained}", kind=WorkKind.TRAIN, trial=trained, config=config, payload=payload
                )
                pool.submit(item)
                return item.key

            training = {train() for _ in range(lanes)}  # one is always there to take a free lane
            for place, shape in enumerate(shapes):
                if (kind, place) in done:
                    continue
                item = measure(shape, deployment, f"{kind}:{place}", payload["refs"])
                pool.submit(item)
                while (result := pool.wait_any([*training, item.key])).key != item.key:
                    pool.acknowledge(result.key)
                    training.remove(result.key)
                    training.add(train())
                pool.acknowledge(item.key)
                if result.error:
                    raise SystemExit(result.error)
                keep(kind, place, result.output["costs"])
    alone = WorkerContext(data={"transfer": inputs.transfer})
    for place, shape in enumerate(shapes):
        if ("alone", place) not in done:
            keep("alone", place, work.perform(measure(shape, deployment, "", {}), alone)[1]["costs"])
    for kind in ("quiet", "again"):
        if (kind, 0) not in done:
            for place, milliseconds in enumerate(in_turns(shapes, deployment)):
                keep(kind, place, {"latency_ms": milliseconds})
    found = {
        kind: {line["place"]: line.get("latency_ms", line.get("yardsticks")) for line in known if line["kind"] == kind}
        for kind in (*KINDS, "quiet", "again")
    }
    quiet = found["quiet"]
    print("\n| | Kendall's tau against quiet | largest error of a ratio of two | median |\n|---|---|---|---|")
    for kind in (*KINDS, "again"):
        tau = kendalltau([found[kind][place] for place in quiet], list(quiet.values())).statistic
        shares = [found[kind][place] / quiet[place] for place in quiet]
        typical = statistics.median(shares)
        errors = [abs(share / typical - 1) for share in shares]
        print(f"| {kind} | {tau:.3f} | {max(errors):.1%} | {statistics.median(errors):.1%} |")


def in_turns(shapes: list[StudentShape], deployment: DeploymentSpec) -> list[float]:
    """Milliseconds of each shape: every round runs all of them, so that all have the machine's better and worse moments."""
    rng, runs = np.random.default_rng(0), []
    with tempfile.TemporaryDirectory() as folder:
        for place, shape in enumerate(shapes):
            model = build_student(shape, label_names=[str(number) for number in range(shape.num_labels)])
            path = Path(folder) / f"{place}.onnx"
            export_onnx(model, path)
            if deployment.runtime == "onnx-int8":
                quantise(path, path)
            session = load_session(path, deployment.threads)
            size = (deployment.batch_size, deployment.length)
            inputs = {
                "input_ids": rng.integers(0, shape.vocabulary_size, size),
                "attention_mask": np.ones(size, np.int64),
                "token_type_ids": np.zeros(size, np.int64),
            }
            feed = {each.name: inputs[each.name] for each in session.get_inputs()}
            runs.append(partial(session.run, None, feed))
        rounds: list[list[float]] = []
        for _ in range(ROUNDS + 5):
            row = []
            for run in runs:
                taken = []
                for _ in range(RUNS + 1):
                    begun = time.perf_counter()
                    run()
                    taken.append(1e3 * (time.perf_counter() - begun))
                row.append(statistics.median(taken[1:]))  # the first one finds the others' weights in the cache
            rounds.append(row)
    return [statistics.median(row[place] for row in rounds[5:]) for place in range(len(shapes))]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "onnx", int(sys.argv[3]) if len(sys.argv) > 3 else 20)
