"""What a user brings: texts in files, and teachers in folders; and what is said when they will not do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from search.study.inputs import Inputs, in_cut_vocabulary, read_inputs
from search.study.tables import Texts
from search.study.texts import LabelledTexts, StudyTexts, read_texts
from search.trial.data import Tokens
from search.trial.vocabulary import cut_vocabulary, load_tokenizer
from spaces.errors import InputError
from spaces.study import StudySpec
from spaces.yaml_io import parse_study, with_data

# texts


@pytest.fixture
def reading(tmp_path: Path) -> Callable[..., StudyTexts]:
    """Reads files given as {split: (name, content)}; what else `data` says comes as keywords."""

    def read(files: dict[str, tuple[str, str | bytes]], **data: Any) -> StudyTexts:
        return read_texts(spec_of(tmp_path, files, **data))

    return read


def spec_of(folder: Path, files: dict[str, tuple[str, str | bytes]], **data: Any) -> StudySpec:
    for name, content in files.values():
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    plain = {split: name for split, (name, _) in files.items()}
    raw = {"name": "a", "data": {**plain, **data}, "teacher": "x/y", "cache": str(folder / "cache")}
    return parse_study(raw, "study.yaml", folder)


def faults_of(read: Callable[..., Any], *args: Any, **named: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(*args, **named)
    assert "Traceback" not in str(caught.value)
    return str(caught.value)


def three(content: str | bytes, ending: str) -> dict[str, tuple[str, str | bytes]]:
    return {split: (f"{split}.{ending}", content) for split in ("train", "validation", "test")}


READER = """
def rows(path):
    for line in path.read_text().splitlines():
        label, _, text = line.partition(": ")
        yield {"text": text, "label": label}

def broken(path):
    return [1 / 0]

def nothing(path):
    return []
"""


def test_a_reader_of_ones_own(reading: Callable[..., StudyTexts], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(READER)
    files = three("good: a fine film\nbad: a poor film\n", "odd")
    texts = reading(files, reader="mine.py:rows")  # relative to the study file
    assert [*texts.splits["train"].texts] == ["a fine film", "a poor film"]
    assert texts.label_names == ["bad", "good"]
    broken = faults_of(reading, files, reader="mine.py:broken")
    assert "data.train: reader" in broken
    assert "raised ZeroDivisionError on train.odd" in broken
    assert "found no rows" in faults_of(reading, files, reader="mine.py:nothing")
    assert "has no attribute 'missing'" in faults_of(reading, files, reader="mine.py:missing")
    assert "raised TypeError" in faults_of(reading, files, reader="csv:DictReader")  # which wants lines, no path


ODD = ['he said "no', "null", "NA", "007", "1e5", "nan", "None", "true", 'a "quoted" word', "it's , fine"]


def test_tsv_is_text_and_nothing_but_text(reading: Callable[..., StudyTexts]) -> None:
    content = "text\tlabel\n" + "".join(f"{text}\t{'yes' if i % 2 else 'NA'}\n" for i, text in enumerate(ODD))
    texts = reading(three(content, "tsv"))
    for split in texts.splits.values():
        assert [*split.texts] == ODD
        assert split.pairs is None
        assert split.labels == ["NA", "yes"] * 5
    assert texts.label_names == ["NA", "yes"]
    assert texts.notes == ["train shares 10 texts with validation or test; write data.drop_shared: true to drop them"]


def test_csv_may_quote(reading: Callable[..., StudyTexts]) -> None:
    content = 'label,text\n0,"one, two"\n1,"a ""word"""\n0,"two\nlines"\n1,null\n'
    texts = reading(three(content, "csv"), labels={"0": "bad", "1": "good"})
    assert [*texts.splits["train"].texts] == ["one, two", 'a "word"', "two\nlines", "null"]
    assert texts.splits["train"].labels == ["bad", "good"] * 2


def test_jsonl_and_pairs_by_their_usual_names(reading: Callable[..., StudyTexts]) -> None:
    rows = [{"idx": i, "sentence1": f"a{i}", "sentence2": f"b{i}", "label": i % 2} for i in range(4)]
    texts = reading(three("\n".join(map(json.dumps, rows)), "jsonl"))
    assert [*texts.splits["test"].texts] == ["a0", "a1", "a2", "a3"]
    assert [*texts.splits["test"].pairs] == ["b0", "b1", "b2", "b3"]
    assert texts.splits["test"].labels == ["0", "1", "0", "1"]


