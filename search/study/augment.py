"""Has the lanes make texts up from the training text, once; puts them beside the study's unlabelled ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import ray

from search.lanes.pool import LanePool
from search.study.inputs import Inputs, Say, key_of, unlabelled_split
from search.study.texts import UNLABELLED, LabelledTexts
from search.trial import mirror
from search.trial.data import Split, Tokens
from spaces.errors import StudyError
from spaces.trial import WorkItem, WorkKind

PART_ROWS = 4000  # of one item: the same ones whatever lanes there are, so that the same texts come of them


def with_made_up_texts(inputs: Inputs, pool: LanePool, say: Say) -> Inputs:
    """The inputs with `unlabelled` grown by what augmentation makes. Raises StudyError where a lane fails."""
    spec, train = inputs.spec.data.augmentation, inputs.texts.splits["train"]
    if spec == "none":
        return inputs
    items = missing_parts(inputs)
    if items:
        say(f"making up texts, {spec.copies} for each of {len(train):,}")
        texts = ray.put(train.as_lists())
        for item in items:
            pool.submit(item.model_copy(update={"payload": {**item.payload, "refs": {"texts": texts}}}))
        for item in items:
            result = pool.wait(item.key)
            pool.acknowledge(item.key)
            if result.error:
                raise StudyError(f"the texts could not be made up: {result.error}")
    else:
        say("the made-up texts are in the cache")
    return with_parts(inputs, say)


def missing_parts(inputs: Inputs) -> list[WorkItem]:
    """An item for each file of made-up texts that the cache has not; each wants `texts`, the training text and its pairs."""
    assert inputs.spec.data.augmentation != "none"
    payload = {
        "base": str(inputs.source.folder),
        "spec": inputs.spec.data.augmentation.model_dump(),
        "seed": inputs.spec.seed,
        "max_length": inputs.transfer.max_length,
    }
    return [
        WorkItem(
            key=f"make_up:{path.parent.name}:{rows.start}",
            kind=WorkKind.MAKE_UP,
            folder=str(path),
            payload={**payload, "rows": rows},
        )
        for path, rows in _parts(inputs).items()
        if not mirror.there(path)
    ]


def with_parts(inputs: Inputs, say: Say) -> Inputs:
    """The inputs with what the files hold; what a text of any split equals is left out, and so is one made before."""
    for path in _parts(inputs):
        mirror.bring(path)
    found = [tuple(entry) for path in _parts(inputs) for entry in json.loads(path.read_text("utf-8"))]
    known = {key for split in inputs.texts.splits.values() for key in split.keys}
    made = [entry for entry in dict.fromkeys(found) if entry not in known]
    say(f"tokenising {len(made):,} made-up texts")
    pairs = None if inputs.texts.splits["train"].pairs is None else [pair for _, pair in made]
    split = unlabelled_split(inputs, LabelledTexts([text for text, _ in made], pairs, []))
    given = inputs.transfer.splits.get(UNLABELLED)
    if given is not None:
        tokens = {name: Tokens.joined(tokens, split.tokens[name]) for name, tokens in given.tokens.items()}
        split = Split(tokens, np.concatenate([given.labels, split.labels]))
    transfer = replace(inputs.transfer, splits={**inputs.transfer.splits, UNLABELLED: split})
    return replace(inputs, transfer=transfer)


def _parts(inputs: Inputs) -> dict[Path, range]:
    """The files that the made-up texts lie in, and the training rows of each."""
    spec, size = inputs.spec, len(inputs.texts.splits["train"])
    assert spec.data.augmentation != "none"
    recipe = [inputs.labelled_fingerprint, spec.data.augmentation.model_dump(), spec.seed]
    folder = spec.cache / "texts" / key_of(recipe)
    return {folder / f"{start}.json": range(start, min(start + PART_ROWS, size)) for start in range(0, size, PART_ROWS)}
