"""The embedded default task: does this sentence describe this function?

Pairs are drawn from the source code of the standard library and of packages that every environment of this project has,
read with `ast` and never imported or run. The sentence is the first of a docstring; the function is its name and its
parameters. Each function and each sentence occurs twice in its split, once as a match and once, with a neighbour of the
same file, as a mismatch: neither side alone says anything about the label, so a bag of n-grams stays at chance and only
a model that compares the two sides gets above it. A file belongs to one split.
"""

import ast
import hashlib
import importlib.util
import os
import re
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

PACKAGES = (
    "torch",
    "transformers",
    "ray",
    "optuna",
    "sklearn",
    "pydantic",
    "numpy",
    "pandas",
    "datasets",
    "wandb",
    "plotly",
    "scipy",
)
SPLITS = ("train", "validation", "test")
LABELS = ("mismatch", "match")

# Tests, other people's code under another name, and generated code with one sentence for a thousand functions.
_SKIPPED_FOLDERS = frozenset(
    {"test", "tests", "testing", "idle_test", "idlelib", "lib2to3", "site-packages", "dist-packages", "__pycache__"}
    | {"vendor", "vendored", "_vendor", "thirdparty_files", "externals", "graph_objs", "validators", "proto"}
)
_FILE_BYTES = (4_000, 60_000)  # outside, few functions for the time that parsing takes
_FILE_QUOTES = 6  # triple quotes: fewer hold less than two documented functions and a module's own docstring
_SENTENCE_WORDS = (4, 24)
_FUNCTIONS_PER_FILE = 16
_PARAMETERS_SHOWN = 6
_TRIVIAL = re.compile(
    r"^(see |todo|fixme|deprecated|alias |same as|args?:|parameters?:|returns?:|overrid|inherit|docstring)"
    r"|deprecated|not implemented|>>>|::|:param|\.\. |@|https?:|base class|superclass|subclasses (must|should|can)",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<!e\.g)(?<!i\.e)(?<!etc)(?<!vs)[.!?](?=\s|$)")
_MARKUP = re.compile(r":[a-z:]+:(?=`)|[`*]+")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_HIDDEN_BY_DECORATOR = ("overload", "deprecat", "setter", "property")


@dataclass(frozen=True, kw_only=True)
class DocumentedFunction:
    """A function as the task sees it; `source` is its file, relative to the folder that holds the package."""

    source: str
    signature: str
    sentence: str


def docstring_pairs(
    num_pairs: int = 8000, seed: int = 0, *, num_validation: int = 1000, num_test: int = 1000
) -> dict[str, list[dict[str, str]]]:
    """Rows {"text": sentence, "text_pair": function, "label": "match" or "mismatch"} for train, validation and test.

    `num_pairs` counts train; each number is even and at least 4. Half of each split matches. The same environment and
    arguments give the same rows; another version of a package gives others. Raises ValueError when there is too little
    source for that many pairs.
    """
    drawn = draw_functions(num_pairs, seed, num_validation=num_validation, num_test=num_test)
    return {split: _rows_of(groups, f"{seed}/{split}") for split, groups in drawn.items()}


def draw_functions(
    num_pairs: int = 8000, seed: int = 0, *, num_validation: int = 1000, num_test: int = 1000
) -> dict[str, list[tuple[DocumentedFunction, ...]]]:
    """The functions behind `docstring_pairs`: for each split, one group of neighbours a file, two pairs a function."""
    sizes = dict(zip(SPLITS, (num_pairs, num_validation, num_test), strict=True))
    for split, size in sizes.items():
        if size < 4 or size % 2:
            raise ValueError(f"{split}: {size} pairs is not allowed; write an even number of at least 4.")
    missing = {split: size // 2 for split, size in sizes.items()}
    drawn: dict[str, list[tuple[DocumentedFunction, ...]]] = {split: [] for split in SPLITS}
    seen: set[str] = set()
    for source, path in _files(seed):
        split = _split_of(source, seed, sizes)
        if missing[split] == 0:
            continue
        group = [f for f in _read_functions(source, path, seed) if seen.isdisjoint((f.sentence.lower(), f.signature))]
        group = group[: missing[split]]
        if missing[split] - len(group) == 1:
            group.pop()  # a group of one has no neighbour, so never leave room for just one
        if len(group) < 2:
            continue
        seen.update(text for function in group for text in (function.sentence.lower(), function.signature))
        drawn[split].append(tuple(group))
        missing[split] -= len(group)
        if not any(missing.values()):
            return drawn
    shortage = ", ".join(f"{split} {2 * left} of {sizes[split]}" for split, left in missing.items() if left)
    raise ValueError(f"Too little installed source for that many pairs; missing: {shortage}. Ask for fewer pairs.")


def _rows_of(groups: list[tuple[DocumentedFunction, ...]], seed: str) -> list[dict[str, str]]:
    rows = []
    for group in groups:
        for function, neighbour in zip(group, group[1:] + group[:1], strict=True):
            rows.append({"text": function.sentence, "text_pair": function.signature, "label": "match"})
            rows.append({"text": neighbour.sentence, "text_pair": function.signature, "label": "mismatch"})
    return sorted(rows, key=lambda row: _digest(seed, row["text"], row["text_pair"]))


def _digest(*parts: object) -> bytes:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).digest()


