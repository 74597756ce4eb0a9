"""What a study would do, without training: sizes, lanes, and an estimate of the time."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from search.lanes.placement import plan_lanes
from search.study.budget import FRONT_GUESS, OVERHEAD_SECONDS
from search.study.earlier import earlier_of
from search.study.inputs import Inputs, Say, read_inputs
from search.study.lane_hours import num_gpus
from search.study.limits import known_limits
from search.study.pace import measure_pace
from search.study.shape_costs import LOOKED_AT, SECONDS_A_SHAPE, needs_measuring
from search.study.tokens import refuse_too_few_tokens
from search.suggest.first import first_points
from search.suggest.sampling import Sampling
from search.trial.device import bf16_pays, device, use_processor
from search.trial.start.importance import MAX_ROWS
from spaces.parameters import Choice
from spaces.secrets import mask_secrets
from spaces.student import StudentShape
from spaces.study import StudySpec
from spaces.yaml_io import to_yaml

ONE_CORE = "  (two lanes of one core train 1.9 to 2 times what one does, one lane of two threads 1.2 to 1.8 times)"
START_SECONDS = 20.0  # Ray, the lanes, their imports
MAKING_SECONDS = 160e-6  # of making one text up
HIDDEN_FACTOR = 2.2  # what a loss on hidden states does to a step
EXACT_FACTOR = 4.0  # fp32 against bf16, where bf16 pays
RANKING_FACTOR = 3.0  # the teacher's parts are ranked forwards and backwards
THREADS_GAIN = 0.4  # n threads train n ** 0.4 times as fast as one: 1.3x on two
CROWDED = 1.2  # what lanes that have all of a machine's cores lose to each other, Ray and the driver
TIMED = 6  # students that are trained for some steps


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
    tokens: float  # that one trial is trained on, on average
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
            "tokens_of_one_trial": round(self.tokens),
            "estimated_seconds": {name: round(value, 1) for name, value in self.seconds.items()},
        }

    def as_text(self) -> str:
        sizes = f"{self.smallest.num_parameters:,} to {self.largest.num_parameters:,} parameters"
        held = ", ".join(f"{value:g} {name}" for name, value in self.cluster.items())
        resources = self.spec.resources
        each = f"{resources.workers_per_lane} workers, {resources.cpus_per_worker:g} CPUs each"
        lines = [
            to_yaml(mask_secrets(self.spec.resolved())),
            *(f"note: {note}" for note in self.notes),
            f"students: {self.num_shapes:,} shapes, {sizes}; the teacher has {self.teacher_parameters:,}",
            f"cluster: {held}: {self.num_lanes} lanes of {each}",
            *(() if resources.gpus_per_worker else (ONE_CORE,)),
            "time, about: " + ", ".join(f"{name} {value / 60:.1f} min" for name, value in self.seconds.items()),
        ]
        if resources.price is not None:
            paid = resources.price.per_lane_hour * self.num_lanes * self.seconds["in all"] / 3600
            lines.append(f"money, about: {paid:,.2f} {resources.price.currency}")
        budget = self.spec.budget
        if budget.training_tokens is not None:
            lines.append(
                f"the budget of {budget.training_tokens:,.0f} training tokens pays for about "
                f"{budget.training_tokens / self.tokens:,.1f} whole trials of {self.tokens:,.0f}"
            )
        if budget.gpu_hours is not None:
            gpus = num_gpus(self.spec, self.num_lanes)
            lines.append(
                f"{budget.gpu_hours:g} GPU hours are {60 * budget.gpu_hours / gpus:,.1f} minutes of {gpus:g} GPUs"
            )
        minutes = _seconds_allowed(self.spec, self.num_lanes) / 60
        if minutes < math.inf:
            kept = self.seconds["confirmation and delivery"] / 60
            lines.append(
                f"of the budget of {minutes:g} minutes, about {kept:.1f} are kept for confirmation and delivery; "
                "the search ends when only they are left"
            )
        return "\n".join(lines)


def make_plan(spec: StudySpec, say: Say = lambda text: None) -> Plan:
    """Reads and tokenises the data, asks the cluster what it holds, and trains some of the students for some steps.

    `say` is told what goes on."""
    begun = time.perf_counter()
    say("reading the data and the teacher")
    inputs = read_inputs(spec, lambda text: None)
    reading = time.perf_counter() - begun
    asked, spec, limits = spec, inputs.spec, known_limits(inputs)
    refuse_too_few_tokens(inputs)
    earlier = earlier_of(asked, inputs, limits)
    first = first_points(spec, inputs.teacher, inputs.vocabularies, limits, earlier.first)
    sampling = Sampling(spec, inputs.teacher, inputs.vocabularies, limits, first=first)
    shapes = sorted(set(sampling.shapes), key=lambda shape: shape.num_parameters)
    nodes = _nodes()
    num_lanes = plan_lanes(spec.resources, nodes)
    cluster = {
        name: sum(node.get(name, 0.0) for node in nodes)
        for name in ("CPU", "GPU")
        if any(name in node for node in nodes)
    }
    say("training some of the students for some steps")
    tokens, seconds = _estimate(spec, inputs, sampling, num_lanes, reading, cluster)
    return Plan(
        spec=spec,
        notes=[*inputs.notes, *([earlier.note] if earlier.note else [])],
        num_shapes=len(shapes),
        smallest=shapes[0],
        largest=shapes[-1],
        teacher_parameters=inputs.teacher.num_parameters,
        cluster={name: value for name, value in cluster.items() if name in ("CPU", "GPU")},
        num_lanes=num_lanes,
        tokens=tokens,
        seconds=seconds,
    )


def _nodes() -> list[dict[str, float]]:
    """Of the cluster that `run` would use; a local one is not started just to be counted."""
    if os.environ.get("RAY_ADDRESS"):
        from search.lanes.quiet import start_ray, stop_ray
        from search.lanes.room import nodes_now

        try:
            start_ray()
            return nodes_now()
        finally:
            stop_ray()
    import torch

    found = {"memory": float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))}
    found |= {"CPU": float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)}
    if torch.cuda.is_available():
        found["GPU"] = float(torch.cuda.device_count())
    return [found]


def _estimate(
    spec: StudySpec,
    inputs: Inputs,
    sampling: Sampling,
    num_lanes: int,
    read_seconds: float,
    cluster: dict[str, float],
) -> tuple[float, dict[str, float]]:
    """Tokens of one trial, on average; and seconds by part, from the pace of this machine's processor (or its GPU) and the
    study's own sizes."""
    sizes = {name: len(split.tokens["full"].ids) for name, split in inputs.transfer.splits.items()}
    num_texts = len(inputs.transfer.splits["train"])
    length = max(1, round(sizes["train"] / num_texts))
    batch = spec.space.parameter("batch_size")
    batch_size = round(fmean(map(float, batch.values)) if isinstance(batch, Choice) else fmean((batch.low, batch.high)))
    trials, epochs, teacher = spec.budget.trials, spec.training.epochs, inputs.teacher.as_student()
    if not spec.resources.gpus_per_worker:
        use_processor()  # as the lanes will
    students = _some_of(spec, sampling, length)
    fine_tuned_by = spec.teacher.fine_tune.batch_size if inputs.fine_tunes else None
    pace = measure_pace(inputs, students, teacher, batch_size, fine_tuned_by)
    threads = max(1.0, spec.resources.cpus_per_worker)
    workers = spec.resources.workers_per_lane * threads**THREADS_GAIN
    taken = num_lanes * spec.resources.workers_per_lane * threads
    crowded = CROWDED if not spec.resources.gpus_per_worker and taken >= cluster.get("CPU", 1.0) else 1.0
    exact = EXACT_FACTOR if bf16_pays(device().type) else 1.0

    # One trial, on average: those given first as they are, the rest as the space holds them.
    share_of_teacher = fmean(shape.flops(length) for shape in students) / teacher.flops(length)
    trained = spec.training.steps * batch_size * length if spec.training.steps else epochs * sizes["train"]
    hidden = HIDDEN_FACTOR if spec.space.teacher_states(inputs.teacher.depth) else 1.0
    beside = pace.reading if inputs.transfer.target == "piece" else 0.0  # a lane's teacher reads each batch
    trial = (
        trained * (pace.training * hidden + beside) * crowded / workers
        + sizes["validation"] * pace.reading * share_of_teacher
    )

    made = spec.data.augmentation.copies * num_texts if spec.data.augmentation != "none" else 0
    growth = made / sum(len(split) for split in inputs.transfer.splits.values())
    preparation = START_SECONDS + read_seconds * (1 + growth) + made * MAKING_SECONDS / num_lanes
    read = sum(sizes.values()) + made * length * (2 if _replaces_by_masked_lm(spec) else 1)
    preparation += read * pace.reading / num_lanes
    if spec.space.narrows:
        preparation += min(MAX_ROWS, num_texts) * length * pace.reading * RANKING_FACTOR / num_lanes
    measuring = SECONDS_A_SHAPE[spec.deployment.runtime] if needs_measuring(spec) else 0.0
    preparation += measuring * (1 + min(LOOKED_AT, len(set(sampling.shapes)))) / num_lanes
    if inputs.fine_tunes:
        tokens = spec.teacher.fine_tune.epochs * sizes["train"]
        preparation += tokens * pace.fine_tuning / (num_lanes * threads) ** THREADS_GAIN

    confirm, points = spec.confirm, min(FRONT_GUESS, trials)
    near = (
        0 if spec.budget.minutes is not None else min(confirm.near, trials - points)
    )  # of what minutes leave, if anything
    again = (points + near) * (confirm.seeds - 1) + {"all": points, "best": 1, "none": 0}[confirm.without_distillation]
    scored = (sizes["validation"] + sizes["test"]) * pace.reading * exact
    after = OVERHEAD_SECONDS + (again * trial + points * scored * share_of_teacher) / num_lanes
    # The floors' part of the first lanes, and at the end half a trial for whoever has to wait for the last.
    search = ((trials * spec.search.mean_share + (num_lanes - 1) / 2) * trial + scored) / num_lanes
    search += measuring * trials / num_lanes  # few trials share a shape
    if spec.budget.training_tokens is not None:
        search = min(search, (spec.budget.training_tokens / trained * trial + scored) / num_lanes)
    search = max(0.0, min(search, _seconds_allowed(spec, num_lanes) - preparation - after))
    return trained, {
        "preparation (less where cached)": preparation,
        "one trial": trial,
        f"search of {trials} trials": search,
        "confirmation and delivery": after,
        "in all": preparation + search + after,
    }


