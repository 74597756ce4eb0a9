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
    """The costs of a student of this shape, or of the teacher in its folder where there is none: latency_ms (median),
    latency_ms_p95, latency_noise (quartiles' distance over rounds, as a share), peak_memory_bytes, quiet (1: nobody of this
    machine's other lanes was at work) and, of an int8 file, bytes. Raises TrialError where the model cannot be exported or run."""
    plain = {
        "shape": None if shape is None else shape.model_dump(mode="json"),
        "teacher": teacher,
        "label_names": transfer.label_names,
        "problem_type": transfer.problem_type,
        "families": transfer.own_families,
        "heads": transfer.own_heads,
    }
    settings = {
        "runtime": deployment.runtime,
        "builder": BUILDER,
        "batch_size": deployment.batch_size,
        "length": min(deployment.length, max_positions),
        "threads": deployment.threads,
        **plain,
    }
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="distilsearch-") as folder:
        plain_file, int8_file = Path(folder) / "model.onnx", Path(folder) / "int8.onnx"
        model = build(plain)
        settings["vocabulary_size"] = int(model.config.vocab_size)
        if deployment.runtime != "pytorch" or deployment.file == "int8":
            export_onnx(model, plain_file)
        if "int8" in (deployment.file, deployment.runtime.removeprefix("onnx-")):
            quantise(plain_file, int8_file)
        del model
        if deployment.file == "int8":
            found["bytes"] = float(int8_file.stat().st_size)
        settings["path"] = str(int8_file if deployment.runtime == "onnx-int8" else plain_file)
        return found | _probed(settings, context)


def build(settings: dict[str, Any]) -> Any:
    """The model that the settings name, with random weights where it is a student."""
    if settings["shape"] is None:
        return load_teacher(settings["teacher"])
    register(settings["families"])
    register_heads(settings["heads"])
    return build_student(
        StudentShape.model_validate(settings["shape"]),
        label_names=settings["label_names"],
        problem_type=settings["problem_type"],
        teacher_config=None,
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
