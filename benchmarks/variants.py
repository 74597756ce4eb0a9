"""Students of a finished search trained again in variants, three seeds each: what each part of the method is worth.

    python benchmarks/variants.py sizes DIR [SEEDS]       the best student by validation at 60, 40 and 25 % of the teacher's
                                                          parameters: as found, without distillation, by the textbook,
                                                          without made-up texts
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

from search.lanes.placement import plan_lanes
from search.lanes.pool import LanePool
from search.lanes.quiet import start_ray
from search.results.students import architecture_in_words
from search.study.inputs import read_inputs
from search.study.output import StudyResult, open_study
from search.study.prepare import prepare
from search.trial.data import TransferSet
from spaces.parameters import Choice
from spaces.space import PARAMETERS, SearchSpace
from spaces.trial import TrialConfig, TrialState, WorkItem, WorkKind, derived_seed

SHARES = (25, 40, 60)  # percent of the teacher's parameters
TEXTBOOK = {"temperature": 2.0, "soft_share": 0.5, "hidden_share": 0.0, "group_start": "first"}
TRAINING = (
    "learning_rate",
    "batch_size",
    "warmup_share",
    "weight_decay",
    "dropout",
)  # by their defaults in the textbook
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
    plain = {name: PARAMETERS[name].default for name in TRAINING}
    best = {share: best_at(result, share) for share in SHARES}
    for config in dict.fromkeys(config for config in best.values() if config is not None):  # one may be best at several
        name = f"at most {', '.join(str(share) for share in SHARES if best[share] == config)} %"
        yield Variant("sizes", name, "as found", config)
        yield Variant("sizes", name, "without distillation", config.without_distillation())
        yield Variant("sizes", name, "textbook", config.model_copy(update={**TEXTBOOK, **plain}), made_up=False)
        yield Variant("sizes", name, "no made-up texts", config, made_up=False)


def ablation(result: StudyResult) -> Iterator[Variant]:
    found = best_at(result, 40)
    assert found is not None
    whole = found.model_copy(update={"hidden_share": HIDDEN_SHARE, "hidden_loss": "cosine", "hidden_layers": "last"})
    yield Variant("ablation", "at most 40 %", "all of it", whole)
    yield Variant(
        "ablation", "at most 40 %", "random initialisation", whole.model_copy(update={"initialise": "random"})
    )
    yield Variant("ablation", "at most 40 %", "no soft targets", whole.model_copy(update={"soft_share": 0.0}))
    yield Variant("ablation", "at most 40 %", "no hidden states", whole.model_copy(update={"hidden_share": 0.0}))
    yield Variant("ablation", "at most 40 %", "no made-up texts", whole, made_up=False)


def texts(result: StudyResult) -> Iterator[Variant]:
    found = best_at(result, 25)
    assert found is not None
    for share, words in ((1 / 3, "a third of the steps"), (1, "the study's steps")):
        config = found.model_copy(update={"epochs": share * found.epochs})
        yield Variant("texts", "at most 25 %", f"{words}, made-up texts", config)
        yield Variant("texts", "at most 25 %", f"{words}, the labelled text", config, made_up=False)


def albert(result: StudyResult) -> Iterator[Variant]:
    """Of full depth and width, as the paper's: embedding size by groups; then what one group starts from."""
    found = max(result.outcomes, key=lambda o: (o.config.shape.depth, o.config.shape.hidden_size)).config
    depth, width = found.shape.depth, found.shape.hidden_size

    def student(rank: int, groups: int, start: str) -> TrialConfig:
        sizes = {"family": "albert", "embedding_size": rank, "num_hidden_groups": groups}
        shape = found.shape.model_copy(update=sizes)
        return found.model_copy(update={"shape": shape, "layers": tuple(range(depth)), "group_start": start})

    for rank in (32, 64, 128, width):
        for groups in (1, 2, depth):
            yield Variant("albert", f"E {rank}", f"{groups} groups", student(rank, groups, "mean"))
    for start in ("first", "best"):  # the grid has "mean"
        for groups in (1, 2):
            yield Variant("albert", f"E 128, from {start}", f"{groups} groups", student(128, groups, start))


GROUPS = {"sizes": sizes, "ablation": ablation, "texts": texts, "albert": albert}


