"""Text without labels: made up, read from files, and what it does to a trial."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from search.study import augment
from search.study.augment import missing_parts
from search.study.inputs import read_inputs
from search.study.texts import read_texts
from search.trial import losses
from search.trial.augment import Draft, Made, MaskedWords, NearWords, make_up, near_words, replacing
from search.trial.context import WorkerContext
from search.trial.data import Tokens
from search.trial.loop import Schedule, fit
from search.trial.teacher import teach
from search.trial.vocabulary import load_tokenizer
from spaces.errors import InputError, TrialError
from spaces.study import AugmentationSpec, StudySpec


def test_near_words_by_hand(tokenizer: Any) -> None:
    """bread and soup point one way, ball and team another; `the` stands between."""
    table = np.zeros((len(tokenizer), 2), np.float32)
    for word, vector in {"bread": (1, 0), "soup": (2, 0.2), "ball": (0, 1), "team": (0.1, 3), "the": (1, 1)}.items():
        table[tokenizer.convert_tokens_to_ids(word)] = vector
    near = near_words(["bread soup the ball", "team unheardof Soup soup 12"], tokenizer, table, neighbours=2)
    assert near["bread"] == ["soup", "the"]
    assert near["ball"] == ["team", "the"]
    assert near["Soup"] == near["soup"] == ["bread", "the"]
    assert near.keys() == {"bread", "soup", "Soup", "the", "ball", "team"}  # no word of several pieces, no number


NEAR = {"good": ["fine", "great"], "film": ["movie"]}
TRAIN = [f"a good film number {i}" for i in range(30)]


def made(
    kinds: tuple[str, ...], copies: int = 6, pairs: list[str] | None = None, texts: list[str] = TRAIN
) -> list[Made]:
    spec = AugmentationSpec(copies=copies, kinds=kinds, replace_share=0.5)  # type: ignore[arg-type]
    return make_up(texts, pairs, range(len(texts)), spec, 1, NearWords(NEAR), WorkerContext())


def test_replaced_words_are_near_ones() -> None:
    found = [text for text, _ in made(("replace",))]
    assert len(found) == 6 * len(TRAIN)
    for text in found:
        a, good, film, *rest = text.split()
        assert a == "a"
        assert good in ("good", "fine", "great")
        assert film in ("film", "movie")
        assert rest[0] == "number"
    assert {text.split()[1] for text in found} == {"good", "fine", "great"}  # all of them, and some keep theirs


def test_spans_and_joined_texts() -> None:
    originals = [text.split() for text in TRAIN]
    for text, _ in made(("join",), copies=1):
        words = text.split()
        assert words[:5] in originals
        assert words[5:] in originals
    lengths = {len(text.split()) for text, _ in made(("span",))}
    assert lengths == {2, 3, 4, 5}  # a quarter of five words, rounded up, to all of them


def test_pairs_stay_pairs() -> None:
    texts, pairs = [f"good film {i}" for i in range(20)], [f"a film {i}" for i in range(20)]
    found = made(("replace", "join"), pairs=pairs, texts=texts)
    assert [pair.split()[-1] for _, pair in found] == [str(i) for i in range(20) for _ in range(6)]
    assert all(len(text.split()) == 3 for text, _ in found)  # nothing was joined


def test_what_is_made_of_a_row_depends_on_the_row_alone() -> None:
    kinds = ("replace", "span")
    whole, spec = made(kinds), AugmentationSpec(copies=6, kinds=kinds, replace_share=0.5)
    assert whole == made(kinds)
    part = make_up(TRAIN, None, range(10, 13), spec, 1, NearWords(NEAR), WorkerContext())
    assert part == whole[60:78]


@pytest.fixture(scope="module")
def masked_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with a masked-LM head that holds `soup`, `bread` and `##ing` likeliest everywhere, in this order of the words."""
    from transformers import AutoModel, BertForMaskedLM

    folder = tiny.write_teacher(tmp_path_factory.mktemp("masked") / "teacher")
    model = BertForMaskedLM(AutoModel.from_pretrained(folder).config)
    pieces = tiny.vocabulary()
    with torch.no_grad():
        for word, bias in {"##ing": 300.0, "[SEP]": 250.0, "soup": 200.0, "bread": 100.0}.items():
            model.cls.predictions.bias[pieces.index(word)] = bias
    model.save_pretrained(folder)
    return folder


def masked(folder: Path, candidates: int) -> MaskedWords:
    found = replacing(str(folder), "masked-lm", candidates, 32, ())
    assert isinstance(found, MaskedWords)
    return found


