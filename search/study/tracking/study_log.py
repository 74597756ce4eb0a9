"""A study as runs of W&B: what is logged when. Whoever calls it waits; it raises what wandb raises."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from search.results.front import ParetoFront, Reference
from search.study.output import StudyResult, result_of
from search.study.tracking.results import front_chart, log_artifacts, results_key, results_row, summary
from search.study.tracking.rows import AXES, History, Row, replay, row_of, short_error
from search.study.tracking.segments import segments
from search.study.tracking.session import Session, TrackedRun
from spaces.study import StudySpec, WandbSpec
from spaces.trial import TrialOutcome, TrialState

CHART_SECONDS = 120.0  # between two charts of a front that grows: each is a file
OVER = (TrialState.DONE, TrialState.FAILED, TrialState.ENDED)


class StudyLog:
    """One run for the study and, where they are asked for, one for each trial. What the run holds already is not logged again."""

    def __init__(self, session: Session, spec: StudySpec, run_id: str, provenance: Mapping[str, Any]) -> None:
        import wandb

        wanted = spec.tracking.wandb
        self._wanted = wanted if isinstance(wanted, WandbSpec) else WandbSpec()
        self._wandb, self._spec, self._provenance = wandb, spec, provenance
        self.session, self.run_id = session, run_id
        self._group = f"{spec.name}-{run_id}" if self._wanted.runs == "trials" else None
        self._history: History | None = None
        self._drawn: ParetoFront | None = None
        self._drawn_at = time.monotonic()
        self._over = set[int]()  # trials whose own run is written
        self._runs: list[TrackedRun] = []
        config = {**spec.resolved(), "provenance": provenance}
        name = os.environ.get("WANDB_NAME") or spec.name
        self.run = self._open(run_id, name, config, "study")
        for axis, metrics in AXES.items():
            self.run.run.define_metric(axis)
            for metric in metrics:
                self.run.run.define_metric(metric, step_metric=axis)

    def _open(self, run_id: str, name: str, config: dict[str, Any], job: str) -> TrackedRun:
        run = self.session.open(run_id, name, config, group=self._group, job_type=job)
        self._runs.append(run)
        return run

    def begun(
        self,
        outcomes: Sequence[TrialOutcome],
        confirmations: Sequence[TrialOutcome],
        references: Sequence[Reference],
    ) -> None:
        """Logs what the record holds and the run does not: nothing of a new study, what was missed of an old one."""
        self._history = History(self._spec, references)
        for outcome in (*replay(outcomes), *replay(confirmations)):
            row = self._history.told(outcome)
            if row is not None:
                self.run.log(row)
        self._drawn = self._history.front
        for outcome in outcomes:
            self._write_trial(outcome)

    def told(self, outcome: TrialOutcome) -> None:
        history = self._history
        if history is None or (row := history.told(outcome)) is None:
            return
        self.run.log(self._with_chart(row, history))
        self._write_trial(outcome)

    def _with_chart(self, row: Row, history: History) -> Row:
        """The row, with the front's chart where it grew and the last one is old enough."""
        if history.front == self._drawn or time.monotonic() - self._drawn_at < CHART_SECONDS:
            return row
        self._drawn, self._drawn_at = history.front, time.monotonic()
        outcomes = [history.outcomes[number] for number in sorted(history.outcomes)]
        stands = result_of(self._spec, history.front, outcomes, [], {}, history.references, {})
        return Row(row.key, {**row.values, "front_chart": front_chart(self._wandb, stands)})

    def finished(self, result: StudyResult) -> None:
        """Tables, chart and artifacts, unless the run has these very results."""
        for outcome in result.outcomes:
            self._write_trial(outcome)
        key = results_key(result, self._wanted.models)
        if key in self.run.held:
            return
        log_artifacts(self.run.run, self._wandb, result, self._provenance, self._wanted.models)
        self.run.run.summary.update(summary(result))
        self.run.log(results_row(self._wandb, result, key))

    def _write_trial(self, outcome: TrialOutcome) -> None:
        """The run of a trial that is over: its settings, and a row a measurement. Those that it has are not written again."""
        if self._group is None or "of" in outcome.labels or outcome.state not in OVER or outcome.number in self._over:
            return
        self._over.add(outcome.number)
        run_id = self._trial_run(outcome.number)
        rows = [row for each in replay([outcome]) if (row := row_of(each)) is not None]
        if not self._lacks(run_id, rows):
            return
        config = {**outcome.parameters, "trial": outcome.config.model_dump(mode="json"), "study": self._spec.name}
        run = self._open(run_id, f"{self._spec.name} trial {outcome.number}", config, "trial")
        run.run.define_metric("*", step_metric="share")
        for row in rows:
            run.log(row)
        run.run.summary.update({"state": outcome.state.value, "error": short_error(outcome)})
        run.run.finish(exit_code=int(outcome.state is TrialState.FAILED))

    def _trial_run(self, number: int) -> str:
        return f"{self.run_id}-{number}"

    def _lacks(self, run_id: str, rows: Sequence[Row]) -> bool:
        """Whether any of these is not in the run as earlier sessions left it here; a session that failed counts for nothing."""
        here = segments(self.session.folder, run_id)
        if self.session.mode == "online":
            here = [each for each in here if (not each.is_offline or each.is_synced) and not each.fault()]
        held = {key for each in here for key in each.row_keys()}
        return any(row.key not in held for row in rows)

    def end(self) -> str:
        """Ends the run and waits until all is written or sent. What went wrong that wandb told nobody; empty: nothing."""
        self.run.run.finish()
        self.session.end()
        fault = next((fault for run in self._runs if (fault := run.fault())), "")
        if not fault and self.session.mode == "online":
            for run_id in (self.run_id, *(self._trial_run(number) for number in self._over)):
                self.session.supersede(run_id)
        return fault

    def abandon(self) -> None:
        self.run.run.finish(exit_code=1)
