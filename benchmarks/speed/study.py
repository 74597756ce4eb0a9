"""A study of 16 trials, by distilsearch and by Ray's documented recipe: a Tuner over a function that builds a TorchTrainer for each
trial, the teacher in its loop.

    python benchmarks/speed/study.py TEACHER DATA OUT [--rows 15000] [--names distilsearch recipe recipe-padded]

TEACHER, DATA as for one_trial.py. Everybody trains the same 16 trials (four temperatures, two rates, two soft shares) of the same
student for one epoch of the same rows, two trials at a time, one thread each. `recipe` pads a batch to its longest row and is
measured on the first four trials; `recipe-padded` pads to 128 pieces, as the examples do, and is measured on two trials of a
tenth of the rows. Their lines say what 16 whole ones take at that rate. `one-lane` is distilsearch with one trial at a time. OUT
keeps a line of studies.jsonl for each.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from memory import Memory
from task import BATCH, Task, few_rows

TRIALS = [
    {"temperature": temperature, "learning_rate": rate, "soft_share": soft}
    for temperature, rate, soft in itertools.product((1.0, 2.0, 4.0, 8.0), (1e-4, 3e-4), (0.5, 0.9))
]
LAYERS, AT_ONCE, PAD = (0, 3), 2, 128
LANES = {"distilsearch": AT_ONCE, "one-lane": 1}
Line = dict[str, Any]


def distilsearch(arguments: argparse.Namespace, data: str, lanes: int = AT_ONCE) -> Line:
    from search import run_study
    from spaces.yaml_io import parse_study

    files = {split: str(Path(data) / f"{split}.tsv") for split in ("train", "validation", "test")}
    given = [{**trial, "depth": len(LAYERS), "layers": list(LAYERS), "vocabulary": "used"} for trial in TRIALS]
    folder = Path(arguments.out) / "study"  # for account.py to read
    shutil.rmtree(folder, ignore_errors=True)
    spec = parse_study(
        {
            "name": "speed",
            "data": {**files, "max_length": 64},
            "teacher": arguments.teacher,
            "space": {
                "depth": len(LAYERS), "layers": [list(LAYERS)], "vocabulary": "used", "temperature": {"float": [1, 8]},
                "soft_share": {"float": [0.5, 1]}, "learning_rate": {"float": [1e-4, 3e-4]}, "batch_size": BATCH,
                "dropout": 0.1,
            },
            "training": {"epochs": 1},
            "budget": {"trials": len(TRIALS)},
            "resources": {"lanes": lanes},
            "search": {"first": given},
            "confirm": {"seeds": 1, "without_distillation": "none"},
            "tracking": {"wandb": "none"},
            "cache": str(folder / "cache"),
            "output": str(folder / "out"),
        },
        "the benchmark",
        Path.cwd(),
    )  # fmt: skip
    result = run_study(spec)
    scores = {key_of(o.config.model_dump()): o.values()["accuracy"] for o in result.outcomes}
    return {"trials": len(result.outcomes), "rows": arguments.rows, "scores": scores}


def recipe(arguments: argparse.Namespace, data: str, pad: int = 0, trials: list[dict[str, float]] = TRIALS) -> Line:
    import ray
    from ray import tune
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    def trial(config: dict[str, Any]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            # Train may lose a worker's last report: a file holds what came of it.
            config = {**config, "came_of_it": str(Path(folder) / "metrics.json")}
            TorchTrainer(
                train_one,
                train_loop_config=config,
                scaling_config=ScalingConfig(num_workers=1),
                run_config=RunConfig(name="trial", storage_path=folder),
            ).fit()
            tune.report(json.loads(Path(config["came_of_it"]).read_text()))

    begun = time.perf_counter()
    ray.init(num_cpus=2 * AT_ONCE, log_to_driver=False)  # each trial has a CPU for its driver, and one for its worker
    started = time.perf_counter() - begun
    common = {"teacher": arguments.teacher, "data": data, "pad": pad}
    with tempfile.TemporaryDirectory() as folder:
        results = tune.Tuner(
            trial,
            param_space={**common, "trial": tune.grid_search(trials)},
            tune_config=tune.TuneConfig(max_concurrent_trials=AT_ONCE),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        ).fit()
    scores = {key_of(done.config["trial"]): done.metrics["accuracy"] for done in results}
    seconds = [done.metrics["train_seconds"] for done in results]
    ray.shutdown()
    return {
        "trials": len(scores),
        "rows": arguments.rows,
        "scores": scores,
        "train_seconds": sum(seconds),
        "start_seconds": started,
    }


def train_one(config: dict[str, Any]) -> None:
    """The training function of the recipe: PyTorch, with Ray's `prepare` functions."""
    from ray import train
    from ray.train.torch import prepare_data_loader, prepare_model
    from transformers import get_linear_schedule_with_warmup

    torch.set_num_threads(1)
    settings = config["trial"]
    task = Task.read(config["teacher"], config["data"], LAYERS)
    student = task.student()
    model = prepare_model(student)
    rows = torch.utils.data.DataLoader(
        task.rows(), batch_size=BATCH, shuffle=True, collate_fn=lambda rows: task.collate(rows, config["pad"])
    )  # type: ignore[arg-type]
    loader = prepare_data_loader(rows)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings["learning_rate"], weight_decay=0.01)
    schedule = get_linear_schedule_with_warmup(optimizer, len(loader) // 10, len(loader))
    temperature, soft_share = settings["temperature"], settings["soft_share"]
    begun = time.perf_counter()
    model.train()
    for batch in loader:
        mask = batch["attention_mask"]
        outputs = model(input_ids=batch["student_ids"], attention_mask=mask, labels=batch["labels"])
        with torch.no_grad():
            teacher_BC = task.teacher(input_ids=batch["input_ids"], attention_mask=mask).logits
        soft = F.kl_div(
            F.log_softmax(outputs.logits / temperature, dim=-1), F.softmax(teacher_BC / temperature, dim=-1),
            reduction="batchmean",
        )  # fmt: skip
        loss = soft_share * temperature**2 * soft + (1 - soft_share) * outputs.loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    seconds = time.perf_counter() - begun
    metrics = {"accuracy": task.scores(student)["validation/accuracy"], "train_seconds": seconds}
    Path(config["came_of_it"]).write_text(json.dumps(metrics))
    train.report(metrics)


def key_of(trial: dict[str, Any]) -> str:
    return json.dumps([trial[name] for name in ("temperature", "learning_rate", "soft_share")])


def measured(name: str, arguments: argparse.Namespace) -> Line:
    memory = Memory()
    memory.start()
    out = Path(arguments.out)
    tenth = name == "recipe-padded"
    data = str(
        few_rows(Path(arguments.data), out / ("tenth" if tenth else "data"), arguments.rows // (10 if tenth else 1))
    )
    begun = time.perf_counter()
    if name in LANES:
        line = distilsearch(arguments, data, LANES[name])
    else:
        line = recipe(arguments, data, PAD if tenth else 0, TRIALS[: 2 if tenth else 4])
    wall = time.perf_counter() - begun
    # The trials ran AT_ONCE at a time; a tenth of the rows leaves nine tenths of the training out.
    missing = 9 * line["train_seconds"] / AT_ONCE if tenth else 0.0
    start = line.get("start_seconds", 0.0)  # of Ray, once
    whole = start + (wall - start + missing) * len(TRIALS) / line["trials"]
    return {
        "name": name,
        "wall_seconds": wall,
        "of_16_whole_trials": whole,
        "megabytes": memory.most["all"]["Pss"],
        **line,
    }


def table(lines: list[Line]) -> str:
    whole = {line["name"]: line["of_16_whole_trials"] for line in lines}
    same = set.intersection(*(set(line["scores"]) for line in lines if line["name"] != "recipe-padded"))
    best = whole.get("distilsearch", min(whole.values()))
    out = [
        "| | 16 trials, s | trials an hour | distilsearch is | peak memory, MB | validation, of the trials that both ran |",
        "|---|---|---|---|---|---|",
    ]
    for line in lines:
        seconds = whole[line["name"]]
        scores = [line["scores"][key] for key in sorted(same) if key in line["scores"]]
        mean = "" if line["name"] == "recipe-padded" else f"{sum(scores) / len(scores):.3f} ({len(scores)})"
        out.append(
            f"| {line['name']} | {seconds:,.0f} | {3600 * len(TRIALS) / seconds:,.0f} | "
            f"{seconds / best:.1f}x | {line['megabytes']:,.0f} | {mean} |"
        )
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("teacher", "data", "out"):
        parser.add_argument(name)
    parser.add_argument("--rows", type=int, default=15_000)
    parser.add_argument("--names", nargs="+", default=["distilsearch", "recipe-padded", "recipe"])
    arguments = parser.parse_args()
    Path(arguments.out).mkdir(parents=True, exist_ok=True)
    file = Path(arguments.out) / "studies.jsonl"
    for name in arguments.names:
        line = measured(name, arguments)
        with open(file, "a") as kept:
            kept.write(json.dumps(line) + "\n")
        print(f"{name}: {line['wall_seconds']:.0f} s", flush=True)
    sys.stdout.write(table([json.loads(line) for line in file.read_text().splitlines()]) + "\n")


if __name__ == "__main__":
    main()