def test_masked_words_become_what_the_model_holds_likeliest(masked_lm: Path) -> None:
    words = masked(masked_lm, candidates=2)
    seen: list[torch.Tensor] = []
    handle = words._model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
    )
    sides = [["the", "unheardof", "ball", "soup"], ["team", "42", "bread"]]
    draws = [np.array([0.1, 0.1, 0.4, 0.1]), np.array([0.9, 0.1, 0.3])]
    drafts = [Draft([list(side) for side in sides], draws), Draft([["a", "team"], ["a"]], [np.ones(2), np.ones(1)])]
    words(drafts, 0.5, WorkerContext())
    handle.remove()
    # a draw below 0.25 takes the likeliest word, one from there to 0.5 the second; no word is its own candidate
    assert drafts[0].sides[0][:3] == ["soup", "unheardof", "bread"]
    assert drafts[0].sides[0][3] == "bread"
    assert drafts[0].sides[1][:2] == ["team", "42"]
    assert drafts[0].sides[1][2] not in ("bread", "soup")  # its second candidate, beside soup, is some other word
    assert drafts[1].text == ("a team", "a")  # nothing of it was drawn
    (ids,) = seen
    assert int((ids == words._tokenizer.mask_token_id).sum()) == 4


def test_masked_words_of_a_byte_level_tokenizer(tmp_path: Path) -> None:
    from transformers import RobertaConfig, RobertaForMaskedLM

    lines = 9 * ["good film here", "bad film there", "good song here"]
    tokenizer = tiny.write_byte_level_tokenizer(tmp_path, lines)
    model = RobertaForMaskedLM(RobertaConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=16, max_position_embeddings=40))  # fmt: skip
    piece = tokenizer(" song", add_special_tokens=False)["input_ids"]
    assert len(piece) == 1
    with torch.no_grad():
        model.lm_head.bias[piece[0]] = 200.0
    model.save_pretrained(tmp_path)
    words = masked(tmp_path, candidates=1)
    draft = Draft([["good", "film", "here"]], [np.array([0.9, 0.1, 0.1])])
    words([draft], 0.5, WorkerContext())
    assert draft.sides == [["good", "song", "song"]]


def test_a_head_that_is_not_there_is_told(base_teacher: Path, study_of: Callable[..., StudySpec]) -> None:
    with pytest.raises(TrialError, match="no weights of a masked-LM head"):
        masked(base_teacher, 2)
    data = {**tiny.study(base_teacher.parent)["data"], "augmentation": {"copies": 1, "words": "masked-lm"}}
    with pytest.raises(InputError, match="names BertModel; write embeddings"):
        read_inputs(study_of(data=data, teacher=str(base_teacher)), lambda text: None)


