"""Which student of a front someone wants: asked in a few words, chosen on validation, answered with what test says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from search.results.front import ParetoFront
from search.results.students import StudentRow
from search.results.table import interval, percent
from spaces.deployment import COST_WORDS, COSTS, MEASURED
from spaces.errors import InputError, near_miss
from spaces.student import Frozen
from spaces.study import StudySpec
from spaces.task import METRIC_WORDS
from spaces.trial import TrialOutcome, TrialState

KINDS = ("knee", "smallest", "fastest", "best", "trial=N")
ALLOWED = "knee, smallest, fastest, best, or trial=N (with --keep 97%, --under parameters=5000000, or both)"
USUAL_KEEP = 0.97  # of the teacher, for smallest and fastest where nothing is said


class Pick(Frozen):
    """What was asked for. `keep` is a share of the teacher's score on validation, `under` the most that each cost may be."""

    kind: Literal["knee", "smallest", "fastest", "best", "trial"]
    trial: int | None = None
    keep: float | None = None
    under: dict[str, float] = {}

    def __str__(self) -> str:
        words = f"trial={self.trial}" if self.kind == "trial" else self.kind
        words += f" --keep {100 * self.keep:g}%" if self.keep is not None else ""
        return words + "".join(f" --under {name}={value:.15g}" for name, value in self.under.items())


class Picked(Frozen):
    """The student of the front that answers a pick, and what is said of it on either split, a sentence each."""

    row: StudentRow
    pick: str
    on_validation: str
    on_test: str


def parse_pick(text: str, keep: str | None = None, under: Sequence[str] = ()) -> Pick:
    """A pick as the command line has it: `--pick smallest --keep 97% --under latency_ms=5`. Raises InputError."""
    name, _, number = text.strip().partition("=")
    if name == "trial" and number:
        if not (number.isascii() and number.isdigit()):
            raise InputError.of("--pick", f"trial={number} names no trial; write a number, such as trial=7")
        if keep is not None or under:
            raise InputError.of("--pick", f"{text} is one trial already; leave --keep and --under out")
        return Pick(kind="trial", trial=int(number))
    if text.strip() not in ("knee", "smallest", "fastest", "best"):
        raise InputError.of("--pick", f"{text!r} is no pick{near_miss(name, KINDS)}; write {ALLOWED}")
    if name == "knee" and (keep is not None or under):
        raise InputError.of(
            "--pick", "knee is one student already; for --keep and --under write smallest, fastest or best"
        )
    costs = dict(_cost_limit(entry) for entry in under)
    share = _share(keep) if keep is not None else USUAL_KEEP if name in ("smallest", "fastest") else None
    return Pick(kind=name, keep=share, under=costs)


def choose(
    pick: Pick, spec: StudySpec, front: ParetoFront, rows: Sequence[StudentRow], outcomes: Sequence[TrialOutcome] = ()
) -> Picked:
    """The student of the front that answers the pick. Raises InputError where none does, and says what comes nearest."""
    if not rows:
        raise InputError.of("--pick", f"there is nothing to pick from yet: {_why_none(spec, outcomes)}")
    if pick.kind == "trial":
        row = _trial(pick.trial, rows, outcomes)
    elif pick.kind == "knee":
        row = _trial(front.knee, rows, outcomes)
    else:
        row = _first(pick, spec, rows)
    return Picked(
        row=row, pick=str(pick), on_validation=_on_validation(spec, row), on_test=_on_test(spec, row, pick.keep)
    )


def costs_of(spec: StudySpec, row: StudentRow) -> dict[str, float]:
    """What is known of a student's costs, by their study names."""
    measured = {name: value for name, value in row.deployed.items() if name in COSTS}
    return {**spec.deployment.counted(row.config.shape), **measured}


def _first(pick: Pick, spec: StudySpec, rows: Sequence[StudentRow]) -> StudentRow:
    quality = f"validation/{spec.quality}"
    left = list(rows)
    for name, most in pick.under.items():
        costs = {row.trial: _cost(spec, row, name, "--under") for row in left}
        kept = [row for row in left if costs[row.trial] <= most]
        if not kept:
            nearest = min(left, key=lambda row: costs[row.trial])
            raise InputError.of(
                "--under",
                f"no student{_so_far(pick, name)} has at most {_amount(name, most)}: the nearest, trial {nearest.trial}, has "
                f"{_amount(name, costs[nearest.trial])}",
            )
        left = kept
    if pick.keep is not None:
        shares = {row.trial: row.share_on_validation for row in left if row.share_on_validation is not None}
        if not shares:
            raise InputError.of(
                "--keep", f"a share of the teacher's {_word(spec)} is not known here; write --pick best --under "
                "parameters=NUMBER, or --pick trial=N",
            )  # fmt: skip
        kept = [row for row in left if shares.get(row.trial, -math.inf) >= pick.keep]
        if not kept:
            nearest = max(left, key=lambda row: shares.get(row.trial, -math.inf))
            raise InputError.of(
                "--keep",
                f"nothing{_so_far(pick)} keeps {100 * pick.keep:g} % of the teacher's {_word(spec)} on validation: the nearest, "
                f"trial {nearest.trial}, keeps {percent(shares[nearest.trial])}",
            )
        left = kept
    if pick.kind == "best":
        return min(left, key=lambda row: (-row.validation[quality], row.num_parameters, row.trial))
    if pick.kind == "smallest":
        return min(left, key=lambda row: (row.num_parameters, row.num_bytes, row.trial))
    latencies = {row.trial: _cost(spec, row, "latency_ms", "--pick fastest") for row in left}
    return min(left, key=lambda row: (latencies[row.trial], row.num_parameters, row.trial))


