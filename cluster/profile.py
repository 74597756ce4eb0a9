"""Profiles: the places where jobs run, each a YAML file. What is secret is named in them and never stands there."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializeAsAny,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticUndefined

from spaces.errors import Fault, InputError, near_miss, told
from spaces.secrets import mask_secrets
from spaces.student import Frozen

VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"
Variable = Annotated[str, StringConstraints(pattern=VARIABLE)]
Line = Annotated[str, StringConstraints(min_length=1, pattern=r"^[^\n\r\x00]*$")]
Count = Annotated[int, Field(ge=0, le=100_000)]
SECRET_HEADER = re.compile(r"authorization|cookie|token|secret|key|password", re.IGNORECASE)
SLURM_TIME = re.compile(r"^(\d+-)?\d+(:\d+){0,2}$")


class Profile(Frozen):
    """What all kinds have. Paths under `output` and `shared` are the cluster's; other paths are this machine's."""

    kind: str
    output: Line | None = None  # the folder that takes each study's output, under its name; None: the study's own
    shared: tuple[Line, ...] = ()  # folders that the cluster sees under the same path: what lies there is not sent
    environment: dict[Variable, Line] = {}
    secrets: dict[Variable, Line] = {}  # a variable -> a file on the cluster that holds it
    upload_limit_mb: Annotated[float, Field(ge=0, le=10_000)] = 200  # of data, teacher and code, all together
    versions: Literal["refuse", "warn"] = "refuse"  # where distilsearch there is another one than here

    @field_validator("environment")
    @classmethod
    def _no_secrets(cls, value: dict[str, str]) -> dict[str, str]:
        """They would be sent as they stand, and kept with the job: here, and by the cluster."""
        for name in value:
            if mask_secrets({name: value[name]})[name] != value[name]:
                raise ValueError(
                    f"{name} looks like a secret, which would be sent and kept with the job. Put it into a file there, and "
                    f"name that: secrets: {{{name}: FILE}} (kuberay: SECRET/KEY)"
                )
        return value


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
    verify: bool = True  # whether the certificate of an https address has to be trusted
    certificate_authority: Line | None = None  # the file of one's own, for that
    code: Line = "installed"  # or a wheel's file, or a folder with distilsearch's source, which is sent
    python: Line = "python"  # the command there
    cpus: Annotated[float, Field(ge=0, le=1000)] = 0  # that the driver itself reserves

    @field_validator("headers")
    @classmethod
    def _by_name(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if SECRET_HEADER.search(name) and "$" not in text:
                raise ValueError(
                    f"{name} would be kept with the job as it stands; write it as $NAME, which is read from this environment"
                )
        return value

    @field_validator("address")
    @classmethod
    def _no_password(cls, value: str) -> str:
        if mask_secrets(value) != value:
            raise ValueError(
                "it holds a password, which would be kept with the job; write headers: {Authorization: $NAME}"
            )
        return value


Memory = Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)?([KMGT]i?)?$")]
Label = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]  # a DNS label
SECRET_KEY = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[-._a-zA-Z0-9]+")


def _secret_key(value: str) -> str:
    if not SECRET_KEY.fullmatch(value):
        raise ValueError(
            f"{value!r} is not allowed: write SECRET/KEY, the names of a Kubernetes secret and of its entry"
        )
    return value


class WorkerGroup(Frozen):
    """Pods that are alike. `spot` ones carry lanes and never the driver: `node_selector` says which machines those are."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]{0,40}[a-z0-9])?$")] = "workers"
    replicas: Count = 1
    min_replicas: Count | None = None  # None: as many as `replicas`; below max_replicas Ray's autoscaler is turned on
    max_replicas: Count | None = None
    cpus: Annotated[float, Field(gt=0, le=1000)] = 2
    memory: Memory = "8Gi"
    gpus: Count = 0
    gpu_resource: Line = "nvidia.com/gpu"
    spot: bool = False
    node_selector: dict[Line, Line] = {}
    tolerations: tuple[dict[str, Any], ...] = ()

    @property
    def bounds(self) -> tuple[int, int]:
        """The fewest and the most pods."""
        least = self.replicas if self.min_replicas is None else self.min_replicas
        return least, self.replicas if self.max_replicas is None else self.max_replicas

    @model_validator(mode="after")
    def _can_be(self) -> WorkerGroup:
        least, most = self.bounds
        if not least <= self.replicas <= most:
            raise ValueError(
                f"{self.replicas} replicas are not between min_replicas {least} and max_replicas {most}; "
                "write min_replicas <= replicas <= max_replicas"
            )
        if most == 0:
            raise ValueError("a group of no pods is not allowed; write replicas, or max_replicas, above 0")
        if self.name == "headgroup":
            raise ValueError("headgroup is KubeRay's own name; choose another")
        if self.spot and not self.node_selector:
            raise ValueError(
                "spot needs node_selector, the labels that spot machines have, so that the driver is kept off them; such as "
                'node_selector: {cloud.google.com/gke-spot: "true"}'
            )
        return self


