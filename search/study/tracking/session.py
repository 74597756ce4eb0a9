"""A session with Weights & Biases: in which mode, under which id, and its runs. The one file here that starts wandb."""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from pathlib import Path
from typing import Any, Literal

from search.study.tracking.rows import Row
from search.study.tracking.segments import KEY, Segment, segments
from search.trial import mirror
from spaces.secrets import mask_secrets
from spaces.study import StudySpec, WandbSpec
from spaces.yaml_io import write_whole

INIT_SECONDS = 30  # for the server to answer the start
RUN_ID_FILE = Path("wandb") / "run-id.txt"

Mode = Literal["disabled", "offline", "online"]  # from what sends least


def chosen_mode(wanted: WandbSpec, has_key: bool) -> Mode:
    """online, offline or disabled. Of the study and WANDB_MODE the one that sends less decides, so that neither can
    send what the other withholds; without a key nothing is sent, and nobody is asked for one."""
    modes: list[Mode] = ["disabled", "offline", "online"]
    asked = os.environ.get("WANDB_MODE", "").lower().replace("dryrun", "offline")
    mode = min(place for place, word in enumerate(modes) if word in (wanted.mode, asked, "online"))
    return modes[mode if has_key else min(mode, modes.index("offline"))]


def kept_run_id(output: Path) -> str:
    """The run id in the output folder, made up and kept the first time; WANDB_RUN_ID wins."""
    if os.environ.get("WANDB_RUN_ID"):
        return os.environ["WANDB_RUN_ID"]
    path = output / RUN_ID_FILE
    kept = path.read_text("utf-8").strip() if mirror.bring(path) else ""
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", kept):
        return kept
    fresh = uuid.uuid4().hex[:12]
    write_whole(path, fresh + "\n")
    mirror.send(path)
    return fresh


class Session:
    """wandb, set up for one study. Making one imports wandb, which takes seconds, and sends nothing."""

    def __init__(self, spec: StudySpec) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")  # read at import
        import wandb

        wanted = spec.tracking.wandb
        self._wandb, self._spec = wandb, spec
        self._wanted = wanted if isinstance(wanted, WandbSpec) else WandbSpec()
        folder = Path(os.environ.get("WANDB_DIR") or spec.output)
        self.folder = folder / "wandb"
        # Staged artifacts and logs would otherwise gather in the home folder.
        os.environ.setdefault("WANDB_DATA_DIR", str((self.folder / "data").resolve()))
        os.environ.setdefault("WANDB_CACHE_DIR", str((self.folder / "cache").resolve()))
        self.folder.mkdir(parents=True, exist_ok=True)  # else wandb falls back to the system's temporary folder
        self.has_key = _has_key(wandb)
        self.mode = chosen_mode(self._wanted, self.has_key)
        self._others_run = wandb.run is not None
        self._service = wandb.setup().ensure_service()

    @property
    def misses_a_key(self) -> bool:
        """Whether it stays offline for want of a key alone, though it was to be online."""
        return not self.has_key and self._wanted.mode == "online" and chosen_mode(self._wanted, True) == "online"

    def open(self, run_id: str, name: str, config: dict[str, Any], **more: Any) -> TrackedRun:
        """Begins this run, or goes on with it. Beside a run that the process may have of its own, never in its place."""
        settings = self._wandb.Settings(
            silent=True,
            console="off",
            init_timeout=INIT_SECONDS,
            disable_git=True,
            save_code=False,
            x_disable_meta=True,  # command lines may hold storage passwords
            x_disable_stats=True,
            x_save_requirements=False,
            x_transaction_log_flush_interval=1,  # seconds: what a killed driver may lose of an offline run
            # Else wandb retries for hours, and the process cannot end before it gives up.
            x_graphql_retry_max=2,
            x_graphql_timeout_seconds=10,
            x_file_stream_retry_max=2,
            x_file_stream_timeout_seconds=10,
            x_file_transfer_retry_max=2,
        )
        known = segments(self.folder, run_id)
        run = self._wandb.init(
            # The environment wins: a resolved study writes its defaults out and cannot tell them from wishes.
            project=os.environ.get("WANDB_PROJECT") or self._wanted.project,
            entity=os.environ.get("WANDB_ENTITY") or self._wanted.entity,
            name=name,
            id=run_id,
            resume="allow",
            reinit="create_new",
            mode=self.mode,
            dir=str(self.folder.parent),
            config=mask_secrets(config),
            settings=settings,
            **more,
        )
        return TrackedRun(run, self, run_id, known)

    def give_up(self) -> None:
        """Ends wandb's own process at once: as this one ends it would wait for what cannot be sent, for as long as that takes."""
        if self._others_run:
            return
        with contextlib.suppress(Exception):  # wandb 0.31 has no public way
            self._service._cleanup()  # its hook at exit
            self._service._finalizer.close()  # which would complain
            self._service._proc._process.kill()

    def rows_on_server(self, run: Any) -> set[str]:
        """The keys of a run's rows as the server has them."""
        kept = self._wandb.Api(timeout=INIT_SECONDS).run(f"{run.entity}/{run.project}/{run.id}")
        return {row[KEY] for row in kept.scan_history(keys=[KEY], use_cache=False)}

    def supersede(self, run_id: str) -> None:
        """What lies here of it offline is online now: `wandb sync` need not send it again."""
        for segment in segments(self.folder, run_id):
            if segment.is_offline and not segment.is_synced:
                segment.mark_synced()

    def end(self) -> None:
        """Waits until what was written is on the disk. Offline, finish() returns before (wandb 0.31); the end of its service does
        not. Somebody else's run in this process needs that service: then it is left."""
        if not self._others_run:
            with contextlib.suppress(SystemExit):  # where the service was killed, wandb would end with it
                self._wandb.teardown()


class TrackedRun:
    """One run, and the keys of the rows that it `held` as this session began: of an online run as the server says, of an offline
    one as the files here say. So no row comes twice, whatever became of earlier sessions, and nobody keeps a second account."""

    def __init__(self, run: Any, session: Session, run_id: str, known: list[Segment]) -> None:
        self.run, self._session, self.run_id, self._known = run, session, run_id, known
        if session.mode == "online":
            self.held = session.rows_on_server(run) if run.starting_step else set()
        else:
            self.held = {key for segment in known for key in segment.row_keys()}
        self.logged: list[str] = []

    def log(self, row: Row) -> bool:
        """Whether it was new to the run."""
        if row.key in self.held:
            return False
        self.run.log({KEY: row.key, **row.values})
        self.held.add(row.key)
        self.logged.append(row.key)
        return True

    @property
    def segment(self) -> Segment | None:
        """Where this session's part lies."""
        before = {each.folder for each in self._known}
        new = [each for each in segments(self._session.folder, self.run_id) if each.folder not in before]
        return new[-1] if new else None

    def fault(self) -> str:
        """What went wrong that wandb told nobody; to be asked after the session's end. Empty: all is written, or sent."""
        segment = self.segment
        if segment is None:
            return "its files are missing"
        missing = len(set(self.logged) - set(segment.row_keys()))
        if missing:
            return segment.fault() or f"{missing} of {len(self.logged)} rows could not be written; is the disk full?"
        return segment.fault()


def _has_key(wandb: Any) -> bool:
    """Whether a key is set, in the environment, the netrc file or wandb's settings; asks nobody and sends nothing."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    from wandb.sdk.lib import wbauth

    settings = wandb.setup().settings
    return bool(settings.api_key or wbauth.read_netrc_auth(host=settings.base_url))
