"""The vocabulary cut to what the training text uses, with a tokenizer to match.

Keeping every piece that the training text used (and what those are made of, pieces.py) leaves that text's pieces
unchanged; a word outside it falls back to smaller pieces, down to single characters, which are all kept where they are
ASCII or occur in the text.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from search.trial.data import Vocabulary
from search.trial.pieces import Pieces, backend_of, pieces_of

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "vocab.json",
                   "merges.txt", "added_tokens.json", "spiece.model", "sentencepiece.bpe.model")  # fmt: skip
WITHOUT_PIECES = ("tokenizer_config.json", "special_tokens_map.json")


def full_vocabulary(tokenizer: Any, counts: np.ndarray) -> Vocabulary:
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = _read(Path(folder))
    if "tokenizer.json" in files:
        backend = json.loads(files["tokenizer.json"])
        files["tokenizer.json"] = _dump({**backend, "truncation": None, "padding": None})
    kept = np.arange(len(counts), dtype=np.int32)
    return Vocabulary("full", kept, counts, _pad_id(tokenizer), files, tokenizer.mask_token_id)


def cut_vocabulary(tokenizer: Any, name: str, counts: np.ndarray, size: int | None = None) -> Vocabulary:
    """Keeps the pieces with `counts` above 0 (of each of the teacher's ids, over the training text), or the `size` most
    frequent of them; special tokens and single characters are always kept. New ids follow the teacher's order. Of a tokenizer that
    `pieces_of` knows."""
    backend, pieces, used = backend_of(tokenizer), pieces_of(tokenizer), np.flatnonzero(counts)
    assert isinstance(pieces, Pieces), pieces
    special = {token["id"] for token in backend["added_tokens"]} | {tokenizer.unk_token_id}
    always = special | pieces.always(piece for piece, index in pieces.ids.items() if counts[index])
    if pieces.unknown is not None:
        always.add(pieces.unknown)
    chosen, room = set(always), len(counts) if size is None else size
    for index in used[np.argsort(-counts[used], kind="stable")].tolist():
        wanted = set() if index in chosen else pieces.with_parts(index) - chosen
        if len(chosen) + len(wanted) <= room:
            chosen |= wanted
    kept = np.array(sorted(chosen), dtype=np.int32)
    new_id = {int(old): new for new, old in enumerate(kept)}
    backend["model"] = pieces.cut(new_id)
    backend["added_tokens"] = [{**token, "id": new_id[token["id"]]} for token in backend["added_tokens"]]
    _renumber(backend.get("post_processor") or {}, new_id)
    backend["truncation"] = backend["padding"] = None
    whole = full_vocabulary(tokenizer, counts).files
    files = {name: content for name, content in whole.items() if name in WITHOUT_PIECES}
    files["tokenizer.json"] = _dump(backend)
    if isinstance(vocab := backend["model"]["vocab"], dict) and "merges" not in backend["model"]:
        files["vocab.txt"] = "".join(f"{piece}\n" for piece in sorted(vocab, key=vocab.__getitem__)).encode()
    config = json.loads(files["tokenizer_config.json"])
    if "added_tokens_decoder" in config:
        config["added_tokens_decoder"] = {
            str(new_id[int(index)]): token
            for index, token in config["added_tokens_decoder"].items()
            if int(index) in new_id
        }
    files["tokenizer_config.json"] = _dump(config)
    return Vocabulary(name, kept, counts[kept], new_id[_pad_id(tokenizer)], files)


def _renumber(processor: dict[str, Any], new_id: dict[int, int]) -> None:
    """What puts special tokens around a text names their ids."""
    for inner in processor.get("processors") or ():
        _renumber(inner, new_id)
    for token in (processor.get("special_tokens") or {}).values():
        token["ids"] = [new_id[index] for index in token["ids"]]
    for side in ("cls", "sep"):  # the older kinds
        if isinstance(processor.get(side), list):
            token_name, index = processor[side]
            processor[side] = [token_name, new_id[index]]


def new_ids(vocabulary: Vocabulary, unknown_id: int, num_ids: int) -> np.ndarray:
    """(num_ids,) the new id of each of the teacher's; what was cut becomes the unknown token."""
    table = np.full(num_ids, np.searchsorted(vocabulary.kept, unknown_id), np.int32)
    table[vocabulary.kept] = np.arange(len(vocabulary.kept), dtype=np.int32)
    return table


def write_tokenizer(vocabulary: Vocabulary, folder: Path, max_length: int | None = None) -> None:
    for name, content in vocabulary.files.items():
        if name == "tokenizer_config.json" and max_length:
            content = _dump({**json.loads(content), "model_max_length": max_length})
        (folder / name).write_bytes(content)


def load_tokenizer(vocabulary: Vocabulary) -> Any:
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(vocabulary, Path(folder))
        (Path(folder) / "config.json").write_text('{"model_type": "bert"}')
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def _pad_id(tokenizer: Any) -> int:
    return int(tokenizer.pad_token_id or 0)


def _read(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in TOKENIZER_FILES if (folder / name).is_file()}


def _dump(data: Any) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode()
