"""Profiles: the places where jobs run, each a YAML file. What is secret is named in them and never stands there."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError, field_validator, model_validator
from pydantic_core import PydanticUndefined

from spaces.errors import Fault, InputError, near_miss
from spaces.student import Frozen
from spaces.yaml_io import faults_of, parse_yaml

VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"
Variable = Annotated[str, StringConstraints(pattern=VARIABLE)]
Line = Annotated[str, StringConstraints(min_length=1, pattern=r"^[^\n\r\x00]*$")]
Count = Annotated[int, Field(ge=0, le=100_000)]
SLURM_TIME = re.compile(r"^(\d+-)?\d+(:\d+){0,2}$")


class Profile(Frozen):
    """What all kinds have. Paths under `output` and `shared` are the cluster's; other paths are this machine's."""

    output: Line | None = None  # the folder that takes each study's output, under its name; None: the study's own
    shared: tuple[Line, ...] = ()  # folders that the cluster sees under the same path: what lies there is not sent
    environment: dict[Variable, Line] = {}
    secrets: dict[Variable, Line] = {}  # a variable -> a file on the cluster that holds it
    upload_limit_mb: Annotated[float, Field(ge=0, le=10_000)] = 200  # of data, teacher and code, all together
    versions: Literal["refuse", "warn"] = "refuse"  # where distilsearch there is another one than here


class LocalProfile(Profile):
    """A process of its own on this machine, with a Ray of its own."""

    kind: Literal["local"] = "local"
    python: Line | None = None  # the interpreter that has distilsearch; None: this one


class RayJobsProfile(Profile):
    """A Ray cluster that runs already, through its Jobs API."""

    kind: Literal["ray-jobs"] = "ray-jobs"
    address: Line = "http://127.0.0.1:8265"
    token_file: Line | None = None  # the cluster's token; None: RAY_AUTH_TOKEN, or none
    headers: dict[Line, Line] = {}  # sent with every request; $NAME in a value is read from this environment
    verify: bool | Line = True  # TLS: false, or the file of a certificate authority
    code: Line = "installed"  # or a wheel's file, or a folder with distilsearch's source, which is sent
    python: Line = "python"  # the command there
    cpus: Annotated[float, Field(ge=0, le=1000)] = 0  # that the driver itself reserves


class WorkerGroup(Frozen):
    """Pods that are alike. `spot` ones carry lanes and never the driver."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]{0,40}[a-z0-9])?$")] = "workers"
    replicas: Count = 1
    min_replicas: Count | None = None  # None: as many as `replicas`; below max_replicas Ray's autoscaler is turned on
    max_replicas: Count | None = None
    cpus: Annotated[float, Field(gt=0, le=1000)] = 2
    memory: Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)?([KMGT]i?)?$")] = "8Gi"
    gpus: Count = 0
    gpu_resource: Line = "nvidia.com/gpu"
    spot: bool = False
    node_selector: dict[Line, Line] = {}
    tolerations: tuple[dict[str, Any], ...] = ()


class HeadPod(Frozen):
    cpus: Annotated[float, Field(gt=0, le=1000)] = 2
    memory: Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)?([KMGT]i?)?$")] = "8Gi"
    node_selector: dict[Line, Line] = {}
    tolerations: tuple[dict[str, Any], ...] = ()


class Volume(Frozen):
    """A persistent volume claim, mounted in every pod."""

    claim: Line
    mount: Annotated[str, StringConstraints(pattern=r"^/[^\n\r\x00:]*$")]
    read_only: bool = False


class KuberayProfile(Profile):
    """A RayJob of KubeRay: a cluster for this job alone. Needs kubectl here, the KubeRay operator there. Of `secrets` each value
    is SECRET/KEY of the namespace."""

    kind: Literal["kuberay"] = "kuberay"
    image: Line
    image_pull_secrets: tuple[Line, ...] = ()
    context: Line | None = None  # kubectl's; None: the current one
    namespace: Line = "default"
    service_account: Line | None = None
    head: HeadPod = HeadPod()
    workers: Annotated[tuple[WorkerGroup, ...], Field(min_length=1)] = (WorkerGroup(),)
    volumes: tuple[Volume, ...] = ()
    ray_version: Line | None = None  # None: this environment's
    ttl_seconds: Count = 3600  # the cluster stays so long after the job has ended
    deadline_seconds: Annotated[int, Field(ge=1)] | None = None
    backoff_limit: Annotated[int, Field(ge=0, le=100)] = (
        3  # how often a job whose cluster was lost begins again, and continues
    )


