"""Reads a file or a split of the hub as a table, through `datasets`."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spaces.errors import InputError
from spaces.named import function_named
from spaces.study import HubSource

FORMATS = {".tsv": "csv", ".csv": "csv", ".jsonl": "json", ".json": "json", ".parquet": "parquet", ".txt": "text"}


@dataclass(frozen=True)
class Table:
    """`class_names`: where a column holds numbers of named classes, as data sets of the hub do, their names in order; the
    rows hold the names."""

    rows: Sequence[dict[str, Any]]
    columns: list[str]
    class_names: list[str] = field(default_factory=list)


def read_table(name: str, where: Path | HubSource, cache: Path, reader: str | None = None) -> Table:
    """The table of the split `name`; files by the user's own `reader` where there is one. Raises InputError."""
    if reader is not None and isinstance(where, Path):
        return _read_own(name, where, reader)
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    path = f"data.{name}"
    try:
        if isinstance(where, HubSource):
            data = datasets.load_dataset(
                where.hub, where.config, split=where.split, revision=where.revision, cache_dir=str(cache)
            )
            return _named(data)
        kind = FORMATS.get(where.suffix.lower())
        if kind is None:
            raise InputError.of("", f"{where.name}: the ending is not known; write one of {', '.join(FORMATS)}", path)
        options: dict[str, Any] = {}
        if kind == "csv":
            header = _header(where)
            repeated = [column for column, count in Counter(header).items() if count > 1]
            if repeated:
                raise InputError.of("", f"{where}: column {repeated[0]!r} stands there twice", path)
            text = datasets.Features({column: datasets.Value("string") for column in header})
            options = {"features": text, "na_filter": False, "keep_default_na": False}
            if where.suffix.lower() == ".tsv":
                options |= {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
        data = datasets.load_dataset(kind, data_files=str(where), split="train", cache_dir=str(cache), **options)
        return _named(data)
    except InputError:
        raise
    except Exception as error:
        shown = where.hub if isinstance(where, HubSource) else where
        if "corresponds to no data" in str(error):
            raise InputError.of("", f"{shown} holds no rows", path) from None
        cause = error.__cause__ or error
        lines = str(cause).strip().splitlines() or [type(cause).__name__]
        hint = "; is the hub reachable, and the name right?" if isinstance(where, HubSource) else ""
        raise InputError.of("", f"{shown} cannot be read: {lines[0][:300]}{hint}", path) from None


def _read_own(name: str, where: Path, reader: str) -> Table:
    """What the user's function makes of the file: rows with a value for each column."""
    try:
        rows = [dict(row) for row in function_named(reader)(where)]
    except Exception as error:
        raise InputError.of(
            "", f"reader {reader} raised {type(error).__name__} on {where.name}: {error}; it is to return rows such as "
            "{'text': ..., 'label': ...}", f"data.{name}",
        ) from None  # fmt: skip
    if not rows:
        raise InputError.of("", f"reader {reader} found no rows in {where}", f"data.{name}")
    return Table(rows, list(dict.fromkeys(column for row in rows for column in row)))


def _named(data: Any) -> Table:
    """The table with names for the numbers of classes; a row without a class holds -1 there."""
    import datasets

    rows, class_names = data.to_list(), []
    for column, feature in data.features.items():
        several = getattr(feature, "feature", None)  # a list of classes a row
        classes = several if isinstance(several, datasets.ClassLabel) else feature
        if not isinstance(classes, datasets.ClassLabel):
            continue
        class_names = classes.names
        names = {-1: "-1", **dict(enumerate(classes.names))}
        for row in rows:
            cell = row[column]
            row[column] = [names[number] for number in cell] if isinstance(cell, list) else names.get(cell)
    return Table(rows, list(data.column_names), class_names)


def _header(path: Path) -> list[str]:
    with open(path, encoding="utf-8", newline="") as file:
        if path.suffix.lower() == ".tsv":
            return file.readline().rstrip("\r\n").split("\t")
        return next(csv.reader(file), [])
