"""What a study would do, without training: sizes, lanes, and an estimate of the time."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

from search.lanes.pool import plan_lanes
from search.study.budget import FRONT_GUESS, OVERHEAD_SECONDS
from search.study.inputs import Inputs, read_inputs
from search.study.run import known_limits
from search.study.sampling import Sampling
from search.study.secrets import mask_secrets
from spaces.student import StudentShape
from spaces.study import StudySpec
from spaces.yaml_io import to_yaml

# A step's matrix products run at a share of their measured rate, and what else it does (memory passes, small operators, Python)
# takes as long as so many operations would. Of one core, students of 1 to 6 layers, 192 to 384 wide: 60 of 75 GFLOP/s in fp32
# (a Xeon without AMX, decision 0003), 140 to 290 of 490 in bf16 (an EPYC with AVX512-BF16, other work beside).
PRODUCTS_SHARE, THE_REST = 0.9, 550e9
START_SECONDS = 25.0  # Ray, the lanes, their imports


@dataclass(frozen=True)
class Plan:
    spec: StudySpec
    notes: list[str]
    num_shapes: int
    smallest: StudentShape
    largest: StudentShape
    teacher_parameters: int
    cluster: dict[str, float]
    num_lanes: int
    seconds: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        return {
            "study": mask_secrets(self.spec.resolved()),
            "notes": self.notes,
            "shapes": self.num_shapes,
            "parameters": {
                "smallest": self.smallest.num_parameters,
                "largest": self.largest.num_parameters,
                "teacher": self.teacher_parameters,
            },
            "cluster": self.cluster,
            "lanes": self.num_lanes,
            "estimated_seconds": {name: round(value, 1) for name, value in self.seconds.items()},
        }

    def as_text(self) -> str:
        sizes = f"{self.smallest.num_parameters:,} to {self.largest.num_parameters:,} parameters"
        held = ", ".join(f"{value:g} {name}" for name, value in self.cluster.items())
        resources = self.spec.resources
        lines = [
            to_yaml(mask_secrets(self.spec.resolved())),
            *(f"note: {note}" for note in self.notes),
            f"students: {self.num_shapes:,} shapes, {sizes}; the teacher has {self.teacher_parameters:,}",
            f"cluster: {held}: {self.num_lanes} lanes of {resources.workers_per_lane} workers",
            "time, roughly (within a factor of two): "
            + ", ".join(f"{name} {value / 60:.1f} min" for name, value in self.seconds.items()),
        ]
        if self.spec.budget.minutes is not None:
            kept = self.seconds["confirmation and delivery"] / 60
            lines.append(
                f"of the budget of {self.spec.budget.minutes:g} minutes, about {kept:.1f} are kept for confirmation and delivery; "
                "the search ends when only they are left"
            )
        return "\n".join(lines)


def make_plan(spec: StudySpec) -> Plan:
    """Reads and tokenises the data, asks the cluster what it holds, measures the processor for a moment."""
    inputs = read_inputs(spec, lambda text: None)
    spec = inputs.spec
    sampling = Sampling(spec, inputs.teacher, inputs.vocabularies, known_limits(inputs))
    shapes = sorted(set(sampling.shapes), key=lambda shape: shape.num_parameters)
    cluster = _cluster()
    num_lanes = plan_lanes(spec.resources, cluster)
    return Plan(
        spec=spec,
        notes=inputs.notes,
        num_shapes=len(shapes),
        smallest=shapes[0],
        largest=shapes[-1],
        teacher_parameters=inputs.teacher.num_parameters,
        cluster={name: value for name, value in cluster.items() if name in ("CPU", "GPU")},
        num_lanes=num_lanes,
        seconds=_estimate(spec, inputs, shapes, num_lanes),
    )


def _cluster() -> dict[str, float]:
    """What the cluster that `run` would use holds; a local one is not started just to be counted."""
    if os.environ.get("RAY_ADDRESS"):
        import ray

        from search.lanes.quiet import start_ray

        try:
            return start_ray()
        finally:
            ray.shutdown()
    import torch

    found = {"CPU": float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)}
    return {**found, "GPU": float(torch.cuda.device_count())} if torch.cuda.is_available() else found


def _estimate(spec: StudySpec, inputs: Inputs, shapes: list[StudentShape], num_lanes: int) -> dict[str, float]:
    rate = _training_rate() * spec.resources.workers_per_lane * max(1.0, spec.resources.cpus_per_worker)
    num_texts = len(inputs.transfer.splits["train"].labels)
    length = max(1, round(inputs.num_train_tokens / num_texts))
    texts = spec.training.steps * 64 if spec.training.steps else spec.training.epochs * num_texts
    trial = 3 * sum(shape.flops(length) for shape in shapes) / len(shapes) * texts / rate  # backward costs two forwards
    teacher = StudentShape(
        family="bert",
        num_hidden_groups=inputs.teacher.depth,
        embedding_size=inputs.teacher.embedding_size or inputs.teacher.hidden_size,
        **inputs.teacher.model_dump(exclude={"model_type", "num_parameters", "embedding_size"}),
    ).flops(length)
    everything = sum(len(split.labels) for split in inputs.transfer.splits.values())
    if spec.data.augmentation != "none":
        passes = 2 if spec.data.augmentation.words == "masked-lm" else 1
        everything += passes * spec.data.augmentation.copies * num_texts
    preparation = START_SECONDS + teacher * everything / (rate * num_lanes)
    if inputs.fine_tunes:
        preparation += 3 * teacher * spec.teacher.fine_tune.epochs * num_texts / (rate * max(1, num_lanes) ** 0.5)
    confirm = spec.confirm
    again = FRONT_GUESS * (confirm.seeds - 1) + {"all": FRONT_GUESS, "best": 1, "none": 0}[confirm.without_distillation]
    after = OVERHEAD_SECONDS + again * trial / num_lanes
    search = spec.budget.trials * trial / num_lanes
    if spec.budget.minutes is not None:
        search = max(0.0, min(search, 60 * spec.budget.minutes - preparation - after))
    return {
        "preparation (less where cached)": preparation,
        "one trial": trial,
        f"search of {spec.budget.trials} trials": search,
        "confirmation and delivery": after,
        "in all": preparation + search + after,
    }


def _training_rate() -> float:
    """FLOPs a second that training on one core may reach, from the rate of its matrix products, measured for a moment."""
    import torch

    from search.trial.device import bf16_pays, device

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    kind = torch.bfloat16 if bf16_pays(device().type) else torch.float32
    left, right = torch.randn(1024, 384, dtype=kind), torch.randn(384, 1536, dtype=kind)
    left @ right
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < 0.2:
        left @ right
        count += 1
    torch.set_num_threads(threads)
    rate = count * 2 * 1024 * 384 * 1536 / (time.perf_counter() - begun)
    return 1 / (1 / (PRODUCTS_SHARE * rate) + 1 / THE_REST)
