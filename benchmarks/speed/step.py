"""Where a training step's time goes, and how far each part is from its floor, for three students on short and on long texts.

    python benchmarks/speed/step.py [short long reading]

`reading`: the teacher's pass as a lane does it, against stock transformers on the same sorted batches in the same number format.

One thread, random weights and made-up ids of real lengths (short: SST-2's, batches of 64; long: SQuAD's with their paragraph,
batches of 8), no dropout. Floors: matrix products at the rate measured here for bf16 (fp32 where bf16 does not pay), counted
without padding and as the last layer is computed; AdamW's 28 bytes and clipping's 12 a weight at the bandwidth measured here.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from search.trial import loop, optimizer
from search.trial.batches import padded
from search.trial.context import WorkerContext
from search.trial.data import Tokens
from search.trial.device import autocast, bf16_pays
from search.trial.evaluate import predict
from search.trial.loop import Schedule, fit
from search.trial.students import build_student
from search.trial.worker import keep_freed_memory
from spaces.student import StudentShape

STUDENTS = {"small": (2, 192, 384, 8_000), "middle": (4, 288, 768, 8_000), "large": (6, 384, 1536, 11_574)}
TEXTS = {"short": (13.2, 8.0, 4, 62, 64), "long": (175.0, 65.0, 60, 384, 8)}  # mean, spread, least, most, batch
STEPS = {"short": 60, "long": 24}


def shape_of(depth: int, width: int, inner: int, vocabulary: int) -> StudentShape:
    return StudentShape(
        family="bert", depth=depth, hidden_size=width, num_heads=width // 32, intermediate_size=inner, embedding_size=width,
        num_hidden_groups=depth, vocabulary_size=vocabulary, max_positions=512, type_vocabulary_size=2, num_labels=2,
    )  # fmt: skip


def rows_of(kind: str, count: int, vocabulary: int) -> Tokens:
    """Rows whose lengths are drawn from a gamma distribution, and ids from Zipf's."""
    mean, spread, least, most, _ = TEXTS[kind]
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.gamma((mean / spread) ** 2, spread**2 / mean, count), least, most).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.minimum(rng.zipf(1.3, offsets[-1]), vocabulary - 1).astype(np.int32)
    return Tokens(ids, offsets, lengths.astype(np.int32))


def products(shape: StudentShape, lengths: np.ndarray) -> float:
    """FLOPs of one forward pass over these texts, the last layer as it is computed: keys and values, and the first token's rest."""
    tokens, width = float(lengths.sum()), shape.hidden_size
    layer = 2 * tokens * (4 * width**2 + 2 * width * shape.intermediate_size) + 4 * float((lengths**2).sum()) * width
    last = 4 * tokens * width**2 + 4 * tokens * width
    first_token = 2 * len(lengths) * (3 * width**2 + 2 * width * shape.intermediate_size)
    return (shape.depth - 1) * layer + last + first_token


def rate() -> float:
    """FLOP/s of a product of this size, one thread."""
    kind = torch.bfloat16 if bf16_pays("cpu") else torch.float32
    left, right = torch.randn(832, 384, dtype=kind), torch.randn(384, 1536, dtype=kind)
    return 2 * 832 * 384 * 1536 / seconds_of(lambda: left @ right)


def bandwidth() -> float:
    """Bytes read and written a second, of arrays that no cache holds."""
    left, right = torch.ones(1 << 26), torch.ones(1 << 26)
    return 8 * len(left) / seconds_of(lambda: left.copy_(right), 5)


def seconds_of(work: Callable[[], Any], times: int = 200, rounds: int = 5) -> float:
    work()
    found = []
    for _ in range(rounds):
        begun = time.perf_counter()
        for _ in range(times):
            work()
        found.append((time.perf_counter() - begun) / times)
    return min(found)


def timed(parts: dict[str, float], name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **more: Any) -> Any:
        begun = time.perf_counter()
        try:
            return plain(*args, **more)
        finally:
            parts[name] += time.perf_counter() - begun

    return call


