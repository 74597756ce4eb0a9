"""What there is to learn from a study beyond its front: `distilsearch analyse`, and the report's part on the search."""

from __future__ import annotations

from collections.abc import Sequence

from search.results.alike import LEAST, Alike, alike
from search.results.course import CoursePoint, course
from search.results.front import ParetoFront, Reference
from search.results.importance import Importance, Importances, importances
from spaces.student import Frozen
from spaces.study import StudySpec
from spaces.trial import TrialOutcome


class Analysis(Frozen):
    """How the hypervolume grew, what each objective depends on, and what the front's students have in common."""

    course: tuple[CoursePoint, ...]
    knee: int
    importances: Importances
    alike: tuple[Alike, ...]
    num_students: int

    @property
    def likeness(self) -> list[str]:
        """What the students have in common, in words."""
        if self.num_students < LEAST:
            return [f"A front of {self.num_students} is too small to say; it takes {LEAST}."]
        return [one.words for one in self.alike] or ["Nothing that as many trials would not by chance."]

    def as_text(self) -> str:
        last = self.course[-1]
        knee = f"; its knee is trial {self.knee}" if self.num_students else ""
        lines = [
            f"The front has {self.num_students} students{knee}.",
            f"Hypervolume {last.hypervolume:.4f}, after {duration(last.train_seconds)} of training:",
        ]
        lines += [
            f"  {point.hypervolume:.4f}  {duration(point.train_seconds):>8}  {point.finished} finished"
            for point in self.course[1:]
        ]
        for one in self.importances.found:
            lines += ["", f"What {heading(one)}:", *(f"  {share:4.0%}  {name}" for name, share in one.shares.items())]
        lines += ["", *left_out(self.importances)] if self.importances.left_out else []
        return "\n".join([*lines, "", "What the front's students have in common:", *(f"  {x}" for x in self.likeness)])


def analyse(
    spec: StudySpec, front: ParetoFront, outcomes: Sequence[TrialOutcome], references: Sequence[Reference]
) -> Analysis:
    """`outcomes` are all trials; confirmations among them are passed over."""
    return Analysis(
        course=course(outcomes, spec, references),
        knee=front.knee,
        importances=importances(spec, outcomes),
        alike=alike(spec, front, outcomes),
        num_students=len(front.points),
    )


def heading(one: Importance) -> str:
    """Such as `decides accuracy, where family is albert (fANOVA, 24 trials)`."""
    where = f", where {one.among}" if one.among else ""
    return f"decides {one.objective}{where} (fANOVA, {one.trials} trials)"


def left_out(importances: Importances) -> list[str]:
    """One line for each reason."""
    reasons: dict[str, list[str]] = {}
    for name, reason in importances.left_out.items():
        reasons.setdefault(reason, []).append(name)
    return [f"Importance not said of {', '.join(names)}: {reason}." for reason, names in reasons.items()]


def duration(seconds: float) -> str:
    """Such as `45 s`, `12 min` or `3.4 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
