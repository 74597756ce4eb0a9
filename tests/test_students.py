"""Students: counted twice by different roads."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from safetensors import safe_open
from student_toys import a_shape, shapes
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from search.trial.students import build_student
from spaces.student import StudentShape


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(shape=shapes())
def test_arithmetic_knows_the_built_model(shape: StudentShape, tmp_path: Path) -> None:
    model = build_student(shape, label_names=[f"name {i}" for i in range(shape.num_labels)], dropout=0.0)
    assert shape.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert shape.tensors() == {
        name: tuple(tensor.shape) for name, tensor in model.named_parameters()
    }  # a tied one once
    folder = Path(tempfile.mkdtemp(dir=tmp_path))  # of this example alone
    model.save_pretrained(folder)
    files = {str(path.relative_to(folder)): path for path in folder.rglob("model.safetensors")}
    assert shape.num_bytes == sum(path.stat().st_size for path in files.values())
    assert set(files) == set(shape.files())
    for name, path in files.items():
        with safe_open(path, "pt") as stored:
            assert set(stored.keys()) == set(shape.files()[name])


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
    squeezebert = a_shape(
        **base, family="squeezebert", num_hidden_groups=12, embedding_size=768, vocabulary_size=30_522, num_labels=2,
        num_conv_groups=4,
    )  # fmt: skip
    assert squeezebert.num_parameters - (768 * 2 + 2) == 51_089_664  # 51.09 million as published
    mobilebert = a_shape(
        family="mobilebert", depth=24, hidden_size=512, num_heads=4, intermediate_size=512, embedding_size=128,
        num_hidden_groups=24, vocabulary_size=30_522, max_positions=512, num_labels=2, bottleneck_size=128,
        num_feedforwards=4,
    )  # fmt: skip
    assert mobilebert.num_parameters - (512 * 2 + 2) == 24_844_544  # 24.84 million as published
    roberta = a_shape(
        **base, family="roberta", num_hidden_groups=12, embedding_size=768, vocabulary_size=50_265, num_labels=2,
        type_vocabulary_size=1,
    )  # fmt: skip
    assert roberta.num_parameters == 124_647_170  # RoBERTa-base with its head
    tiny_bert = {"depth": 2, "hidden_size": 128, "num_heads": 2, "intermediate_size": 512, "max_positions": 512}
    smallest = a_shape(**tiny_bert, num_hidden_groups=2, embedding_size=128, vocabulary_size=30_522, num_labels=2)
    assert smallest.num_parameters - (128 * 2 + 2) == 4_385_920  # BERT-tiny


def test_known_families_against_their_stock_models() -> None:
    """As transformers builds them where nothing is said."""
    for kind, published in (("squeezebert", 51.09), ("mobilebert", 24.84)):
        with torch.device("meta"):
            stock = AutoModel.from_config(AutoConfig.for_model(kind))
        assert round(sum(parameter.numel() for parameter in stock.parameters()) / 1e6, 2) == published


def test_electra_small_against_its_stock_model() -> None:
    """As transformers builds it where nothing is said: embeddings of rank 128 under a width of 256."""
    with torch.device("meta"):
        stock = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("electra"))
    shape = a_shape(
        family="electra", depth=12, hidden_size=256, num_heads=4, intermediate_size=1024, embedding_size=128,
        num_hidden_groups=12, vocabulary_size=30_522, max_positions=512, num_labels=2,
    )  # fmt: skip
    assert shape.tensors() == {name: tuple(tensor.shape) for name, tensor in stock.state_dict().items()}


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
    grouped = a_shape(
        family="squeezebert", depth=2, hidden_size=4, num_heads=1, intermediate_size=8, embedding_size=4,
        num_hidden_groups=2, num_conv_groups=2,
    )  # fmt: skip
    products = 3 * 16 // 2 + 16 + 2 * 4 * 8 // 2  # what follows attention is whole
    assert grouped.flops(tokens) == 2 * (2 * tokens * products + 4 * tokens**2 * 4) + 2 * (4 * 4 + 4 * 3)
    thin = a_shape(
        family="mobilebert", depth=2, hidden_size=4, num_heads=1, intermediate_size=8, embedding_size=2,
        num_hidden_groups=2, bottleneck_size=2, num_feedforwards=3,
    )  # fmt: skip
    products = (
        2 * 4 * 2 + 4 * 2 + 2 * 2 * 2 + 2 * 2 + 3 * 2 * 2 * 8 + 2 * 4
    )  # ways in, values, queries and keys ... way out
    layer = 2 * tokens * products + 4 * tokens**2 * 2
    assert thin.flops(tokens) == 2 * tokens * 3 * 2 * 4 + 2 * layer + 2 * (4 * 4 + 4 * 3)


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
        ({"num_conv_groups": 4}, "family bert has no num_conv_groups: it must be 1, not 4"),
        ({"family": "squeezebert", "num_conv_groups": 3}, "num_conv_groups 3 does not divide hidden_size 32"),
        ({"family": "squeezebert", "embedding_size": 8}, "family squeezebert has full embeddings"),
        (
            {"family": "squeezebert", "bottleneck_size": 8},
            "family squeezebert has no bottleneck_size: it must be 0, not 8",
        ),
        ({"family": "mobilebert"}, "bottleneck_size 0 must be from 1 to its width 32"),
        ({"family": "mobilebert", "bottleneck_size": 64}, "bottleneck_size 64 must be from 1 to its width 32"),
        ({"family": "mobilebert", "bottleneck_size": 6}, "4 heads do not divide a width of 6"),
        ({"family": "mobilebert", "bottleneck_size": 8, "num_feedforwards": 0}, "num_feedforwards = 0 is not allowed"),
    ],
)
def test_impossible_shapes_cannot_exist(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as caught:
        a_shape(**changes)
    assert words in str(caught.value)
