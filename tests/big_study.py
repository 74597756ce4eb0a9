"""A study as large as one likes, made up: for looking at its report, and for what that costs.

python tests/big_study.py FOLDER [TRIALS]
"""

from __future__ import annotations

import math
import random
import sys
import time
from pathlib import Path
from typing import Any

from search.results.account import Account
from search.results.front import ParetoFront, Reference
from search.results.near import near_front
from search.results.report import report_page
from search.results.students import near_rows, student_rows
from spaces.space import parse_space
from spaces.student import StudentShape
from spaces.study import StudySpec
from spaces.trial import Measurement, TrialConfig, TrialOutcome, TrialState

ROWS = {"train": 67_349, "validation": 872, "test": 1_821}
RECIPES = (
    "DistilBERT",
    "TinyBERT 6-768",
    "TinyBERT 4-312",
    "ALBERT",
    "BERT-Tiny",
    "BERT-Mini",
    "BERT-Small",
    "BERT-Medium",
)
ERRORS = (
    "TrialError: the loss became NaN at step 31; lower learning_rate",
    "two lanes were lost under this trial: the worker was killed by the kernel (out of memory)",
    "TrialError: the loss became NaN at step 7; lower learning_rate",
)


def a_reference(name: str, label: str, parameters: int, validation: float, test: float, ms: float = 0) -> Reference:
    metrics = {"validation/accuracy": validation, "test/accuracy": test} | ({"deployed/latency_ms": ms} if ms else {})
    return Reference(name=name, label=label, num_parameters=parameters, num_bytes=4 * parameters, metrics=metrics)


REFERENCES = (
    a_reference("teacher", "teacher", 109_483_778, 0.924, 0.921, 41.0),
    a_reference("teacher_cut", "teacher, vocabulary cut", 94_900_000, 0.92, 0.918),
    a_reference("ngrams", "bag of n-grams", 1_700_000, 0.823, 0.819),
    a_reference("majority", "majority", 0, 0.509, 0.499),
)


def a_big_spec(**changes: Any) -> StudySpec:
    space, faults = parse_space(
        {
            "family": ["bert", "albert"],
            "depth": {"int": [1, 8]},
            "hidden_size": ["25%", "50%", "75%", "full"],
            "vocabulary": ["used", 8000],
            "temperature": {"float": [1, 8], "log": True},
            "soft_share": {"float": [0.3, 1]},
            "learning_rate": {"float": [5e-5, 5e-4], "log": True},
            "batch_size": [32, 64],
        }
    )
    assert not faults
    plain = {
        "name": "sst2-students",
        "data": {"train": {"hub": "nyu-mll/glue", "config": "sst2", "split": "train"}},
        "teacher": {"model": "textattack/bert-base-uncased-SST-2"},
        "space": space,
        "bounds": {"parameters": {"max": 60_000_000}, "accuracy": {"min": "85%"}},
        "budget": {"trials": 300, "minutes": 240},
        "search": {"halving": {"rungs": ["1/9", "1/3", 1], "reduction": 3}},
        "output": Path("runs/sst2-students"),
    }
    return StudySpec.model_validate({**plain, **changes})