class HeadPod(Frozen):
    """The pod of the driver. No lane runs in it."""

    cpus: Annotated[float, Field(gt=0, le=1000)] = 2
    memory: Memory = "8Gi"
    node_selector: dict[Line, Line] = {}
    tolerations: tuple[dict[str, Any], ...] = ()


class Volume(Frozen):
    """A persistent volume claim, mounted in every pod."""

    claim: Line
    mount: Annotated[str, StringConstraints(pattern=r"^/[^\n\r\x00:]*$")]
    read_only: bool = False


class KuberayProfile(Profile):
    """A RayJob of KubeRay: a cluster for this job alone. Needs kubectl here, the KubeRay operator there. Of `secrets` each value
    is SECRET/KEY of the namespace. What lies on a volume is `shared`."""

    kind: Literal["kuberay"] = "kuberay"
    image: Line
    image_pull_secrets: tuple[Line, ...] = ()
    context: Line | None = None  # kubectl's; None: the current one
    namespace: Label = "default"
    service_account: Line | None = None
    secrets: dict[Variable, Annotated[str, AfterValidator(_secret_key)]] = {}
    head: HeadPod = HeadPod()
    workers: Annotated[tuple[WorkerGroup, ...], Field(min_length=1, max_length=50)] = (WorkerGroup(),)
    volumes: tuple[Volume, ...] = ()
    fs_group: Annotated[int, Field(ge=0)] | None = (
        1000  # the group that may write the volumes; our images' user is in it
    )
    ray_version: Line | None = None  # of the image; None: this environment's
    ray_token: bool = False  # Ray asks for a token, which KubeRay makes: 1.6 or later
    ttl_seconds: Count = 300  # the cluster stays so long after the job has ended
    deadline_seconds: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    backoff_limit: Annotated[int, Field(ge=0, le=100)] = (
        3  # how often a job that failed, or lost its cluster, begins again, and continues
    )

    @model_validator(mode="before")
    @classmethod
    def _volumes_are_shared(cls, raw: Any) -> Any:
        """Every pod sees a volume under its one path."""
        if not isinstance(raw, Mapping) or not isinstance(raw.get("volumes"), list | tuple):
            return raw
        shared = raw.get("shared", ())
        volumes = [each.model_dump() if isinstance(each, Volume) else each for each in raw["volumes"]]
        mounts = [each["mount"] for each in volumes if isinstance(each, Mapping) and isinstance(each.get("mount"), str)]
        if not isinstance(shared, list | tuple):
            return raw
        return {**raw, "shared": [*shared, *(mount for mount in dict.fromkeys(mounts) if mount not in shared)]}

    @model_validator(mode="after")
    def _can_be(self) -> KuberayProfile:
        names = [group.name for group in self.workers]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"workers: two groups have the name {twice[0]}; each needs its own")
        if not any(group.replicas for group in self.workers):
            raise ValueError(
                "workers: all groups begin with no pod, and a study begins on what there is; write replicas: 1 for one of them, "
                "and as many more as there may be into max_replicas"
            )
        mounts = [volume.mount.rstrip("/") for volume in self.volumes]
        if twice := sorted({mount for mount in mounts if mounts.count(mount) > 1}):
            raise ValueError(f"volumes: two are mounted at {twice[0]}; each needs a folder of its own")
        for group in self.workers:
            if group.spot and group.node_selector.items() <= self.head.node_selector.items():
                raise ValueError(
                    f"head.node_selector chooses the spot machines of {group.name}, and the driver never runs on those"
                )
        return self


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


def _of_its_kind(raw: Any) -> Any:
    if not isinstance(raw, Mapping):
        return raw
    if raw.get("kind") not in KINDS:
        raise ValueError(f"{raw.get('kind')!r} is no kind of profile")
    return KINDS[raw["kind"]].model_validate(raw)


AnyProfile = Annotated[SerializeAsAny[Profile], BeforeValidator(_of_its_kind)]


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
    from spaces.yaml_io import parse_yaml, small_text

    try:
        text = small_text(path)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InputError.of(str(path), f"cannot be read: {error}") from None
    return parse_profile(parse_yaml(text, str(path)), str(path))


def parse_profile(raw: Any, source: str) -> Profile:
    """Raises InputError with every fault, and with the kind's options and their defaults."""
    from spaces.validation import faults_of, not_finite

    kind = raw.get("kind") if isinstance(raw, Mapping) else None
    if not isinstance(kind, str) or kind not in KINDS:
        miss = near_miss(kind, KINDS) if isinstance(kind, str) else ""
        raise InputError.of(source, f"{kind!r} is no kind of profile{miss}; there are {', '.join(KINDS)}", "kind")
    model = KINDS[kind]
    try:
        profile = model.model_validate({str(key): value for key, value in raw.items()})
    except ValidationError as error:
        raise InputError(
            source, [*told(faults_of(error, model)), Fault("", f"{kind} takes\n{options(model)}")]
        ) from None
    if faults := not_finite(profile):
        raise InputError(source, faults)
    return profile


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
