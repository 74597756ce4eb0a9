"""Students: counted twice by different roads, and started from teachers without losing what can be kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from search.trial.context import WorkerContext
from search.trial.data import Tokens, Vocabulary, padded
from search.trial.forward import Classifier, FirstTokenClassifier, classifier
from search.trial.hidden_losses import cosine_loss
from search.trial.start.groups import starting_layers
from search.trial.start.initialise import can_copy, factorise, initialise, spans, unshared
from search.trial.students import build_student
from search.trial.vocabulary import cut_vocabulary, full_vocabulary, load_tokenizer
from spaces.errors import TrialError
from spaces.families import FAMILIES
from spaces.student import StudentShape
from spaces.trial import TrialConfig

LABELS = ["food", "music", "sport"]
UNKNOWN_WORD = "soundtrack"


def a_shape(**changes: Any) -> StudentShape:
    plain = {
        "family": "bert",
        "depth": 3,
        "hidden_size": 32,
        "num_heads": 4,
        "intermediate_size": 64,
        "embedding_size": 32,
        "num_hidden_groups": 3,
        "vocabulary_size": len(tiny.vocabulary()),
        "max_positions": 48,
        "type_vocabulary_size": 2,
        "num_labels": 3,
    }
    return StudentShape.model_validate({**plain, **changes})


# counting


@st.composite
def shapes(draw: st.DrawFn) -> StudentShape:
    family = draw(st.sampled_from(sorted(FAMILIES)))
    heads, depth = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    hidden = heads * draw(st.integers(1, 6))
    return StudentShape(
        family=family,
        depth=depth,
        hidden_size=hidden,
        num_heads=heads,
        intermediate_size=draw(st.integers(1, 20)),
        embedding_size=hidden if family == "distilbert" or draw(st.booleans()) else draw(st.integers(1, hidden)),
        num_hidden_groups=draw(st.integers(1, depth)) if family == "albert" else depth,
        vocabulary_size=draw(st.integers(1, 50)),
        max_positions=draw(st.integers(1, 12)),
        type_vocabulary_size=0 if family == "distilbert" else draw(st.integers(1, 3)),
        num_labels=draw(st.integers(1, 12)),
    )


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(shape=shapes())
def test_arithmetic_knows_the_built_model(shape: StudentShape, tmp_path: Path) -> None:
    model = build_student(shape, label_names=[f"name {i}" for i in range(shape.num_labels)], dropout=0.0)
    assert shape.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert shape.tensors() == {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    assert shape.num_bytes == file.stat().st_size
    with safe_open(file, "pt") as stored:
        assert set(stored.keys()) == set(shape.tensors())


def test_known_models_by_their_published_counts() -> None:
    base = {"depth": 12, "hidden_size": 768, "num_heads": 12, "intermediate_size": 3072, "max_positions": 512}
    bert = a_shape(**base, num_hidden_groups=12, embedding_size=768, vocabulary_size=30_522, num_labels=2)
    assert bert.num_parameters - (768 * 2 + 2) == 109_482_240  # BERT-base's encoder and pooler
    albert = a_shape(
        **base, family="albert", num_hidden_groups=1, embedding_size=128, vocabulary_size=30_000, num_labels=2
    )
    assert albert.num_parameters - (768 * 2 + 2) == 11_683_584  # ALBERT-base
    for size, millions in ((64, 9.68), (128, 11.68), (256, 15.69), (768, 31.71)):
        encoder = albert.model_copy(update={"embedding_size": size}).num_parameters - (768 * 2 + 2)
        assert round(encoder / 1e6, 2) == pytest.approx(millions, abs=0.011)
    distilbert = a_shape(
        **{**base, "depth": 6}, family="distilbert", num_hidden_groups=6, embedding_size=768, vocabulary_size=30_522,
        num_labels=2, type_vocabulary_size=0,
    )  # fmt: skip
    assert (
        distilbert.num_parameters - (768 * 768 + 768) - (768 * 2 + 2) == 66_362_880
    )  # DistilBERT-base, without a head
    tiny_bert = {"depth": 2, "hidden_size": 128, "num_heads": 2, "intermediate_size": 512, "max_positions": 512}
    smallest = a_shape(**tiny_bert, num_hidden_groups=2, embedding_size=128, vocabulary_size=30_522, num_labels=2)
    assert smallest.num_parameters - (128 * 2 + 2) == 4_385_920  # BERT-tiny


def test_a_tiny_student_counted_by_hand() -> None:
    shape = a_shape(
        depth=1, hidden_size=2, num_heads=1, intermediate_size=3, embedding_size=2, num_hidden_groups=1,
        vocabulary_size=5, max_positions=4, type_vocabulary_size=2, num_labels=3,
    )  # fmt: skip
    embeddings = (5 + 4 + 2) * 2 + 4  # tables and the norm
    layer = 4 * (2 * 2 + 2) + 4 + (2 * 3 + 3) + (3 * 2 + 2) + 4  # attention, norm, in, out, norm
    assert shape.num_parameters == embeddings + layer + (2 * 2 + 2) + (2 * 3 + 3)


def test_operations_by_hand() -> None:
    shape = a_shape(depth=2, hidden_size=4, num_heads=1, intermediate_size=8, embedding_size=2, num_hidden_groups=2)
    tokens = 3
    layer = 2 * tokens * (4 * 16 + 2 * 4 * 8) + 2 * (
        2 * tokens * tokens * 4
    )  # four projections, in and out; scores, sums
    assert shape.flops(tokens) == 2 * layer + 2 * tokens * 2 * 4 + 2 * (4 * 4 + 4 * 3)
    shared = a_shape(
        family="albert", depth=2, hidden_size=4, num_heads=1, intermediate_size=8, embedding_size=2, num_hidden_groups=1
    )
    assert shared.flops(tokens) == shape.flops(tokens)  # sharing saves what is stored, not what is computed
    assert shared.num_parameters < shape.num_parameters


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"family": "gpt"}, "family 'gpt' is not known"),
        ({"num_heads": 5}, "5 heads do not divide a width of 32"),
        ({"embedding_size": 33}, "embedding_size 33 is above the width 32"),
        ({"num_hidden_groups": 2}, "num_hidden_groups must be its depth 3, not 2"),
        ({"family": "albert", "num_hidden_groups": 4}, "4 groups are more than 3 layers"),
        ({"family": "distilbert"}, "has no token types: type_vocabulary_size must be 0, not 2"),
        (
            {"family": "distilbert", "type_vocabulary_size": 0, "embedding_size": 8},
            "embedding_size must be its width 32",
        ),
        ({"depth": 0}, "depth = 0 is not allowed"),
    ],
)
def test_impossible_shapes_cannot_exist(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as caught:
        a_shape(**changes)
    assert words in str(caught.value)


@settings(max_examples=25)
@given(shape=shapes(), data=st.data())
def test_the_short_forward_pass_is_the_stock_one(shape: StudentShape, data: st.DataObject) -> None:
    model = build_student(shape, label_names=[str(i) for i in range(shape.num_labels)], dropout=0.3).eval()
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter.data, std=0.5, generator=generator)
    lengths = torch.randint(1, shape.max_positions + 1, (4, 1), generator=generator)
    column = torch.arange(int(lengths.max()))
    ids = torch.randint(0, shape.vocabulary_size, (4, len(column)), generator=generator)
    types = torch.randint(0, max(1, shape.type_vocabulary_size), ids.shape, generator=generator)
    mask = (column < lengths).long()
    short = classifier(model).eval()
    assert isinstance(short, FirstTokenClassifier)
    assert len(list(short.parameters())) == len(list(model.parameters()))  # none is registered twice
    with torch.no_grad():
        stock = Classifier(model)(ids, mask, types)
        assert torch.allclose(short(ids, mask, types), stock, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_short_forward_pass_drops_and_learns_as_the_stock_one_does(family: str) -> None:
    changes = {"albert": {"embedding_size": 8}, "distilbert": {"type_vocabulary_size": 0}}.get(family, {})
    shape = a_shape(family=family, **changes)
    model = build_student(shape, label_names=LABELS, dropout=0.0).train()
    ids = torch.randint(0, 40, (4, 9), generator=torch.Generator().manual_seed(0))
    everything, types = torch.ones_like(ids), torch.zeros_like(ids)

    def gradients(forward: Any) -> list[torch.Tensor]:
        model.zero_grad()
        forward(ids, everything, types).square().sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    for short, stock in zip(gradients(classifier(model)), gradients(Classifier(model)), strict=True):
        assert torch.allclose(short, stock, atol=1e-6, rtol=1e-3)
    dropping = classifier(build_student(shape, label_names=LABELS, dropout=0.3))
    outputs = [[dropping.train(mode)(ids, everything, types).detach() for _ in range(2)] for mode in (True, False)]
    assert not torch.equal(*outputs[0])
    assert torch.equal(*outputs[1])


def test_other_architectures_run_as_they_are() -> None:
    config = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    model = RobertaForSequenceClassification(RobertaConfig(vocab_size=20, type_vocab_size=1, **config)).eval()
    assert type(classifier(model)) is Classifier
    ids = torch.randint(3, 20, (2, 5), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        stock = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        assert torch.equal(classifier(model)(ids, torch.ones_like(ids), torch.ones_like(ids)), stock)


# starting from the teacher


def counts_of(tokenizer: Any, texts: list[str]) -> np.ndarray:
    ids = Tokens.encode(tokenizer, texts, None, 32).ids
    return np.bincount(ids, minlength=len(tokenizer))


def student_of(model: Any, shape: StudentShape, vocabulary: Vocabulary, layers: tuple[int, ...]) -> Any:
    student = build_student(
        shape, label_names=LABELS, pad_id=vocabulary.pad_id, dropout=0.1, teacher_config=model.config, empty=True
    )
    assert all(parameter.isnan().all() for parameter in student.parameters())
    starts = [span[:1] for span in spans(shape, layers)]
    initialise(student, shape, unshared(model), model.config.model_type, starts, vocabulary)
    assert all(tensor.isfinite().all() for tensor in student.state_dict().values())
    return student.eval()


@torch.no_grad()
def logits_of(model: Any, tokenizer: Any, texts: list[str], pad_id: int = 0) -> torch.Tensor:
    tokens = Tokens.encode(tokenizer, texts, None, 32)
    batch = padded(tokens, np.arange(len(texts)), pad_id)
    return Classifier(model)(batch.ids_BT, batch.mask_BT, batch.types_BT)


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
    table = factorise(words, np.ones(40, np.int64), torch.zeros(3, 8), torch.zeros(2, 8), norm, 2)
    basis_HE = torch.linalg.lstsq(words, table["words"]).solution
    assert torch.allclose(table["words"] @ torch.linalg.pinv(basis_HE), words, atol=1e-4)
    gram = table["words"].T @ table["words"]
    assert torch.allclose(torch.linalg.eigvalsh(gram), torch.linalg.eigvalsh(words.T @ words)[-2:], rtol=1e-3)


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


COMMON: dict[str, Any] = {"vocab_size": 60, "num_labels": 3}
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "initializer_range": 0.1,
}


def other_teacher(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "distilbert":
        config = DistilBertConfig(
            **COMMON, dim=32, n_layers=3, n_heads=4, hidden_dim=64, max_position_embeddings=48, initializer_range=0.1
        )
        return DistilBertForSequenceClassification(config).eval()
    if kind == "roberta":
        config = RobertaConfig(**COMMON, **SIZES, max_position_embeddings=50, type_vocab_size=1, pad_token_id=1)
        return RobertaForSequenceClassification(config).eval()
    if kind == "albert":
        albert = AlbertConfig(
            **COMMON, **SIZES, max_position_embeddings=48, embedding_size=8, num_hidden_groups=2, hidden_act="gelu"
        )
        return AlbertForSequenceClassification(albert).eval()
    config = ElectraConfig(**COMMON, **SIZES, max_position_embeddings=48, embedding_size=32 if kind == "electra" else 8)
    return ElectraForSequenceClassification(config).eval()


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


def test_what_cannot_be_copied_is_known_before() -> None:
    assert not can_copy("mpnet", {})
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
