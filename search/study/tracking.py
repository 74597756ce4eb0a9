"""Tracking: one study-level run, written by the driver; absence is an object (NullTracker).

The driver only puts calls into a queue; a thread of the tracker imports wandb and talks to it. So a slow server, or the
seconds that its import and start take, cost the search nothing. The thread never raises: its first failure ends the
tracking, and the driver hears of it as one warning at its next call.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import threading
import uuid
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from search.results.figure import front_figure
from search.results.front import ParetoFront, Reference
from search.results.students import StudentRow
from search.results.table import csv_columns, csv_line
from search.study.secrets import mask_secrets
from spaces.study import StudySpec, WandbSpec
from spaces.trial import Measurement, TrialOutcome
from spaces.yaml_io import write_whole

INIT_SECONDS = 30  # for the server to answer the start
CLOSE_SECONDS = 60  # for what is queued to be written and sent
RUN_ID_FILE = Path("wandb") / "run-id.txt"

Mode = Literal["disabled", "offline", "online"]  # from what sends least


class Tracker(Protocol):
    """Hears of every measurement and of the end. Nothing here may raise or take long."""

    def measured(self, outcome: TrialOutcome, measurement: Measurement) -> None: ...

    def finished(
        self,
        spec: StudySpec,
        front: ParetoFront,
        rows: Sequence[StudentRow],
        references: Sequence[Reference],
        best_folder: Path,
        report_path: Path,
    ) -> None: ...

    def close(self) -> None: ...


class NullTracker:
    """Tracks nothing."""

    def measured(self, outcome: TrialOutcome, measurement: Measurement) -> None:
        pass

    def finished(
        self,
        spec: StudySpec,
        front: ParetoFront,
        rows: Sequence[StudentRow],
        references: Sequence[Reference],
        best_folder: Path,
        report_path: Path,
    ) -> None:
        pass

    def close(self) -> None:
        pass


def make_tracker(spec: StudySpec, output: Path) -> Tracker:
    """The tracker that the study asks for. A study continued in the same output continues the same run."""
    wanted = spec.tracking.wandb
    if not isinstance(wanted, WandbSpec) or chosen_mode(wanted, has_key=True) == "disabled":
        return NullTracker()
    try:
        return WandbTracker(spec, output, _kept_run_id(output))
    except Exception as error:  # such as an output that cannot be written
        _warn(error)
        return NullTracker()


def _kept_run_id(output: Path) -> str:
    """The run id in the output folder, made up and kept the first time; WANDB_RUN_ID wins."""
    if os.environ.get("WANDB_RUN_ID"):
        return os.environ["WANDB_RUN_ID"]
    path = output / RUN_ID_FILE
    kept = path.read_text("utf-8").strip() if path.is_file() else ""
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", kept):
        return kept
    fresh = uuid.uuid4().hex[:12]
    write_whole(path, fresh + "\n")
    return fresh


def chosen_mode(wanted: WandbSpec, has_key: bool) -> Mode:
    """online, offline or disabled. Of the study and WANDB_MODE the one that sends less decides, so that neither can
    send what the other withholds; without a key nothing is sent, and nobody is asked for one."""
    modes: list[Mode] = ["disabled", "offline", "online"]
    asked = os.environ.get("WANDB_MODE", "").lower().replace("dryrun", "offline")
    mode = min(place for place, word in enumerate(modes) if word in (wanted.mode, asked, "online"))
    return modes[mode if has_key else min(mode, modes.index("offline"))]


class WandbTracker:
    """One Weights & Biases run for the study: a row a measurement, the front and the best configs at the end."""

    def __init__(self, spec: StudySpec, output: Path, run_id: str | None) -> None:
        wanted = spec.tracking.wandb
        self._wanted = wanted if isinstance(wanted, WandbSpec) else WandbSpec()
        self._spec, self._output, self._run_id = spec, output, run_id
        self._calls: queue.SimpleQueue[Callable[[Any], None] | None] = queue.SimpleQueue()
        self._outcomes: dict[int, TrialOutcome] = {}
        self._failure: Exception | None = None
        self._over = False
        self._thread = threading.Thread(target=self._serve, name="tracking", daemon=True)
        self._thread.start()

    def measured(self, outcome: TrialOutcome, measurement: Measurement) -> None:
        self._outcomes[outcome.number] = outcome
        row = measurement_row(outcome, measurement)
        self._put(lambda run: run.log(row))

    def finished(
        self,
        spec: StudySpec,
        front: ParetoFront,
        rows: Sequence[StudentRow],
        references: Sequence[Reference],
        best_folder: Path,
        report_path: Path,
    ) -> None:
        outcomes = list(self._outcomes.values())
        self._put(lambda run: _log_front(run, spec, front, rows, references, outcomes))
        self._put(lambda run: _log_files(run, spec, best_folder, report_path))

    def close(self) -> None:
        """Waits for what is queued, at most CLOSE_SECONDS; files that were not sent stay for `wandb sync`."""
        if self._over:
            return
        self._calls.put(None)
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self._failure = self._failure or TimeoutError(f"no end within {CLOSE_SECONDS} s")
        self._hear()
        self._over = True

    def _put(self, call: Callable[[Any], None]) -> None:
        self._hear()
        if not self._over:
            self._calls.put(call)

    def _hear(self) -> None:
        """The thread's failure becomes the driver's one warning; from then on this is a NullTracker."""
        if self._failure is not None and not self._over:
            self._over = True
            _warn(self._failure)

    def _serve(self) -> None:
        """The tracker's thread: start the run, do what is queued, finish."""
        run = None
        try:
            run = self._start()
            while (call := self._calls.get()) is not None:
                call(run)
            run.finish()
            self._flush()
        except BaseException as error:  # wandb raises what it likes, SystemExit too; none of it may reach the search
            self._failure = error if isinstance(error, Exception) else RuntimeError(repr(error))
            self._abandon(run)

    def _start(self) -> Any:
        os.environ.setdefault("WANDB_SILENT", "true")  # read at import
        import wandb

        folder = Path(os.environ.get("WANDB_DIR") or self._output)
        # Staged artifacts and logs would otherwise gather in the home folder.
        os.environ.setdefault("WANDB_DATA_DIR", str((folder / "wandb" / "data").resolve()))
        os.environ.setdefault("WANDB_CACHE_DIR", str((folder / "wandb" / "cache").resolve()))
        has_key = _has_key(wandb)
        mode = chosen_mode(self._wanted, has_key)
        if not has_key and chosen_mode(self._wanted, has_key=True) == "online" and self._wanted.mode == "online":
            _warn_text(
                "Weights & Biases: no key is set, so the run stays offline; `wandb login` and `wandb sync` send it"
            )
        (folder / "wandb").mkdir(parents=True, exist_ok=True)  # else wandb falls back to the system's temporary folder
        settings = wandb.Settings(
            silent=True,
            console="off",
            init_timeout=INIT_SECONDS,
            disable_git=True,
            save_code=False,
            x_disable_meta=True,  # command lines may hold storage passwords
            x_disable_stats=True,
            x_save_requirements=False,
            # Else wandb retries for hours, and the process cannot end before it gives up.
            x_graphql_retry_max=2,
            x_graphql_timeout_seconds=10,
            x_file_stream_retry_max=2,
            x_file_stream_timeout_seconds=10,
            x_file_transfer_retry_max=2,
        )
        return wandb.init(
            # The environment wins: a resolved study writes its defaults out and cannot tell them from wishes.
            project=os.environ.get("WANDB_PROJECT") or self._wanted.project,
            entity=os.environ.get("WANDB_ENTITY") or self._wanted.entity,
            name=os.environ.get("WANDB_NAME") or self._spec.name,
            id=self._run_id,
            resume="allow",
            mode=mode,
            dir=str(folder),
            config=mask_secrets(self._spec.resolved()),
            settings=settings,
        )

    @staticmethod
    def _flush() -> None:
        """Offline, finish() returns before the run's file is whole (wandb 0.31); the end of its service does not."""
        import wandb

        wandb.teardown()

    @staticmethod
    def _abandon(run: Any) -> None:
        try:
            if run is not None:
                run.finish(exit_code=1)
        except BaseException:  # the first failure is the one to tell
            pass


