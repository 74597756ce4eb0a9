"""The short forward pass computes the stock model's logits and gradients, for every stock model that students are."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from student_toys import LABELS, a_shape, shapes
from transformers import ErnieConfig, ErnieForSequenceClassification

from search.trial.forward import ATTENTION, SHORT, Classifier, FirstTokenClassifier, attention, classifier
from search.trial.students import build_student
from spaces.families import FAMILIES
from spaces.student import StudentShape

SHAPES = {
    "bert": {"family": "bert", "embedding_size": 32, "num_hidden_groups": 3},
    "bert, factorised": {"family": "bert", "embedding_size": 8, "num_hidden_groups": 3},
    "albert, two groups": {"family": "albert", "embedding_size": 16, "num_hidden_groups": 2},
    "albert, one group": {"family": "albert", "embedding_size": 32, "num_hidden_groups": 1},
    "distilbert": {"family": "distilbert", "embedding_size": 32, "num_hidden_groups": 3, "type_vocabulary_size": 0},
    "squeezebert": {"family": "squeezebert", "embedding_size": 32, "num_hidden_groups": 3, "num_conv_groups": 4},
    "electra": {"family": "electra", "embedding_size": 32, "num_hidden_groups": 3},
    "electra, a rank of its own": {"family": "electra", "embedding_size": 8, "num_hidden_groups": 3},
    "roberta": {"family": "roberta", "embedding_size": 32, "num_hidden_groups": 3},
    "one layer": {"family": "bert", "embedding_size": 32, "num_hidden_groups": 1, "depth": 1},
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_short_pass_is_the_stock_pass(name: str) -> None:
    sizes = {"depth": 3, "hidden_size": 32, "num_heads": 4, "intermediate_size": 64, "vocabulary_size": 50}
    rest = {"max_positions": 20, "type_vocabulary_size": 2, "num_labels": 3}
    shape = StudentShape(**{**sizes, **rest, **SHAPES[name]})  # type: ignore[arg-type]
    torch.manual_seed(0)
    model = build_student(shape, label_names=["a", "b", "c"], dropout=0.0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tokens = torch.arange(11)
    mask_BT = (tokens < torch.tensor([[11], [4], [7], [1], [9]])).long()
    ids_BT, types_BT = torch.randint(0, 50, mask_BT.shape), (tokens > 3).long() * mask_BT

    short, stock = classifier(model), Classifier(model)
    assert isinstance(short, FirstTokenClassifier)
    assert sum(p.numel() for p in short.parameters()) == shape.num_parameters  # none registered twice
    gradients = []
    for forward in (short, stock):
        model.zero_grad()
        logits_BC = forward(ids_BT, mask_BT, types_BT)
        logits_BC.square().sum().backward()
        gradients.append((logits_BC.detach(), [parameter.grad.clone() for parameter in model.parameters()]))
    (ours, our_gradients), (theirs, their_gradients) = gradients
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    for one, other in zip(our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)
    # What stands behind the mask changes nothing, what stands before it does.
    hidden = torch.where(mask_BT.bool(), ids_BT, (ids_BT + 7) % 50)
    torch.testing.assert_close(short(hidden, mask_BT, types_BT), ours, atol=1e-5, rtol=1e-5)
    assert (short((ids_BT + 7) % 50, mask_BT, types_BT) - ours).abs().max() > 0.01


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
    assert isinstance(short, FirstTokenClassifier) == (shape.family in SHORT and shape.task_head == "text")
    assert len(list(short.parameters())) == len(list(model.parameters()))  # none is registered twice
    with torch.no_grad():
        stock = Classifier(model)(ids, mask, types)
        assert torch.allclose(short(ids, mask, types), stock, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_short_forward_pass_drops_and_learns_as_the_stock_one_does(family: str) -> None:
    changes: dict[str, dict[str, Any]] = {
        "albert": {"embedding_size": 8},
        "distilbert": {"type_vocabulary_size": 0},
        "squeezebert": {"num_conv_groups": 2},
        "mobilebert": {"bottleneck_size": 16, "num_feedforwards": 2},
    }
    shape = a_shape(family=family, **changes.get(family, {}))
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


@pytest.mark.parametrize("most", [2**25, 10])
def test_attention_in_bf16_is_the_fused_one_to_its_rounding(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written out, or where that takes too much memory not; either way held to PyTorch's own in fp32, gradients too."""
    monkeypatch.setattr("search.trial.forward.MOST_WRITTEN_OUT", most)
    torch.manual_seed(0)
    length = 9
    parts = [torch.randn(3, 2, length, 8, requires_grad=True) for _ in range(3)]
    mask = (torch.arange(length) < torch.tensor([[length], [4], [7]]))[:, None, None, :]
    wanted = F.scaled_dot_product_attention(*parts, attn_mask=mask)
    wanted.square().sum().backward()
    gradients = [part.grad.clone() for part in parts if part.grad is not None]
    assert len(gradients) == 3
    halves = [part.detach().bfloat16().requires_grad_() for part in parts]
    fused = Mock(wraps=F.scaled_dot_product_attention)
    with patch("search.trial.forward.F.scaled_dot_product_attention", fused):
        found = attention(*halves, mask, 0.0)
    assert fused.called == (most == 10)
    assert found.dtype == torch.bfloat16
    found.square().sum().backward()
    torch.testing.assert_close(found.float(), wanted, atol=0.02, rtol=0.02)
    for half, gradient in zip(halves, gradients, strict=True):
        assert half.grad is not None
        assert (half.grad.float() - gradient).norm() < 0.01 * gradient.norm()
    hidden = [half.detach().clone() for half in halves]
    for half in hidden[1:]:
        half[1, :, 4:] = 50.0  # behind the mask
    torch.testing.assert_close(attention(*hidden, mask, 0.0)[1, :, :], found[1].detach(), atol=0.02, rtol=0.02)
    assert torch.equal(attention(*parts, mask, 0.0), wanted)  # in fp32 it is PyTorch's own
    dropped = attention(*halves, mask, 0.5)
    assert not torch.equal(dropped, found)