def _seconds_allowed(spec: StudySpec, num_lanes: int) -> float:
    """What minutes and GPU hours, whichever ends first, leave for one whole command; infinite where neither is bounded."""
    budget = spec.budget
    by_gpus = math.inf if budget.gpu_hours is None else 3600 * budget.gpu_hours / num_gpus(spec, num_lanes)
    return min(math.inf if budget.minutes is None else 60 * budget.minutes, by_gpus)


def _some_of(spec: StudySpec, sampling: Sampling, length: int) -> list[StudentShape]:
    """At most TIMED different students that the trials may be, from the smallest to the largest, each as often as it is likely."""

    def evenly(shapes: list[StudentShape]) -> list[StudentShape]:
        ordered = sorted(shapes, key=lambda shape: shape.flops(length))
        return [ordered[int((number + 0.5) / TIMED * len(ordered))] for number in range(TIMED)]

    looked_at = min(spec.budget.trials, 100)
    given = min(sampling.num_first, looked_at)
    likely = [shape for number in range(given) for shape in evenly(sampling.open_to(number))]
    likely += evenly(sampling.shapes) * (looked_at - given)
    return likely if len(set(likely)) <= TIMED else evenly(likely)


def _replaces_by_masked_lm(spec: StudySpec) -> bool:
    return spec.data.augmentation != "none" and spec.data.augmentation.words == "masked-lm"
