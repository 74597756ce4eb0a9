"""What the front's students have in common, beyond what all trials have in common anyway."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from search.results.front import ParetoFront
from spaces.parameters import Choice
from spaces.student import Frozen
from spaces.study import StudySpec
from spaces.trial import TrialOutcome

LEAST = 3  # students, to be called alike
ALPHA = 0.05


class Alike(Frozen):
    """A parameter that is the same in the front's `students`, or lies from `low` to `high`, and how many of the `tried` trials that
    have it are `like` them."""

    parameter: str
    low: str | float
    high: str | float
    students: int
    like: int
    tried: int

    @property
    def words(self) -> str:
        """Such as `vocabulary is 8000 in all 5; so it is in 12 of the 41 trials that were tried`."""
        one = self.low == self.high
        value = f"is {_short(self.low)}" if one else f"lies from {_short(self.low)} to {_short(self.high)}"
        said = f"{self.parameter} {value} in all {self.students}"
        return f"{said}; so it {'is' if one else 'does'} in {self.like} of the {self.tried} trials that were tried"


def alike(spec: StudySpec, front: ParetoFront, outcomes: Sequence[TrialOutcome]) -> tuple[Alike, ...]:
    """The parameters in which the front's students are so alike that as many trials, drawn from those tried by chance, would be in
    one case of twenty at most; the most telling first.

    A choice: that all have one value which is no more frequent than theirs. A range: that all lie so close, by how many of the
    trials lie there. The sampler tries what was good more often, which hides some of it. Of many parameters one may be told by
    chance.
    """
    searched = [outcome for outcome in outcomes if "of" not in outcome.labels]
    found = []
    for name, parameter in spec.space.parameters.items():
        tried = [outcome.parameters[name] for outcome in searched if name in outcome.parameters]
        students = [o.parameters[name] for o in searched if o.number in front.trials and name in o.parameters]
        if len(students) < LEAST or len(set(tried)) < 2:
            continue
        if isinstance(parameter, Choice):
            if len(set(students)) > 1:
                continue
            low = high = students[0]
            like = tried.count(low)
            counts = Counter(tried).values()
            chance = sum((count / len(tried)) ** len(students) for count in counts if count <= like)
        else:
            low, high = min(map(float, students)), max(map(float, students))
            like = sum(low <= float(value) <= high for value in tried)
            chance = _chance_of_range(like / len(tried), len(students))
        if chance <= ALPHA:
            one = Alike(parameter=name, low=low, high=high, students=len(students), like=like, tried=len(tried))
            found.append((chance, name, one))
    return tuple(one for *_, one in sorted(found, key=lambda entry: entry[:2]))


def _chance_of_range(share: float, number: int) -> float:
    """That the smallest and the largest of `number` draws have at most this share of all between them."""
    return number * share ** (number - 1) - (number - 1) * share**number


def _short(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.3g}" if value < 1000 else f"{value:.0f}"
