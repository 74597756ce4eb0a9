"""Does latency measured in a study, beside lanes that train, rank shapes as a quiet machine does?

    python benchmarks/latency_ranking.py FILE [RUNTIME] [SHAPES]

On the embedded task: `SHAPES` (20) drawn from its space are measured by the lanes while the others train (`study`); the same with
nobody making way (`crowded`); then twice by this process alone (`quiet`, `again`). Writes a line for each as it goes, and goes on
from what FILE holds. Prints Kendall's tau of each against `quiet`, and the ratios' median. Stop whatever else runs.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from scipy.stats import kendalltau

from search.lanes.pool import LanePool, plan_lanes
from search.lanes.quiet import start_ray
from search.study.inputs import read_inputs
from search.study.prepare import prepare
from search.study.run import known_limits
from search.study.searcher import trial_config
from search.suggest.sampling import Sampling
from search.trial import work
from search.trial.context import WorkerContext
from search.trial.deliver.costs import processor
from spaces.deployment import DeploymentSpec
from spaces.student import StudentShape
from spaces.trial import WorkItem, WorkKind
from spaces.yaml_io import load_study

KINDS = ("study", "crowded", "quiet", "again")


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
    spec = spec.model_copy(update={"output": file.with_suffix(".output").resolve()})
    inputs = read_inputs(spec, print)
    sampling = Sampling(spec, inputs.teacher, inputs.vocabularies, known_limits(inputs))
    shapes = random.Random(0).sample(sampling.shapes, count)
    known = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    done = {(line["kind"], line["place"]) for line in known}

    def keep(kind: str, place: int, costs: dict[str, float]) -> None:
        line = {"kind": kind, "place": place, "runtime": runtime, "parameters": shapes[place].num_parameters, **costs}
        known.append({**line, "processor": processor()})
        with open(file, "a") as out:
            out.write(json.dumps(known[-1]) + "\n")
        print(f"{kind} {place}: {costs['latency_ms']:.2f} ms, noise {costs['latency_noise']:.1%}", flush=True)

    beside = [kind for kind in KINDS[:2] if any((kind, place) not in done for place in range(count))]
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
    for kind in KINDS[2:]:
        for place, shape in enumerate(shapes):
            if (kind, place) not in done:
                output = work.perform(measure(shape, deployment, "", {}), alone)[1]
                keep(kind, place, output["costs"])
    by_kind = {kind: {line["place"]: line["latency_ms"] for line in known if line["kind"] == kind} for kind in KINDS}
    print("\n| | Kendall's tau against quiet | times quiet, median | largest |\n|---|---|---|---|")
    quiet = by_kind["quiet"]
    for kind in ("study", "crowded", "again"):
        ratios = [by_kind[kind][place] / quiet[place] for place in quiet]
        tau = kendalltau([by_kind[kind][place] for place in quiet], list(quiet.values())).statistic
        print(f"| {kind} | {tau:.3f} | {statistics.median(ratios):.2f} | {max(ratios):.2f} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "onnx", int(sys.argv[3]) if len(sys.argv) > 3 else 20)