def measurement_row(outcome: TrialOutcome, measurement: Measurement) -> dict[str, Any]:
    """What is logged of one measurement. Searched values stand under `config/`, seconds and counts under `cost/`."""
    shape = outcome.config.shape
    return {
        "trial": measurement.trial,
        "attempt": measurement.attempt,
        "optimizer_step": measurement.step,
        "share": measurement.share,
        "state": outcome.state.value,
        "kind": outcome.labels.get("kind", "search"),
        **measurement.metrics,
        "parameters": shape.num_parameters,
        "bytes": shape.num_bytes,
        **{f"config/{name}": value for name, value in outcome.parameters.items()},
        **{f"cost/{name}": value for name, value in measurement.cost.items() if not name.endswith("_at")},
    }


def _log_front(
    run: Any,
    spec: StudySpec,
    front: ParetoFront,
    rows: Sequence[StudentRow],
    references: Sequence[Reference],
    outcomes: Sequence[TrialOutcome],
) -> None:
    import wandb

    lines = [csv_line(row) for row in rows]
    columns = csv_columns(lines)
    table = wandb.Table(columns=columns, data=[[line.get(column) for column in columns] for line in lines])
    run.log({"front": table, "front_figure": wandb.Plotly(front_figure(spec, front, rows, references, outcomes))})
    run.summary.update({"hypervolume": front.hypervolume, "knee": front.knee, "students_on_front": len(rows)})


def _log_files(run: Any, spec: StudySpec, best_folder: Path, report_path: Path) -> None:
    """The best-config files and the report as one artifact; the models themselves stay in the output."""
    import wandb

    files = [*sorted(Path(best_folder).glob("*.yaml")), *([Path(report_path)] if Path(report_path).is_file() else [])]
    if not files:
        return
    artifact = wandb.Artifact(f"{spec.name}-best", type="best-config")
    for file in files:
        artifact.add_file(str(file), name=file.name, skip_cache=True)
    run.log_artifact(artifact)


def _has_key(wandb: Any) -> bool:
    """Whether a key is set, in the environment, the netrc file or wandb's settings; asks nobody and sends nothing."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    from wandb.sdk.lib import wbauth

    settings = wandb.setup().settings
    return bool(settings.api_key or wbauth.read_netrc_auth(host=settings.base_url))


def _warn(error: Exception) -> None:
    told = mask_secrets(str(error)) or type(error).__name__
    _warn_text(
        f"tracking with Weights & Biases stopped: {told}. The search goes on without it; "
        "tracking: none, or WANDB_MODE=offline, avoids this."
    )


def _warn_text(text: str) -> None:
    with contextlib.suppress(RuntimeWarning):  # where warnings are errors: tracking still raises nothing
        warnings.warn(text, RuntimeWarning, stacklevel=4)
