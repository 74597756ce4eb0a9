"""Token classification: which pieces are read, what no loss sees, and a whole trial."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from student_toys import a_shape
from tag_toys import NAMES, lines

from search.study.inputs import read_inputs
from search.study.searcher import trial_config
from search.study.teachers import find_teacher
from search.suggest.sampling import Sampling
from search.trial import device, floor, work
from search.trial.batches import padded
from search.trial.context import WorkerContext
from search.trial.data import Tokens, TransferSet
from search.trial.deliver.formats import Forms, Texts
from search.trial.evaluate import predict
from search.trial.loop import Schedule, fit
from search.trial.losses import distillation_loss
from search.trial.metrics import of_tags
from search.trial.places import NOWHERE, Places
from search.trial.students import build_student
from search.trial.teacher import load_with_head
from spaces.study import StudySpec, TeacherSpec
from spaces.trial import WorkItem, WorkKind
from spaces.yaml_io import parse_study

# which pieces are read


def test_a_word_is_read_at_its_first_piece(tokenizer: Any) -> None:
    texts = ["bread77 with é", " ".join(["soup", "\u200d", "", "tennis!", "apple"])]
    tokens = Tokens.encode(tokenizer, texts, None, 32, "token")
    pieces = tokenizer.convert_ids_to_tokens(tokens.ids.tolist())
    first, second = pieces[: tokens.offsets[1]], pieces[tokens.offsets[1] :]
    assert first == ["[CLS]", "bread", "##7", "##7", "with", "e", "[SEP]"]
    assert second == ["[CLS]", "soup", "tennis", "!", "apple", "[SEP]"]
    assert tokens.places is not None
    assert tokens.places.offsets.tolist() == [0, 3, 8]
    assert tokens.places.at.tolist() == [1, 4, 5, 1, NOWHERE, NOWHERE, 2, 4]  # no piece at all: no place
    assert tokens.num_outputs == 8
    assert tokens.num_read(np.array([1])) == 3


def test_words_that_are_cut_off_have_no_place(tokenizer: Any) -> None:
    tokens = Tokens.encode(tokenizer, ["bread soup77 apple rice"], None, 5, "token")
    assert tokenizer.convert_ids_to_tokens(tokens.ids.tolist()) == ["[CLS]", "bread", "soup", "##7", "[SEP]"]
    assert tokens.places is not None
    assert tokens.places.at.tolist() == [1, 2, NOWHERE, NOWHERE]  # the second is read: its first piece is there


def test_a_batch_reads_what_the_rows_have(tokenizer: Any) -> None:
    tokens = Tokens.encode(tokenizer, ["soup", "bread77 with ball", "a coach"], None, 32, "token")
    batch = padded(tokens, np.array([2, 1]), 0)
    num_tokens = batch.ids_BT.shape[1]
    outputs_BTC = torch.arange(2 * num_tokens).reshape(2, num_tokens, 1)
    assert batch.numbers.tolist() == [4, 5, 1, 2, 3]
    assert batch.read(outputs_BTC)[:, 0].tolist() == [1, 2, *(num_tokens + at for at in (1, 4, 5))]
    taken = tokens.taken(np.array([2, 1]))
    assert taken.places is not None
    assert taken.places.at.tolist() == [1, 2, 1, 4, 5]
    joined = Tokens.joined(tokens.first(1), taken)
    assert joined.places is not None
    assert joined.places.offsets.tolist() == [0, 1, 3, 6]
    assert joined.numbers(np.array([2, 0])).tolist() == [3, 4, 5, 0]


def test_a_smaller_vocabulary_moves_places_and_no_labels(tagging: Callable[..., StudySpec]) -> None:
    transfer = read_inputs(tagging(), lambda text: None).transfer
    assert set(transfer.vocabularies) == {"full", "used", "100"}
    for split in transfer.splits.values():
        full, small = (split.tokens[name] for name in ("full", "100"))
        assert len(small.ids) > len(full.ids)
        assert full.places is not None
        assert small.places is not None
        assert small.places.offsets.tolist() == full.places.offsets.tolist()
        assert len(split.labels) == small.num_outputs == full.num_outputs
        ids = small.ids[
            (small.offsets[:-1].repeat(np.diff(small.places.offsets)) + small.places.at)[small.places.at >= 0]
        ]
        kept = transfer.vocabularies["100"].kept
        pieces = [tiny.vocabulary()[kept[index]] for index in ids]
        assert not any(piece.startswith(("##", "[CLS]", "[SEP]")) for piece in pieces)


def test_what_the_teacher_does_not_read_no_student_does(tagging: Callable[..., StudySpec]) -> None:
    """A word that a smaller vocabulary makes one unknown piece of may be in reach where the teacher's pieces have run out."""
    rows = tiny.tagged(40, 0)
    rows[0] = {"tokens": ["bread777777777", "soup", "ball"], "tags": ["B-food", "I-food", "B-sport"]}
    inputs = read_inputs(tagging({"train.jsonl": lines(rows)}, data={"max_length": 8}), lambda text: None)
    train = inputs.transfer.splits["train"]
    for tokens in train.tokens.values():
        assert tokens.places is not None
        assert tokens.places.at[:3].tolist() == [1, NOWHERE, NOWHERE]
    assert any("words have no piece within max_length" in note for note in inputs.notes)