def test_columns_may_be_named(reading: Callable[..., StudyTexts]) -> None:
    content = "id\tbody\ttitle\tkind\n" + "".join(f"{i}\tbody {i}\ttitle {i}\tk{i % 2}\n" for i in range(4))
    texts = reading(three(content, "tsv"), columns={"text": "title", "text_pair": "body", "label": "kind"})
    assert texts.splits["train"].texts[0] == "title 0"
    assert [*texts.splits["train"].pairs] == [f"body {i}" for i in range(4)]
    assert texts.label_names == ["k0", "k1"]


def parquet(**columns: list[Any]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def test_parquet_with_whole_numbers_as_labels(reading: Callable[..., StudyTexts]) -> None:
    names = [0, 10, 2, 0]
    for labels in (names, [float(name) for name in names]):
        texts = reading(three(parquet(text=["a", "b", "c", "d"], label=labels), "parquet"))
        assert texts.splits["train"].labels == ["0", "10", "2", "0"]
        assert texts.label_names == ["0", "2", "10"]  # as numbers, not as words


def test_missing_splits_are_cut_off_train_and_noted(reading: Callable[..., StudyTexts]) -> None:
    content = "text\tlabel\n" + "".join(f"text {i}\t{i % 2}\n" for i in range(100))
    texts, again = (reading({"train": ("train.tsv", content)}) for _ in range(2))
    assert {name: len(split) for name, split in texts.splits.items()} == {"train": 81, "validation": 10, "test": 9}
    every = [text for split in texts.splits.values() for text in split.texts]
    assert sorted(every) == sorted(f"text {i}" for i in range(100))
    assert (texts.splits, texts.fingerprint) == (again.splits, again.fingerprint)
    assert [note.split(":")[0] for note in texts.notes] == ["no validation split is given", "no test split is given"]
    assert "10 rows of train" in texts.notes[0]
    other = reading({"train": ("train.tsv", content.replace("text 7\t1", "text 7\t0"))})
    assert other.fingerprint != texts.fingerprint


GOOD = "text\tlabel\na\t0\nb\t1\n"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "bad.tsv",
            "text\tlabel\na\t0\n\t1\n  \t1\n",
            "row 2 (after the header) has an empty text, and 1 more like it",
        ),
        ("bad.tsv", "text\tlabel\na\t0\nb\t\n", "row 2 (after the header) has no label"),
        ("bad.tsv", "words\tlabel\na\t0\n", "no column looks like the text; it has words, label"),
        ("bad.tsv", "text\tkinds\na\t0\n", "no column looks like the label"),
        ("bad.tsv", "text\tlabel\n", "holds no rows"),
        ("bad.tsv", "text\ttext\na\t0\n", "column 'text' stands there twice"),
        ("bad.tsv", "text\tlabel\na\t0\nb\t1\textra\n", "cannot be read"),
        ("bad.tsv", b"text\tlabel\ncaf\xe9\t0\n", "cannot be read"),
        ("bad.csv", "", "bad.csv"),
        ("bad.doc", GOOD, "the ending is not known; write one of .tsv, .csv, .jsonl, .json, .parquet, .txt"),
        ("bad.txt", GOOD, "no column looks like the label; it has text"),
        ("bad.parquet", b"PAR1 this is no parquet PAR1", "cannot be read"),
        ("bad.jsonl", '{"text": "a", "label": 0}\n{"text": ', "cannot be read"),
        ("bad.parquet", parquet(text=["a", "b"], label=[0.0, 0.5]), "row 2 (after the header) has label 0.5"),
        ("bad.parquet", parquet(text=["a", None], label=[0, 1]), "row 2 (after the header) has an empty text"),
    ],
)
def test_a_file_that_will_not_do_is_told_by_row_or_column(
    reading: Callable[..., StudyTexts], name: str, content: str | bytes, words: str
) -> None:
    good = {"validation": ("validation.tsv", GOOD), "test": ("test.tsv", GOOD)}
    message = faults_of(reading, {"train": (name, content), **good})
    assert message.startswith("data: data.train")
    assert words in message
    assert len(message.splitlines()) == 1


def test_faults_of_all_splits_are_told_together(reading: Callable[..., StudyTexts]) -> None:
    bad = "text\tlabel\n\t0\n"
    message = faults_of(reading, three(bad, "tsv"))
    assert [line.split(": ")[1] for line in message.splitlines()] == ["data.train", "data.validation", "data.test"]