class SlurmProfile(Profile):
    """A batch job of Slurm that starts Ray over its allocation. For a login node: sbatch is here, and folders are shared."""

    kind: Literal["slurm"] = "slurm"
    partition: Line | None = None
    account: Line | None = None
    qos: Line | None = None
    nodes: Annotated[int, Field(ge=1, le=10_000)] = 1
    cpus_per_node: Annotated[int, Field(ge=1, le=10_000)] = 4
    gpus_per_node: Count = 0
    gpu_type: Annotated[str, StringConstraints(pattern=r"^[\w.-]+$")] | None = None  # as Slurm names it, such as a100
    memory_per_node: Annotated[str, StringConstraints(pattern=r"^[1-9]\d*[KMGT]?$")] | None = (
        None  # M where no unit stands
    )
    time: str = "24:00:00"  # MINUTES, HOURS:MINUTES:SECONDS or DAYS-HOURS; in quotes
    constraint: Line | None = None
    grace_seconds: Annotated[int, Field(ge=0, le=3600)] = 60  # before the time is up, to stop and be queued again
    requeue: bool = True  # after a preemption, or when the time is up: the study continues
    setup: tuple[
        Line, ...
    ] = ()  # shell lines before anything else, such as `module load cuda` or `source venv/bin/activate`
    extra: tuple[Annotated[Line, StringConstraints(pattern=r"^--?[A-Za-z]")], ...] = ()  # further options of sbatch
    python: Line = "python"

    @field_validator("time", mode="before")
    @classmethod
    def _is_time(cls, time: Any) -> Any:
        if not isinstance(time, str) or not SLURM_TIME.match(time):  # YAML reads 24:00:00 as the number 86400
            raise ValueError(
                f"{time!r} is no time of Slurm's; write '90' (minutes), '24:00:00' (hours) or '2-12' (days and hours), in quotes"
            )
        return time

    @model_validator(mode="after")
    def _grace_fits(self) -> Self:
        if self.grace_seconds >= self.time_seconds:
            raise ValueError(
                f"grace_seconds, {self.grace_seconds}, is not below time, {self.time}: it would be told to end as it begins"
            )
        return self

    @property
    def time_seconds(self) -> int:
        days, dash, clock = self.time.rpartition("-")
        parts = [int(part) for part in clock.split(":")]
        if dash:  # DAYS-HOURS, and what follows
            hours, minutes, seconds = (*parts, 0, 0)[:3]
        else:  # MINUTES, MINUTES:SECONDS, or all three
            hours, minutes, seconds = parts if len(parts) == 3 else (0, *parts, 0)[:3]
        return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


KINDS: dict[str, type[Profile]] = {
    "local": LocalProfile,
    "ray-jobs": RayJobsProfile,
    "kuberay": KuberayProfile,
    "slurm": SlurmProfile,
}
AnyProfile = LocalProfile | RayJobsProfile | KuberayProfile | SlurmProfile


def config_folder() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "distilsearch"


def profiles_here(beside: Path | None = None) -> dict[str, Path | None]:
    """Profiles by name: the files beside the study, those of the user, and `local`, which needs none."""
    found: dict[str, Path | None] = {"local": None}
    for folder in (config_folder() / "profiles", *([beside / "profiles"] if beside else [])):
        if folder.is_dir():
            found |= {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    return found


def load_profile(name: str, beside: Path | None = None) -> Profile:
    """The profile of a name, or of a file. Raises InputError: which there are, or what a kind's options are."""
    path = Path(name).expanduser()
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise InputError.of(name, "there is no such file")
        return read_profile(path)
    known = profiles_here(beside)
    if name not in known:
        raise InputError.of(
            "--to",
            f"there is no profile {name!r}{near_miss(name, known)}; there are {', '.join(sorted(known))}. A profile is a file "
            f"{config_folder() / 'profiles' / f'{name}.yaml'}, or profiles/{name}.yaml beside the study: see docs/clusters.md",
        )
    found = known[name]
    return LocalProfile() if found is None else read_profile(found)


def read_profile(path: Path) -> Profile:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError.of(str(path), f"cannot be read: {error}") from None
    return parse_profile(parse_yaml(text, str(path)), str(path))


def parse_profile(raw: Any, source: str) -> Profile:
    """Raises InputError with every fault, and with the kind's options and their defaults."""
    kind = raw.get("kind") if isinstance(raw, Mapping) else None
    if not isinstance(kind, str) or kind not in KINDS:
        miss = near_miss(kind, KINDS) if isinstance(kind, str) else ""
        raise InputError.of(source, f"{kind!r} is no kind of profile{miss}; there are {', '.join(KINDS)}", "kind")
    model = KINDS[kind]
    try:
        return model.model_validate({str(key): value for key, value in raw.items()})
    except ValidationError as error:
        raise InputError(source, [*faults_of(error, model), Fault("", f"{kind} takes\n{options(model)}")]) from None


def options(model: type[Profile]) -> str:
    """The keys of a kind with their defaults, a line each."""
    lines = []
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        lines.append(f"  {name}: " + ("(required)" if default is PydanticUndefined else _shown(default)))
    return "\n".join(lines)


def _shown(default: Any) -> str:
    plain = json.loads(TypeAdapter(Any).dump_json(default))
    return "none" if plain is None else plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def json_schema() -> dict[str, Any]:
    """Of a profile file, for editors: one of the kinds."""
    kinds, definitions = [], dict[str, Any]()
    for name, model in KINDS.items():
        schema = model.model_json_schema()
        definitions |= schema.pop("$defs", {})
        schema["required"] = sorted({"kind", *schema.get("required", [])})
        schema["properties"]["kind"] = {"const": name}
        kinds.append(schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "oneOf": kinds, "$defs": definitions}
