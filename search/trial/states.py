"""The teacher's hidden states of a batch: read from files that a pass over the data left, or from the teacher on the lane.

Both round to half precision, so that a trial learns the same either way. Of a vocabulary that cuts a word into smaller
pieces the teacher reads those pieces: they are its own too, and every state stands beside the student's.
Legend: N rows, B batch, T tokens, K states, G hidden of the teacher.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from search.trial.batches import Batch, evaluation_rows, padded
from search.trial.context import WorkerContext
from search.trial.data import Tokens, TransferSet, Vocabulary
from search.trial.device import autocast, device
from search.trial.forward import named_inputs
from search.trial.masking import piece_head

States = Callable[[Batch], torch.Tensor]  # a batch -> (K, B, T, G) float32, 0 where padding is


class StoredStates:
    """Files `FIRST_ROW.npy` of a folder, each (tokens, K, G) in half precision, of rows in a row."""

    def __init__(self, folder: Path, tokens: Tokens, stored: Sequence[int], wanted: Sequence[int]) -> None:
        found = sorted((int(path.stem), path) for path in folder.glob("*.npy"))
        self._first = np.array([first for first, _ in found])
        self._parts = [np.load(path, mmap_mode="r", allow_pickle=False) for _, path in found]
        self._offsets = tokens.offsets
        self._places = [list(stored).index(index) for index in wanted]

    def __call__(self, batch: Batch) -> torch.Tensor:
        num_rows, num_tokens = batch.mask_BT.shape
        out = np.zeros((num_rows, num_tokens, len(self._places), self._parts[0].shape[-1]), np.float16)
        for place, row in enumerate(batch.rows):
            part = int(np.searchsorted(self._first, row, side="right")) - 1
            start, end = self._offsets[row : row + 2] - self._offsets[self._first[part]]
            out[place, : end - start] = self._parts[part][start:end][:, self._places]
        return torch.from_numpy(out).to(batch.mask_BT.device).permute(2, 0, 1, 3).float()


class LaneStates:
    """The teacher, run on each batch."""

    def __init__(self, teacher: Any, vocabulary: Vocabulary, wanted: Sequence[int], exact: bool = False) -> None:
        self._teacher = teacher.to(device()).eval()
        self._encoder = teacher.base_model
        self._config = teacher.config
        self._kept = torch.from_numpy(vocabulary.kept.astype(np.int64)).to(device())
        self._wanted, self._exact = list(wanted), exact
        self._last: tuple[Batch, Sequence[torch.Tensor]] | None = None

    @torch.no_grad()
    def pieces(self, batch: Batch) -> torch.Tensor:
        """(P, V) its logits at the batch's masked pieces, over the student's vocabulary. What was just read is not read again."""
        with autocast(self._exact):
            return piece_head(self._teacher)(batch.read(self._read(batch)[-1]))[:, self._kept]

    def _read(self, batch: Batch) -> Sequence[torch.Tensor]:
        if self._last is None or self._last[0] is not batch:
            named = named_inputs(self._config, self._kept[batch.ids_BT], batch.mask_BT, batch.types_BT)
            with autocast(self._exact):
                self._last = (batch, self._encoder(**named, output_hidden_states=True).hidden_states)
        return self._last[1]

    @torch.no_grad()
    def __call__(self, batch: Batch) -> torch.Tensor:
        states = self._read(batch)
        picked = torch.stack([states[index] for index in self._wanted])
        return (picked * batch.mask_BT[None, :, :, None]).half().float()


def states_of(transfer: TransferSet, vocabulary: str, tokens: Tokens, teacher: Any, wanted: Sequence[int]) -> States:
    """From files where the study has them, else from the teacher."""
    kept = transfer.states
    if kept is not None and vocabulary in kept.folders and set(wanted) <= set(kept.stored):
        return StoredStates(kept.folders[vocabulary], tokens, kept.stored, wanted)
    return LaneStates(teacher, transfer.vocabularies[vocabulary], wanted)


def write_states(
    path: Path, teacher: Any, tokens: Tokens, vocabulary: Vocabulary, rows: range, wanted: Sequence[int], context: WorkerContext
) -> None:  # fmt: skip
    """One file of StoredStates, of these rows; whole or not at all."""
    read = LaneStates(teacher, vocabulary, wanted)
    begin, done = tokens.offsets[rows.start], 0
    out = np.zeros((tokens.offsets[rows.stop] - begin, len(wanted), teacher.config.hidden_size), np.float16)
    for chosen in evaluation_rows(tokens.lengths[rows.start : rows.stop]):
        batch = padded(tokens, chosen + rows.start, vocabulary.pad_id).to(device())
        states = read(batch).permute(1, 2, 0, 3).half().cpu().numpy()
        for place, row in enumerate(batch.rows):
            start, end = tokens.offsets[row : row + 2] - begin
            out[start:end] = states[place, : end - start]
        done += len(chosen)
        context.heartbeat(done, len(rows))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.writing")
    with open(temporary, "wb") as file:
        np.save(file, out)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
