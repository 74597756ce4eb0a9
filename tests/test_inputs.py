"""What a user brings: texts in files, and teachers in folders; and what is said when they will not do."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny

from search.study.inputs import Inputs, read_inputs
from search.study.teachers import TeacherSource, find_teacher, match_labels
from search.study.texts import StudyTexts, read_texts
from spaces.errors import InputError
from spaces.study import StudySpec, TeacherSpec
from spaces.task import TASKS
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


ODD = ['he said "no', "null", "NA", "007", "1e5", "nan", "None", "true", 'a "quoted" word', "it's , fine"]


def test_tsv_is_text_and_nothing_but_text(reading: Callable[..., StudyTexts]) -> None:
    content = "text\tlabel\n" + "".join(f"{text}\t{'yes' if i % 2 else 'NA'}\n" for i, text in enumerate(ODD))
    texts = reading(three(content, "tsv"))
    for split in texts.splits.values():
        assert split.texts == ODD
        assert split.pairs is None
        assert split.labels == ["NA", "yes"] * 5
    assert texts.label_names == ["NA", "yes"]
    assert texts.notes == [
        "10 texts of train stand in validation or test too; write data.drop_shared: true to drop them"
    ]


def test_csv_may_quote(reading: Callable[..., StudyTexts]) -> None:
    content = 'label,text\n0,"one, two"\n1,"a ""word"""\n0,"two\nlines"\n1,null\n'
    texts = reading(three(content, "csv"), labels={"0": "bad", "1": "good"})
    assert texts.splits["train"].texts == ["one, two", 'a "word"', "two\nlines", "null"]
    assert texts.splits["train"].labels == ["bad", "good"] * 2


def test_jsonl_and_pairs_by_their_usual_names(reading: Callable[..., StudyTexts]) -> None:
    rows = [{"idx": i, "sentence1": f"a{i}", "sentence2": f"b{i}", "label": i % 2} for i in range(4)]
    texts = reading(three("\n".join(map(json.dumps, rows)), "jsonl"))
    assert texts.splits["test"].texts == ["a0", "a1", "a2", "a3"]
    assert texts.splits["test"].pairs == ["b0", "b1", "b2", "b3"]
    assert texts.splits["test"].labels == ["0", "1", "0", "1"]


def test_columns_may_be_named(reading: Callable[..., StudyTexts]) -> None:
    content = "id\tbody\ttitle\tkind\n" + "".join(f"{i}\tbody {i}\ttitle {i}\tk{i % 2}\n" for i in range(4))
    texts = reading(three(content, "tsv"), columns={"text": "title", "text_pair": "body", "label": "kind"})
    assert texts.splits["train"].texts[0] == "title 0"
    assert texts.splits["train"].pairs == [f"body {i}" for i in range(4)]
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


# teachers


