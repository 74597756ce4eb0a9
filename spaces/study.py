"""StudySpec: the study as the user wrote it, validated. Frozen; a key that does not exist is an error."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    PlainSerializer,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from spaces.budget import BudgetSpec
from spaces.deployment import COSTS, DeploymentSpec
from spaces.errors import near_miss
from spaces.named import IMPORT_PATH
from spaces.remote import Place
from spaces.search import SamplingSpec
from spaces.space import PARAMETERS, SearchSpace
from spaces.student import Frozen
from spaces.task import METRIC_WORDS, TASKS, Task

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
ImportPath = Annotated[str, StringConstraints(pattern=IMPORT_PATH)]  # module:function or file.py:function
WINDOW_LENGTH = 384  # pieces of a question with a part of its context: what the field takes
DEFAULT_CACHE = Path("~/.cache/distilsearch")
Share = Annotated[float, Field(ge=0, le=1)]
# What may change between two runs of one study without making it another.
FREE = {"accept", "budget", "confirm", "resources", "tracking", "output", "cache", "storage"}


class HubSource(Frozen):
    """A split of a data set on the Hugging Face hub."""

    hub: Text
    config: str | None = None
    split: Text
    revision: str | None = None


class Columns(Frozen):
    """Which columns hold what; guessed when the names are the usual ones."""

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None


class AugmentationSpec(Frozen):
    """Texts made up from the training text and labelled by the teacher: `copies` of each, of a kind drawn for each.

    `replace`: `replace_share` of the words give way to others; `span`: a run of the words, replaced likewise; `join`: two
    texts in a row (not for pairs). By `words`: one of the `neighbours` nearest in the teacher's embeddings, or of as many
    that its masked-LM head holds likeliest there (for teachers that have one, such as bert-base-uncased; one more pass).
    """

    copies: Annotated[int, Field(ge=1, le=100)] = 4
    kinds: Annotated[tuple[Literal["replace", "span", "join"], ...], Field(min_length=1)] = ("replace", "span", "join")
    words: Literal["embeddings", "masked-lm"] = "embeddings"
    replace_share: Annotated[float, Field(gt=0, le=1)] = 0.3
    neighbours: Annotated[int, Field(ge=1, le=1000)] = 15


class DataSpec(Frozen):
    """Where the texts come from: files or hub splits, or the embedded default (`builtin: docstrings`)."""

    train: Path | HubSource | None = None
    validation: Path | HubSource | None = None
    test: Path | HubSource | None = None
    unlabelled: Path | HubSource | None = None  # more text, which the teacher labels
    augmentation: AugmentationSpec | Literal["none"] = "none"
    builtin: Literal["docstrings"] | None = None
    num_pairs: Annotated[int, Field(ge=50, le=100_000)] = 8000
    reader: ImportPath | None = None  # your own: a function of a file's path that returns rows, each column -> value
    columns: Columns = Columns()
    drop_shared: bool = False  # texts of train that stand in validation or test too; they are counted either way
    labels: dict[str, str] = {}  # what the label column holds -> the teacher's name for it
    # between the labels of one text
    label_separator: Annotated[str, StringConstraints(min_length=1, max_length=10)] = ","
    # in the loss to the labels
    class_weights: Literal["none", "balanced"] | dict[str, Annotated[float, Field(gt=0)]] = "none"
    max_length: Annotated[int, Field(ge=4, le=100_000)] = 128  # where questions are answered 384 if left out
    stride: Annotated[int, Field(ge=0, le=100_000)] = 128  # pieces of a long context that two windows of it share

    @field_validator("labels", mode="before")
    @classmethod
    def _numbers_are_words(cls, value: Any) -> Any:
        """The column's 0 is a number to YAML."""
        if not isinstance(value, dict):
            return value
        return {str(name) if type(name) is int else name: label for name, label in value.items()}

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.train is None) == (self.builtin is None):
            raise ValueError(
                "write train: FILE (tsv, csv, jsonl, parquet) or {hub: ..., split: ...}, or builtin: docstrings"
            )
        return self


class FineTune(Frozen):
    """How a teacher without a task head gets one."""

    epochs: Annotated[float, Field(gt=0, le=1000)] = 3
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 8e-5
    batch_size: Annotated[int, Field(ge=1, le=100_000)] = 64
    warmup_share: Share = 0.1
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None  # None: the model's own


class TeacherSpec(Frozen):
    """A hub id, a folder, or `package:NAME/FOLDER` for a model inside an installed Python package."""

    model: Text
    revision: str | None = None
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None  # of its weights file
    fine_tune: FineTune = FineTune()


class Bound(Frozen):
    """A percentage is a share of the teacher's value."""

    min: float | str | None = None
    max: float | str | None = None

    @field_validator("min", "max")
    @classmethod
    def _number_or_share(cls, value: float | str | None) -> float | str | None:
        if isinstance(value, str) and not re.fullmatch(r"\d+(\.\d+)?%", value):
            raise ValueError(f"{value!r} is not allowed; write a number, or a share of the teacher's value such as 97%")
        return value

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("write min or max")
        return self

    def limits(self, teacher_value: float) -> tuple[float, float]:
        def number(value: float | str | None, default: float) -> float:
            if value is None:
                return default
            return float(value[:-1]) / 100 * teacher_value if isinstance(value, str) else float(value)

        return number(self.min, float("-inf")), number(self.max, float("inf"))


