"""What flows: one trial's config, what a lane is handed, what came back, and the exported best-config."""

from __future__ import annotations

import errno
import hashlib
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from spaces.deployment import PREFIX
from spaces.matching import HiddenLayers, HiddenLoss, matched_states
from spaces.student import Frozen, StudentShape


class TrialConfig(Frozen):
    """All that one trial needs. `layers` are the teacher's, counted from 0; `warmup_share` is of the steps;
    `epochs` is one full trial, unless `steps` says it in optimizer steps."""

    shape: StudentShape
    layers: tuple[int, ...]
    vocabulary: str
    temperature: float
    soft_share: float
    hidden_share: float = 0.0
    hidden_loss: HiddenLoss = "cosine"
    hidden_layers: HiddenLayers = "last"
    learning_rate: float
    batch_size: int
    warmup_share: float
    weight_decay: float
    dropout: float
    epochs: float
    steps: int | None = None
    seed: int
    initialise: Literal["teacher", "random"] = "teacher"
    group_start: Literal["first", "mean", "best"] = "first"

    @property
    def is_taught(self) -> bool:
        """Whether the teacher has a part in the loss."""
        return self.soft_share > 0 or self.hidden_share > 0

    def without_distillation(self) -> TrialConfig:
        """The same initialisation, data order and steps, and the labels alone for a loss."""
        return self.model_copy(update={"soft_share": 0.0, "hidden_share": 0.0})

    def matched_states(self, teacher_depth: int) -> list[tuple[int, int]]:
        return matched_states(self.hidden_loss, self.hidden_layers, self.shape.depth, teacher_depth, self.layers)


class TrialState(StrEnum):
    """Our words; values are added, never removed. Optuna's own state stands beside them in the record."""

    RUNNING = "running"  # a segment is suggested and not yet measured
    WAITING = "waiting"  # measured at a rung, not yet promoted
    PROMOTED = "promoted"  # the next segment is suggested
    ENDED = "ended"  # will not be promoted
    FAILED = "failed"
    DONE = "done"  # measured after the whole training


class WorkKind(StrEnum):
    FINE_TUNE = "fine_tune"  # give the teacher its task head
    MAKE_UP = "make_up"  # texts for the teacher to label
    TEACH = "teach"  # teacher outputs over a part of the transfer set
    TEACH_STATES = "teach_states"  # its hidden states over a part of the training rows
    RANK = "rank"  # how much each head, neuron and dimension of the teacher matters
    FLOOR = "floor"  # what a student has to beat: n-grams, the majority, the teacher with its vocabulary cut
    MEASURE = "measure"  # what a shape costs where it will run: latency, memory
    TRAIN = "train"  # a trial, from one rung to the next
    DELIVER = "deliver"  # export, reload, score


class WorkItem(Frozen):
    """What a lane is handed. `key` names it for good; `attempt` grows each time it is handed out again after a loss."""

    key: str
    kind: WorkKind
    trial: int | None = None
    attempt: int = 1
    config: TrialConfig | None = None
    start_share: float = 0.0
    end_share: float = 1.0
    evaluate: tuple[str, ...] = ("validation",)
    folder: str = ""  # where the work leaves its files; empty: it leaves none
    accumulation_steps: int = 1  # parts of a batch that are trained one after another, for want of memory
    payload: dict[str, Any] = Field(default_factory=dict)

    @property
    def leaves(self) -> Path:
        """What the work leaves: `folder`; of a trial its attempt's own one in it, beside which an older one's late write lands."""
        folder = Path(self.folder)
        return folder / f"attempt-{self.attempt}" if self.kind is WorkKind.TRAIN else folder


class Measurement(Frozen):
    """One evaluation. `share` is the part of the full training done; metrics are named `split/name`;
    `cost` holds seconds and counts (train_seconds, tokens, optimizer_steps ...), the lane, and Unix times (`..._at`)."""

    trial: int
    attempt: int
    step: int
    share: float
    metrics: dict[str, float]
    cost: dict[str, float] = Field(default_factory=dict)

    def named(self, prefix: str) -> dict[str, float]:
        """The metrics under `prefix`, without it."""
        return {name.removeprefix(prefix): value for name, value in self.metrics.items() if name.startswith(prefix)}


