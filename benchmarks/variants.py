"""Students of a finished search trained again in variants, three seeds each: what each part of the method is worth.

    python benchmarks/variants.py sizes DIR [SEEDS]       the best student by validation at 60, 40 and 25 % of the teacher's
                                                          parameters: as found, without distillation, by the textbook
    python benchmarks/variants.py ablation DIR [SEEDS]    the best at 40 %, each part of the method left out once
    python benchmarks/variants.py texts DIR [SEEDS]       the best at 25 %: made-up texts against the same steps without
    python benchmarks/variants.py albert DIR [SEEDS]      ALBERT's grid: embedding size by groups, and what a group starts from

DIR is a study's output. Each measurement is a line of DIR/variants.jsonl at once; the same command goes on where it was
stopped, and ends with the table of all of them. `python benchmarks/variants.py table DIR` prints it alone.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray

from search.lanes.pool import LanePool, plan_lanes
from search.lanes.quiet import start_ray
from search.results.table import architecture_in_words
from search.study.inputs import read_inputs
from search.study.output import StudyResult, open_study
from search.study.prepare import prepare
from spaces.space import PARAMETERS, SearchSpace, parse_space
from spaces.trial import TrialConfig, TrialState, WorkItem, WorkKind, derived_seed

SHARES = (60, 40, 25)  # percent of the teacher's parameters
TEXTBOOK = {"temperature": 2.0, "soft_share": 0.5, "hidden_share": 0.0, "group_start": "first"}
TRAINING = ("learning_rate", "batch_size", "warmup_share", "weight_decay", "dropout")  # by their defaults in the textbook
HIDDEN_SHARE = 0.2  # of the loss, where the ablation has hidden states in it


@dataclass(frozen=True)
class Variant:
    """One config to train with several seeds. `made_up`: whether its training text has what augmentation made."""

    group: str
    student: str
    name: str
    config: TrialConfig
    made_up: bool = True

    def key(self, seed: int) -> str:
        return json.dumps([self.group, self.student, self.name, seed])


def best_at(result: StudyResult, share: float) -> TrialConfig | None:
    """The best by validation of at most `share` percent of the teacher's parameters; of equals the smaller."""
    most = share / 100 * (result.references[0].num_parameters or 0)
    fits = [o for o in result.outcomes if o.state is TrialState.DONE and o.config.shape.num_parameters <= most]
    fits.sort(key=lambda o: (-o.values()[result.spec.quality], o.config.shape.num_parameters))
    return fits[0].config if fits else None


def sizes(result: StudyResult) -> Iterator[Variant]:
    for share in SHARES:
        config = best_at(result, share)
        if config is None:
            continue
        plain = {name: PARAMETERS[name].default for name in TRAINING}
        name = f"at most {share} %"
        yield Variant("sizes", name, "as found", config)
        yield Variant("sizes", name, "without distillation", config.without_distillation())
        yield Variant("sizes", name, "textbook", config.model_copy(update={**TEXTBOOK, **plain}), made_up=False)


def ablation(result: StudyResult) -> Iterator[Variant]:
    found = best_at(result, 40)
    assert found is not None
    whole = found.model_copy(update={"hidden_share": HIDDEN_SHARE, "hidden_loss": "cosine", "hidden_layers": "last"})
    if whole.shape.hidden_size != result.spec_teacher_width:  # type: ignore[attr-defined]
        whole = whole.model_copy(update={"hidden_loss": "mse"})
    yield Variant("ablation", "at most 40 %", "all of it", whole)
    yield Variant("ablation", "at most 40 %", "random initialisation", whole.model_copy(update={"initialise": "random"}))
    yield Variant("ablation", "at most 40 %", "no soft targets", whole.model_copy(update={"soft_share": 0.0}))
    yield Variant("ablation", "at most 40 %", "no hidden states", whole.model_copy(update={"hidden_share": 0.0}))
    yield Variant("ablation", "at most 40 %", "no made-up texts", whole, made_up=False)


def texts(result: StudyResult) -> Iterator[Variant]:
    found = best_at(result, 25)
    assert found is not None
    for times in (1, 3):
        config = found.model_copy(update={"epochs": times * found.epochs})
        yield Variant("texts", "at most 25 %", f"{times}x the steps, made-up texts", config)
        yield Variant("texts", "at most 25 %", f"{times}x the steps, the labelled text", config, made_up=False)


def albert(result: StudyResult) -> Iterator[Variant]:
    found = best_at(result, 60)
    assert found is not None
    deepest = max((o.config for o in result.outcomes), key=lambda config: config.shape.depth)
    width, depth = found.shape.hidden_size, deepest.shape.depth
    base = found.model_copy(update={"layers": tuple(range(depth)), "dropout": 0.0})
    for rank in (32, 64, 128, width):
        for groups in (1, 2, depth):
            shape = found.shape.model_copy(
                update={"family": "albert", "depth": depth, "embedding_size": rank, "num_hidden_groups": groups}
            )
            for start in ("first", "mean", "best") if groups < depth and rank == 128 else ("mean",):
                if groups == depth and start != "mean":
                    continue
                config = base.model_copy(update={"shape": shape, "group_start": start})
                yield Variant("albert", f"E {rank}, {groups} groups", f"groups start from {start}", config)


GROUPS = {"sizes": sizes, "ablation": ablation, "texts": texts, "albert": albert}