def test_labels_are_checked_across_splits(reading: Callable[..., StudyTexts]) -> None:
    files = {"train": ("train.tsv", GOOD), "validation": ("v.tsv", GOOD), "test": ("t.tsv", "text\tlabel\na\t-1\n")}
    message = faults_of(reading, files)
    assert "data.test: label '-1' does not occur in train (a test split without labels?" in message
    one = "text\tlabel\na\t0\nb\t0\n"
    assert "has one class only" in faults_of(reading, three(one, "tsv"))
    assert "too few to cut a validation split" in faults_of(reading, {"train": ("train.tsv", GOOD)})


def test_a_column_that_is_not_there_is_told_with_its_near_miss(reading: Callable[..., StudyTexts]) -> None:
    message = faults_of(reading, three(GOOD, "tsv"), columns={"text": "txet"})
    assert "data.columns.text: data.train has no column 'txet'" in message
    assert 'did you mean "text"?' in message


def test_a_hub_set_without_a_network_is_an_input_error(tmp_path: Path) -> None:
    raw = {
        "name": "a",
        "data": {"train": {"hub": "no-such-owner/no-such-set", "split": "train"}},
        "teacher": "x/y",
        "cache": str(tmp_path),
    }
    message = faults_of(read_texts, parse_study(raw, "study.yaml", tmp_path))
    assert "no-such-owner/no-such-set cannot be read" in message
    assert "is the hub reachable" in message


def test_a_folder_of_data_instead_of_the_studys(tmp_path: Path) -> None:
    spec = parse_study({"name": "a", "data": {"builtin": "docstrings"}, "teacher": "x/y"}, "s", tmp_path)
    assert "holds no train file" in faults_of(with_data, spec, tmp_path)
    (tmp_path / "train.tsv").write_text(GOOD)
    (tmp_path / "test.csv").write_text(GOOD)
    data = with_data(spec, tmp_path).data
    assert (data.train, data.validation, data.test) == (tmp_path / "train.tsv", None, tmp_path / "test.csv")
    assert data.builtin is None
    (tmp_path / "train.csv").write_text(GOOD)
    assert "holds train.csv, train.tsv; keep one" in faults_of(with_data, spec, tmp_path)


# both together


def quiet(text: str) -> None:
    return None


def test_inputs_of_the_tiny_study(study_of: Callable[..., StudySpec], base_teacher: Path) -> None:
    said: list[str] = []
    inputs = read_inputs(study_of(), said.append)
    assert said == ["tokenising 180 texts"]
    assert not inputs.fine_tunes
    assert inputs.transfer.label_names == ["food", "music", "sport"]
    assert inputs.vocabularies["full"] == len(tiny.vocabulary()) > inputs.vocabularies["used"]
    train = inputs.transfer.splits["train"]
    assert len(train.labels) == 120
    used = inputs.transfer.vocabularies["used"]
    assert (used.kept[train.tokens["used"].ids] == train.tokens["full"].ids).all()
    fine_tuned = read_inputs(study_of(teacher=str(base_teacher)), quiet)
    assert fine_tuned.fine_tunes
    assert fine_tuned.transfer.fingerprint != inputs.transfer.fingerprint
    sized = read_inputs(study_of(space={"vocabulary": [100, "used"]}), quiet)
    assert sized.vocabularies["100"] == 100


WORDS = st.sampled_from(
    [*tiny.vocabulary()[5:], "soundtrack", "standing", "\u6f22", "x\u6f22", "Onions!", "\u00e9t\u00e9"]
)


@given(data=st.data(), kept=st.sets(st.integers(5, len(tiny.vocabulary()) - 1), max_size=140))
def test_a_cut_vocabulary_splits_as_its_tokenizer_does(teacher: Path, data: st.DataObject, kept: set[int]) -> None:
    """Only some rows are tokenised again; nobody can tell."""
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    counts = np.zeros(len(tokenizer), np.int64)
    counts[list(kept)] = 1
    cut = cut_vocabulary(tokenizer, "used", counts)
    text = st.lists(WORDS, min_size=1, max_size=12).map(" ".join)
    rows = data.draw(st.lists(st.tuples(text, text), min_size=1, max_size=6))
    texts, pairs = [first for first, _ in rows], [second for _, second in rows] if data.draw(st.booleans()) else None
    full = Tokens.encode(tokenizer, texts, pairs, 10)
    found = in_cut_vocabulary(LabelledTexts(Texts.of(texts), pairs, []), full, cut, 10)
    expected = Tokens.encode(load_tokenizer(cut), texts, pairs, 10)
    for name in ("ids", "offsets", "second"):
        assert getattr(found, name).tolist() == getattr(expected, name).tolist()


