"""The losses: pure functions of outputs. Sums over classes, means over the valid rows, never over padding.

Legend: B batch (of rows, or of the words in them that are read: what is ignored is not among them), C classes. The start of an
answer is a row whose classes are the pieces of its text, and so is its end.
`num_valid` divides: under DDP it is the count over all ranks, so that N workers give
the loss of one. An empty batch gives 0. `weights_C` are class weights, 1 on average over the training rows: they
divide nothing, so that weighted and plain losses share their learning rate (PyTorch divides by the weights in the
batch instead, which two workers would not agree on).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812


def soft_loss(
    student_BC: torch.Tensor, teacher_BC: torch.Tensor, temperature: float, num_valid: int | None = None
) -> torch.Tensor:
    """KL(teacher || student) at `temperature` on both sides, times temperature squared, mean over the rows.

    Hinton et al. 2015 (arXiv:1503.02531), section 2.1: without the square the gradient falls as the temperature rises.
    """
    student = F.log_softmax(student_BC.float() / temperature, dim=-1)
    teacher = F.log_softmax(teacher_BC.float() / temperature, dim=-1)
    total = F.kl_div(student, teacher, log_target=True, reduction="sum") * temperature**2
    return total / _count(student_BC, num_valid)


def hard_loss(
    student_BC: torch.Tensor, labels_B: torch.Tensor, num_valid: int | None = None, weights_C: torch.Tensor | None = None
) -> torch.Tensor:  # fmt: skip
    """Cross-entropy with the labels, mean over the rows whose label is not -100."""
    total = F.cross_entropy(student_BC.float(), labels_B, weight=weights_C, ignore_index=-100, reduction="sum")
    return total / max(1, int((labels_B != -100).sum()) if num_valid is None else num_valid)


def soft_labels_loss(
    student_BC: torch.Tensor, teacher_BC: torch.Tensor, temperature: float, num_valid: int | None = None
) -> torch.Tensor:
    """Any number of classes a row: each class is a choice of two, KL(teacher || student) of that choice at `temperature`
    on both sides, times temperature squared; sum over classes, mean over the rows."""
    student, teacher = student_BC.float() / temperature, teacher_BC.float() / temperature
    yes = teacher.sigmoid() * (F.logsigmoid(teacher) - F.logsigmoid(student))
    no = (-teacher).sigmoid() * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return (yes + no).sum() * temperature**2 / _count(student_BC, num_valid)


def hard_labels_loss(
    student_BC: torch.Tensor, labels_BC: torch.Tensor, num_valid: int | None = None, weights_C: torch.Tensor | None = None
) -> torch.Tensor:  # fmt: skip
    """Binary cross-entropy of each class, sum over classes, mean over the rows that have labels (no NaN)."""
    there_B = ~labels_BC.isnan().any(-1)
    student, labels = student_BC.float()[there_B], labels_BC[there_B]
    total = F.binary_cross_entropy_with_logits(student, labels, weight=weights_C, reduction="sum")
    return total / _count(student, num_valid)


def hard_place_loss(
    student_BC: torch.Tensor, labels_BC: torch.Tensor, num_valid: int | None = None, weights_C: torch.Tensor | None = None
) -> torch.Tensor:  # fmt: skip
    """Cross-entropy with the place that is labelled 1, mean over the rows; a row without one adds nothing."""
    total = -(labels_BC * F.log_softmax(student_BC.float(), dim=-1)).sum()
    return total / _count(student_BC, num_valid)


def soft_number_loss(
    student_B1: torch.Tensor, teacher_B1: torch.Tensor, temperature: float, num_valid: int | None = None
) -> torch.Tensor:
    """Squared error to the teacher's output, mean over the rows. A number has no temperature: it is not used."""
    return (student_B1.float() - teacher_B1.float()).square().sum() / _count(student_B1, num_valid)


