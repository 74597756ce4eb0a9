"""The losses: pure functions of logits. Sums over classes, means over the valid rows, never over padding.

Legend: B batch, C classes. `num_valid` divides: under DDP it is the count over all ranks, so that N workers give
the loss of one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812


def soft_loss(
    student_BC: torch.Tensor, teacher_BC: torch.Tensor, temperature: float, num_valid: int | None = None
) -> torch.Tensor:
    """KL(teacher || student) at `temperature` on both sides, times temperature squared, mean over the rows.

    Hinton et al. 2015 (arXiv:1503.02531), section 2.1: without the square the gradient falls as the temperature rises.
    An empty batch gives 0.
    """
    student = F.log_softmax(student_BC.float() / temperature, dim=-1)
    teacher = F.log_softmax(teacher_BC.float() / temperature, dim=-1)
    total = F.kl_div(student, teacher, log_target=True, reduction="sum") * temperature**2
    return total / max(1, len(student_BC) if num_valid is None else num_valid)


def hard_loss(student_BC: torch.Tensor, labels_B: torch.Tensor, num_valid: int | None = None) -> torch.Tensor:
    """Cross-entropy with the labels, mean over the rows whose label is not -100; a batch without any gives 0."""
    total = F.cross_entropy(student_BC.float(), labels_B, ignore_index=-100, reduction="sum")
    return total / max(1, int((labels_B != -100).sum()) if num_valid is None else num_valid)


def distillation_loss(
    student_BC: torch.Tensor,
    teacher_BC: torch.Tensor | None,
    labels_B: torch.Tensor,
    *,
    temperature: float,
    soft_share: float,
    num_valid: int | None = None,
) -> torch.Tensor:
    """soft_share x soft + (1 - soft_share) x hard: shares that sum to 1, so that they do not alias the learning rate."""
    loss = student_BC.new_zeros((), dtype=torch.float32)
    if soft_share > 0 and teacher_BC is not None:
        loss = loss + soft_share * soft_loss(student_BC, teacher_BC, temperature, num_valid)
    if soft_share < 1:
        loss = loss + (1 - soft_share) * hard_loss(student_BC, labels_B, num_valid)
    return loss