def test_a_byte_level_tokenizer_takes_words_with_their_blank(tmp_path: Path, tagging: Callable[..., StudySpec]) -> None:
    from transformers import AutoTokenizer, RobertaConfig, RobertaModel

    rows = tiny.tagged(200, 0)
    tokenizer = tiny.write_byte_level_tokenizer(tmp_path / "roberta", [" ".join(row["tokens"]) for row in rows])
    common: dict[str, Any] = {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "intermediate_size": 64,
    }
    config = RobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=66, pad_token_id=1, **common)
    RobertaModel(config).save_pretrained(tmp_path / "roberta")
    spec = tagging(teacher=str(tmp_path / "roberta"), space={"depth": [1, 2], "vocabulary": "full"})
    transfer = read_inputs(spec, lambda text: None).transfer
    tokens, words = transfer.splits["train"].tokens["full"], tiny.tagged(240, 0)[0]["tokens"]
    plain = AutoTokenizer.from_pretrained(tmp_path / "roberta")(" " + " ".join(words))["input_ids"]
    assert tokens.ids[: tokens.offsets[1]].tolist() == plain  # as the words stand in running text
    (tmp_path / "delivered").mkdir()
    for name, content in transfer.vocabularies["full"].files.items():
        (tmp_path / "delivered" / name).write_bytes(content)
    again = Tokens.encode(AutoTokenizer.from_pretrained(tmp_path / "delivered"), [" ".join(words)], None, 32, "token")
    assert again.ids.tolist() == plain


# what no loss sees


def a_batch(tokenizer: Any) -> Any:
    tokens = Tokens.encode(tokenizer, ["bread77 with soup", "ball"], None, 32, "token")
    return padded(tokens, np.array([0, 1]), 0)


@pytest.mark.parametrize("soft_share", [0.0, 0.5, 1.0])
def test_other_pieces_special_tokens_and_padding_get_no_gradient(tokenizer: Any, soft_share: float) -> None:
    batch = a_batch(tokenizer)
    outputs_BTC = torch.randn(2, batch.ids_BT.shape[1], 3, requires_grad=True)
    loss = distillation_loss(
        batch.read(outputs_BTC), torch.randn(4, 3), torch.tensor([1, 0, 2, 1]), temperature=2.0, soft_share=soft_share,
        target="tags", num_valid=4, num_labelled=4,
    )  # fmt: skip
    loss.backward()
    assert outputs_BTC.grad is not None
    assert outputs_BTC.grad.any(-1).nonzero().tolist() == [[0, 1], [0, 4], [0, 5], [1, 1]]