def hard_number_loss(
    student_B1: torch.Tensor, labels_B: torch.Tensor, num_valid: int | None = None, weights_C: torch.Tensor | None = None
) -> torch.Tensor:  # fmt: skip
    """Squared error to the label, mean over the rows that have one (no NaN)."""
    there_B = ~labels_B.isnan()
    error = student_B1.float()[there_B, 0] - labels_B[there_B]
    return error.square().sum() / _count(error, num_valid)


def vector_loss(
    student_BD: torch.Tensor, teacher_BD: torch.Tensor, temperature: float, num_valid: int | None = None
) -> torch.Tensor:
    """1 - cosine of each text's two vectors, mean over the rows. It has no temperature."""
    distance_B = 1 - F.cosine_similarity(student_BD.float(), teacher_BD.float(), dim=-1)
    return distance_B.sum() / _count(student_BD, num_valid)


def similarity_loss(
    student_BD: torch.Tensor, teacher_BE: torch.Tensor, num_valid: int | None = None, weights_C: torch.Tensor | None = None
) -> torch.Tensor:  # fmt: skip
    """Squared difference between the student's and the teacher's cosine of two texts of the batch, for each text mean over the
    others, then over the rows; widths may differ. A worker compares the texts of its own part of the batch alone (and of a batch in
    parts each part its own), so that fewer pairs are seen than by one: the rows are divided by as ever, the
    pairs are not the same ones. A text without another gives 0."""
    student_BB, teacher_BB = (
        rows @ rows.T for rows in (F.normalize(side.float(), dim=-1) for side in (student_BD, teacher_BE))
    )
    others = ~torch.eye(len(student_BD), dtype=torch.bool, device=student_BD.device)
    error = ((student_BB - teacher_BB).square() * others).sum() / max(1, len(student_BD) - 1)
    return error / _count(student_BD, num_valid)


def _count(rows: torch.Tensor, num_valid: int | None) -> int:
    return max(1, len(rows) if num_valid is None else num_valid)


@dataclass(frozen=True)
class TargetLosses:
    """The loss to the teacher's outputs and the loss to the labels, for one kind of target. Nobody labels vectors: there the second
    is to the teacher too."""

    soft: Callable[..., torch.Tensor]
    hard: Callable[..., torch.Tensor]


TARGET_LOSSES = {
    "class": TargetLosses(soft_loss, hard_loss),
    "classes": TargetLosses(soft_labels_loss, hard_labels_loss),
    "number": TargetLosses(soft_number_loss, hard_number_loss),
    "tags": TargetLosses(soft_loss, hard_loss),  # a class for each word
    "span": TargetLosses(soft_loss, hard_place_loss),  # one of a row's places, twice
    "vector": TargetLosses(vector_loss, similarity_loss),
    "piece": TargetLosses(soft_loss, hard_loss),  # a class for each piece of the vocabulary
}


def distillation_loss(
    student_BC: torch.Tensor,
    teacher_BC: torch.Tensor | None,
    labels_B: torch.Tensor,
    *,
    temperature: float,
    soft_share: float,
    hidden_share: float = 0.0,
    hidden: torch.Tensor | None = None,
    num_valid: int | None = None,
    num_labelled: int | None = None,
    target: str = "class",
    weights_C: torch.Tensor | None = None,
) -> torch.Tensor:
    """hidden_share x hidden + (1 - hidden_share) x (soft_share x soft + (1 - soft_share) x hard): shares that sum to 1, so
    that they do not alias the learning rate. Soft is the mean over all rows (`num_valid`), hard over those that have a label
    (`num_labelled`); `hidden` comes as the forward pass left it."""
    losses = TARGET_LOSSES[target]
    if target == "vector" and teacher_BC is not None:
        labels_B, num_labelled = teacher_BC, None
    loss = student_BC.new_zeros((), dtype=torch.float32)
    if soft_share > 0 and teacher_BC is not None:
        loss = loss + soft_share * losses.soft(student_BC, teacher_BC, temperature, num_valid)
    if soft_share < 1:
        loss = loss + (1 - soft_share) * losses.hard(
            student_BC, labels_B, num_valid if num_labelled is None else num_labelled, weights_C
        )
    return loss if hidden is None else hidden_share * hidden + (1 - hidden_share) * loss
