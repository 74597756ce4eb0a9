"""The device that a worker trains on, and the number format that pays there."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from spaces.errors import OutOfMemory, TrialError

_processor_alone = False


def use_processor() -> None:
    """From here on this process computes on its processor, whatever else the machine has."""
    global _processor_alone
    _processor_alone = True


def device() -> torch.device:
    if not _processor_alone and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def random_states() -> dict[str, torch.Tensor]:
    """Of what this worker draws from: dropout draws on the device that it trains on."""
    states = {"random_state": torch.get_rng_state()}
    return {**states, "random_state_gpu": torch.cuda.get_rng_state(device())} if device().type == "cuda" else states


def set_random_states(kept: Mapping[str, Any]) -> None:
    torch.set_rng_state(kept["random_state"])
    if device().type == "cuda" and "random_state_gpu" in kept:  # it may have begun where there was no GPU
        torch.cuda.set_rng_state(kept["random_state_gpu"], device())


def keep_to_share(of_a_gpu: float) -> None:
    """This process gets no more of its GPU's memory than its share: who takes more is told that memory ended, not a neighbour."""
    if of_a_gpu < 1 and device().type == "cuda":
        torch.cuda.set_per_process_memory_fraction(of_a_gpu, device())


@functools.cache
def bf16_pays(kind: str) -> bool:
    """bf16 matrix products are faster where the hardware has them: AMX or AVX512-BF16, or a GPU from Ampere on."""
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        flags = Path("/proc/cpuinfo").read_text().split("flags", 1)[1].split("\n", 1)[0].split()
    except (OSError, IndexError):
        return False
    return bool({"amx_bf16", "avx512_bf16"} & set(flags))


def autocast(exact: bool = False) -> contextlib.AbstractContextManager[object]:
    """bf16 autocast where it pays; `exact` computes in fp32, as whoever loads the delivered model will."""
    kind = device().type
    if exact or not bf16_pays(kind):
        return contextlib.nullcontext()
    return torch.autocast(kind, torch.bfloat16)


@contextlib.contextmanager
def told_of_memory(batch_size: int, accumulation_steps: int) -> Iterator[None]:
    """Raises OutOfMemory where memory ends inside, and TrialError where a batch cannot be parted any more."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch's own is a RuntimeError on a GPU only
        if not (isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)):
            raise
        first = (str(error).strip().splitlines() or ["out of memory"])[0]
        if accumulation_steps >= batch_size:
            raise TrialError(f"out of memory with one text at a time; {first}") from None
        raise OutOfMemory(
            f"out of memory with batches of {batch_size} in {accumulation_steps} parts; {first}"
        ) from None
