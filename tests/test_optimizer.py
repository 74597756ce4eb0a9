"""The optimizer: large embedding tables trained by rows end where AdamW over the whole table ends."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from search.trial.optimizer import Optimizer
from search.trial.touched import DRIFT_STEPS, MIN_ROWS, large_tables

NUM_STEPS = DRIFT_STEPS + 300
RARE = 7  # a row used in the first step and long after it has come to rest
NEVER = 8


class Toy(nn.Module):
    """A table where a BERT has its own, one that is small, and a layer; sums each text's rows."""

    def __init__(self, model_type: str = "bert") -> None:
        super().__init__()
        torch.manual_seed(1)
        self.config = SimpleNamespace(model_type=model_type)
        self.bert = nn.Module()
        self.bert.embeddings = nn.Module()
        self.bert.embeddings.words = nn.Embedding(MIN_ROWS + 20, 6, padding_idx=0)
        self.bert.embeddings.kinds = nn.Embedding(3, 6)
        self.out = nn.Linear(6, 2)

    def forward(self, ids_BT: torch.Tensor) -> torch.Tensor:
        tables = self.bert.embeddings
        return self.out((tables.words(ids_BT) + tables.kinds(ids_BT % 3)).tanh().sum(1))


WORDS = "bert.embeddings.words"


def batches(first: int, last: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, float]]:
    for step in range(first, last):
        draw = torch.Generator().manual_seed(step)
        ids = torch.randint(NEVER + 1, MIN_ROWS + 20, (4, 5), generator=draw)
        ids[0, :2] = 0
        if step in (0, NUM_STEPS - 2):
            ids[1, 1] = RARE
        yield ids, torch.randn(4, 2, generator=draw), 0.01 * (1 - 0.9 * step / NUM_STEPS)


def trained(
    by_rows: bool, cuts: tuple[int, ...] = (NUM_STEPS,), passes: int = 1, switch: bool = False, scale: float = 1.0
) -> dict[str, Any]:
    model = Toy()
    state: dict[str, Any] = {}
    first = 0
    for last in cuts:
        optimizer = Optimizer(model, 0.1, first, last, by_rows)
        if first:
            optimizer.load_state_dict(state)
        for ids, wanted, rate in batches(first, last):
            found = sum(model(part) for part in ids.split(5 // passes, dim=1))
            (scale * (found - wanted) ** 2).sum().backward()
            optimizer.step(rate)
        optimizer.settle()
        state, first = optimizer.state_dict(), last
        by_rows = by_rows != switch
    return {
        **model.state_dict(),
        **{f"{name}.{i}": m for name, pair in state["moments"].items() for i, m in enumerate(pair)},
    }


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(
            one[name], other[name], rtol=1e-3, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("passes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_by_rows_is_adamw(passes: int) -> None:
    whole, by_rows = trained(False, passes=passes), trained(True, passes=passes)
    begin = Toy().bert.embeddings.words.weight
    assert (whole[f"{WORDS}.weight"] - begin).abs().max() > 0.5  # it did train
    assert (whole[f"{WORDS}.weight"][NEVER] / begin[NEVER] < 0.7).all()  # and rows that no text uses decay
    assert_close(whole, by_rows)


def test_a_row_drifts_on_and_decays_when_it_is_not_used() -> None:
    rows = {by_rows: trained(by_rows, cuts=(NUM_STEPS - 5,))[f"{WORDS}.weight"][RARE] for by_rows in (False, True)}
    first = trained(True, cuts=(1,))[f"{WORDS}.weight"][RARE]
    assert (rows[True] - first).abs().min() > 1e-3
    torch.testing.assert_close(rows[True], rows[False], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_either_way_goes_on_from_either_ones_state() -> None:
    whole = trained(False)
    for by_rows in (False, True):
        for switch in (False, True):
            assert_close(whole, trained(by_rows, cuts=(100, 101, NUM_STEPS), switch=switch))


def test_small_gradients_stay_near_adamw_where_its_epsilon_counts() -> None:
    """Of 1e-7 and less, where AdamW divides by its epsilon as much as by the gradient's size."""
    rows = {by_rows: trained(by_rows, cuts=(60,), scale=1e-8)[f"{WORDS}.weight"] for by_rows in (False, True)}
    moved = (rows[False] - Toy().bert.embeddings.words.weight).abs().mean()
    assert moved > 1e-3
    assert (rows[True] - rows[False]).abs().mean() < 0.01 * moved


def test_only_tables_of_known_architectures_are_taken() -> None:
    """Others may read a table's weight themselves, as DeBERTa reads its relative positions'."""
    assert large_tables(Toy("deberta-v2")) == {}
    assert list(large_tables(nn.Sequential(Toy()))) == [f"0.{WORDS}"]


def test_the_model_is_itself_again_afterwards() -> None:
    model = Toy()
    names = list(model.state_dict())
    optimizer = Optimizer(model, 0.1, 0, 1, by_rows=True)
    assert type(model.bert.embeddings.words) is not nn.Embedding
    optimizer.settle()
    assert type(model.bert.embeddings.words) is nn.Embedding
    assert list(model.state_dict()) == names
    assert all(weight.requires_grad for weight in model.parameters())


def test_a_table_that_is_small_or_shared_or_frozen_is_left_alone() -> None:
    model = Toy()
    assert list(large_tables(model)) == [WORDS]
    model.head = nn.Linear(6, MIN_ROWS + 20)
    model.head.weight = model.bert.embeddings.words.weight
    assert large_tables(model) == {}
    model = Toy()
    model.bert.embeddings.words.weight.requires_grad_(False)
    assert large_tables(model) == {}


def test_biases_and_norms_do_not_decay() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    optimizer = Optimizer(model, 0.5, 0, 1, by_rows=False)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step(0.1)
    for name, weight in model.named_parameters():
        assert torch.allclose(weight, before[name] * (0.95 if name == "0.weight" else 1.0)), name


def test_the_global_norm_is_clipped_rows_and_all() -> None:
    """A step of Adam does not depend on the gradient's size; its moments do."""
    for by_rows in (False, True):
        model = Toy()
        optimizer = Optimizer(model, 0.0, 0, 1, by_rows)
        (1e6 * model(torch.tensor([[9, 10, 11]]))).sum().backward()
        optimizer.step(0.1)
        optimizer.settle()
        means = [mean / 0.1 for mean, _ in optimizer.state_dict()["moments"].values()]
        assert torch.stack([mean.square().sum() for mean in means]).sum().sqrt() == pytest.approx(1.0, rel=1e-4)
