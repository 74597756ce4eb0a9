"""Checkpoints: written whole or not at all, read without executing anything (safetensors, weights_only)."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

PROGRESS_FORMAT = 2  # of what `save_weights` keeps of an optimizer


@contextlib.contextmanager
def folder_whole(folder: Path) -> Iterator[Path]:
    """A folder to fill; it takes its name only when the block ends well, replacing what stood there."""
    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.writing")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for path in temporary.rglob("*"):
            if path.is_file():
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
        if folder.exists():
            old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
            shutil.rmtree(old, ignore_errors=True)
            os.replace(folder, old)
            os.replace(temporary, folder)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def save_weights(model: Any, folder: Path, progress: dict[str, Any] | None = None) -> None:
    """The student's weights, and with `progress` (optimizer, step, random state) what continues its training."""
    from safetensors.torch import save_model

    with folder_whole(folder) as temporary:
        save_model(model, str(temporary / "weights.safetensors"))
        if progress is not None:
            torch.save(progress, temporary / "progress.pt")


def load_weights(model: Any, folder: Path) -> None:
    from safetensors.torch import load_model

    load_model(model, str(Path(folder) / "weights.safetensors"))


def load_progress(folder: Path) -> dict[str, Any]:
    """On the processor: who goes on may have another device than who began."""
    return torch.load(Path(folder) / "progress.pt", weights_only=True, map_location="cpu")
