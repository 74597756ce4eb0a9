"""The vocabulary cut to what the training text uses, with a tokenizer to match.

A WordPiece tokenizer splits a word greedily into the longest pieces it knows. Keeping every piece that the training
text used leaves that text's pieces unchanged; a word outside it falls back to smaller pieces, down to single
characters, which are all kept where they are ASCII or occur in the text.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from search.trial.data import Vocabulary

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "vocab.json",
                   "merges.txt", "added_tokens.json", "spiece.model", "sentencepiece.bpe.model")  # fmt: skip


def is_word_piece(tokenizer: Any) -> bool:
    """Whether the vocabulary can be cut: fast WordPiece tokenizers only."""
    return bool(getattr(tokenizer, "is_fast", False)) and _backend(tokenizer)["model"]["type"] == "WordPiece"


def _backend(tokenizer: Any) -> dict[str, Any]:
    return json.loads(tokenizer.backend_tokenizer.to_str())


def full_vocabulary(tokenizer: Any, counts: np.ndarray) -> Vocabulary:
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = _read(Path(folder))
    if "tokenizer.json" in files:
        backend = json.loads(files["tokenizer.json"])
        files["tokenizer.json"] = _dump({**backend, "truncation": None, "padding": None})
    return Vocabulary("full", np.arange(len(counts), dtype=np.int32), counts, _pad_id(tokenizer), files)


def cut_vocabulary(tokenizer: Any, name: str, counts: np.ndarray, size: int | None = None) -> Vocabulary:
    """Keeps the pieces with `counts` above 0 (of each of the teacher's ids, over the training text), or the `size` most
    frequent of them; special tokens and single characters are always kept. New ids follow the teacher's order."""
    backend = _backend(tokenizer)
    vocab: dict[str, int] = backend["model"]["vocab"]
    prefix = backend["model"].get("continuing_subword_prefix", "##")
    special = {token["id"] for token in backend["added_tokens"]} | {vocab[backend["model"]["unk_token"]]}
    pieces = {piece.removeprefix(prefix) for piece, index in vocab.items() if counts[index]}
    characters = set().union(*pieces) if pieces else set()
    always = special | {
        index
        for piece, index in vocab.items()
        if len(plain := piece.removeprefix(prefix)) == 1
        and (plain in characters or (plain.isascii() and plain.isprintable()))
    }
    used = np.flatnonzero(counts)
    if size is not None:
        by_count = used[np.argsort(-counts[used], kind="stable")]
        room = max(0, size - len(always))
        used = np.array([index for index in by_count if index not in always][:room], dtype=np.int64)
    kept = np.array(sorted(always | set(used.tolist())), dtype=np.int32)
    new_id = {int(old): new for new, old in enumerate(kept)}
    backend["model"]["vocab"] = {piece: new_id[index] for piece, index in vocab.items() if index in new_id}
    backend["added_tokens"] = [{**token, "id": new_id[token["id"]]} for token in backend["added_tokens"]]
    for token in ((backend.get("post_processor") or {}).get("special_tokens") or {}).values():
        token["ids"] = [new_id[index] for index in token["ids"]]
    for side in ("cls", "sep"):  # the older BertProcessing names its ids instead
        if isinstance((backend.get("post_processor") or {}).get(side), list):
            token_name, index = backend["post_processor"][side]
            backend["post_processor"][side] = [token_name, new_id[index]]
    backend["truncation"] = backend["padding"] = None
    files = dict(full_vocabulary(tokenizer, counts).files)
    files["tokenizer.json"] = _dump(backend)
    by_id = sorted(backend["model"]["vocab"].items(), key=lambda entry: entry[1])
    files["vocab.txt"] = "".join(f"{piece}\n" for piece, _ in by_id).encode()
    config = json.loads(files["tokenizer_config.json"])
    if "added_tokens_decoder" in config:
        config["added_tokens_decoder"] = {
            str(new_id[int(index)]): token
            for index, token in config["added_tokens_decoder"].items()
            if int(index) in new_id
        }
    files["tokenizer_config.json"] = _dump(config)
    return Vocabulary(name, kept, counts[kept], new_id[_pad_id(tokenizer)], files)


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
