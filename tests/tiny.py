"""A tiny task and a tiny teacher: real files, real tokenizer, real model, seconds to train."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

TOPICS = {
    "food": ["bread", "soup", "apple", "cheese", "rice", "pepper", "butter", "onion", "sugar", "noodle"],
    "sport": ["ball", "team", "coach", "goal", "tennis", "runner", "medal", "stadium", "referee", "sprint"],
    "music": ["guitar", "drum", "melody", "chorus", "violin", "piano", "singer", "rhythm", "concert", "tune"],
}
FILLER = [
    "the",
    "a",
    "of",
    "with",
    "and",
    "very",
    "some",
    "quite",
    "old",
    "new",
    "big",
    "small",
    "it",
    "was",
    "is",
    "here",
    "today",
    "again",
    "never",
    "often",
]


def texts(num_rows: int, seed: int, labels: tuple[str, ...] = ("food", "sport", "music")) -> list[dict[str, str]]:
    """Rows whose label is the topic most of its words come from."""
    rng = random.Random(seed)
    rows = []
    for index in range(num_rows):
        label = labels[index % len(labels)]
        other = rng.choice([name for name in labels if name != label])
        words = (
            rng.choices(TOPICS[label], k=2) + rng.choices(TOPICS[other], k=1) + rng.choices(FILLER, k=rng.randint(2, 7))
        )
        rng.shuffle(words)
        rows.append({"text": " ".join(words) + f" {index}{seed}", "label": label})
    return rows


def write_tsv(path: Path, rows: list[dict[str, str]]) -> Path:
    names = list(rows[0])
    lines = ["\t".join(names), *("\t".join(row[name] for name in names) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_data(folder: Path, sizes: tuple[int, int, int] = (240, 60, 60)) -> dict[str, str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = ("train", "validation", "test")
    return {
        name: str(write_tsv(folder / f"{name}.tsv", texts(size, seed)))
        for seed, (name, size) in enumerate(zip(names, sizes, strict=True))
    }


def tagged(num_rows: int, seed: int) -> list[dict[str, Any]]:
    """Rows of words with BIO tags: words of one topic in a row are an entity of it. Some are several pieces (bread7)."""
    rng = random.Random(seed)
    rows = []
    for index in range(num_rows):
        tokens, tags = [f"{index}{seed}"], ["O"]
        for _ in range(rng.randint(1, 3)):
            topic = rng.choice(sorted(TOPICS))
            words = rng.choices(TOPICS[topic], k=rng.randint(1, 2))
            words[-1] += rng.choice(["", "", str(rng.randint(1, 9))])
            tokens += words + rng.choices(FILLER, k=rng.randint(1, 2))
            tags += [f"B-{topic}", f"I-{topic}"][: len(words)]
            tags += ["O"] * (len(tokens) - len(tags))
        rows.append({"tokens": tokens, "tags": tags})
    return rows


def write_tagged(folder: Path, sizes: tuple[int, int, int] = (240, 60, 60)) -> dict[str, str]:
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for seed, (name, size) in enumerate(zip(("train", "validation", "test"), sizes, strict=True)):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in tagged(size, seed)))
        found[name] = str(path)
    return found


def scored(num_rows: int, seed: int) -> list[dict[str, str]]:
    """Pairs of texts of five words with the number of those that they share."""
    rng = random.Random(seed)
    words = sorted({word for topic in TOPICS.values() for word in topic})
    rows = []
    for index in range(num_rows):
        shared, drawn = index % 6, rng.sample(words, 10)
        one, other = drawn[:5], drawn[:shared] + drawn[5 : 10 - shared]
        rng.shuffle(other)
        rows.append({"sentence1": " ".join(one), "sentence2": " ".join(other), "score": str(shared)})
    return rows


def write_scored(folder: Path, sizes: tuple[int, int, int] = (120, 60, 60)) -> dict[str, str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = ("train", "validation", "test")
    return {
        name: str(write_tsv(folder / f"{name}.tsv", scored(size, seed)))
        for seed, (name, size) in enumerate(zip(names, sizes, strict=True))
    }


def asked(num_contexts: int, seed: int) -> dict[str, Any]:
    """As SQuAD's files are: each context has a run of words of each topic, and a question for each (its first letter); in
    evaluation the first word of the run is right too. One context in four is long."""
    rng = random.Random(seed)
    paragraphs = []
    for index in range(num_contexts):
        context, runs = f"{index}{seed}", {}
        for topic in rng.sample(sorted(TOPICS), k=len(TOPICS)):
            filler = rng.choices(FILLER, k=rng.randint(1, 2) if index % 4 else rng.randint(8, 10))
            words = rng.choices(TOPICS[topic], k=rng.randint(1, 2))
            context += f" {' '.join(filler)} "
            runs[topic] = (len(context), " ".join(words))
            context += " ".join(words) + rng.choice(["", ",", " 77."])
        paragraphs.append({"context": context, "qas": [
            {"id": f"{seed}-{index}-{topic}", "question": f"{topic[0]} ?", "answers": [
                {"text": text, "answer_start": at}, *([{"text": text.split()[0], "answer_start": at}] if seed else [])
            ]} for topic, (at, text) in runs.items()
        ]})  # fmt: skip
    return {"version": "1.1", "data": [{"title": "tiny", "paragraphs": paragraphs}]}


def write_asked(folder: Path, sizes: tuple[int, int, int] = (80, 20, 20)) -> dict[str, str]:
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for seed, (name, size) in enumerate(zip(("train", "validation", "test"), sizes, strict=True)):
        path = folder / f"{name}.json"
        path.write_text(json.dumps(asked(size, seed)))
        found[name] = str(path)
    return found


def vocabulary() -> list[str]:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = "abcdefghijklmnopqrstuvwxyz0123456789'.,!?-"
    words = {word for topic in TOPICS.values() for word in topic} | {*FILLER, "unused", "words", "stand", "here"}
    words -= set(letters)  # "a" is one already
    return [*special, *letters, *(f"##{letter}" for letter in letters), "##ing", "##er", *sorted(words)]


def write_teacher(
    folder: Path,
    labels: list[str] | None = None,
    *,
    depth: int = 3,
    hidden: int = 32,
    seed: int = 0,
    dropout: float = 0.0,
    positions: int = 48,
) -> Path:
    """A small BERT with a WordPiece tokenizer; with `labels`, with a task head that names them."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    pieces = vocabulary()
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(seed)
    common: dict[str, Any] = {
        "vocab_size": len(pieces),
        "hidden_size": hidden,
        "num_hidden_layers": depth,
        "num_attention_heads": 4,
        "intermediate_size": 2 * hidden,
        "max_position_embeddings": positions,
        "initializer_range": 0.1,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
    }
    if labels is None:
        BertModel(BertConfig(**common)).save_pretrained(folder)
    else:
        names = dict(enumerate(labels))
        config = BertConfig(**common, id2label=names, label2id={name: index for index, name in names.items()})
        BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def write_byte_level_tokenizer(folder: Path, lines: list[str]) -> Any:
    """RoBERTa's kind: byte-level BPE of 300 pieces, a blank belonging to the word after it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    named = {
        "bos_token": "<s>",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(named.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)
    fast.save_pretrained(folder)
    return fast


def study(folder: Path, **changes: Any) -> dict[str, Any]:
    """A whole study in plain data: tiny teacher without a head, four trials, seconds of training."""
    teacher = folder / "teacher"
    if not teacher.exists():
        write_teacher(teacher)
    plain: dict[str, Any] = {
        "name": "tiny",
        "data": {**write_data(folder / "data"), "max_length": 32, "augmentation": {"copies": 1}},
        "teacher": {"model": str(teacher), "fine_tune": {"epochs": 6, "learning_rate": 3e-3, "batch_size": 16}},
        "space": {
            "family": ["bert", "albert"],
            "depth": {"int": [1, 3]},
            "vocabulary": ["used", "full"],
            "embedding_size": [8, "full"],
            "num_hidden_groups": {"int": [1, 2], "when": {"family": "albert"}},
            "temperature": {"float": [1, 4]},
            "hidden_size": ["50%", "full"],
            "hidden_share": [0.0, 0.3],
            "hidden_loss": ["cosine", "mse", "relations"],
            "learning_rate": {"float": [1e-3, 5e-3], "log": True},
            "batch_size": [16],
        },
        "training": {"epochs": 2},
        "budget": {"trials": 4},
        "search": {"first": [{"family": "bert", "depth": 1}, {"family": "bert", "depth": 3}]},
        "confirm": {"seeds": 2, "without_distillation": "best"},
        "tracking": "none",
        "accept": ["chance"],  # some tests give it a teacher that was never trained
        "output": str(folder / "run"),
        "cache": str(folder / "cache"),
    }
    return {**plain, **changes}


def write_study(folder: Path, **changes: Any) -> Path:
    path = folder / "study.yaml"
    path.write_text(json.dumps(study(folder, **changes)))
    return path


def teacher_shape(**changes: Any) -> Any:
    """The sizes of a teacher that is never built."""
    from spaces.student import TeacherShape

    plain = {
        "model_type": "bert",
        "depth": 4,
        "hidden_size": 48,
        "num_heads": 4,
        "intermediate_size": 96,
        "vocabulary_size": 1000,
        "max_positions": 64,
        "type_vocabulary_size": 2,
        "num_labels": 2,
        "num_parameters": 1,
    }
    return TeacherShape.model_validate({**plain, **changes})


def made_up(inputs: Any) -> Any:
    """The inputs with what their augmentation makes: by the lanes' own work, one part after the other, here."""
    from search.study.augment import missing_parts, with_parts
    from search.trial.context import WorkerContext
    from search.trial.work import perform

    train = inputs.texts.splits["train"]
    for item in missing_parts(inputs):
        perform(item, WorkerContext(data={"texts": (train.texts, train.pairs)}))
    return with_parts(inputs, lambda text: None)
