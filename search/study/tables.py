"""Reads a file or a split of the hub as a table, through `datasets`."""

from __future__ import annotations

import csv
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa

from spaces.errors import InputError
from spaces.named import function_named
from spaces.study import HubSource

FORMATS = {".tsv": "csv", ".csv": "csv", ".jsonl": "json", ".json": "json", ".parquet": "parquet", ".txt": "text"}
FORMATS |= {".conll": "conll"}  # a word a line


AT_ONCE = 10_000  # cells made Python objects of at a time


def in_parts(cells: Iterable[Any]) -> Iterator[list[Any]]:
    """The cells, AT_ONCE of them at a time."""
    left = iter(cells)
    while part := list(islice(left, AT_ONCE)):
        yield part


@dataclass(frozen=True)
class Texts(Sequence[str]):
    """Texts in an Arrow column: those that `datasets` has read lie in its mapped file, and take no memory of this process."""

    column: pa.ChunkedArray

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        """Half a surrogate, which no encoding has, becomes a question mark."""
        parts = (
            [text if text.isascii() else text.encode("utf-8", "replace").decode() for text in part]
            for part in in_parts(texts)
        )
        return cls(pa.chunked_array([pa.array(part, pa.large_string()) for part in parts], pa.large_string()))

    def __len__(self) -> int:
        return len(self.column)

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> Texts: ...

    def __getitem__(self, place: int | slice) -> str | Texts:
        return Texts(self.column[place]) if isinstance(place, slice) else self.column[place].as_py()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), AT_ONCE):
            yield from self.column.slice(start, AT_ONCE).to_pylist()

    def taken(self, rows: Sequence[int] | np.ndarray) -> Texts:
        return Texts(self.column.take(pa.array(rows, pa.int64())))


@dataclass(frozen=True)
class Table:
    """`column(name)`: its cells in order, None where a row has none. `class_names`: where a column holds numbers of named
    classes, as data sets of the hub do, their names in order; the cells are the names."""

    columns: list[str]
    column: Callable[[str], Sequence[Any]]
    class_names: list[str] = field(default_factory=list)

    @classmethod
    def of_rows(cls, rows: Sequence[dict[str, Any]]) -> Table:
        columns = list(dict.fromkeys(column for row in rows for column in row))
        return cls(columns, lambda name: [row.get(name) for row in rows])


def read_table(name: str, where: Path | HubSource, cache: Path, reader: str | None = None) -> Table:
    """The table of the split `name`; files by the user's own `reader` where there is one. Raises InputError."""
    if reader is not None and isinstance(where, Path):
        return _read_own(name, where, reader)
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)  # what it cannot read is told by our error
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
        if kind == "conll":
            return _read_conll(where)
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
        data.data.table.validate(full=True)  # Arrow's readers of JSON and Parquet take bytes that are no UTF-8
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
    return Table.of_rows(rows)


def _read_conll(where: Path) -> Table:
    """A word a line, its tag in the last column; a blank line between sentences. One column: words without tags. Raises
    InputError."""
    rows: list[dict[str, Any]] = [{"tokens": [], "tags": []}]
    width = 0
    with open(where, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            fields = line.split("\t") if "\t" in line else line.split()
            if not line.strip() or fields[0] == "-DOCSTART-":
                if rows[-1]["tokens"]:
                    rows.append({"tokens": [], "tags": []})
                continue
            width = width or len(fields)
            if (len(fields) > 1) != (width > 1):
                raise InputError.of(
                    "", f"{where} line {number} has {len(fields)} columns, the first one has {width}", "data"
                )
            rows[-1]["tokens"].append(fields[0].strip())
            rows[-1]["tags"].append(fields[-1].strip())
    if not width:
        raise InputError.of("", f"{where} holds no rows", "data")
    kept = [row for row in rows if row["tokens"]]
    return Table.of_rows(kept if width > 1 else [{"tokens": row["tokens"]} for row in kept])


def _named(data: Any) -> Table:
    """The table with names for the numbers of classes; a row without a class holds -1 there."""
    import datasets

    features = {
        name: getattr(feature, "feature", None) or feature  # of a list: of one of its items
        for name, feature in data.features.items()
    }
    classes = {name: kind.names for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)}

    def column(name: str) -> Sequence[Any]:
        cells = data.data.column(name)
        if pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type):
            return Texts(cells.cast(pa.large_string()))  # which a whole data set's bytes fit in
        if name not in classes:
            try:
                return cells.to_pylist()
            except (ValueError, OverflowError) as error:  # a time that Python's has no years for
                raise InputError.of("", f"column {name!r} holds what cannot be read: {error}", "data") from None
        names = {-1: "-1", **dict(enumerate(classes[name]))}
        return [
            [names[number] for number in cell] if isinstance(cell, list) else names.get(cell)
            for cell in cells.to_pylist()
        ]

    return Table(list(data.column_names), column, next(reversed(classes.values()), []))


def _header(path: Path) -> list[str]:
    with open(path, encoding="utf-8", newline="") as file:
        if path.suffix.lower() == ".tsv":
            return file.readline().rstrip("\r\n").split("\t")
        return next(csv.reader(file), [])
