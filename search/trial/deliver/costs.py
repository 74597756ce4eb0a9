"""Measures what a model costs where it will run (`study.deployment`): latency, memory, the int8 file's bytes; its weights do not
matter."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from search.trial.context import WorkerContext
from search.trial.data import TransferSet
from search.trial.deliver.onnx import export_onnx, quantise
from search.trial.students import build_student
from search.trial.teacher import load_teacher
from spaces.deployment import DeploymentSpec
from spaces.errors import TrialError
from spaces.families import register
from spaces.heads import register_heads
from spaces.student import StudentShape

PROBE_SECONDS = 300.0  # a probe that takes longer hangs: half of it is the import of torch on a machine that is busy
BUILDER = "search.trial.deliver.costs:build"


def measure_costs(
    deployment: DeploymentSpec,
    shape: StudentShape | None,
    teacher: str,
    max_positions: int,
    transfer: TransferSet,
    context: WorkerContext,
) -> dict[str, float]:
    """The costs of a student of this shape, or of the teacher in its folder where there is none: its latency in `yardsticks`
    (median, and yardsticks_p95), how long a yardstick takes here and now (yardstick_ms), latency_noise (by how much the median may
    be off, as a share), peak_memory_bytes, quiet (1: nobody of this machine's other lanes was at work) and, of an int8 file,
    bytes. Raises TrialError where the model cannot be exported or run."""
    common = {
        "label_names": transfer.label_names,
        "problem_type": transfer.problem_type,
        "families": transfer.own_families,
        "heads": transfer.own_heads,
    }
    plain = None if shape is None else shape.model_dump(mode="json")
    models: dict[str, dict[str, Any]] = {
        "model": {"shape": plain, "teacher": teacher, **common},
        "yardstick": {"shape": yardstick(deployment).model_dump(mode="json"), "teacher": "", **common},
    }
    length = min(deployment.length, max_positions)
    settings = {**deployment.model_dump(include={"runtime", "batch_size", "threads"}), "length": length}
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="distilsearch-") as folder:
        for name, what in models.items():
            path, int8_path = Path(folder) / f"{name}.onnx", Path(folder) / f"{name}.int8.onnx"
            built = build(what)
            what["vocabulary_size"] = int(built.config.vocab_size)
            counts_int8 = name == "model" and deployment.file == "int8"
            if deployment.runtime != "pytorch" or counts_int8:
                export_onnx(built, path)
            if deployment.runtime == "onnx-int8" or counts_int8:
                quantise(path, int8_path)
            if counts_int8:
                found["bytes"] = float(int8_path.stat().st_size)
            what["path"] = str(int8_path if deployment.runtime == "onnx-int8" else path)
            del built
        return found | _probed({**settings, "builder": BUILDER, **models}, context)


def yardstick(deployment: DeploymentSpec) -> StudentShape:
    """What latencies are counted in: a small student that is the same in every study."""
    return StudentShape(
        family="bert", depth=2, hidden_size=192, num_heads=3, intermediate_size=384, embedding_size=192, num_hidden_groups=2,
        vocabulary_size=1000, max_positions=max(512, deployment.length), type_vocabulary_size=2, num_labels=2,
    )  # fmt: skip


def build(settings: dict[str, Any]) -> Any:
    """The model that the settings name, with random weights where it is a student."""
    if settings["shape"] is None:
        return load_teacher(settings["teacher"])
    register(settings["families"])
    register_heads(settings["heads"])
    shape = StudentShape.model_validate(settings["shape"])
    names = settings["label_names"]
    return build_student(
        shape,
        label_names=names if len(names) == shape.num_labels else [str(number) for number in range(shape.num_labels)],
        problem_type=settings["problem_type"],
    )


def _probed(settings: dict[str, Any], context: WorkerContext) -> dict[str, float]:
    """What the probe says; the machine is ours alone from when it is warm to its answer."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    environment |= {
        "OMP_NUM_THREADS": str(settings["threads"]),
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("probe.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        watch = threading.Timer(PROBE_SECONDS, process.kill)
        watch.start()
        try:
            answer, quiet = "", False
            with contextlib.suppress(BrokenPipeError):
                print(json.dumps(settings), file=process.stdin, flush=True)
                if process.stdout.readline().strip() == "ready":
                    with context.alone() as quiet:
                        print("go", file=process.stdin, flush=True)
                        answer = process.stdout.readline()
            if not answer:
                process.kill()
                process.wait()
                errors.seek(0)
                said = errors.read().strip().splitlines() or [f"it was stopped after {PROBE_SECONDS:.0f} s"]
                raise TrialError(f"the model cannot be run by {settings['runtime']}: {said[-1][:300]}")
            return {**json.loads(answer), "quiet": float(quiet)}
        finally:
            watch.cancel()
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()


def processor() -> str:
    """Of this machine, in its maker's words."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