def a_trial(number: int, chance: random.Random) -> TrialOutcome:
    """One that learns as such a student might; one in forty fails, one in fifty learns little."""
    family, depth = chance.choice(["bert", "bert", "albert"]), chance.randint(1, 8)
    share, vocabulary = chance.choice([0.25, 0.5, 0.75, 1.0]), chance.choice(["used", 8000])
    hidden, rows = int(768 * share), 11_572 if vocabulary == "used" else 8000
    shape = StudentShape(
        family=family, depth=depth, hidden_size=hidden, num_heads=max(1, hidden // 64), intermediate_size=4 * hidden,
        embedding_size=hidden, num_hidden_groups=depth if family == "bert" else 1, vocabulary_size=rows,
        max_positions=512, type_vocabulary_size=2, num_labels=2,
    )  # fmt: skip
    parameters: dict[str, Any] = {
        "family": family,
        "depth": depth,
        "hidden_size": "full" if share == 1 else f"{100 * share:g}%",
        "vocabulary": vocabulary,
        "temperature": math.exp(chance.uniform(0, math.log(8))),
        "soft_share": chance.uniform(0.3, 1),
        "learning_rate": math.exp(chance.uniform(math.log(5e-5), math.log(5e-4))),
        "batch_size": chance.choice([32, 64]),
    }
    config = TrialConfig(
        shape=shape, layers=tuple(range(depth)), vocabulary=str(vocabulary), temperature=parameters["temperature"],
        soft_share=parameters["soft_share"], learning_rate=parameters["learning_rate"],
        batch_size=parameters["batch_size"], warmup_share=0.1, weight_decay=0.01, dropout=0.1, epochs=3, seed=number,
    )  # fmt: skip
    reach = 0.915 - 0.11 * math.exp(-shape.num_parameters / 9e6) - abs(chance.gauss(0, 0.012)) - 0.004 * (8 - depth)
    reach -= 0.3 * (chance.random() < 1 / 50 and number >= len(RECIPES))  # what nobody should have tried
    seconds = 20 + 12 * depth * share
    latency = round((0.7 + 3.1 * depth * share**1.7) * math.exp(chance.gauss(0, 0.01)), 3)
    measured, before = [], 0.0
    for rung in (1 / 9, 1 / 3, 1.0):
        score = reach - 0.055 * (1 - rung) * chance.uniform(0.6, 1.4)
        metrics = {"validation/accuracy": round(score * 872) / 872, "deployed/latency_ms": latency}
        metrics["deployed/latency_noise"] = round(abs(chance.gauss(0, 0.015)), 4)
        cost = {
            "train_seconds": seconds * (rung - before),
            "tokens": 5.4e6 * (rung - before),
            "finished_at": 1e9 + 40 * number,
        }
        measured.append(
            Measurement(trial=number, attempt=1, step=int(3000 * rung), share=rung, metrics=metrics, cost=cost)
        )
        before = rung
    luck = reach + chance.gauss(0, 0.01)
    kept = 3 if luck > 0.886 else 2 if luck > 0.868 else 1
    state = TrialState.DONE if kept == 3 else TrialState.ENDED
    error, labels = "", {"start": RECIPES[number]} if number < len(RECIPES) else {}
    if labels:
        kept, state = 3, TrialState.DONE
    elif chance.random() < 1 / 40:
        kept, state, error = chance.choice([0, 1]), TrialState.FAILED, chance.choice(ERRORS)
    return TrialOutcome(
        number=number, config=config, parameters=parameters, state=state, measurements=tuple(measured[:kept]),
        error=error, labels=labels, until=1.0,
    )  # fmt: skip


def confirmed(outcome: TrialOutcome, number: int, kind: str, chance: random.Random) -> TrialOutcome:
    score = outcome.values()["accuracy"] - 0.006 + chance.gauss(0, 0.004) - 0.02 * (kind == "without_distillation")
    cost = {"train_seconds": outcome.train_seconds, "tokens": outcome.train_tokens}
    measured = Measurement(trial=number, attempt=1, step=3000, share=1.0, metrics={"test/accuracy": score}, cost=cost)
    labels = {"kind": kind, "of": str(outcome.number)}
    return outcome.model_copy(update={"number": number, "measurements": (measured,), "labels": labels})


def a_big_study(num_trials: int = 300, seed: int = 1) -> tuple[Any, ...]:
    """What `report_page` takes."""
    spec, chance = a_big_spec(), random.Random(seed)
    outcomes = [a_trial(number, chance) for number in range(num_trials)]
    front = ParetoFront.of(outcomes, spec, REFERENCES)
    near = near_front(front, outcomes, spec, REFERENCES, ROWS["validation"])
    again = [
        confirmed(outcomes[trial], 10 * place + seed, kind, chance)
        for place, trial in enumerate((*front.trials, *near))
        for seed, kind in enumerate(("confirm", "confirm", "without_distillation"))
        if kind == "confirm" or trial in front.trials
    ]
    delivered = {trial: {"test/accuracy": outcomes[trial].values()["accuracy"] - 0.005} for trial in front.trials}
    known = (outcomes, again, delivered, REFERENCES, ROWS)
    rows, beside = student_rows(spec, front, *known), near_rows(spec, near, *known)
    stages = {"reading": 4.2, "starting Ray": 6.5, "preparation, and the lanes' start": 212.0, "search": 5930.0}
    stages |= {"confirmation": 1290.0, "delivery": 41.0}
    lanes = {"busy": 26_800.0, "idle": 2_310.0, "starting": 410.0}
    account = Account(stages=stages, lanes=lanes, num_lanes=4, gpu_hours=8.2, runs=2)
    return spec, front, rows, REFERENCES, [*outcomes, *again], beside, account, ROWS


if __name__ == "__main__":
    made = a_big_study(int(sys.argv[2]) if len(sys.argv) > 2 else 300)
    begun = time.perf_counter()
    path = Path(sys.argv[1]) / "report.html"
    path.write_text(report_page(*made))
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB in {time.perf_counter() - begun:.2f} s")
