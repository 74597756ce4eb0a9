"""Students started from teachers without losing what can be kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from student_toys import LABELS, a_shape, counts_of, logits_of, other_teacher, student_of
from transformers import BertForSequenceClassification

from search.trial.batches import padded
from search.trial.context import WorkerContext
from search.trial.data import Tokens, Vocabulary
from search.trial.hidden_losses import cosine_loss
from search.trial.start.factorise import factorise
from search.trial.start.groups import starting_layers
from search.trial.start.initialise import can_copy, in_groups, initialise, spans, unshared
from search.trial.students import build_student
from search.trial.vocabulary import cut_vocabulary, full_vocabulary, load_tokenizer
from spaces.errors import TrialError
from spaces.trial import TrialConfig

# starting from the teacher


def test_all_layers_and_the_full_vocabulary_are_the_teacher(model: Any, tokenizer: Any, train_texts: list[str]) -> None:
    vocabulary = full_vocabulary(tokenizer, counts_of(tokenizer, train_texts))
    student = student_of(model, a_shape(), vocabulary, (0, 1, 2))
    expected = logits_of(model, tokenizer, train_texts)
    assert expected.std() > 0.01  # a constant would prove nothing
    assert torch.equal(logits_of(student, tokenizer, train_texts), expected)


def test_the_used_vocabulary_loses_nothing_on_training_text(model: Any, tokenizer: Any, train_texts: list[str]) -> None:
    vocabulary = cut_vocabulary(tokenizer, "used", counts_of(tokenizer, train_texts))
    assert len(vocabulary.kept) < len(tokenizer)
    student = student_of(model, a_shape(vocabulary_size=len(vocabulary.kept)), vocabulary, (0, 1, 2))
    cut = load_tokenizer(vocabulary)
    assert torch.equal(
        logits_of(student, cut, train_texts, vocabulary.pad_id), logits_of(model, tokenizer, train_texts)
    )


@torch.no_grad()
def test_distilbert_starts_as_its_teacher_up_to_the_head(model: Any, tokenizer: Any, train_texts: list[str]) -> None:
    """Token type 0 goes into the positions, so that single texts reach the layers unchanged."""
    vocabulary = full_vocabulary(tokenizer, counts_of(tokenizer, train_texts))
    shape = a_shape(family="distilbert", type_vocabulary_size=0)
    student = student_of(model, shape, vocabulary, (0, 1, 2)).eval()
    batch = padded(Tokens.encode(tokenizer, train_texts, None, 32), np.arange(len(train_texts)), 0)
    words, tokens = {"input_ids": batch.ids_BT, "attention_mask": batch.mask_BT}, batch.mask_BT.bool()
    expected = model.bert(**words).last_hidden_state[tokens]
    assert torch.allclose(student.distilbert(**words).last_hidden_state[tokens], expected, atol=1e-5)
    assert torch.equal(student.pre_classifier.weight, model.bert.pooler.dense.weight)


def test_squeezebert_of_one_group_is_its_teacher(model: Any, tokenizer: Any, train_texts: list[str]) -> None:
    vocabulary = full_vocabulary(tokenizer, counts_of(tokenizer, train_texts))
    student = student_of(model, a_shape(family="squeezebert"), vocabulary, (0, 1, 2))
    expected = logits_of(model, tokenizer, train_texts)
    assert torch.allclose(logits_of(student, tokenizer, train_texts), expected, atol=1e-5)
    grouped = student_of(model, a_shape(family="squeezebert", num_conv_groups=4), vocabulary, (0, 1, 2))
    assert not torch.allclose(logits_of(grouped, tokenizer, train_texts), expected, atol=1e-2)
    theirs, mine = model.bert.encoder.layer[1], grouped.transformer.encoder.layers[1]
    assert torch.equal(mine.post_attention.conv1d.weight[..., 0], theirs.attention.output.dense.weight)
    assert torch.equal(mine.intermediate.conv1d.bias, theirs.intermediate.dense.bias)


def test_groups_take_the_blocks_on_the_diagonal() -> None:
    weight = torch.arange(24.0).reshape(4, 6)  # two groups: two outputs of three inputs each
    expected = [[0.0, 1.0, 2.0], [6.0, 7.0, 8.0], [15.0, 16.0, 17.0], [21.0, 22.0, 23.0]]
    assert in_groups(weight, (4, 3, 1))[..., 0].tolist() == expected
    assert torch.equal(in_groups(weight, (4, 6, 1))[..., 0], weight)


@torch.no_grad()
def test_mobilebert_starts_with_its_teachers_embeddings_and_head(
    model: Any, tokenizer: Any, train_texts: list[str]
) -> None:
    """Of full rank they differ by LayerNorm alone, which MobileBERT has not: nearer the larger the rank."""
    vocabulary = full_vocabulary(tokenizer, counts_of(tokenizer, train_texts))
    batch = padded(Tokens.encode(tokenizer, train_texts, None, 32), np.arange(len(train_texts)), 0)
    words, tokens = {"input_ids": batch.ids_BT, "token_type_ids": batch.types_BT}, batch.mask_BT.bool()
    expected, errors = model.bert.embeddings(**words)[tokens], []
    for rank in (4, 16, 32):
        shape = a_shape(family="mobilebert", bottleneck_size=16, num_feedforwards=2, embedding_size=rank)
        student = student_of(model, shape, vocabulary, (0, 1, 2))
        found = student.mobilebert.embeddings(**words)[tokens]
        errors.append(float((found - expected).norm() / expected.norm()))
        assert not student.mobilebert.embeddings.word_embeddings.weight[vocabulary.pad_id].any()
        assert torch.equal(student.classifier.weight, model.classifier.weight)
        assert torch.equal(student.mobilebert.pooler.dense.weight, model.bert.pooler.dense.weight)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.25


@torch.no_grad()
def test_a_factorised_start_is_near_and_nearer_the_larger_its_rank(
    model: Any, tokenizer: Any, train_texts: list[str]
) -> None:
    """What reaches the first layer; the tiny teacher's words are random, so that a small rank cannot hold them."""
    vocabulary = full_vocabulary(tokenizer, counts_of(tokenizer, train_texts))
    batch = padded(Tokens.encode(tokenizer, train_texts, None, 32), np.arange(len(train_texts)), 0)
    words, tokens = {"input_ids": batch.ids_BT, "token_type_ids": batch.types_BT}, batch.mask_BT.bool()
    expected = model.bert.embeddings(**words)[tokens]

    def error(rank: int) -> float:
        student = student_of(model, a_shape(embedding_size=rank), vocabulary, (0, 1, 2))
        assert student.config.model_type == "albert"
        inner = student.albert.embeddings(**words)
        found = student.albert.encoder.embedding_hidden_mapping_in(inner)[tokens]
        return float((found - expected).norm() / expected.norm())

    errors = [error(rank) for rank in (4, 16, 31)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < 0.85  # where unrelated embeddings are at 1 and above
    assert errors[-1] < 0.25


def test_factorising_keeps_the_best_subspace() -> None:
    """Words that lie in a plane, at one position without an offset, are kept by rank 2 up to the norm's epsilon."""
    generator = torch.Generator().manual_seed(0)
    plane = torch.linalg.qr(torch.randn(8, 2, generator=generator))[0].T
    words = torch.randn(40, 2, generator=generator) @ plane
    norm = (torch.ones(8), torch.zeros(8))
    vocabulary = Vocabulary("full", np.arange(40, dtype=np.int32), np.ones(40, np.int64), 0, {})
    table = factorise(words, vocabulary, torch.zeros(3, 8), torch.zeros(2, 8), norm, 2)
    basis_HE = torch.linalg.lstsq(words, table["words"]).solution
    assert torch.allclose(table["words"] @ torch.linalg.pinv(basis_HE), words, atol=1e-4)
    gram = table["words"].T @ table["words"]
    assert torch.allclose(torch.linalg.eigvalsh(gram), torch.linalg.eigvalsh(words.T @ words)[-2:], rtol=1e-3)


def test_positions_have_their_part_in_the_subspace_where_texts_reach_them() -> None:
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(8, 8, generator=generator))[0].T
    words = torch.randn(40, 2, generator=generator) @ basis[:2]
    positions = basis[2:5]  # each in a direction of its own
    vocabulary = Vocabulary("full", np.arange(40, dtype=np.int32), np.ones(40, np.int64), 0, {})
    norm = (torch.ones(8), torch.zeros(8))

    def kept(rank: int, lengths: np.ndarray) -> torch.Tensor:
        table = factorise(words, vocabulary, positions, torch.zeros(1, 8), norm, rank, lengths=lengths)
        assert torch.allclose(words @ table["basis"] @ table["basis"].T, words, atol=1e-4)
        return (positions @ table["basis"]).norm(dim=1)

    assert torch.allclose(kept(5, np.array([3, 3, 2])), torch.ones(3), atol=1e-4)
    assert torch.allclose(kept(4, np.array([2, 1, 2])), torch.tensor([1.0, 1.0, 0.0]), atol=1e-2)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("rank", [32, 5])