def trained(tokens: Tokens, labels: np.ndarray, logits: np.ndarray | None, **changes: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    student = build_student(
        a_shape(task_head="token", depth=1, num_hidden_groups=1, num_labels=len(NAMES)), label_names=NAMES, dropout=0.0
    )
    settings = {"learning_rate": 1e-3, "batch_size": 8, "warmup_share": 0.0, "epochs": 2, "soft_share": 0.5}
    more = {name: changes.pop(name) for name in ("accumulation_steps", "num_labelled") if name in changes}
    schedule = Schedule(**{**settings, **changes})  # type: ignore[arg-type]
    fit(student, tokens, labels, logits, schedule, pad_id=0, seed=0, context=WorkerContext(), target="tags", **more)
    return {name: tensor.detach().cpu() for name, tensor in student.state_dict().items()}


@pytest.fixture(scope="module")
def with_ignored(tagged_folder: Path, base_teacher: Path) -> TransferSet:
    """Of each text the second word and the last have the tag that says: not this one."""
    rows = [json.loads(line) for line in (tagged_folder / "train.jsonl").read_text().splitlines()][:48]
    for row in rows:
        row["tags"][1] = row["tags"][-1] = None
    (tagged_folder / "ignored.jsonl").write_text(lines(rows))
    plain = {
        "name": "ignored", "task": "token-classification", "teacher": str(base_teacher), "output": "run", "tracking": "none",
        "data": {"train": str(tagged_folder / "ignored.jsonl"), "validation": str(tagged_folder / "validation.jsonl"),
                 "test": str(tagged_folder / "test.jsonl"), "max_length": 32},
        "space": {"depth": [1, 3]}, "cache": str(tagged_folder / "cache"),
    }  # fmt: skip
    return read_inputs(parse_study(plain, "study.yaml", tagged_folder), lambda text: None).transfer


def test_an_ignored_label_gates_every_loss(with_ignored: TransferSet) -> None:
    """Whatever the labels and the teacher say of ignored words, a student trains the same, to the bit."""
    train = with_ignored.splits["train"]
    tokens, labels = train.tokens["full"], train.labels
    ignored = labels == -100
    assert ignored.sum() == 2 * 48
    logits = np.random.default_rng(0).normal(size=(len(labels), len(NAMES))).astype(np.float32)
    wrong_logits, wrong_labels = logits.copy(), labels.copy()
    wrong_logits[ignored], wrong_labels[ignored] = np.nan, 3
    expected = trained(tokens, labels, logits)
    for name, found in trained(tokens, wrong_labels, wrong_logits).items():
        assert torch.equal(found, expected[name]), name
    wrong_logits[np.flatnonzero(~ignored)[0], 0] += 1  # one that does count
    assert not all(torch.equal(found, expected[n]) for n, found in trained(tokens, labels, wrong_logits).items())


def test_a_batch_in_parts_is_the_same_batch(with_ignored: TransferSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses divide by the places of the whole batch, not by those of a part: so workers and parts add up to one."""
    monkeypatch.setattr(device, "bf16_pays", lambda kind: False)  # which rounds them apart
    train = with_ignored.splits["train"]
    logits = np.random.default_rng(0).normal(size=(len(train.labels), len(NAMES))).astype(np.float32)
    one, parts = (trained(train.tokens["full"], train.labels, logits, accumulation_steps=n) for n in (1, 3))
    for name, tensor in one.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-3, atol=1e-5, msg=name)


def test_a_batch_without_a_valid_place_teaches_nothing(tokenizer: Any) -> None:
    tokens = Tokens.encode(tokenizer, ["bread soup", "ball"], None, 32, "token")
    assert tokens.places is not None
    nowhere = Tokens(tokens.ids, tokens.offsets, tokens.second, tokens.places.without(np.ones(3, bool)))
    logits = np.ones((3, len(NAMES)), np.float32)
    found = trained(nowhere, np.full(3, -100, np.int32), logits, weight_decay=0.0)
    for name, tensor in trained(nowhere, np.full(3, -100, np.int32), logits, learning_rate=0.0).items():
        assert torch.equal(found[name], tensor), name


def test_texts_without_tags_are_learned_from_the_teacher_alone(tagging: Callable[..., StudySpec]) -> None:
    more = "".join(" ".join(row["tokens"]) + "\n" for row in tiny.tagged(30, 7))
    transfer = read_inputs(tagging({"unlabelled.txt": more}), lambda text: None).transfer
    split = transfer.splits["unlabelled"]
    assert len(split) == 30
    assert split.tokens["full"].num_read(np.arange(30)) == len(split.labels)
    assert set(split.labels.tolist()) == {-100}
    joined = transfer.joined()
    assert joined.num_labelled == 240
    assert joined.labelled().splits["train"].labels.tolist() == transfer.splits["train"].labels.tolist()
    tokens, labels, _, num_labelled = joined.training("full", taught=True)
    logits = np.random.default_rng(0).normal(size=(len(labels), len(NAMES))).astype(np.float32)
    hard = trained(tokens, labels, logits, soft_share=0.0, num_labelled=num_labelled, epochs=0.5)
    assert all(tensor.isfinite().all() for tensor in hard.values())


# entities as conlleval counts them

# a whole trial


@pytest.fixture(scope="module")
def teacher_of_tags(tagged_folder: Path, base_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny teacher, fine-tuned as a lane does it."""
    folder = tmp_path_factory.mktemp("taught")
    plain = {
        "name": "t", "task": "token-classification", "teacher": str(base_teacher), "output": "run", "tracking": "none",
        "data": {name: str(tagged_folder / f"{name}.jsonl") for name in ("train", "validation", "test")} | {"max_length": 32},
        "space": {"depth": [1, 3]}, "cache": str(folder / "cache"),
    }  # fmt: skip
    inputs = read_inputs(parse_study(plain, "study.yaml", folder), lambda text: None)
    assert inputs.fine_tunes
    settings = {"epochs": 16, "learning_rate": 1e-2, "batch_size": 16}
    payload: dict[str, Any] = {"base": str(base_teacher), "settings": settings, "seed": 0}
    item = WorkItem(key="f", kind=WorkKind.FINE_TUNE, folder=str(folder / "teacher"), payload=payload)
    _, told = work.perform(item, WorkerContext(data={"transfer": inputs.transfer}))
    metrics, _ = floor.n_grams(inputs.transfer, WorkerContext())
    assert told["metrics"]["validation/entity_f1"] > metrics["validation/entity_f1"] + 0.2  # 0.88 and 0.43
    return folder / "teacher"


@pytest.mark.parametrize(
    "changes",
    [
        {"family": "bert", "hidden_size": "50%", "hidden_share": 0.3, "vocabulary": 100},
        {"family": "albert", "embedding_size": 16, "num_hidden_groups": 1, "group_start": "best"},
        pytest.param({"family": "distilbert", "depth": 3}, marks=pytest.mark.slow),
        pytest.param({"family": "squeezebert", "depth": 3, "num_conv_groups": 1}, marks=pytest.mark.slow),
    ],
)
def test_a_whole_trial(
    changes: dict[str, Any], tagging: Callable[..., StudySpec], teacher_of_tags: Path, tmp_path: Path
) -> None:
    space = {"depth": 2, "batch_size": 16, "vocabulary": "used", "layers": "even-with-last", **changes}
    spec = tagging(teacher=str(teacher_of_tags), space={name: [value] for name, value in space.items()})
    inputs = read_inputs(spec, lambda text: None)
    assert not inputs.fine_tunes  # it has a head for tokens
    assert inputs.transfer.label_names == NAMES
    alone = WorkerContext(data={"transfer": inputs.transfer})
    logits = {}
    for name, split in inputs.transfer.splits.items():
        rows = np.random.default_rng(0).permutation(len(split))
        item = WorkItem(
            key="t", kind=WorkKind.TEACH, payload={"teacher": str(teacher_of_tags), "split": name, "rows": rows}
        )
        _, told = work.perform(item, alone)
        assert told["forward_rows"] == len(rows)
        logits[name] = np.full((len(split.labels), len(NAMES)), np.nan, np.float32)
        logits[name][split.tokens["full"].numbers(rows)] = told["logits"]
    assert inputs.transfer.measure("test", logits["test"])["entity_f1"] > 0.7
    if "50%" in changes.values():
        item = WorkItem(
            key="r", kind=WorkKind.RANK, folder=str(teacher_of_tags), payload={"teacher": str(teacher_of_tags)}
        )
        work.perform(item, alone)
    students = WorkerContext(data={"transfer": inputs.transfer.with_teacher_logits(logits)})
    parameters, shape = Sampling(spec, inputs.teacher, inputs.vocabularies, {}).suggest([], 0)
    assert shape.task_head == "token"
    whole = {"soft_share": 0.5, "epochs": 10, "learning_rate": 1e-2}
    config = trial_config(spec, parameters, shape, inputs.teacher.depth, 0).model_copy(update=whole)
    item = WorkItem(
        key="s", kind=WorkKind.TRAIN, trial=0, config=config, folder=str(tmp_path / "kept"),
        payload={"teacher": str(teacher_of_tags), "exact": True}, evaluate=("validation", "test"),
    )  # fmt: skip
    measurement, _ = work.perform(item, students)
    assert measurement is not None
    assert measurement.metrics["test/entity_f1"] > 0.3

    payload = {"teacher": str(teacher_of_tags), "weights": str(tmp_path / "kept" / "attempt-1")}
    item = WorkItem(
        key="d", kind=WorkKind.DELIVER, trial=0, config=config, folder=str(tmp_path / "out"), payload=payload
    )
    _, delivered = work.perform(item, students)
    assert delivered["metrics"]["test/entity_f1"] == pytest.approx(measurement.metrics["test/entity_f1"])
    assert delivered["num_parameters"] == shape.num_parameters
    assert delivered["num_bytes"] == shape.num_bytes

    from transformers import AutoTokenizer, pipeline

    words = "the bread soup here with ball"
    found = pipeline("token-classification", model=str(tmp_path / "out"), ignore_labels=[])(words)
    tokens = Tokens.encode(AutoTokenizer.from_pretrained(tmp_path / "out"), [words], None, 32, "token")
    said = predict(load_with_head(tmp_path / "out"), tokens, 0, WorkerContext(), exact=True).argmax(-1)
    assert tokens.places is not None
    by_piece = {entity["index"]: entity["entity"] for entity in found}
    assert [by_piece[piece] for piece in tokens.places.at] == [NAMES[number] for number in said]

    split = inputs.transfer.splits["test"]
    assert split.texts is not None
    forms = Forms(
        tmp_path / "out", {"test": Texts(split.texts, split.labels, "token")},
        lambda outputs, labels, offsets: of_tags(outputs, labels, NAMES, offsets), "tags", 32,
    )  # fmt: skip
    check = forms.write("onnx", tmp_path / "onnx").check
    assert check is not None
    assert check.share_equal["test"] == 1
    assert check.largest_difference["test"] < 1e-3
    assert check.metrics["test/entity_f1"] == pytest.approx(measurement.metrics["test/entity_f1"])


def test_the_teacher_with_its_vocabulary_cut(tagging: Callable[..., StudySpec], teacher_of_tags: Path) -> None:
    """Its copy says what it says: the words of these texts are all known, and nothing else was cut."""
    inputs = read_inputs(tagging(teacher=str(teacher_of_tags)), lambda text: None)
    shape = a_shape(
        task_head="token", vocabulary_size=inputs.vocabularies["used"], num_labels=len(NAMES), max_positions=48
    )
    alone = WorkerContext()
    found = floor.cut_teacher(str(teacher_of_tags), shape, inputs.transfer, "used", alone)
    teacher, split = load_with_head(teacher_of_tags), inputs.transfer.splits["test"]
    expected = inputs.transfer.measure("test", predict(teacher, split.tokens["full"], 0, alone))
    assert found is not None
    assert found["test/entity_f1"] == pytest.approx(expected["entity_f1"], abs=0.02)


def test_a_head_for_texts_is_none_for_tokens(teacher: Path) -> None:
    assert find_teacher(TeacherSpec(model=str(teacher))).labels == ("food", "music", "sport")
    assert find_teacher(TeacherSpec(model=str(teacher)), "token").labels is None


def test_a_head_of_ones_own(tmp_path: Path, registries: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Called as it is for texts, it returns an output for each token."""
    from search.trial.deliver.huggingface import write_code
    from spaces.heads import register_heads

    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    (tmp_path / "own.py").write_text(
        "import torch\n\n\nclass Plain(torch.nn.Module):\n    @staticmethod\n    def tensors(shape):\n"
        "        return {'out.weight': (shape.num_labels, shape.hidden_size), 'out.bias': (shape.num_labels,)}\n\n"
        "    def __init__(self, config):\n        super().__init__()\n"
        "        self.out = torch.nn.Linear(config.hidden_size, config.num_labels)\n\n"
        "    def forward(self, hidden, mask):\n        return self.out(hidden)\n"
    )
    assert register_heads({"plain": f"{tmp_path}/own.py:Plain"}) == []
    shape = a_shape(task_head="token", head="plain")
    student = build_student(shape, label_names=["O", "B-x", "I-x"])
    assert shape.num_parameters == sum(parameter.numel() for parameter in student.parameters())
    (tmp_path / "out").mkdir()
    write_code(student, tmp_path / "out", "token")
    student.save_pretrained(tmp_path / "out")
    again = load_with_head(tmp_path / "out", own_code=True)
    assert again(torch.ones(2, 5, dtype=torch.int64)).logits.shape == (2, 5, 3)


def test_places_by_hand() -> None:
    places = Places.of_words([[None, 0, 0, 2, None], [None, 1, None]], [3, 2])
    assert places.at.tolist() == [1, NOWHERE, 3, NOWHERE, 1]
    assert places.numbers(np.array([1, 0, 1])).tolist() == [3, 4, 0, 1, 2, 3, 4]


@pytest.mark.ray
@pytest.mark.slow
def test_a_whole_study(told: Callable[..., str], tmp_path: Path) -> None:
    """From the files to the report, on a lane: plan, run, front, analyse, report, export."""
    plain = tiny.study(
        tmp_path,
        task="token-classification",
        data={**tiny.write_tagged(tmp_path / "tagged"), "max_length": 32},
        training={"epochs": 4},
        budget={"trials": 3},
        resources={"lanes": 1},
    )
    plain["teacher"]["fine_tune"] |= {"epochs": 16, "learning_rate": 1e-2}
    path, output = tmp_path / "study.yaml", tmp_path / "run"
    path.write_text(json.dumps(plain))
    assert "time, about" in told("plan", path)
    told("run", path)
    assert load_with_head(output / "teacher").__class__.__name__ == "BertForTokenClassification"
    best = next(folder for folder in sorted((output / "best").iterdir()) if folder.is_dir())
    card = (best / "README.md").read_text()
    for words in ("pipeline_tag: token-classification", "entity F1", 'pipeline("token-classification"', "`B-food`"):
        assert words in card
    assert "tag of each word" in told("front", output)
    for command in ("report", "analyse"):
        told(command, output)
    assert "100.00 % of predictions as in PyTorch" in told("export", output, "--format", "onnx,onnx-int8")