def test_texts_stay_in_arrow() -> None:
    plain = ["one", "zwei \u00e4", "", "half \ud800 a surrogate"]
    texts = Texts.of(plain)
    assert [*texts] == [*plain[:3], "half ? a surrogate"]
    assert (len(texts), texts[1], [*texts[1:3]]) == (4, plain[1], plain[1:3])
    assert [*texts.taken([2, 0])] == ["", "one"]
    assert [*Texts.of([])] == [*Texts.of([]).taken([])] == []


def test_faults_of_data_and_teacher_are_told_together(study_of: Callable[..., StudySpec], tmp_path: Path) -> None:
    (tmp_path / "bad.tsv").write_text("words\tlabel\na\tb\n")
    spec = study_of(data={"train": str(tmp_path / "bad.tsv")}, teacher="/no/such/teacher")
    lines = faults_of(read_inputs, spec, quiet).splitlines()
    assert [line.split(": ")[0] for line in lines] == ["data.train", "teacher.model"]


def test_texts_longer_than_the_model_are_cut_and_told(study_of: Callable[..., StudySpec], data_folder: Path) -> None:
    data = {"train": str(data_folder / "train.tsv"), "max_length": 8}
    inputs = read_inputs(study_of(data=data), quiet)
    assert inputs.transfer.splits["train"].tokens["full"].lengths.max() == 8
    assert any("reach max_length (8 pieces)" in note for note in inputs.notes)
    longer = read_inputs(study_of(data={**data, "max_length": 1000}), quiet)
    assert longer.transfer.max_length == 48  # the teacher's positions


def test_a_folder_without_a_tokenizer(study_of: Callable[..., StudySpec], copied: Callable[..., Path]) -> None:
    folder = copied()
    for path in folder.glob("*token*"):
        path.unlink()
    (folder / "vocab.txt").unlink(missing_ok=True)
    assert "holds no tokenizer: none of vocab.txt, tokenizer.json" in faults_of(
        read_inputs, study_of(teacher=str(folder)), quiet
    )


def test_a_tokenizer_of_another_model(study_of: Callable[..., StudySpec], copied: Callable[..., Path]) -> None:
    from transformers import AutoTokenizer

    folder = copied()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["snare"])
    tokenizer.save_pretrained(folder)
    rows = len(tiny.vocabulary())
    message = faults_of(read_inputs, study_of(teacher=str(folder)), quiet)
    assert f"its tokenizer has a piece {rows}, its embeddings only {rows} rows" in message


def byte_level_teacher(folder: Path) -> Path:
    from transformers import RobertaConfig, RobertaForSequenceClassification

    tokenizer = tiny.write_byte_level_tokenizer(folder, [row["text"] for row in tiny.texts(40, 0)])
    names = dict(enumerate(["food", "music", "sport"]))
    config = RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=50, type_vocab_size=1, id2label=names,
        label2id={name: index for index, name in names.items()},
    )  # fmt: skip
    RobertaForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_a_tokenizer_that_cannot_be_cut_keeps_its_vocabulary(
    study_of: Callable[..., StudySpec], tmp_path: Path
) -> None:
    folder = byte_level_teacher(tmp_path / "bpe")
    backend = json.loads((folder / "tokenizer.json").read_text())
    backend["model"]["dropout"] = 0.1
    (folder / "tokenizer.json").write_text(json.dumps(backend))

    def read(**space: Any) -> Inputs:
        return read_inputs(study_of(teacher=str(folder), space=space), quiet)

    inputs = read(vocabulary=["used", "full"])
    assert inputs.vocabularies == {"full": 300}
    assert any("its tokenizer the merges are drawn at random: only `full`" in note for note in inputs.notes)
    assert inputs.spec.space.vocabularies == ["full"]
    assert not any("cannot be cut" in note for note in read().notes)
    assert "'used' needs a tokenizer that can be cut" in faults_of(read, vocabulary="used")


def test_a_byte_level_vocabulary_is_cut(study_of: Callable[..., StudySpec], tmp_path: Path) -> None:
    inputs = read_inputs(study_of(teacher=str(byte_level_teacher(tmp_path / "bpe"))), quiet)
    assert 256 < inputs.vocabularies["used"] <= inputs.vocabularies["full"] == 300
    assert inputs.teacher.max_positions == 48
    for vocabulary in inputs.transfer.vocabularies.values():
        assert vocabulary.pad_id == 1