def account(name: str, kind: str, product_rate: float, bytes_rate: float) -> None:
    shape = shape_of(*STUDENTS[name])
    batch, steps = TEXTS[kind][-1], STEPS[kind]
    tokens = rows_of(kind, batch * steps, shape.vocabulary_size)
    torch.manual_seed(0)
    student = build_student(shape, label_names=["a", "b"], dropout=0.0)
    labels = np.zeros(len(tokens), np.int32)
    logits = np.random.default_rng(1).normal(size=(len(tokens), 2)).astype(np.float32)
    schedule = Schedule(
        learning_rate=1e-5, batch_size=batch, warmup_share=0.1, epochs=1, steps=steps, temperature=2.0, soft_share=0.9
    )

    def train() -> loop.Fitted:
        return fit(student, tokens, labels, logits, schedule, pad_id=0, seed=0, context=WorkerContext())

    train()
    parts: dict[str, float] = defaultdict(float)
    inner = loop.classifier(student)
    with ExitStack() as stack:
        for owner, attribute, part in (
            (loop, "padded", "data"), (type(inner), "__call__", "forward"), (torch.Tensor, "backward", "backward"),
            (optimizer.TouchedTables, "step", "used rows"), (torch.optim.AdamW, "step", "AdamW"),
            (loop, "distillation_loss", "loss"),
        ):  # fmt: skip
            stack.enter_context(patch.object(owner, attribute, timed(parts, part, getattr(owner, attribute))))
        clipping = SimpleNamespace(clip_grad_norm_=timed(parts, "clipping", torch.nn.utils.clip_grad_norm_))
        stack.enter_context(patch.object(optimizer.torch.nn, "utils", clipping))
        fitted = train()
    seconds = fitted.seconds / steps
    dense = sum(weight.numel() for weight in student.parameters()) - shape.vocabulary_size * shape.hidden_size
    forward = products(shape, tokens.lengths) / steps / product_rate
    floors = {
        "forward": forward, "backward": 2 * forward, "AdamW": 28 * dense / bytes_rate, "clipping": 12 * dense / bytes_rate,
    }  # fmt: skip
    padding = sum(
        len(rows) * tokens.lengths[rows].max() for rows in loop.training_rows(tokens.lengths, batch, 0, 0)
    ) / len(tokens.ids)
    print(
        f"{name}, {kind}: {1e3 * seconds:.1f} ms a step, {fitted.num_tokens / fitted.seconds:,.0f} tokens/s; "
        f"the products' floor is {3 * forward / seconds:.0%} of it; padding {padding - 1:.1%}"
    )
    for part in ("data", "forward", "loss", "backward", "clipping", "AdamW", "used rows"):
        floor = f", floor {1e3 * floors[part]:5.1f}" if part in floors else ""
        print(f"    {part:10s} {1e3 * parts[part] / steps:6.1f} ms {parts[part] / fitted.seconds:4.0%}{floor}")
    print(f"    {'the rest':10s} {1e3 * (seconds - sum(parts.values()) / steps):6.1f} ms")
    reading = seconds_of(lambda: predict(student, tokens, 0, WorkerContext()), 1) / len(tokens.ids)
    floor = products(shape, tokens.lengths) / len(tokens.ids) / product_rate
    print(f"    evaluation {1e6 * reading:.1f} us a token, floor {1e6 * floor:.1f}", flush=True)


def reading() -> None:
    shape = shape_of(6, 384, 1536, 30_522)
    student, stock = (build_student(shape, label_names=["a", "b"], dropout=0.0).eval() for _ in range(2))
    for kind in TEXTS:
        tokens = rows_of(kind, 20 * TEXTS[kind][-1], shape.vocabulary_size)
        order = np.argsort(tokens.lengths, kind="stable")

        @torch.inference_mode()
        def plain(tokens: Tokens = tokens, order: np.ndarray = order) -> None:
            for start in range(0, len(order), 128):
                batch = padded(tokens, order[start : start + 128], 0)
                with autocast():
                    stock(input_ids=batch.ids_BT, attention_mask=batch.mask_BT, token_type_ids=batch.types_BT)

        rates = {
            name: len(tokens.ids) / seconds_of(work, 1, 2)
            for name, work in (
                ("ours", lambda tokens=tokens: predict(student, tokens, 0, WorkerContext())),
                ("plain", plain),
            )
        }
        print(f"reading, {kind}: {rates['ours']:,.0f} tokens/s, the plain forward pass {rates['plain']:,.0f}")


def main(kinds: list[str]) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    product_rate, bytes_rate = rate(), bandwidth()
    print(f"products {product_rate / 1e9:.0f} GFLOP/s, memory {bytes_rate / 1e9:.0f} GB/s, one core")
    for kind in kinds:
        for name in STUDENTS if kind in TEXTS else ():
            account(name, kind, product_rate, bytes_rate)
    if "reading" in kinds:
        reading()


if __name__ == "__main__":
    main(sys.argv[1:] or [*TEXTS, "reading"])
