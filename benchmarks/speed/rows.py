"""How a study grows in rows of text: who holds how much.

python benchmarks/speed/rows.py examples [5e6]   a transfer set of this many rows: memory of making, sharing, reading it
python benchmarks/speed/rows.py data [5e6]       a whole study of a tiny teacher on a file of this many rows
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from memory import Memory, held, peak_megabytes

from search.lanes.quiet import start_ray
from search.trial.batches import num_batches, padded, training_rows
from search.trial.data import Tokens
from spaces.yaml_io import parse_study


def examples(count: int) -> None:
    """Rows of 5 to 25 pieces: made, shared, and batches drawn from them."""
    import ray

    start_ray(num_cpus=1)
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 26, count)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = Tokens(rng.integers(5, 30000, offsets[-1]).astype(np.int32), offsets, lengths.astype(np.int32))
    logits = rng.normal(size=(count, 2)).astype(np.float32)
    size = sum(array.nbytes for array in (tokens.ids, tokens.offsets, tokens.second, logits)) / 2**20
    print(f"{count:,} rows: {size:.0f} MB of arrays; this process {peak_megabytes():.0f} MB")
    begun = time.perf_counter()
    reference = ray.put((tokens, logits))
    print(f"into the object store: {time.perf_counter() - begun:.1f} s")

    @ray.remote(num_cpus=1)
    def read(references: list[ray.ObjectRef]) -> dict[str, float]:
        before = held(os.getpid())["Anonymous"]
        shared: Tokens = ray.get(references[0])[0]
        begun = time.perf_counter()
        batches = training_rows(shared.lengths, 64, 0, 0)
        drawn = time.perf_counter()
        for rows in batches[:2000]:
            padded(shared, rows, 0)
        assert len(batches) == num_batches(len(shared), 64)
        return {
            "seconds to draw an epoch": drawn - begun,
            "microseconds a batch": (time.perf_counter() - drawn) / 2000 * 1e6,
            "its own memory grew by, MB": held(os.getpid())["Anonymous"] - before,
        }

    for name, value in ray.get(read.remote([reference])).items():
        print(f"a lane: {name} {value:.1f}")
    ray.shutdown()


def data(count: int) -> None:
    """Written, read, tokenised, taught, two students trained for 200 steps, one chosen and delivered."""
    from search import run_study
    from search.study.progress import Silent

    begun = time.perf_counter()
    memory = Memory(lambda command: "lanes" if "RayTrainWorker" in command else "")

    class Told(Silent):
        def say(self, text: str) -> None:
            own = held(os.getpid())
            print(f"{time.perf_counter() - begun:7.1f} s, driver {own['Anonymous']:6,.0f} MB: {text}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        place, words = Path(folder), [f"w{number}" for number in range(2000)]
        with open(place / "train.tsv", "w", encoding="utf-8") as file:
            file.write("text\tlabel\n")
            rng = np.random.default_rng(0)
            for start in range(0, count, 10_000):
                lengths = rng.integers(5, 26, min(10_000, count - start))
                for drawn in np.split(rng.integers(0, len(words), lengths.sum()), np.cumsum(lengths)[:-1]):
                    file.write(" ".join(words[word] for word in drawn) + f"\t{int(drawn.mean() > len(words) / 2)}\n")
        size = (place / "train.tsv").stat().st_size / 2**20
        spec = parse_study(
            {
                "name": "data",
                "data": {"train": str(place / "train.tsv"), "max_length": 32},
                "teacher": {"model": str(tiny_teacher(place / "teacher", words)), "fine_tune": {"epochs": 0.01}},
                "space": {"depth": 1, "layers": "first", "vocabulary": "used", "temperature": {"float": [1, 8]}},
                "training": {"steps": 200},
                "budget": {"trials": 2},
                "confirm": {"seeds": 1, "without_distillation": "none"},
                "tracking": {"wandb": "none"},
                "cache": str(place / "cache"),
                "output": str(place / "out"),
            },
            "the benchmark",
            place,
        )
        print(f"{time.perf_counter() - begun:7.1f} s: {count:,} rows, {size:,.0f} MB, are written", flush=True)
        memory.start()
        run_study(spec, Told())
    for name, values in memory.most.items():
        print(f"at most, {name}: {', '.join(f'{kind} {value:,.0f} MB' for kind, value in values.items())}")


def tiny_teacher(folder: Path, words: list[str]) -> Path:
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    folder.mkdir()
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(pieces), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    what, *more = sys.argv[1:]
    chosen, default = {"examples": (examples, 5e6), "data": (data, 5e6)}[what]
    chosen(int(float(more[0])) if more else int(default))