def test_any_depth_starts_from_the_layers_named(
    model: Any, tokenizer: Any, train_texts: list[str], depth: int, rank: int
) -> None:
    vocabulary = full_vocabulary(tokenizer, counts_of(tokenizer, train_texts))
    layers = (2,) if depth == 1 else tuple(range(3 - depth, 3))
    shape = a_shape(depth=depth, num_hidden_groups=depth, embedding_size=rank)
    student = student_of(model, shape, vocabulary, layers)
    mine = student.albert.encoder.albert_layer_groups if rank < 32 else student.bert.encoder.layer
    for index, layer in enumerate(layers):
        there = model.bert.encoder.layer[layer].intermediate.dense.weight
        here = mine[index].albert_layers[0].ffn.weight if rank < 32 else mine[index].intermediate.dense.weight
        assert torch.equal(here, there)
    assert torch.equal(student.classifier.weight, model.classifier.weight)
    assert logits_of(student, tokenizer, train_texts[:4]).isfinite().all()


def test_shared_groups_start_from_the_first_layer_that_they_stand_for(
    model: Any, tokenizer: Any, train_texts: list[str]
) -> None:
    vocabulary = full_vocabulary(tokenizer, counts_of(tokenizer, train_texts))
    shape = a_shape(family="albert", num_hidden_groups=2)
    student = student_of(model, shape, vocabulary, (0, 1, 2))
    # ALBERT runs group int(i / (3 / 2)) for layer i: groups 0, 0, 1; so group 1 stands for layer 2 alone
    for group, layer in enumerate((0, 2)):
        here = student.albert.encoder.albert_layer_groups[group].albert_layers[0]
        there = model.bert.encoder.layer[layer]
        assert torch.equal(here.attention.query.weight, there.attention.self.query.weight)
        assert torch.equal(here.full_layer_layer_norm.bias, there.output.LayerNorm.bias)