class TrainingSpec(Frozen):
    """What one full trial costs: passes over the labelled training split, or optimizer steps. Text without labels adds
    to what is drawn from, not to the steps. `start`: the folder of a student distilled before (masked-language-modelling), from
    which students of its shape start instead of from the teacher. `order_share`: of the loss where masked pieces are told, ALBERT's
    sentence-order loss (arXiv:1909.11942, section 3.1), over a text's two halves."""

    epochs: Annotated[float, Field(gt=0, le=10_000)] = 3
    steps: Annotated[int, Field(ge=1, le=10**9)] | None = None
    start: Text | None = None
    order_share: Annotated[float, Field(gt=0, lt=1)] | None = None


class PriceSpec(Frozen):
    """What one lane costs an hour, in whatever money: the display, `plan` and the report then say what a study costs."""

    per_lane_hour: Annotated[float, Field(gt=0, le=10**9)]
    currency: Annotated[str, Field(min_length=1, max_length=12)] = "USD"


class ResourcesSpec(Frozen):
    """Lanes, and what each of a lane's workers may use."""

    lanes: Literal["auto"] | Annotated[int, Field(ge=1, le=100_000)] = "auto"
    workers_per_lane: Annotated[int, Field(ge=1, le=10_000)] = 1
    cpus_per_worker: Annotated[float, Field(gt=0, le=10_000)] = 1
    gpus_per_worker: Annotated[float, Field(ge=0, le=10_000)] = 0
    memory_gb_per_worker: Annotated[float, Field(ge=0, le=100_000)] = 0  # that Ray sets aside; 0: not asked for
    custom_per_worker: dict[
        Text, Annotated[float, Field(gt=0)]
    ] = {}  # resources that a cluster's nodes were given names for
    placement: Literal["pack", "spread", "strict-pack", "strict-spread"] = "pack"  # of a lane's workers over nodes
    wait_minutes: Annotated[float, Field(ge=0, le=100_000)] = (
        10  # for nodes of a cluster that has no room for a lane yet
    )
    price: PriceSpec | None = None
    recycle_after: Annotated[int, Field(ge=1)] = 200  # items
    recycle_above_gb: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"  # of a worker; auto: its share of Ray's
    hidden_states_gb: Annotated[float, Field(ge=0)] = 4  # on disk, of the teacher's; above it lanes run the teacher


class ConfirmSpec(Frozen):
    """Seeds per point of the front (the search's own is the first), and which students are also trained without
    distillation, from the same initialisation with the same steps. `near`: at most so many students that only the noise of their
    score keeps off the front are trained with the seeds after the first too (with `seeds: 1` none are)."""

    seeds: Annotated[int, Field(ge=1, le=100)] = 3
    near: Annotated[int, Field(ge=0, le=1000)] = 2
    without_distillation: Literal["all", "best", "none"] = "all"


class WandbSpec(Frozen):
    """Weights & Biases. `auto`: online where a key is set, else offline. `runs: trials` adds a run a trial, in a group with the
    study's own. `models: false` keeps the delivered models here; what they are is tracked either way."""

    project: Text = "distilsearch"
    entity: str | None = None
    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    runs: Literal["study", "trials"] = "study"
    models: bool = True


class TrackingSpec(Frozen):
    wandb: WandbSpec | Literal["none"] = WandbSpec()


SPACE_SCHEMA = {
    "description": "a preset's name, or parameters: a value, a list, {int: [low, high]}, {float: [low, high], log: true}, "
    "each with `when` if it counts only under a condition",
    "oneOf": [
        {"type": "string"},
        {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                name: {"description": f"{info.allowed}; default {info.default}"} for name, info in PARAMETERS.items()
            },
        },
    ],
}
Space = Annotated[SearchSpace, PlainSerializer(lambda space: space.to_yaml()), WithJsonSchema(SPACE_SCHEMA)]