def measure(folder: Path, result: StudyResult, wanted: list[tuple[Variant, int]]) -> None:
    """Trains on all lanes what `wanted` has and the file has not; a line each."""
    file = folder / "variants.jsonl"
    known = {line["key"] for line in lines(folder)}
    queue = deque((variant, seed) for variant, seed in wanted if variant.key(seed) not in known)
    if not queue:
        return
    # Only what these want: their vocabularies, and the teacher's last states in files where a loss is on them.
    wants: dict[str, tuple[Any, ...]] = {
        "vocabulary": tuple(sorted({variant.config.vocabulary for variant, _ in queue}))
    }
    if any(variant.config.hidden_share for variant, _ in queue):
        wants["hidden_share"] = (HIDDEN_SHARE,)
    wanted_space = {name: Choice(values=values) for name, values in wants.items()}
    space = SearchSpace({**result.spec.space.parameters, **wanted_space})
    spec = result.spec.model_copy(update={"space": space})
    inputs = read_inputs(spec, print)
    with ExitStack() as stack:
        cluster = start_ray()
        stack.callback(ray.shutdown)
        lanes = plan_lanes(spec.resources, cluster)
        pool = stack.enter_context(LanePool(spec.resources, lanes, {}, folder / ".ray", silence_seconds=300))
        prepared = prepare(inputs, ray.put(inputs.transfer), pool, lanes, print)
        made_up: TransferSet = ray.get(prepared.transfer)
        without = ray.put(replace(made_up.labelled(), states=None))
        flying: dict[str, tuple[Variant, int]] = {}
        count = len(queue)
        while queue or flying:
            while queue and len(flying) <= lanes:
                variant, seed = queue.popleft()
                transfer = prepared.transfer if variant.made_up else without
                key = variant.key(seed)
                pool.submit(
                    WorkItem(
                        key=key,
                        kind=WorkKind.TRAIN,
                        trial=len(flying),
                        config=variant.config.model_copy(update={"seed": seed}),
                        evaluate=("validation", "test"),
                        payload={
                            "teacher": str(prepared.teacher_folder),
                            "refs": {"transfer": transfer},
                            "exact": True,
                        },
                    )
                )
                flying[key] = variant, seed
            done = pool.wait_any(list(flying))
            pool.acknowledge(done.key)
            variant, seed = flying.pop(done.key)
            if done.error:
                print(f"{done.key}: {done.error}", flush=True)
                continue
            assert done.measurement is not None
            line = {
                "key": done.key, "group": variant.group, "student": variant.student, "name": variant.name, "seed": seed,
                "config": variant.config.model_dump(mode="json"), "made_up": variant.made_up,
                "metrics": done.measurement.metrics, "cost": done.measurement.cost,
            }  # fmt: skip
            with open(file, "a") as out:
                out.write(json.dumps(line) + "\n")
            shown = {name: round(value, 4) for name, value in done.measurement.metrics.items()}
            print(f"{count - len(queue) - len(flying)} of {count}: {done.key} {shown}", flush=True)


def lines(folder: Path) -> list[dict[str, Any]]:
    file = folder / "variants.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def table(folder: Path, result: StudyResult) -> str:
    """Markdown: mean and standard deviation of the test score over seeds; share of the teacher's; lift kept."""
    metric = result.spec.quality
    teacher = result.references[0]
    floor = next(reference for reference in result.references if reference.name == "ngrams")
    top, bottom = teacher.value(metric, "test"), floor.value(metric, "test")
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for line in lines(folder):
        found.setdefault((line["group"], line["student"], line["name"]), []).append(line)
    out = [
        f"| | | | parameters | validation {metric} | test {metric} | share | lift kept |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for reference in result.references:
        size = f"{reference.num_parameters / 1e6:.2f} M" if reference.num_parameters else "-"
        values = f"{reference.value(metric):.3f} | {reference.value(metric, 'test'):.3f}"
        out.append(f"| | {reference.label} | | {size} | {values} | {reference.value(metric, 'test') / top:.1%} | |")
    for (group, student, name), entries in found.items():
        config = TrialConfig.model_validate(entries[0]["config"])
        scores = [entry["metrics"][f"test/{metric}"] for entry in entries]
        mean = statistics.fmean(scores)
        spread = f" ± {statistics.stdev(scores):.3f}" if len(scores) > 1 else " (1 seed)"
        validation = statistics.fmean(entry["metrics"][f"validation/{metric}"] for entry in entries)
        what = f"{student}: {architecture_in_words(config)}" if group == "sizes" and name == "as found" else student
        out.append(
            f"| {group} | {what} | {name} | {config.shape.num_parameters / 1e6:.2f} M | {validation:.3f} | {mean:.3f}{spread} | "
            f"{mean / top:.1%} | {(mean - bottom) / (top - bottom):.0%} |"
        )
    return "\n".join(out)


def main(what: str, folder: Path, num_seeds: int) -> None:
    result = open_study(folder)
    if what != "table":
        variants = list(GROUPS[what](result))
        seeds = [derived_seed(result.spec.seed, "variant", index) for index in range(num_seeds)]
        measure(folder, result, [(variant, seed) for variant in variants for seed in seeds])
    print(table(folder, result))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]).resolve(), int(sys.argv[3]) if len(sys.argv) > 3 else 3)