class WorkResult(Frozen):
    """What a lane leaves with the broker. `error` is empty when the work was done; `timing` holds Unix times
    (received_at, first_step_at, finished_at); `output` is plain data or numpy arrays; `memory_gb` is what the lane's first
    worker holds after the work, without what it shares."""

    key: str
    kind: WorkKind
    trial: int | None
    attempt: int
    lane: int
    measurement: Measurement | None = None
    output: dict[str, Any] = Field(default_factory=dict)
    error: str = ""
    out_of_memory: bool = False  # in training, where smaller parts of a batch may fit
    timing: dict[str, float] = Field(default_factory=dict)
    memory_gb: float = 0.0

    @property
    def ran_out_of_space(self) -> bool:
        """Whether it failed for want of disk, which is no fault of the work's."""
        return any(os.strerror(code) in self.error for code in (errno.ENOSPC, errno.EDQUOT))

    @property
    def remedy(self) -> str:
        """What to do about a failure that is no fault of the work's, which begins again then; empty for others."""
        if self.ran_out_of_space:
            return "Make room and run the same command again"
        # Raised on a lane, they are about the output's URL.
        return "Run the same command again" if self.error.startswith(("StudyError: ", "InputError: ")) else ""

    @property
    def timed_measurement(self) -> Measurement:
        """The measurement, with its lane, its memory and times among its costs, as the record keeps it."""
        assert self.measurement is not None
        lane = {"lane": float(self.lane), "lane_memory_gb": self.memory_gb}
        cost = {**self.measurement.cost, **lane, **self.timing}
        return self.measurement.model_copy(update={"cost": cost})


class TrialOutcome(Frozen):
    """One trial as the record knows it. `parameters` are the searched values as suggested; `until` is the share of its training
    at which the segment that was suggested last ends."""

    number: int
    config: TrialConfig
    parameters: dict[str, str | int | float]
    state: TrialState
    measurements: tuple[Measurement, ...] = ()
    error: str = ""
    labels: dict[str, str] = Field(default_factory=dict)  # such as kind: confirm
    until: float = 1.0

    @property
    def train_seconds(self) -> float:
        """Of all its segments; 0 where none was measured."""
        return sum(measurement.cost.get("train_seconds", 0.0) for measurement in self.measurements)

    @property
    def train_tokens(self) -> float:
        """Likewise: what its measured segments were trained on, without padding."""
        return sum(measurement.cost.get("tokens", 0.0) for measurement in self.measurements)

    @property
    def share(self) -> float:
        """The part of its training that is measured."""
        return self.last.share if self.last else 0.0

    @property
    def last(self) -> Measurement | None:
        return self.measurements[-1] if self.measurements else None

    def values(self) -> dict[str, float]:
        """The objectives' values under their study names: measured on validation, the sizes by arithmetic, and what the last
        measurement says of the student's costs where it will run."""
        if self.last is None:
            return self.config.shape.sizes
        return {**self.last.named("validation/"), **self.config.shape.sizes, **self.last.named(PREFIX)}


BEST_CONFIG: Literal["distilsearch/best-config"] = "distilsearch/best-config"
BEST_CONFIG_VERSION = 1  # raised only where a file of the version before could not be read as it is


class BestConfig(Frozen):
    """The exported file of one student: enough to train it again and to know what it is worth. docs/best-config.md explains it."""

    schema_version: Literal[1] = Field(default=1, description="of this file; files of every earlier version load, too")
    kind: Literal["distilsearch/best-config"] = Field(
        default=BEST_CONFIG, description="what tells it from a study file"
    )
    trial: Annotated[int, Field(ge=0, description="the trial's number in its study")]
    config: TrialConfig = Field(description="the student's shape, and how it was trained")
    parameters: dict[str, str | int | float] = Field(
        description="the searched values, in the words of the study's space"
    )
    metrics: dict[str, Any] = Field(
        description="scores: validation/NAME a number; test/NAME {mean, std, seeds, low, high} over the seeds of the confirmation, "
        "low and high being the 95 % interval; without_distillation likewise; delivered: of the model in best/; references: of "
        "what it is held against"
    )
    sizes: dict[str, float] = Field(description="parameters, and bytes of the delivered weights")
    study: dict[str, Any] = Field(
        description="the study of this one student (see `distilsearch schema`): what `distilsearch run FILE` trains again"
    )
    provenance: dict[str, Any] = Field(
        description="the teacher, the fingerprints of data and study, the versions it was made with"
    )
    reproduce: str = Field(description="the command that trains it again, from the study's output folder")


def derived_seed(seed: int, *parts: object) -> int:
    """A 31-bit seed from the study's seed and what it is for, such as the trial's number."""
    text = ":".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