class StudySpec(Frozen):
    """One study. Paths are relative to the study file; everything has a default but `data` and `teacher`."""

    model_config = {"frozen": True, "extra": "forbid", "arbitrary_types_allowed": True}

    name: Name
    task: Literal[
        "text-classification",
        "multi-label-classification",
        "text-regression",
        "token-classification",
        "question-answering",
        "sentence-embeddings",
        "masked-language-modelling",
    ] = "text-classification"
    data: DataSpec
    teacher: TeacherSpec
    space: Space
    families: dict[Name, ImportPath] = {}  # your own, for the space's family: a spaces.families.layout.Family each
    heads: dict[Name, ImportPath] = {}  # your own, for the space's head: a class of torch.nn.Module each
    metrics: dict[Name, ImportPath] = {}  # your own: a function of (outputs, labels) that returns a number to maximise
    objectives: dict[str, Literal["maximize", "minimize"]] = {}  # none: the task's first metric, and parameters
    bounds: dict[str, Bound] = {}
    training: TrainingSpec = TrainingSpec()
    budget: BudgetSpec = BudgetSpec()
    search: SamplingSpec = SamplingSpec()
    deployment: DeploymentSpec = DeploymentSpec()
    resources: ResourcesSpec = Field(default=ResourcesSpec(), validate_default=True)
    confirm: ConfirmSpec = Field(default=ConfirmSpec(), validate_default=True)
    tracking: TrackingSpec = TrackingSpec()
    accept: tuple[
        Literal["chance"], ...
    ] = ()  # what would stop the study: chance, a teacher that is no better than that
    output: Place
    storage: Text = "sqlite"
    cache: Place = DEFAULT_CACHE
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    trial_seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = ()  # of the first trials; the rest are derived

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and raw.get("task") == "question-answering" and isinstance(raw.get("data"), dict):
            raw = {**raw, "data": {"max_length": WINDOW_LENGTH, **raw["data"]}}
        if isinstance(raw, dict) and not raw.get("objectives"):
            task = next((each for name, each in TASKS.items() if name == raw.get("task")), TASKS["text-classification"])
            raw = {**raw, "objectives": {task.metrics[0]: "maximize", "parameters": "minimize"}}
        return raw

    @field_validator("objectives")
    @classmethod
    def _objectives(cls, value: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        allowed = _metrics(info)
        for name, direction in value.items():
            if name not in allowed:
                raise ValueError(
                    f"{name!r} is not an objective{near_miss(name, allowed)}; there are {', '.join(allowed)}"
                )
            right = "minimize" if name in COSTS else "maximize"
            if direction != right:
                raise ValueError(f"{name}: {direction} makes no sense; write {name}: {right}")
        if len(value) < 2:
            raise ValueError(f"a front needs two objectives or more of {', '.join(allowed)}")
        return value

    @field_validator("bounds")
    @classmethod
    def _bounds(cls, value: dict[str, Bound], info: ValidationInfo) -> dict[str, Bound]:
        allowed = _metrics(info)
        for name in value:
            if name not in allowed:
                raise ValueError(
                    f"{name!r} cannot be bounded{near_miss(name, allowed)}; there are {', '.join(allowed)}"
                )
            for side in ("min", "max"):
                limit = getattr(value[name], side)
                if name in METRIC_WORDS and isinstance(limit, float | int) and not 0 <= limit <= 1:
                    raise ValueError(
                        f"{name}.{side} = {limit:g} can never matter: {name} lies between 0 and 1. Write {limit:g}% for a "
                        "share of the teacher's value"
                    )
        return value

    @field_validator("training")
    @classmethod
    def _has_halves(cls, value: TrainingSpec, info: ValidationInfo) -> TrainingSpec:
        task = info.data.get("task", "text-classification")
        if value.order_share is not None and TASKS[task].target != "piece":
            raise ValueError(f"order_share is for masked-language-modelling, and this is {task}; leave it out")
        return value

    @field_validator("resources")
    @classmethod
    def _has_gpus(cls, value: ResourcesSpec, info: ValidationInfo) -> ResourcesSpec:
        budget = info.data.get("budget")
        if budget is not None and budget.gpu_hours is not None and not value.gpus_per_worker:
            raise ValueError(
                f"gpus_per_worker is 0, and budget.gpu_hours = {budget.gpu_hours:g} would never be spent. Write resources: "
                "{gpus_per_worker: 1}, or bound the time by budget: {minutes: ...}"
            )
        return value

    @field_validator("confirm")
    @classmethod
    def _with_labels(cls, value: ConfirmSpec, info: ValidationInfo) -> ConfirmSpec:
        """Where nothing is labelled there is nothing to learn without the teacher."""
        task = info.data.get("task", "text-classification")
        if TASKS[task].target != "vector" or value.without_distillation == "none":
            return value
        if "without_distillation" in value.model_fields_set:
            raise ValueError(
                f"without_distillation = {value.without_distillation} is not allowed: {task} has no labels to learn from, all "
                "that a student learns is the teacher's. Write none, or leave it out"
            )
        return value.model_copy(update={"without_distillation": "none"})

    @property
    def about(self) -> Task:
        return TASKS[self.task]

    @property
    def quality(self) -> str:
        """The first measured objective, else the task's first metric: what `best` and the report speak of."""
        return next((name for name in self.objectives if name not in COSTS), self.about.metrics[0])

    def resolved(self) -> dict[str, Any]:
        """Plain data that YAML or JSON can hold and `load_study` reads again."""
        return self.model_dump(mode="json", exclude_none=True, by_alias=True)


def _metrics(info: ValidationInfo) -> tuple[str, ...]:
    """What may be an objective or a bound."""
    task = TASKS[info.data.get("task", "text-classification")]
    return (*task.metrics, *info.data.get("metrics", {}), *COSTS)