def _cost(spec: StudySpec, row: StudentRow, name: str, asked_by: str) -> float:
    known = costs_of(spec, row)
    if name not in known:
        instead = "flops" if name == "latency_ms" else "parameters"
        raise InputError.of(
            asked_by,
            f"this study did not measure {name}: add it to the study's objectives or bounds and run it into another output, "
            f"or write --pick best --under {instead}=NUMBER",
        )
    return known[name]


def _trial(number: int | None, rows: Sequence[StudentRow], outcomes: Sequence[TrialOutcome]) -> StudentRow:
    found = next((row for row in rows if row.trial == number), None)
    if found is not None:
        return found
    names = ", ".join(str(row.trial) for row in rows)
    trial = next((outcome for outcome in outcomes if outcome.number == number), None)
    what = f"there is no trial {number}" if trial is None else f"trial {number} is not on the front ({_state(trial)})"
    raise InputError.of("--pick", f"{what}, and weights are kept of the front alone: trials {names}")


def _state(trial: TrialOutcome) -> str:
    if trial.state is TrialState.FAILED:
        return "it failed"
    return "others beat it" if trial.state is TrialState.DONE else f"it is {trial.state.value}"


def _why_none(spec: StudySpec, outcomes: Sequence[TrialOutcome]) -> str:
    done = sum(outcome.state is TrialState.DONE for outcome in outcomes)
    if done:
        bounds = " and ".join(spec.bounds) or "its objectives"
        return f"{done} trials finished their training, and none keeps the study's bounds ({bounds})"
    return f"no trial has finished its training; run `distilsearch run` on {spec.output.name} to its end first"


def _on_validation(spec: StudySpec, row: StudentRow) -> str:
    score = row.validation.get(f"validation/{spec.quality}", math.nan)
    share = f", {percent(row.share_on_validation)} of the teacher's" if row.share_on_validation is not None else ""
    return f"Chosen on validation: {_word(spec)} {percent(score)}{share}."


def _on_test(spec: StudySpec, row: StudentRow, keep: float | None) -> str:
    score = row.test.get(f"test/{spec.quality}")
    if score is None:
        return "Nothing was scored on test yet: run the study to its end for that."
    said = f"On test: {_word(spec)} {percent(score.mean)}"
    span = interval(score)
    said += f" (95 % interval {span})" if span else f" ({score.seeds} seed{'s' * (score.seeds != 1)})"
    if row.share_of_teacher is None:
        return said + "."
    said += f", {percent(row.share_of_teacher)} of the teacher's"
    return said + (f": less than the {100 * keep:g} % asked for." if keep and row.share_of_teacher < keep else ".")


def _word(spec: StudySpec) -> str:
    return METRIC_WORDS.get(spec.quality, spec.quality)


def _so_far(pick: Pick, before: str = "") -> str:
    """` with at most 5,000,000 parameters`: the limits that were held before this one."""
    names = list(pick.under)
    held = names[: names.index(before)] if before else names
    return " with at most " + " and ".join(_amount(name, pick.under[name]) for name in held) if held else ""


def _amount(name: str, value: float) -> str:
    if name == "latency_ms":
        return f"{value:.3g} ms of latency"
    return f"{value:,.0f} {COST_WORDS[name].replace(' (bytes)', ' in bytes')}"


def _share(text: str) -> float:
    plain = text.strip()
    try:
        value = float(plain.removesuffix("%")) / (100 if plain.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 < value <= 2:
        hint = f"; did you mean {plain}%?" if value > 2 and not plain.endswith("%") else ""
        raise InputError.of(
            "--keep", f"{text!r} is not allowed{hint}; write a share of the teacher's score, such as 97%"
        )
    return value


def _cost_limit(entry: str) -> tuple[str, float]:
    name, sign, number = entry.partition("=")
    name = name.strip()
    if name not in COSTS:
        raise InputError.of("--under", f"{name!r} is no cost{near_miss(name, COSTS)}; there are {', '.join(COSTS)}")
    try:
        value = float(number) if sign else math.nan
    except ValueError:
        value = math.nan
    if not value > 0:
        unit = " of milliseconds" if name in MEASURED[:1] else ""
        raise InputError.of("--under", f"{entry!r} is not allowed; write {name}=NUMBER, a number{unit} above 0")
    return name, value


def as_plain(picked: Picked, costs: Mapping[str, float]) -> dict[str, object]:
    """For JSON."""
    row = picked.row
    return {
        "trial": row.trial,
        "pick": picked.pick,
        "architecture": row.architecture,
        "on_validation": picked.on_validation,
        "on_test": picked.on_test,
        "validation": row.validation,
        "test": {name: score.model_dump() for name, score in row.test.items()},
        "share_on_validation": row.share_on_validation,
        "share_of_teacher": row.share_of_teacher,
        "costs": dict(costs),
    }