@pytest.mark.parametrize("kind", ["roberta", "electra", "albert", "distilbert"])
def test_stock_models_of_any_kind_attend_by_ours(kind: str, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    sizes = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model(kind, **sizes, intermediate_size=64, embedding_size=16, dim=32, hidden_dim=64)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    ids_BT, mask_BT = torch.randint(5, 50, (3, 11)), torch.ones(3, 11).long()
    mask_BT[1, 5:] = 0
    wanted, whole = model(input_ids=ids_BT, attention_mask=mask_BT).logits, model(input_ids=ids_BT).logits
    forward = Classifier(model)
    assert model.config._attn_implementation == ATTENTION
    types_BT = torch.zeros_like(ids_BT)
    torch.testing.assert_close(forward(ids_BT, mask_BT, types_BT), wanted)
    torch.testing.assert_close(forward(ids_BT, torch.ones_like(mask_BT), types_BT), whole)
    with torch.autocast("cpu", torch.bfloat16), torch.profiler.profile() as seen:
        halves = forward(ids_BT, mask_BT, types_BT)
    torch.testing.assert_close(halves.float(), wanted, atol=0.1, rtol=0.1)
    assert not any("scaled_dot_product" in event.name for event in seen.events())
    model.save_pretrained(tmp_path)
    assert ATTENTION not in (tmp_path / "config.json").read_text()


def test_other_architectures_run_as_they_are() -> None:
    config = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    model = ErnieForSequenceClassification(ErnieConfig(vocab_size=20, type_vocab_size=1, **config)).eval()
    assert type(classifier(model)) is Classifier
    ids = torch.randint(3, 20, (2, 5), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        stock = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        assert torch.equal(classifier(model)(ids, torch.ones_like(ids), torch.ones_like(ids)), stock)
