"""WandbTracker: the driver puts calls into a queue; a thread does them. So a slow server, or the seconds that wandb's import and
start take, cost the search nothing. The thread never raises: its first failure ends the tracking, and the driver hears of it as
one warning at its next call.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from search.results.front import Reference
from search.study.output import StudyResult
from search.study.tracking.session import Session
from search.study.tracking.study_log import StudyLog
from spaces.remote import written
from spaces.secrets import mask_secrets
from spaces.study import StudySpec
from spaces.trial import TrialOutcome

CLOSE_SECONDS = 60.0  # for what is queued to be written and sent


class WandbTracker:
    """One Weights & Biases run for the study, written in the background."""

    def __init__(self, spec: StudySpec, run_id: str, provenance: Mapping[str, Any]) -> None:
        self._spec, self._run_id, self._provenance = spec, run_id, provenance
        self._calls: queue.SimpleQueue[Callable[[StudyLog], None] | None] = queue.SimpleQueue()
        self._session: Session | None = None
        self._failure: Exception | None = None
        self._note = ""
        self._over = False
        self._thread = threading.Thread(target=self._serve, name="tracking", daemon=True)
        self._thread.start()

    def begun(
        self,
        outcomes: Sequence[TrialOutcome],
        confirmations: Sequence[TrialOutcome],
        references: Sequence[Reference],
    ) -> None:
        self._put(lambda log: log.begun(outcomes, confirmations, references))

    def told(self, outcome: TrialOutcome) -> None:
        self._put(lambda log: log.told(outcome))

    def finished(self, result: StudyResult) -> None:
        self._put(lambda log: log.finished(result))

    def close(self) -> None:
        """Waits for what is queued, at most CLOSE_SECONDS."""
        if self._over:
            return
        self._calls.put(None)
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self._failure = self._failure or TimeoutError(f"no end within {CLOSE_SECONDS:g} s")
            if self._session is not None:
                self._session.give_up()
        self._hear()
        self._over = True

    def _put(self, call: Callable[[StudyLog], None]) -> None:
        self._hear()
        if not self._over:
            self._calls.put(call)

    def _hear(self) -> None:
        """The thread's failure becomes the driver's one warning; from then on this is a NullTracker."""
        if self._failure is not None and not self._over:
            self._over = True
            warn(self._failure, self._spec)
        elif self._note:
            _warn_text(self._note)
            self._note = ""

    def _serve(self) -> None:
        """The thread: start the run, do what is queued, end it."""
        log = None
        try:
            self._session = Session(self._spec)
            log = StudyLog(self._session, self._spec, self._run_id, self._provenance)
            if log.session.misses_a_key:
                self._note = NO_KEY
            while (call := self._calls.get()) is not None:
                call(log)
            fault = log.end()
            if fault:
                raise RuntimeError(fault)
        except BaseException as error:  # wandb raises what it likes, SystemExit too; none of it may reach the search
            self._failure = error if isinstance(error, Exception) else RuntimeError(repr(error))
            with contextlib.suppress(BaseException):  # the first failure is the one to tell
                if log is not None:
                    log.abandon()


NO_KEY = (
    "Weights & Biases: no key is set, so the run stays offline; `wandb login`, and then `distilsearch track`, sends it"
)


def failure_in_words(error: BaseException) -> str:
    """The first line of what wandb says, without secrets: its errors repeat themselves."""
    lines = str(mask_secrets(str(error))).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def warn(error: Exception, spec: StudySpec) -> None:
    _warn_text(
        f"tracking with Weights & Biases stopped: {failure_in_words(error)}. The search goes on without it, and nothing is lost: "
        f"`distilsearch track {written(spec.output)}` adds what the run misses. tracking: none, or WANDB_MODE=offline, avoids this."
    )


def _warn_text(text: str) -> None:
    with contextlib.suppress(RuntimeWarning):  # where warnings are errors: tracking still raises nothing
        warnings.warn(text, RuntimeWarning, stacklevel=4)
