"""Keeps the teacher's hidden states of the training rows on disk, where the losses of the space want them and they fit."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import ray

from search.lanes.pool import LanePool
from search.study.inputs import FORMAT, Inputs, Say
from search.study.teachers import fingerprint
from search.trial import mirror
from search.trial.data import StatesOnDisk, Tokens, TransferSet
from spaces.errors import StudyError
from spaces.trial import WorkItem, WorkKind

PART_BYTES = 64e6  # of one item: seconds of work, and little for a lane to hold


def with_hidden_states(
    inputs: Inputs, transfer: TransferSet, pool: LanePool, folder: Path, say: Say
) -> tuple[TransferSet, float]:
    """The transfer set, with where the states lie if the losses want any; and how often the teacher passed over the training
    rows for them. `transfer` has the teacher's logits. Raises StudyError where a lane fails."""
    spec = inputs.spec
    stored = tuple(sorted(spec.space.teacher_states(inputs.teacher.depth)))
    if not stored or transfer.target == "piece":  # of masks that are drawn anew nothing can be kept
        return transfer, 0.0
    tokens = {name: transfer.training(name, taught=True)[0] for name in spec.space.vocabularies}
    a_token = 2 * len(stored) * inputs.teacher.hidden_size
    size = sum(a_token * len(entry.ids) for entry in tokens.values()) / 1e9
    allowed = spec.resources.hidden_states_gb
    if size > allowed:
        say(
            f"the teacher's hidden states would take {size:.1f} GB and resources.hidden_states_gb allows {allowed:g}: the lanes "
            "run the teacher beside the student instead, which is slower"
        )
        return transfer, 0.0
    folders: dict[str, Path] = {}
    reference, passes = None, 0.0
    for name, entry in tokens.items():
        kept = hashlib.sha256(transfer.vocabularies[name].kept.tobytes()).hexdigest()
        key = f"{fingerprint(folder)}:{transfer.fingerprint}:{kept}:{stored}:{FORMAT}"
        folders[name] = spec.cache / "states" / hashlib.sha256(key.encode()).hexdigest()[:16]
        parts = [rows for rows in _parts(entry, a_token) if not mirror.there(folders[name] / f"{rows.start}.npy")]
        if not parts:
            say(f"the teacher's hidden states ({name} vocabulary) are in the cache")
            continue
        say(f"the teacher reads {sum(map(len, parts)):,} texts for its hidden states ({name} vocabulary)")
        reference = reference or ray.put(transfer)
        keys = []
        for rows in parts:
            payload = {
                "teacher": str(folder),
                "vocabulary": name,
                "rows": rows,
                "states": list(stored),
                "refs": {"transfer": reference},
            }
            item = WorkItem(
                key=f"states:{folders[name].name}:{rows.start}",
                kind=WorkKind.TEACH_STATES,
                folder=str(folders[name] / f"{rows.start}.npy"),
                payload=payload,
            )
            pool.submit(item)
            keys.append(item.key)
        for item_key in keys:
            result = pool.wait(item_key)
            pool.acknowledge(item_key)
            if result.error:
                raise StudyError(f"the teacher's hidden states could not be computed: {result.error}")
            passes += result.output["forward_rows"] / len(entry)
        mirror.seal(folders[name])
    return replace(transfer, states=StatesOnDisk(folders, stored)), passes


def _parts(tokens: Tokens, a_token: int) -> list[range]:
    """Rows in a row, of about PART_BYTES each: the same ones at every start, so that what is there is not made again."""
    ends = np.searchsorted(tokens.offsets, np.arange(PART_BYTES / a_token, tokens.offsets[-1], PART_BYTES / a_token))
    edges = [0, *sorted({int(end) for end in ends if 0 < end < len(tokens)}), len(tokens)]
    return [range(start, end) for start, end in itertools.pairwise(edges)]