def _split_of(source: str, seed: int, sizes: dict[str, int]) -> str:
    """A file's split, in proportion to the sizes and whatever the other files are."""
    point = int.from_bytes(_digest(seed, "split", source)[:8], "big") / 2**64 * sum(sizes.values())
    for split, size in sizes.items():
        if point < size:
            return split
        point -= size
    return SPLITS[0]


def _files(seed: int) -> Iterator[tuple[str, str]]:
    """(source, path) of every file worth reading: the packages take turns, each in an order that the seed gives."""
    roots = [Path(sysconfig.get_paths()["stdlib"])]
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)  # of a top-level name: finds, does not import
        if spec is not None and spec.submodule_search_locations:
            roots.append(Path(next(iter(spec.submodule_search_locations))))
    for turn in zip_longest(*(_files_of(root, seed) for root in roots)):
        yield from (file for file in turn if file is not None)


def _files_of(root: Path, seed: int) -> list[tuple[str, str]]:
    files = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in _SKIPPED_FOLDERS]
        inside = Path(root.name, Path(folder).relative_to(root)).as_posix()
        for name in names:
            if name.endswith(".py") and not name.startswith(("test_", "conftest")) and not name.endswith("_pb2.py"):
                files.append((f"{inside}/{name}", os.path.join(folder, name)))
    return sorted(files, key=lambda file: _digest(seed, "order", file[0]))


def _read_functions(source: str, path: str, seed: int) -> list[DocumentedFunction]:
    """Up to `_FUNCTIONS_PER_FILE` functions, no two alike in name or sentence; none if the file does not parse."""
    try:
        if not _FILE_BYTES[0] <= os.path.getsize(path) <= _FILE_BYTES[1]:
            return []
        code = Path(path).read_bytes()
        if code.count(b'"""') < _FILE_QUOTES:
            return []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's invalid escapes
            tree = ast.parse(code)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return []
    found = sorted(_functions_in(tree.body, ""), key=lambda item: _digest(seed, source, *item))
    kept: list[DocumentedFunction] = []
    names: set[str] = set()
    word_sets: list[frozenset[str]] = []
    for name, signature, sentence in found:
        words = frozenset(_words(sentence))
        # Two that say nearly the same would make a mismatch that is one in name only.
        if name in names or any(2 * len(words & other) > len(words | other) for other in word_sets):
            continue
        names.add(name)
        word_sets.append(words)
        kept.append(DocumentedFunction(source=source, signature=signature, sentence=sentence))
        if len(kept) == _FUNCTIONS_PER_FILE:
            break
    return kept


def _functions_in(body: list[ast.stmt], owner: str) -> Iterator[tuple[str, str, str]]:
    """(name, signature, sentence) of the functions and methods that qualify; those within functions do not."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from _functions_in(node.body, node.name)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith(("__", "test")):
            decorators = " ".join(ast.unparse(decorator) for decorator in node.decorator_list)
            docstring = ast.get_docstring(node)
            if docstring is None or any(word in decorators for word in _HIDDEN_BY_DECORATOR):
                continue
            sentence = _first_sentence(docstring)
            if sentence is not None and not _quotes(sentence, node.name):
                yield node.name, _signature_of(node, owner), sentence


def _first_sentence(docstring: str) -> str | None:
    paragraph = " ".join(_MARKUP.sub("", docstring.split("\n\n")[0]).split())
    end = _SENTENCE_END.search(paragraph)
    sentence = paragraph[: end.start()] if end else paragraph
    if not sentence.isascii() or not sentence[:1].isalpha() or _TRIVIAL.search(sentence):
        return None
    return sentence if _SENTENCE_WORDS[0] <= len(sentence.split()) <= _SENTENCE_WORDS[1] else None


def _quotes(sentence: str, name: str) -> bool:
    """Whether the sentence names the function as code does; a plain word such as `close` is a word like any other."""
    is_compound = "_" in name.strip("_") or name.lower() != name
    return f"{name}(" in sentence or (is_compound and name.lower() in sentence.lower())


def _signature_of(node: ast.FunctionDef | ast.AsyncFunctionDef, owner: str) -> str:
    """`read_csv(sep, na_values)` of class `Table` as "table: read csv (sep, na values)".

    Separate words take about 12 word pieces (BERT, uncased) where `def Table.read_csv(sep, na_values)` takes 16, which
    makes training cheaper. Which of the two a teacher learns better has not been compared.
    """
    arguments = node.args
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    shown = [" ".join(_words(name)) for name in names if name not in ("self", "cls")][:_PARAMETERS_SHOWN]
    prefix = " ".join(_words(owner)) + ": " if owner else ""
    return f"{prefix}{' '.join(_words(node.name))} ({', '.join(shown)})"


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]
