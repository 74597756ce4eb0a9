"""One trial, by everybody: what a training token costs in distilsearch, in a careful hand-written loop, in TextBrewer, and in a
Hugging Face Trainer with a distillation loss.

    python benchmarks/speed/one_trial.py TEACHER DATA OUT [--hand-loop FILE] [--rounds 3] [--rows 15000] [--names ...]

TEACHER: a BERT classifier's folder. DATA: a folder with train.tsv, validation.tsv, test.tsv (columns text, label). OUT keeps a line
of trials.jsonl for each measurement; the same command goes on where it was stopped. FILE: such a loop; `--cut-vocabulary
--epochs 1 --layers ...` are given to it, and it prints "N tokens/s". TextBrewer and accelerate: pip install -e '.[benchmarks]'.

Everybody trains the same student (these layers of the teacher, its vocabulary cut to the text) for one epoch of the same rows:
AdamW, batches of 64, temperature 2, nine tenths soft, dropout 0.1, one thread, in a process of its own, in turns. Only training is
timed; distilsearch and the hand-written loop run the teacher once before it (`teacher_seconds`), the others in every step.
TextBrewer has no bf16 (its half precision is Apex's), a Trainer has it when asked (`trainer-bf16`).
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from memory import peak_megabytes
from task import BATCH, LEARNING_RATE, SOFT_SHARE, TEMPERATURE, Task, few_rows

from search.trial.context import WorkerContext
from search.trial.teacher import teach
from search.trial.work import perform
from search.trial.worker import keep_freed_memory
from spaces.trial import WorkItem, WorkKind

Line = dict[str, Any]


def distilsearch(task: Task) -> Line:
    """What a lane does with a trial, in this process."""
    keep_freed_memory()
    alone, transfer = WorkerContext(), task.inputs.transfer
    begun = time.perf_counter()
    folder, pad_id = task.teacher.name_or_path, transfer.vocabularies["full"].pad_id
    logits = {
        name: teach(folder, split, np.arange(len(split.labels)), pad_id, alone)
        for name, split in transfer.splits.items()
    }
    taught = time.perf_counter() - begun
    context = WorkerContext(data={"transfer": transfer.with_teacher_logits(logits)})
    item = WorkItem(
        key="trial", kind=WorkKind.TRAIN, trial=0, config=task.config, evaluate=("validation", "test"),
        payload={"teacher": folder, "exact": True},
    )  # fmt: skip
    done, _ = perform(item, context)
    assert done is not None
    scores = {name: value for name, value in done.metrics.items() if name.endswith("/accuracy")}
    return {"seconds": done.cost["train_seconds"], "tokens": done.cost["tokens"], "teacher_seconds": taught, **scores}


def textbrewer(task: Task) -> Line:
    """Its GeneralDistiller as its examples use it, with batches padded to their longest row."""
    from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig
    from transformers import get_linear_schedule_with_warmup

    def batch(rows: list[dict[str, Any]]) -> dict[str, Any]:
        made = task.collate(rows)
        common = {"attention_mask": made["attention_mask"], "labels": made["labels"]}
        return {
            "teacher": {"input_ids": made["input_ids"], **common},
            "student": {"input_ids": made["student_ids"], **common},
        }

    loader = torch.utils.data.DataLoader(task.rows(), batch_size=BATCH, shuffle=True, collate_fn=batch)  # type: ignore[arg-type]
    student = task.student()
    optimizer = torch.optim.AdamW(student.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    with tempfile.TemporaryDirectory() as folder:
        distiller = GeneralDistiller(
            train_config=TrainingConfig(device="cpu", output_dir=folder, log_dir=None),
            distill_config=DistillationConfig(
                temperature=TEMPERATURE, kd_loss_weight=SOFT_SHARE, hard_label_weight=1 - SOFT_SHARE
            ),
            model_T=task.teacher,
            model_S=student,
            adaptor_T=lambda batch, outputs: {"logits": outputs.logits},
            adaptor_S=lambda batch, outputs: {"logits": outputs.logits, "losses": outputs.loss},
        )
        begun = time.perf_counter()
        with distiller:
            distiller.train(
                optimizer, loader, num_epochs=1, max_grad_norm=1.0, scheduler_class=get_linear_schedule_with_warmup,
                scheduler_args={"num_warmup_steps": len(loader) // 10, "num_training_steps": len(loader)},
            )  # fmt: skip
        seconds = time.perf_counter() - begun
    return {"seconds": seconds, "tokens": task.num_tokens, **task.scores(student)}


def trainer(task: Task, bf16: bool = False) -> Line:
    """The recipe of most tutorials: a Trainer whose loss runs the teacher, batches padded to their longest row; fp32 by default."""
    from transformers import Trainer, TrainingArguments

    class DistillationTrainer(Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **more: Any) -> Any:
            mask, labels = inputs["attention_mask"], inputs["labels"]
            outputs = model(input_ids=inputs["student_ids"], attention_mask=mask, labels=labels)
            with torch.no_grad():
                teacher_BC = task.teacher(input_ids=inputs["input_ids"], attention_mask=mask).logits
            soft = F.kl_div(
                F.log_softmax(outputs.logits / TEMPERATURE, dim=-1),
                F.softmax(teacher_BC / TEMPERATURE, dim=-1),
                reduction="batchmean",
            )
            loss = SOFT_SHARE * TEMPERATURE**2 * soft + (1 - SOFT_SHARE) * outputs.loss
            return (loss, outputs) if return_outputs else loss

    student = task.student()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, num_train_epochs=1, per_device_train_batch_size=BATCH, learning_rate=LEARNING_RATE,
            weight_decay=0.01, warmup_steps=0.1, use_cpu=True, report_to=[], save_strategy="no", remove_unused_columns=False,
            disable_tqdm=True, bf16=bf16,
        )  # fmt: skip
        job = DistillationTrainer(student, arguments, train_dataset=task.rows(), data_collator=task.collate)
        begun = time.perf_counter()
        job.train()
        seconds = time.perf_counter() - begun
    return {"seconds": seconds, "tokens": task.num_tokens, **task.scores(student)}


CONTENDERS: dict[str, Callable[[Task], Line]] = {
    "distilsearch": distilsearch, "textbrewer": textbrewer, "trainer": trainer,
    "trainer-bf16": functools.partial(trainer, bf16=True),
}  # fmt: skip


def hand_loop(file: str, teacher: str, data: str, layers: list[int]) -> Line:
    command = [sys.executable, file, teacher, data, "--cut-vocabulary", "--epochs", "1", "--layers", *map(str, layers)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rate = re.search(r"(\d+) tokens/s", out)
    assert rate is not None, out
    scores = {f"{name}/accuracy": float(value) for name, value in re.findall(r"(validation|test) ([\d.]+)", out)}
    return {"rate": float(rate.group(1)), **scores}


def in_its_own_process(name: str, arguments: argparse.Namespace, data: str) -> Line:
    if name == "hand-written loop":
        return hand_loop(arguments.hand_loop, arguments.teacher, data, arguments.layers)
    command = [sys.executable, __file__, arguments.teacher, data, arguments.out, "--only", name]
    out = subprocess.run([*command, "--layers", *map(str, arguments.layers)], capture_output=True, text=True)
    if out.returncode:
        raise SystemExit(f"{name} failed:\n{out.stderr[-2000:]}")
    return json.loads(out.stdout.strip().splitlines()[-1])


def table(lines: list[Line]) -> str:
    ours = statistics.median(line["rate"] for line in lines if line["name"] == "distilsearch")
    out = [
        "| | tokens/s | distilsearch is | peak memory, MB | validation | test | runs |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(line["name"] for line in lines):
        own = [line for line in lines if line["name"] == name]
        rate = statistics.median(line["rate"] for line in own)
        memory = max((line["megabytes"] for line in own if "megabytes" in line), default=None)
        scores = [
            f"{statistics.fmean(line[f'{split}/accuracy'] for line in own):.3f}" for split in ("validation", "test")
        ]
        shown = "" if memory is None else f"{memory:.0f}"
        out.append(f"| {name} | {rate:,.0f} | {ours / rate:.1f}x | {shown} | {' | '.join(scores)} | {len(own)} |")
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("teacher", "data", "out"):
        parser.add_argument(name)
    parser.add_argument("--hand-loop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=15_000)
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 3])
    parser.add_argument("--names", nargs="+", help="these alone")
    parser.add_argument("--only", choices=CONTENDERS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.only:
        task = Task.read(arguments.teacher, arguments.data, tuple(arguments.layers))
        line = CONTENDERS[arguments.only](task)
        print(json.dumps({"rate": line["tokens"] / line["seconds"], "megabytes": peak_megabytes(), **line}))
        return
    out = Path(arguments.out)
    data = few_rows(Path(arguments.data), out / "data", arguments.rows)
    file = out / "trials.jsonl"
    names = [*CONTENDERS, *(["hand-written loop"] if arguments.hand_loop else [])]
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for round_number in range(arguments.rounds):
        for name in arguments.names or names:
            if any((line["name"], line["round"]) == (name, round_number) for line in lines):
                continue
            line = {"name": name, "round": round_number, **in_its_own_process(name, arguments, str(data))}
            lines.append(line)
            with open(file, "a") as kept:
                kept.write(json.dumps(line) + "\n")
            print(f"round {round_number + 1} of {arguments.rounds}: {name} {line['rate']:,.0f} tokens/s", flush=True)
    print(table(lines))


if __name__ == "__main__":
    main()
