"""Narrower students: what is ranked, what is kept, and that a whole trial starts from it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from student_toys import LABELS, a_shape, other_teacher

from search.study.inputs import read_inputs
from search.study.prepare import IMPORTANCE_FILE, _ask_for_importance, _kept_ranking
from search.trial import work
from search.trial.batches import padded
from search.trial.context import WorkerContext
from search.trial.data import Vocabulary
from search.trial.forward import Classifier
from search.trial.start.importance import Importance, channels_of, most_important, rank
from search.trial.start.initialise import initialise, unshared
from search.trial.start.narrow import narrowed
from search.trial.students import build_student
from search.trial.teacher import load_teacher
from spaces.architecture import InvalidStudent
from spaces.space import SearchSpace, parse_space
from spaces.study import StudySpec
from spaces.trial import TrialConfig, WorkItem, WorkKind
from spaces.yaml_io import write_whole


def test_what_is_kept_by_hand() -> None:
    assert most_important(np.array([1.0, 5.0, 2.0, 5.0]), 2).tolist() == [1, 3]
    heads = np.array([0.1, 3.0, 2.0])
    assert channels_of(heads, 2, 4).tolist() == [2, 3, 4, 5]
    assert channels_of(heads, 2, 3).tolist() == [2, 3, 4]  # of the second best head the first channel alone
    assert channels_of(heads, 2, 6).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.fixture(scope="module")
def model(teacher: Path) -> Any:
    return load_teacher(str(teacher))


@pytest.fixture(scope="module")
def ranked(model: Any, transfer: Any) -> Importance:
    train = transfer.splits["train"]
    return rank(model, train.tokens["full"], train.labels, "class", 0, WorkerContext())


def test_what_changes_nothing_matters_nothing(model: Any, transfer: Any, ranked: Importance) -> None:
    """A head whose output is multiplied by zero, and a neuron alike, come last; the ranking leaves the model as it was."""
    assert (ranked.heads.shape, ranked.neurons.shape, ranked.hidden.shape) == ((3, 4), (3, 64), (32,))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert (ranked.heads > 0).all()
    layer = model.bert.encoder.layer[1]
    try:
        with torch.no_grad():
            layer.attention.output.dense.weight[:, 8:16] = 0  # head 1 of four
            layer.output.dense.weight[:, 5] = 0
            model.classifier.weight[:, 7] = 0
        train = transfer.splits["train"]
        found = rank(model, train.tokens["full"], train.labels, "class", 0, WorkerContext())
        assert found.heads[1].argmin() == 1
        assert found.heads[1, 1] == found.neurons[1, 5] == found.pooled[7] == 0
    finally:
        model.load_state_dict(before)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.training


def test_taylor_by_taking_a_head_away(model: Any, transfer: Any, ranked: Importance) -> None:
    """First order: a head whose output shrinks by a thousandth changes the loss by a thousandth of what is ranked."""
    train = transfer.splits["train"]
    one = train.tokens["full"].taken(np.array([3]))
    label = torch.tensor([int(train.labels[3])])
    found = rank(model, one, train.labels[3:4], "class", 0, WorkerContext()).heads[2, 1]
    batch, forward = padded(one, np.array([0]), 0), Classifier(model)
    weight = model.bert.encoder.layer[2].attention.output.dense.weight

    def loss() -> float:
        with torch.no_grad():
            outputs = forward(batch.ids_BT, batch.mask_BT, batch.types_BT).double()
        return float(torch.nn.functional.cross_entropy(outputs, label))

    before, kept = loss(), weight.detach().clone()
    try:
        with torch.no_grad():
            weight[:, 8:16] *= 0.99
        change = abs(loss() - before)
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    assert change == pytest.approx(0.01 * found, rel=0.1, abs=2e-7)


@pytest.mark.parametrize(
    ("family", "rank_of_embeddings"), [("bert", 16), ("bert", 8), ("albert", 16), ("albert", 8), ("distilbert", 16)]
)
def test_a_narrower_student_holds_the_teachers_numbers(
    model: Any, transfer: Any, ranked: Importance, family: str, rank_of_embeddings: int
) -> None:
    shape = a_shape(
        family=family, hidden_size=16, num_heads=2, intermediate_size=24, embedding_size=rank_of_embeddings, depth=2,
        num_hidden_groups=2, type_vocabulary_size=0 if family == "distilbert" else 2,
    )  # fmt: skip
    state = narrowed(model.state_dict(), "bert", 4, shape, ranked)
    student = build_student(shape, label_names=LABELS, dropout=0.0, teacher_config=model.config, empty=True)
    initialise(student, shape, state, "bert", [(0,), (2,)], transfer.vocabularies["full"])
    assert not any(parameter.isnan().any() for parameter in student.parameters())
    hidden, neurons = most_important(ranked.hidden, 16), most_important(ranked.neurons[2], 24)
    expected = model.bert.encoder.layer[2].intermediate.dense.weight[neurons][:, hidden]
    here = dict(student.named_parameters())
    name = {
        "bert": "bert.encoder.layer.1.intermediate.dense.weight",
        "distilbert": "distilbert.transformer.layer.1.ffn.lin1.weight",
    }.get(family if rank_of_embeddings == 16 else "", "albert.encoder.albert_layer_groups.1.albert_layers.0.ffn.weight")
    assert torch.equal(here[name], expected)


def test_an_albert_teacher_is_ranked_layer_by_layer_and_narrowed(transfer: Any) -> None:
    teacher = other_teacher("albert")  # three layers, two stored; embeddings of rank 8
    tokens = transfer.splits["train"].tokens["full"].remapped(np.arange(200) % 60)
    found = rank(teacher, tokens, transfer.splits["train"].labels, "class", 0, WorkerContext())
    assert (found.heads.shape, found.neurons.shape, found.hidden.shape) == ((3, 4), (3, 64), (32,))
    assert not np.allclose(found.neurons[0], found.neurons[1])  # the same weights in another place
    shape = a_shape(hidden_size=16, num_heads=2, intermediate_size=24, embedding_size=8, depth=3, vocabulary_size=60)
    state = narrowed(unshared(teacher), "albert", 4, shape, found)
    vocabulary = Vocabulary("full", np.arange(60, dtype=np.int32), np.ones(60, np.int64), 0, {})
    student = build_student(shape, label_names=LABELS, dropout=0.0, teacher_config=teacher.config, empty=True)
    initialise(student, shape, state, "albert", [(0,), (1,), (2,)], vocabulary)
    hidden = most_important(found.hidden, 16)
    assert torch.equal(
        student.albert.encoder.embedding_hidden_mapping_in.weight,
        teacher.albert.encoder.embedding_hidden_mapping_in.weight[hidden],
    )
    assert torch.equal(
        student.albert.embeddings.word_embeddings.weight, teacher.albert.embeddings.word_embeddings.weight
    )


def test_the_teachers_own_width_keeps_everything(model: Any, ranked: Importance) -> None:
    state = model.state_dict()
    same = narrowed(state, "bert", 4, a_shape(), ranked)
    assert same.keys() == state.keys()
    assert all(torch.equal(same[name], state[name]) for name in state)


def test_a_whole_trial_of_half_the_width(transfer: Any, teacher: Path, tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(teacher, tmp_path / "teacher")
    context = WorkerContext(data={"transfer": transfer})
    shape = a_shape(
        hidden_size=16, num_heads=2, intermediate_size=32, embedding_size=16, depth=2, num_hidden_groups=2,
        vocabulary_size=len(transfer.vocabularies["used"].kept),
    )  # fmt: skip
    config = TrialConfig(
        shape=shape, layers=(0, 2), vocabulary="used", temperature=2.0, soft_share=0.5, learning_rate=3e-3, batch_size=16,
        warmup_share=0.1, weight_decay=0.0, dropout=0.0, epochs=1, seed=3,
    )  # fmt: skip
    item = WorkItem(key="t", kind=WorkKind.TRAIN, trial=0, config=config, payload={"teacher": str(folder)})
    with pytest.raises(work.TrialError, match="was not ranked"):
        work.perform(item, context)
    work.perform(WorkItem(key="r", kind=WorkKind.RANK, payload={"teacher": str(folder)}), context)
    measurement, _ = work.perform(item, context)
    assert measurement is not None
    assert 0 <= measurement.metrics["validation/accuracy"] <= 1


# the space


TEACHER = tiny.teacher_shape()


def space_of(**raw: Any) -> SearchSpace:
    space, faults = parse_space({"depth": 2, **raw})
    assert not faults
    return space


def test_widths_of_a_space() -> None:
    assert not space_of().narrows
    assert space_of(intermediate_size=[48, "full"]).narrows
    space = space_of(hidden_size=[12, 24, "full"], intermediate_size=[32, "full"])
    widths = {
        (shape.hidden_size, shape.num_heads, shape.intermediate_size, shape.embedding_size)
        for _, shape in space.architectures(TEACHER, {"full": 100})
    }
    assert widths == {(h, h // 12, i, h) for h in (12, 24, 48) for i in (32, 96)}
    shares = space_of(hidden_size=["25%", "60%", "full"], intermediate_size=["30%", "1%"])  # by heads of 12, and by 8
    assert shares.narrows
    assert {
        (shape.hidden_size, shape.intermediate_size) for _, shape in shares.architectures(TEACHER, {"full": 100})
    } == {(h, i) for h in (12, 24, 48) for i in (32, 8)}
    for wrong in ("0%", "101%", "half", "-5%"):
        assert [fault.where for fault in parse_space({"hidden_size": wrong})[1]] == ["hidden_size"]
    assert space_of(hidden_size=24, num_heads=3).shape(
        {"depth": 2, "hidden_size": 24, "num_heads": 3}, TEACHER, {"full": 100}
    )


def test_a_teacher_that_factorises_its_embeddings_sets_their_size() -> None:
    factorised = TEACHER.model_copy(update={"embedding_size": 16})
    base = {"depth": 2, "layers": "even"}
    for family in ("bert", "albert"):
        shape = space_of().shape({**base, "family": family}, factorised, {"full": 100})
        assert (shape.embedding_size, shape.hidden_size) == (16, 48)
    assert space_of().shape({**base, "hidden_size": 12}, factorised, {"full": 100}).embedding_size == 12
    with pytest.raises(InvalidStudent, match="embedding_size 24 is above the teacher's 16"):
        space_of().shape({**base, "embedding_size": 24}, factorised, {"full": 100})
    with pytest.raises(InvalidStudent, match="family distilbert has full embeddings"):
        space_of().shape({**base, "family": "distilbert"}, factorised, {"full": 100})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"hidden_size": 20}, "hidden_size 20 is no multiple of the teacher's head size 12"),
        ({"hidden_size": 20, "num_heads": 3}, "3 heads do not divide a width of 20"),
        ({"hidden_size": 60}, "hidden_size 60 is above the teacher's 48"),
        ({"intermediate_size": 97}, "intermediate_size 97 is above the teacher's 96"),
    ],
)
def test_widths_that_make_no_student(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidStudent) as caught:
        space_of().shape({"depth": 2, "layers": "even", **values}, TEACHER, {"full": 100})
    assert words in str(caught.value)


@given(st.lists(st.floats(0, 9), min_size=1, max_size=9), st.integers(1, 4), st.data())
def test_channels_are_whole_heads_first(heads: list[float], head_size: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(heads) * head_size))
    channels = channels_of(np.array(heads), head_size, count)
    assert len(set(channels.tolist())) == count
    whole, rest = divmod(count, head_size)
    sizes = np.bincount(channels // head_size, minlength=len(heads))
    assert (
        sorted(sizes.tolist(), reverse=True)[: whole + 1] == ([head_size] * whole + [rest])[: len(heads)][: whole + 1]
    )


def test_a_ranking_that_the_cache_has_is_not_made_again(study_of: Callable[..., StudySpec], tmp_path: Path) -> None:
    inputs = read_inputs(study_of(space={"hidden_size": ["50%", "full"]}), lambda text: None)
    folder, said, nobody = tmp_path / "copied", list[str](), cast(Any, None)
    shutil.copytree(inputs.source.folder, folder)
    kept = _kept_ranking(inputs, folder)
    write_whole(kept, b"ranked")
    assert _ask_for_importance(inputs, nobody, nobody, folder, "key", said.append) is None
    assert said == ["the ranking of the teacher's parts is in the cache"]
    assert (folder / IMPORTANCE_FILE).read_bytes() == b"ranked"
    (folder / "config.json").write_text("{}")  # another teacher
    assert _kept_ranking(inputs, folder) != kept
