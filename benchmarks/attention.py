"""Attention's forward and backward pass on one core: PyTorch's fused one against the one written out, fp32 and bf16.

    python benchmarks/attention.py

Milliseconds, the best of 20, of a batch of texts of one length with two tokens masked.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812

from search.trial import forward
from search.trial.worker import keep_freed_memory

SHAPES = [
    (32, 12, 13, 32), (32, 12, 32, 32), (32, 12, 60, 32), (32, 6, 16, 32), (32, 12, 128, 32), (8, 9, 224, 32), (8, 12, 384, 64),
    (8, 12, 512, 64), (32, 12, 256, 64),
]  # fmt: skip
Parts = list[torch.Tensor]


def fused(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def written_out(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return forward.attention(query, key, value, mask, 0.0)


def milliseconds(attention: Callable[..., torch.Tensor], hidden: Parts, num_heads: int, mask: torch.Tensor) -> float:
    best = float("inf")
    for _ in range(23):
        begun = time.perf_counter()
        out = attention(*(part.unflatten(-1, (num_heads, -1)).transpose(1, 2) for part in hidden), mask)
        out.backward(torch.ones_like(out))
        best = min(best, time.perf_counter() - begun)
    return 1e3 * best


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    print("| texts, heads, tokens, head size | fused, fp32 | fused, bf16 | written out, bf16 |\n|---|---|---|---|")
    for batch, heads, tokens, size in SHAPES:
        mask = (torch.arange(tokens) < tokens - 2)[None, None, None, :]
        hidden = [torch.randn(batch, tokens, heads * size) for _ in range(3)]
        halves = [part.bfloat16().requires_grad_() for part in hidden]
        hidden = [part.requires_grad_() for part in hidden]
        cells = [
            milliseconds(fused, hidden, heads, mask),
            milliseconds(fused, halves, heads, mask),
            milliseconds(written_out, halves, heads, mask),
        ]
        print(f"| {batch}, {heads}, {tokens}, {size} | {' | '.join(f'{cell:.1f}' for cell in cells)} |", flush=True)


if __name__ == "__main__":
    main()