@pytest.fixture
def copied(teacher: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the tiny teacher with changes to its config.json."""

    def copy(**changes: Any) -> Path:
        folder = tmp_path / "copy"
        shutil.copytree(teacher, folder)
        config = {**json.loads((folder / "config.json").read_text()), **changes}
        (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
        return folder

    return copy


def find(model: Path | str, **fields: Any) -> TeacherSource:
    return find_teacher(TeacherSpec(model=str(model), **fields))


def test_a_teacher_says_its_shape_and_labels(teacher: Path, base_teacher: Path) -> None:
    source = find(teacher)
    assert source.labels == ("food", "music", "sport")
    shape = source.shape(3)
    assert (shape.depth, shape.hidden_size, shape.num_heads, shape.intermediate_size) == (3, 32, 4, 64)
    assert (shape.vocabulary_size, shape.max_positions, shape.type_vocabulary_size) == (len(tiny.vocabulary()), 48, 2)
    base = find(base_teacher)
    assert base.labels is None
    head = 32 * 3 + 3
    assert shape.num_parameters == base.shape(3).num_parameters + head
    assert source.fingerprint != base.fingerprint


def test_other_architectures_name_their_sizes_differently() -> None:
    distilbert = {"model_type": "distilbert", "dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 16, "vocab_size": 9}
    roberta = {
        "model_type": "xlm-roberta", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 16, "vocab_size": 9, "max_position_embeddings": 514, "type_vocab_size": 1,
    }  # fmt: skip
    for config, positions in ((distilbert, 512), (roberta, 512)):
        shape = TeacherSource(Path("/nowhere"), config, None, "").shape(2)
        assert (shape.depth, shape.hidden_size, shape.num_heads, shape.intermediate_size) == (2, 8, 2, 16)
        assert (shape.max_positions, shape.type_vocabulary_size) == (positions, 1)


def test_the_hash_of_the_weights_is_checked(teacher: Path) -> None:
    right = hashlib.sha256((teacher / "model.safetensors").read_bytes()).hexdigest()
    assert find(teacher, sha256=right).fingerprint == find(teacher).fingerprint
    message = faults_of(find, teacher, sha256="0" * 64)
    assert message.startswith("teacher: sha256: model.safetensors has hash")


def test_a_folder_that_holds_no_model(tmp_path: Path, copied: Callable[..., Path]) -> None:
    assert "there is no folder /no/such/folder" in faults_of(find, "/no/such/folder")
    assert "holds no readable config.json" in faults_of(find, tmp_path)
    folder = copied()
    (folder / "model.safetensors").unlink()
    assert "holds no weights" in faults_of(find, folder)
    (folder / "config.json").write_text("{")
    assert "holds no readable config.json" in faults_of(find, folder)
    assert "is no path" in faults_of(find, "~nobody-has-this-name/model")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "gpt-none"}, "model type 'gpt-none' is no encoder"),
        ({"model_type": None}, "model type '' is no encoder"),
        ({"is_decoder": True}, "is no encoder"),
        ({"is_encoder_decoder": True}, "is no encoder"),
        (
            {"model_type": "mine", "auto_map": {"AutoModel": "code.Model"}},
            "needs code of its own, which is not executed",
        ),
        ({"num_hidden_layers": None}, "its config.json says no num_hidden_layers"),
        ({"vocab_size": None}, "its config.json says no vocab_size"),
    ],
)
def test_what_is_no_encoder_is_refused(copied: Callable[..., Path], changes: dict[str, Any], words: str) -> None:
    assert words in faults_of(find, copied(**changes))


def test_a_decoder_is_refused(copied: Callable[..., Path]) -> None:
    """GPT-2 classifies text from its last token, and its layers are nothing that a BERT could start from."""
    gpt2 = {"model_type": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 8, "architectures": ["GPT2LMHeadModel"]}
    sizes = {"num_hidden_layers": None, "hidden_size": None, "num_attention_heads": None}
    message = faults_of(find, copied(**gpt2, **sizes))
    assert message.startswith("teacher: model: ")


def test_packages_and_hub_ids_that_are_not_here() -> None:
    message = faults_of(find, "package:no_such_package_at_all/model")
    assert "the package 'no_such_package_at_all' is not installed; pip install no-such-package-at-all" in message
    assert "holds no folder 'no-such-folder'" in faults_of(find, "package:spaces/no-such-folder")
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    message = faults_of(find, "no-such-owner/no-such-model")
    assert "'no-such-owner/no-such-model' is no folder here, and the hub did not give it" in message
    assert "Check the name and the network" in message


def source_with(*labels: str) -> TeacherSource:
    return TeacherSource(Path("/nowhere"), {}, labels, "")


def test_labels_are_matched_to_the_teachers_order() -> None:
    assert match_labels(source_with("neg", "pos"), ["neg", "pos"], TASKS["text-classification"]) == ["neg", "pos"]
    assert match_labels(
        source_with("POSITIVE", "NEGATIVE"), ["negative", "Positive"], TASKS["text-classification"]
    ) == ["Positive", "negative"]
    assert match_labels(source_with("a", "b", "c"), ["c", "a"], TASKS["text-classification"]) == [
        "a",
        "b",
        "c",
    ]  # a class the data lacks
    assert match_labels(source_with("LABEL_0", "LABEL_1"), ["0", "1"], TASKS["text-classification"]) == ["0", "1"]
    assert match_labels(source_with("LABEL_0", "LABEL_1"), ["LABEL_1", "LABEL_0"], TASKS["text-classification"]) == [
        "LABEL_0",
        "LABEL_1",
    ]


@pytest.mark.parametrize(
    ("teacher_labels", "data_labels"),
    [(("neg", "pos"), ["0", "1"]), (("LABEL_0", "LABEL_1"), ["0", "2"]), (("neg", "pos"), ["neg", "neutral"])],
)
def test_labels_that_do_not_match_are_told(teacher_labels: tuple[str, ...], data_labels: list[str]) -> None:
    message = faults_of(match_labels, source_with(*teacher_labels), data_labels, TASKS["text-classification"])
    assert "is not one of the teacher's" in message
    assert "write data.labels" in message


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


def test_labels_are_counted_in_the_teachers_order(
    study_of: Callable[..., StudySpec], copied: Callable[..., Path]
) -> None:
    names = {"0": "Sport", "1": "FOOD", "2": "music"}
    inputs = read_inputs(
        study_of(teacher=str(copied(id2label=names, label2id={v: int(k) for k, v in names.items()}))), quiet
    )
    assert inputs.transfer.label_names == ["sport", "food", "music"]
    expected = [inputs.transfer.label_names.index(row["label"]) for row in tiny.texts(30, 1)]
    assert inputs.transfer.splits["validation"].labels.tolist() == expected


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
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForSequenceClassification

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([row["text"] for row in tiny.texts(40, 0)], trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    named = {
        "bos_token": "<s>",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder)
    names = dict(enumerate(["food", "music", "sport"]))
    config = RobertaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=50, type_vocab_size=1, id2label=names,
        label2id={name: index for index, name in names.items()},
    )  # fmt: skip
    RobertaForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_a_tokenizer_that_cannot_be_cut_keeps_its_vocabulary(
    study_of: Callable[..., StudySpec], tmp_path: Path
) -> None:
    folder = byte_level_teacher(tmp_path / "bpe")

    def read(**space: Any) -> Inputs:
        return read_inputs(study_of(teacher=str(folder), space=space), quiet)

    inputs = read(vocabulary=["used", "full"])
    assert inputs.vocabularies == {"full": 300}
    assert any("is not WordPiece" in note for note in inputs.notes)
    assert inputs.spec.space.vocabularies == ["full"]
    assert inputs.transfer.vocabularies["full"].pad_id == 1
    assert inputs.teacher.max_positions == 48
    assert not any("WordPiece" in note for note in read().notes)
    assert "'used' needs a WordPiece tokenizer" in faults_of(read, vocabulary="used")
