"""What a run left on this disk: its segments, a folder each, and the rows in them.

A study that was continued offline has several segments of one id; `wandb sync` appends one to the other (wandb 0.31).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KEY = "row"  # the column that holds a row's key
TOLD_OF = (
    "filestream",
    "artifact",
    "upload",
    "runfiles",
    "writer",
    "store",
)  # what an error of wandb's must be about to count
BLOCK, HEADER, WHOLE, LAST = 32768, 7, 1, 4  # LevelDB's log format


@dataclass(frozen=True)
class Segment:
    folder: Path
    file: Path

    @property
    def is_offline(self) -> bool:
        return self.folder.name.startswith("offline-")

    @property
    def is_synced(self) -> bool:
        return self._synced.exists()

    @property
    def _synced(self) -> Path:
        return self.file.with_name(f"{self.file.name}.synced")

    def mark_synced(self) -> None:
        """As `wandb sync` does, which then leaves the segment alone, and `wandb clean` removes it."""
        self._synced.touch()

    def row_keys(self) -> list[str]:
        """Those of the rows that are whole."""
        rows = (record.history.item for record in records(self.file) if record.WhichOneof("record_type") == "history")
        named = ({item.key or item.nested_key[0]: item.value_json for item in items} for items in rows)
        return [json.loads(row[KEY]) for row in named if KEY in row]

    def fault(self) -> str:
        """The last error that W&B's own process wrote down of what it could not write or send: it tells nobody else."""
        path, found = self.folder / "logs" / "debug-internal.log", ""
        try:
            lines = path.read_text("utf-8", "replace").splitlines()
        except OSError:
            return ""
        for line in lines:
            if '"level":"ERROR' not in line or not any(word in line for word in TOLD_OF):
                continue
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            found = f"{entry.get('msg', '')} {entry.get('error', '')}".strip()
        return found.splitlines()[0] if found else ""


def segments(folder: Path, run_id: str) -> list[Segment]:
    """Of this run in a W&B folder, the oldest first."""
    found = [
        Segment(path.parent, path)
        for kind in ("run", "offline-run")
        for path in folder.glob(f"{kind}-????????_??????-{run_id}/run-{run_id}.wandb")
    ]
    return sorted(found, key=lambda each: each.folder.name.removeprefix("offline-"))


def records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file up to where it is cut off: LevelDB's log (blocks of 32 KiB; crc, length and kind before each
    piece) after a header of seven bytes. wandb 0.31 ships no reader in Python."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole = path.read_bytes(), HEADER, b""
    if data[:4] != b":W&B":
        return
    while at + HEADER <= len(data):
        left = BLOCK - at % BLOCK
        if left < HEADER:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + HEADER])
        if kind == 0 or at + HEADER + length > len(data):  # room that was never filled, or cut off
            return
        whole += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (WHOLE, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""
