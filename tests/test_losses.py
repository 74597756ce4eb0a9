"""The losses, by hand and as properties."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from search.trial.losses import distillation_loss, hard_loss, soft_loss

NO_TEACHER = torch.zeros(0, 3)


def test_soft_loss_by_hand() -> None:  # teacher (3/4, 1/4), student (1/2, 1/2) after T=2: 4 * 0.130812
    teacher = torch.tensor([[2 * math.log(3), 0.0]])
    assert soft_loss(torch.zeros(1, 2), teacher, temperature=2.0).item() == pytest.approx(0.523248, abs=1e-5)
    assert soft_loss(teacher, teacher, temperature=2.0).item() == pytest.approx(0.0, abs=1e-6)


def test_soft_loss_sums_over_classes_and_means_over_rows() -> None:
    # teacher (1/2, 1/6, 1/6, 1/6) against four quarters: 1/2 ln 2 + 1/2 ln(2/3); the second row agrees
    teacher = torch.tensor([[math.log(3), 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    expected = (0.5 * math.log(2) + 0.5 * math.log(2 / 3)) / 2
    assert soft_loss(torch.zeros(2, 4), teacher, temperature=1.0).item() == pytest.approx(expected, abs=1e-6)


def gradient(temperature: float) -> torch.Tensor:
    student = torch.zeros(1, 3, requires_grad=True)
    soft_loss(student, torch.tensor([[1.0, -1.0, 0.0]]), temperature).backward()
    assert student.grad is not None
    return student.grad[0]


def test_the_gradient_does_not_collapse_as_the_temperature_rises() -> None:
    """T (softmax(s/T) - softmax(t/T)): at T=1 1/3 - (0.6652, 0.0900, 0.2447); for large T (s - t) / 3 (Hinton, eq. 4)."""
    assert gradient(1.0).tolist() == pytest.approx([-0.33191, 0.24330, 0.08861], abs=1e-4)
    assert gradient(100.0).tolist() == pytest.approx([-1 / 3, 1 / 3, 0.0], abs=5e-3)
    assert 0.8 < float(gradient(8.0).norm() / gradient(1.0).norm()) < 1.25


def test_hard_loss_by_hand() -> None:
    logits = torch.tensor([[math.log(3), 0.0], [0.0, 0.0], [5.0, 9.0]])
    labels = torch.tensor([0, 1, -100])  # -ln(3/4), -ln(1/2), none
    assert hard_loss(logits, labels).item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2, abs=1e-6)
    assert hard_loss(logits, labels, num_valid=4).item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 4, abs=1e-6)


def test_nothing_valid_is_no_loss_and_no_nan() -> None:
    logits = torch.randn(2, 3, requires_grad=True)
    hard_loss(logits, torch.tensor([-100, -100])).backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros(2, 3))
    none = torch.zeros(0, dtype=torch.long)
    assert soft_loss(NO_TEACHER, NO_TEACHER, 2.0).item() == 0
    assert hard_loss(NO_TEACHER, none).item() == 0
    assert distillation_loss(NO_TEACHER, NO_TEACHER, none, temperature=2.0, soft_share=0.5).item() == 0


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 99))
def test_the_shares_sum_to_one(share: float, hidden_share: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, 4, 3, generator=generator)
    labels = torch.tensor([0, 1, 2, 1])
    soft, hard = soft_loss(student, teacher, 3.0), hard_loss(student, labels)
    mixed = distillation_loss(student, teacher, labels, temperature=3.0, soft_share=share)
    expected = share * soft.item() + (1 - share) * hard.item()
    assert mixed.item() == pytest.approx(expected, rel=1e-5)
    all_of_them = distillation_loss(
        student, teacher, labels, temperature=3.0, soft_share=share, hidden_share=hidden_share, hidden=torch.tensor(7.0)
    )
    assert all_of_them.item() == pytest.approx(hidden_share * 7 + (1 - hidden_share) * expected, rel=1e-5)


def test_parts_of_a_batch_add_up_to_the_whole() -> None:
    student, teacher = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 1, 0])

    def loss(rows: slice) -> float:
        return distillation_loss(
            student[rows], teacher[rows], labels[rows], temperature=2.0, soft_share=0.5, num_valid=5
        ).item()

    assert loss(slice(0, 5, 2)) + loss(slice(1, 5, 2)) == pytest.approx(loss(slice(None)), rel=1e-5)