def test_the_activation_and_epsilon_are_the_teachers(model: Any) -> None:
    config = type(model.config)(**{**model.config.to_dict(), "hidden_act": "relu", "layer_norm_eps": 1e-5})
    for rank in (32, 8):
        student = build_student(a_shape(embedding_size=rank), label_names=LABELS, teacher_config=config)
        assert (student.config.hidden_act, student.config.layer_norm_eps) == ("relu", 1e-5)
        assert student.config.id2label == dict(enumerate(LABELS))


OTHERS = [("distilbert", 1, 32), ("roberta", 1, 32), ("electra", 2, 32), ("electra-small", 2, 8), ("albert", 2, 8)]


@pytest.mark.parametrize(("kind", "types", "its_rank"), OTHERS)
@pytest.mark.parametrize("full", [True, False])
def test_other_architectures_are_copied_too(kind: str, types: int, its_rank: int, full: bool) -> None:
    teacher, rank = other_teacher(kind), its_rank if full else 6
    assert can_copy(teacher.config.model_type, teacher.state_dict())
    shape = a_shape(vocabulary_size=60, type_vocabulary_size=types, embedding_size=rank)
    pad_id = 1 if kind == "roberta" else 0
    vocabulary = Vocabulary("full", np.arange(60, dtype=np.int32), np.ones(60, np.int64), pad_id, {})
    student = student_of(teacher, shape, vocabulary, (0, 1, 2))
    ids = torch.randint(5, 60, (4, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    ids[0, 6:], mask[0, 6:] = pad_id, 0
    with torch.no_grad():
        there = teacher.base_model(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]
        here = student.base_model(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]
    if full:  # the heads differ between architectures; the encoder is the teacher's to rounding
        assert torch.allclose(here, there, atol=1e-5)
    near = torch.nn.functional.cosine_similarity(here, there, dim=-1).mean()
    assert near > (0.999 if full else 0.5)  # of random embeddings that share no direction to leave out


@pytest.mark.parametrize(("kind", "rank"), [("roberta", 32), ("electra", 32), ("electra-small", 8)])
def test_a_student_of_its_teachers_family_starts_as_the_teacher(kind: str, rank: int) -> None:
    """Its head, too: of as many layers it is the teacher."""
    teacher, family = other_teacher(kind), kind.split("-")[0]
    pad_id = 1 if family == "roberta" else 0
    shape = a_shape(
        family=family, vocabulary_size=60, type_vocabulary_size=teacher.config.type_vocab_size, embedding_size=rank
    )
    vocabulary = Vocabulary("full", np.arange(60, dtype=np.int32), np.ones(60, np.int64), pad_id, {})
    student = student_of(teacher, shape, vocabulary, (0, 1, 2))
    ids = torch.randint(5, 60, (4, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    ids[0, 6:], mask[0, 6:] = pad_id, 0
    with torch.no_grad():
        there = teacher(input_ids=ids, attention_mask=mask).logits
        here = student(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(here, there, atol=1e-5, rtol=1e-5)


def test_roberta_needs_a_padding_of_0_or_1() -> None:
    with pytest.raises(TrialError, match="it must be 0 or 1, not 7"):
        build_student(a_shape(family="roberta"), label_names=LABELS, pad_id=7)


def test_what_cannot_be_copied_is_known_before() -> None:
    assert not can_copy("mpnet", {})
    assert not can_copy(
        "squeezebert", {"transformer.embeddings.word_embeddings.weight": torch.zeros(1)}
    )  # students alone
    teacher = other_teacher("albert")
    vocabulary = Vocabulary("full", np.arange(60, dtype=np.int32), np.ones(60, np.int64), 0, {})
    with pytest.raises(TrialError, match="full embeddings cannot start from a teacher whose embeddings are mapped"):
        student_of(teacher, a_shape(vocabulary_size=60), vocabulary, (0, 1, 2))


def test_a_shared_teachers_layers_have_a_name_each() -> None:
    """ALBERT runs its two groups as layers 0, 1 (of three, by its index rule) and 2."""
    teacher = other_teacher("albert")
    state, name = unshared(teacher), "albert.encoder.albert_layer_groups.{}.albert_layers.0.ffn.weight"
    stored = teacher.state_dict()
    assert [torch.equal(state[name.format(i)], stored[name.format(g)]) for i, g in ((0, 0), (1, 0), (2, 1))] == [
        True
    ] * 3
    assert name.format(2) not in stored
    assert state.keys() >= {key for key in stored if "layer_groups" not in key}


# what a shared layer starts from


def test_spans_by_hand() -> None:
    assert spans(a_shape(), (0, 1, 2)) == [(0,), (1,), (2,)]
    shared = a_shape(family="albert", depth=5, num_hidden_groups=2)
    assert spans(shared, (0, 1, 2, 4, 5)) == [(0, 1, 2), (4, 5)]  # int(i / 2.5)
    assert spans(a_shape(family="albert", depth=3, num_hidden_groups=1), (1, 2, 4)) == [(1, 2, 4)]


def test_a_group_starts_from_the_first_the_mean_or_the_best(model: Any, tokenizer: Any, train_texts: list[str]) -> None:
    vocabulary = full_vocabulary(tokenizer, counts_of(tokenizer, train_texts))
    tokens = Tokens.encode(tokenizer, train_texts, None, 32)
    shape = a_shape(family="albert", num_hidden_groups=1, embedding_size=16)

    def start(how: str) -> tuple[list[tuple[int, ...]], torch.Tensor]:
        config = TrialConfig(
            shape=shape, layers=(0, 1, 2), vocabulary="full", temperature=1, soft_share=1, learning_rate=1, batch_size=8,
            warmup_share=0, weight_decay=0, dropout=0, epochs=1, seed=0, group_start=how,
        )  # fmt: skip
        student = build_student(shape, label_names=LABELS, teacher_config=model.config, empty=True)
        starts = starting_layers(config, student, model, unshared(model), tokens, vocabulary, WorkerContext())
        initialise(student, shape, unshared(model), "bert", starts, vocabulary)
        batch = padded(tokens, np.arange(60), vocabulary.pad_id)
        with torch.no_grad():
            named = {"input_ids": batch.ids_BT, "attention_mask": batch.mask_BT}
            mine, its = (part.base_model(**named).last_hidden_state for part in (student.eval(), model))
        return starts, cosine_loss(mine, its, batch.mask_BT)

    layers = [model.bert.encoder.layer[i].intermediate.dense.weight for i in range(3)]
    assert start("first")[0] == [(0,)]
    assert start("mean")[0] == [(0, 1, 2)]
    (chosen,), distance = start("best")
    assert len(chosen) == 1
    assert distance <= start("first")[1] + 0.01  # other rows of the same text
    student = build_student(shape, label_names=LABELS, teacher_config=model.config, empty=True)
    initialise(student, shape, unshared(model), "bert", [(0, 1, 2)], vocabulary)
    mean = student.albert.encoder.albert_layer_groups[0].albert_layers[0].ffn.weight
    torch.testing.assert_close(mean, sum(layers) / 3)


def test_a_random_start_is_not_the_teachers(model: Any) -> None:
    student = build_student(a_shape(), label_names=LABELS, teacher_config=model.config)
    assert isinstance(student, BertForSequenceClassification)
    assert not torch.equal(student.bert.pooler.dense.weight, model.bert.pooler.dense.weight)
    assert all(parameter.isfinite().all() for parameter in student.parameters())
