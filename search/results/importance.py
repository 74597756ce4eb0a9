"""Which parameters an objective depends on: Optuna's fANOVA over the trials that finished.

Optuna is imported when something is to be said, so that the front stays light.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from search.results.front import coordinates
from spaces.parameters import Value
from spaces.space import SearchSpace
from spaces.student import Frozen
from spaces.study import StudySpec
from spaces.trial import TrialOutcome, TrialState

MIN_TRIALS = 10
TRIALS_A_PARAMETER = 2  # fewer, and the forest reads importance into noise
MOST_TRIALS = 200  # its time grows with their square: 2.5 s for 300, 19 s for 1,000


class Importance(Frozen):
    """For one objective, each parameter's share of its variance over these trials, the largest first.

    `among` is the condition under which the parameters are searched, such as `family is albert`; empty: all trials. The shares
    sum to 1 over what was compared; under a condition the parameters that every trial has were compared too, but are not
    listed again. Sizes count as log10.
    """

    objective: str
    among: str
    trials: int
    shares: dict[str, float]


class Importances(Frozen):
    """What could be said, and why the rest could not: parameter or objective -> reason."""

    found: tuple[Importance, ...] = ()
    left_out: dict[str, str] = {}


def importances(spec: StudySpec, outcomes: Sequence[TrialOutcome]) -> Importances:
    """fANOVA (Hutter et al. 2014) for each objective. It needs parameters that all its trials have, so those that are searched only
    under a condition are looked at among the trials that met it.

    Trials that did not finish are not there: with successive halving what remains are the better ones, of which less can be learnt.
    """
    done = [outcome for outcome in outcomes if outcome.state is TrialState.DONE and "of" not in outcome.labels]
    done = [o for o in done if all(math.isfinite(o.values().get(name, math.nan)) for name in spec.objectives)]
    done = done[:: -(-len(done) // MOST_TRIALS) or 1]
    searched = spec.space.searched
    if len(done) < MIN_TRIALS:
        reason = f"{len(done)} trial{'s' * (len(done) != 1)} finished, and it takes {MIN_TRIALS}"
        return Importances(left_out=dict.fromkeys(searched, reason))
    left_out: dict[str, str] = {}
    groups: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for name in searched:
        having = [outcome for outcome in done if name in outcome.parameters]
        if len({outcome.parameters[name] for outcome in having}) > 1:
            groups[tuple(outcome.number for outcome in having)].append(name)
        else:
            left_out[name] = "the same in all that finished" if having else "its condition was never met"
    everyone = tuple(outcome.number for outcome in done)
    common = groups.pop(everyone, [])
    found: list[Importance] = []
    for numbers, names in {everyone: common, **groups}.items():
        trials = [outcome for outcome in done if outcome.number in set(numbers)]
        compared = [name for name in common if len({trial.parameters[name] for trial in trials}) > 1]
        compared += [name for name in names if name not in compared]
        least = max(MIN_TRIALS, TRIALS_A_PARAMETER * len(compared))
        if len(trials) < least:
            left_out |= dict.fromkeys(names, f"{len(trials)} finished trials have it, and it takes {least}")
        elif names:
            among = "" if numbers == everyone else _condition(spec.space, names[0])
            for place, objective in enumerate(spec.objectives):
                targets = [coordinates(trial.values(), spec.objectives)[place] for trial in trials]
                if max(targets) == min(targets):
                    left_out[objective] = "the same in all that finished"
                    continue
                shares = _shares(spec.space, trials, compared, targets)
                listed = sorted(((shares[name], name) for name in names), key=lambda pair: (-pair[0], pair[1]))
                found.append(
                    Importance(
                        objective=objective,
                        among=among,
                        trials=len(trials),
                        shares={name: share for share, name in listed},
                    )
                )
    return Importances(found=tuple(found), left_out=left_out)


def _condition(space: SearchSpace, name: str) -> str:
    def words(values: Sequence[Value]) -> str:
        return " or ".join(map(str, values))

    return " and ".join(f"{parent} is {words(values)}" for parent, values in space.parameter(name).when.items())


def _shares(
    space: SearchSpace, trials: Sequence[TrialOutcome], names: Sequence[str], targets: Sequence[float]
) -> dict[str, float]:
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances
    from optuna.trial import create_trial

    from search.record.record import distribution

    study = optuna.create_study()
    study.add_trials(
        create_trial(
            params={name: trial.parameters[name] for name in names},
            distributions={name: distribution(space.parameter(name)) for name in names},
            value=target,
        )
        for trial, target in zip(trials, targets, strict=True)
    )
    found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0), params=list(names))
    return {name: float(share) for name, share in found.items()}
