"""How long a delivered student takes on a processor, against its teacher, loaded as a user loads them.

    python benchmarks/latency.py DIR [ROUNDS]

One thread, fp32, transformers' own forward pass, texts of the test split: one at a time, and in batches of 32 sorted by
length. Teacher and students take turns in every round; what is printed are medians over rounds, and of the ratio within a round.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from search.study.output import open_study
from search.study.texts import read_texts

ONE_BY_ONE, BATCHED, BATCH = 100, 512, 32


def batches(folder: Path, texts: list[Any], size: int, max_length: int) -> list[dict[str, torch.Tensor]]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    out = []
    for start in range(0, len(texts), size):
        firsts, seconds = zip(*texts[start : start + size], strict=True)
        pairs = None if seconds[0] is None else list(seconds)
        settings = {"truncation": True, "max_length": max_length, "padding": True, "return_tensors": "pt"}
        out.append(dict(tokenizer(list(firsts), pairs, **settings)))
    return out


def seconds(work: Callable[[], None]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main(folder: Path, rounds: int) -> None:
    torch.set_num_threads(1)
    result = open_study(folder)
    test = read_texts(result.spec).splits["test"]
    texts = list(zip(test.texts, test.pairs or [None] * len(test), strict=True))
    by_length = sorted(texts[:BATCHED], key=lambda pair: len(pair[0]) + len(pair[1] or ""))
    folders = {
        "teacher": folder / "teacher",
        **{f"trial {row.trial}": folder / "best" / f"trial-{row.trial}" for row in result.rows},
    }
    work: dict[tuple[str, str], Callable[[], None]] = {}
    for name, where in folders.items():
        model = AutoModelForSequenceClassification.from_pretrained(where).eval()
        for kind, chosen, size in (("one", texts[:ONE_BY_ONE], 1), ("batched", by_length, BATCH)):
            ready = batches(where, chosen, size, result.spec.data.max_length)

            @torch.inference_mode()
            def run(model: Any = model, ready: Any = ready) -> None:
                for batch in ready:
                    model(**batch)

            work[name, kind] = run
    taken: dict[tuple[str, str], list[float]] = {key: [] for key in work}
    for index in range(rounds + 1):
        for key, run in work.items():
            found = seconds(run)
            if index:  # the first round warms up
                taken[key].append(found)
    print(
        "| | parameters | ms a text, one at a time | times the teacher | texts a second, batches of 32 | times the teacher |"
    )
    print("|---|---|---|---|---|---|")
    sizes = {"teacher": result.references[0].num_parameters or 0}
    sizes |= {f"trial {row.trial}": row.num_parameters for row in result.rows}
    for name in folders:
        one, batched = taken[name, "one"], taken[name, "batched"]
        faster = [
            statistics.median(its / mine for its, mine in zip(taken["teacher", kind], taken[name, kind], strict=True))
            for kind in ("one", "batched")
        ]
        print(
            f"| {name} | {sizes[name] / 1e6:.2f} M | {1e3 * statistics.median(one) / len(texts[:ONE_BY_ONE]):.2f} | "
            f"{faster[0]:.1f} | {len(by_length) / statistics.median(batched):,.0f} | {faster[1]:.1f} |"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else 15)
