"""What the driver tells of a study; absence is an object (NullTracker)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from search.results.front import Reference
from search.study.output import StudyResult
from spaces.trial import TrialOutcome


class Tracker(Protocol):
    """Nothing here may raise or take long. `begun` comes before what else is told."""

    def begun(
        self,
        outcomes: Sequence[TrialOutcome],
        confirmations: Sequence[TrialOutcome],
        references: Sequence[Reference],
    ) -> None:
        """What the record holds as the search begins; of a new study nothing but what students are held against."""

    def told(self, outcome: TrialOutcome) -> None:
        """Something befell a trial, or a confirmation (labelled `of`): it began, was measured or failed."""

    def finished(self, result: StudyResult) -> None:
        """The study ran to its end, and its output holds what it found."""

    def close(self) -> None:
        """The driver is about to end, for whatever reason. More than once does no harm."""


class NullTracker:
    """Tracks nothing."""

    def begun(
        self,
        outcomes: Sequence[TrialOutcome],
        confirmations: Sequence[TrialOutcome],
        references: Sequence[Reference],
    ) -> None:
        pass

    def told(self, outcome: TrialOutcome) -> None:
        pass

    def finished(self, result: StudyResult) -> None:
        pass

    def close(self) -> None:
        pass