def test_a_study_with_more_text(
    study_of: Callable[..., StudySpec], teacher: Path, masked_lm: Path, tmp_path: Path, data_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(augment, "PART_ROWS", 50)
    lines = [row["text"] for row in tiny.texts(25, seed=9)]
    (tmp_path / "more.txt").write_text("\n".join([*lines, "", lines[0].replace(" ", "  ")]) + "\n")
    files = {name: str(data_folder / f"{name}.tsv") for name in ("train", "validation", "test")}
    data = {**files, "max_length": 32, "unlabelled": str(tmp_path / "more.txt"), "augmentation": {"copies": 2}}
    inputs = tiny.made_up(read_inputs(study_of(data=data), lambda text: None))
    transfer = inputs.transfer
    more = transfer.splits["unlabelled"]
    num_train = len(transfer.splits["train"].labels)
    assert 26 + num_train < len(more.labels) <= 26 + 2 * num_train
    assert set(more.labels.tolist()) == {-100}
    assert missing_parts(inputs) == []  # the next study of the kind finds them
    other = study_of(data={**data, "augmentation": {"copies": 2, "words": "masked-lm"}}, teacher=str(masked_lm))
    assert len(missing_parts(read_inputs(other, lambda text: None))) == 3
    known = {key for split in inputs.texts.splits.values() for key in split.keys}
    tokenizer = load_tokenizer(transfer.vocabularies["full"])
    rows = [more.tokens["full"].taken(np.array([row])).ids for row in range(26, len(more.labels))]
    decoded = [tokenizer.decode(ids, skip_special_tokens=True) for ids in rows]
    assert not set(decoded) & {text for text, _ in known}
    prints = {
        read_inputs(study_of(data={**data, "augmentation": entry}), lambda text: None).transfer.fingerprint
        for entry in ("none", {"copies": 2}, {"copies": 3})
    }
    assert len(prints) == 3

    logits = {
        name: teach(str(teacher), split, np.arange(len(split.labels)), 0, WorkerContext())
        for name, split in transfer.splits.items()
    }
    whole = transfer.with_teacher_logits(logits)
    tokens, labels, outputs, num_labelled = whole.training("used", taught=True)
    assert len(tokens) == len(labels) == len(outputs) == num_train + len(more.labels)  # type: ignore[arg-type]
    assert num_labelled == num_train
    first = tokens.taken(np.array([num_train]))
    assert first.ids.tolist() == more.tokens["used"].taken(np.array([0])).ids.tolist()
    alone = whole.training("used", taught=False)
    assert len(alone[0]) == num_train  # text without labels teaches nothing to who learns from labels
    together = whole.joined()  # as the lanes get it
    assert set(together.splits) == {"train", "validation", "test"}
    assert together.training("used", taught=True)[0] is together.splits["train"].tokens["used"]
    for taught in (True, False):
        expected, found = whole.training("used", taught), together.training("used", taught)
        assert found[3] == expected[3] == num_train
        for theirs, ours in zip(
            (found[0].ids, found[0].offsets, *found[1:3]),
            (expected[0].ids, expected[0].offsets, *expected[1:3]),
            strict=True,
        ):
            assert np.array_equal(theirs, ours)


def test_pairs_are_not_joined(study_of: Callable[..., StudySpec], tmp_path: Path) -> None:
    rows = [{**row, "text_pair": "a b"} for row in tiny.texts(60, 0)]
    data = {
        "train": str(tiny.write_tsv(tmp_path / "train.tsv", rows)),
        "augmentation": {"copies": 1, "kinds": ["join"]},
    }
    with pytest.raises(InputError, match="join is not for pairs"):
        read_inputs(study_of(data=data), lambda text: None)


def test_an_epoch_is_as_long_as_the_labelled_text(transfer: Any, teacher: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    tokens, labels, outputs, count = transfer.training("full", taught=True)
    twice = Tokens.joined(tokens, tokens)
    both = np.concatenate([labels, np.full(count, -100, labels.dtype)]), np.concatenate([outputs, outputs])
    schedule = Schedule(learning_rate=1e-5, batch_size=16, warmup_share=0.0, epochs=2, soft_share=0.5)
    model = AutoModelForSequenceClassification.from_pretrained(teacher)  # its own: load_teacher's is every test's
    done = fit(model, twice, *both, schedule, pad_id=0, seed=0, context=WorkerContext(), num_labelled=count)
    assert done.total_steps == done.step == schedule.total_steps(count) == 2 * -(-count // 16)


def test_rows_without_labels_count_in_the_soft_loss_alone() -> None:
    student, teacher = torch.randn(4, 3), torch.randn(4, 3)
    labels = torch.tensor([1, -100, 2, -100])
    found = losses.distillation_loss(
        student, teacher, labels, temperature=2.0, soft_share=0.25, num_valid=4, num_labelled=2
    )
    soft, hard = losses.soft_loss(student, teacher, 2.0), losses.hard_loss(student[[0, 2]], labels[[0, 2]])
    assert found.item() == pytest.approx((0.25 * soft + 0.75 * hard).item())
    table = torch.tensor([[1.0, 0.0], [float("nan")] * 2])
    assert losses.hard_labels_loss(student[:2, :2], table).item() == pytest.approx(
        losses.hard_labels_loss(student[:1, :2], table[:1]).item()
    )
    numbers = torch.tensor([1.0, float("nan")])
    assert losses.hard_number_loss(student[:2, :1], numbers).item() == pytest.approx(
        (student[0, 0] - 1).square().item()
    )


def test_shared_texts_are_counted_and_dropped_on_request(study_of: Callable[..., StudySpec], tmp_path: Path) -> None:
    rows = {name: tiny.texts(30, seed) for seed, name in enumerate(("train", "validation", "test"))}
    rows["train"] += rows["test"][:4] + rows["validation"][:1]
    data = {name: str(tiny.write_tsv(tmp_path / f"{name}.tsv", split)) for name, split in rows.items()}
    texts = read_texts(study_of(data=data))
    assert any("train shares 5 texts with validation or test; write data.drop_shared: true" in n for n in texts.notes)
    assert len(texts.splits["train"]) == 35
    dropped = read_texts(study_of(data={**data, "drop_shared": True}))
    assert len(dropped.splits["train"]) == len(dropped.splits["train"].labels) == 30


def test_unlabelled_text_must_look_like_the_training_text(study_of: Callable[..., StudySpec], tmp_path: Path) -> None:
    train = tiny.write_tsv(tmp_path / "train.tsv", tiny.texts(60, 0))
    rows = [{"text": "a b", "text_pair": "c d"}]
    data = {"train": str(train), "unlabelled": str(tiny.write_tsv(tmp_path / "more.tsv", rows))}
    with pytest.raises(InputError, match="one text a row where train has two"):
        read_texts(study_of(data=data))
