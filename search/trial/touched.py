"""Embedding tables trained by the rows that a batch uses, as AdamW would train them whole.

A batch of 800 tokens uses 400 rows of a table of 10,000, yet AdamW over the table reads and writes all of it (28 bytes a weight
and step), after its gradient was filled with zeros and clipped: for a student of two layers that is as much as its products. What
AdamW does to a row without gradient follows from the row alone (its moments decay, it drifts on along them, weight decay
shrinks it), so those steps are made up for in closed form when the row is next used, and at the end. The weights are AdamW's
own, to rounding and to its epsilon, which over the steps made up for at once has its mean; a test holds that.

Legend: N rows of a table, U rows that a batch uses, H their width.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from search.trial.layouts import LAYOUTS

MIN_ROWS = 256  # a smaller table is cheaper trained whole
SETTLED_AT_ONCE = 4096  # rows
DRIFT_STEPS = 400  # a row without gradient has come to rest by then: (0.9 / sqrt(0.999)) ** 400 is 6e-19


Rows = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # weight, mean, square


class SkippedSteps:
    """AdamW's steps from `first` on, and what a run of them does to a weight that has no gradient in it.

    Over the steps s + 1 to t such a weight p with moments m, v becomes kept * p - drift * m / sqrt(v): `kept` is the product of
    1 - rate * decay, `drift` the sum of the steps that m still causes, each shrunk by the weight decay after it. Source:
    Loshchilov and Hutter (arXiv:1711.05101), algorithm 2, with the gradient 0.
    """

    def __init__(
        self,
        first: int,
        last: int,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
    ) -> None:
        self.now = 0  # steps done, from `first`
        self.weight_decay, self.betas, self.epsilon = weight_decay, betas, epsilon
        self._first = first
        ratio = betas[0] / math.sqrt(betas[1])
        self._falling = ratio ** np.arange(DRIFT_STEPS, 0, -1, dtype=np.float64)
        self._kept = np.ones(last - first + 1)
        self._drift = np.zeros(last - first + 1)  # of who was last stepped at s, divided by kept[now]
        self._drift_epsilon = np.zeros(
            last - first + 1
        )  # the same sum, each step times epsilon as it stands beside sqrt(v)

    def bias_corrections(self, step: int) -> tuple[float, float]:
        """Those of step `step` from `first`: (of the mean, of the square)."""
        of_mean, of_square = self.betas
        return 1 - of_mean ** (self._first + step), 1 - of_square ** (self._first + step)

    def advance(self, learning_rate: float) -> None:
        before, self.now = self.now, self.now + 1
        kept = self._kept[before] * (1 - learning_rate * self.weight_decay)
        of_mean, of_square = self.bias_corrections(self.now)
        self._kept[self.now] = kept
        since = max(0, self.now - DRIFT_STEPS)
        falling = self._falling[since - self.now :]
        steps = learning_rate * math.sqrt(of_square) / (of_mean * kept) * falling
        missed = np.arange(self.now - since, 0, -1)
        epsilon = self.epsilon * math.sqrt(of_square) * self.betas[1] ** (-missed / 2)
        self._drift[since : self.now] += steps
        self._drift_epsilon[since : self.now] += steps * epsilon

    def make_up(
        self, seen_U: torch.Tensor, weight_UH: torch.Tensor, mean_UH: torch.Tensor, square_UH: torch.Tensor
    ) -> None:
        """Brings rows that were last stepped at `seen_U` up to now, in place."""
        seen = seen_U.numpy()
        behind = (self.now - seen).astype(np.float64)
        kept = self._kept[self.now] / self._kept[seen]
        drift = self._drift[seen] * self._kept[self.now]
        epsilon = np.full(len(seen), self.epsilon)
        np.divide(self._drift_epsilon[seen], self._drift[seen], out=epsilon, where=self._drift[seen] > 0)
        weight_UH.mul_(_column(kept)).sub_(_column(drift) * mean_UH / square_UH.sqrt().add_(_column(epsilon)))
        mean_UH.mul_(_column(self.betas[0] ** behind))
        square_UH.mul_(_column(self.betas[1] ** behind))


class TouchedRows(nn.Module):
    """In the place of an `nn.Embedding` while it is trained; it keeps AdamW's state of the table."""

    def __init__(self, embedding: nn.Embedding, steps: SkippedSteps) -> None:
        super().__init__()
        self.embedding, self.steps = embedding, steps
        self.mean_NH = torch.zeros_like(embedding.weight, requires_grad=False)
        self.square_NH = torch.zeros_like(embedding.weight, requires_grad=False)
        self._seen_N = torch.zeros(embedding.num_embeddings, dtype=torch.int64)
        # Since the last step: ids (U,), and their weights, means and squares (U, H).
        self._taken: list[tuple[torch.Tensor, Rows]] = []

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        used_U, places = torch.unique(ids, return_inverse=True)
        rows = self._rows(used_U)
        weight_UH = rows[0]
        if torch.is_grad_enabled():
            weight_UH.requires_grad_()
            self._taken.append((used_U, rows))
        at = torch.nonzero(used_U == (-1 if self.embedding.padding_idx is None else self.embedding.padding_idx))
        return F.embedding(places, weight_UH, int(at) if len(at) else None)

    def collected(self) -> list[torch.Tensor]:
        """The rows of this step with their gradients: one tensor, or none where no pass came through here."""
        if len(self._taken) > 1:  # several passes: each row has the sum of their gradients
            used_U, places = torch.unique(torch.cat([used for used, _ in self._taken]), return_inverse=True)
            weights = [rows[0] for _, rows in self._taken]
            gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in weights]
            rows = self._rows(used_U)
            rows[0].grad = torch.zeros_like(rows[0]).index_add_(0, places, torch.cat(gradients))
            self._taken = [(used_U, rows)]
        return [rows[0] for _, rows in self._taken if rows[0].grad is not None]

    @torch.no_grad()
    def step(self, learning_rate: float, of_mean: float, of_square: float) -> None:
        """AdamW's step on what `collected` gave; the steps' clock is advanced after it."""
        for used_U, (weight_UH, mean_UH, square_UH) in self._taken:
            if weight_UH.grad is None:
                continue
            (beta, beta_of_square), gradient_UH = self.steps.betas, weight_UH.grad
            mean_UH.lerp_(gradient_UH, 1 - beta)
            square_UH.mul_(beta_of_square).addcmul_(gradient_UH, gradient_UH, value=1 - beta_of_square)
            weight_UH.mul_(1 - learning_rate * self.steps.weight_decay)
            scale_UH = square_UH.sqrt().mul_(1 / math.sqrt(of_square)).add_(self.steps.epsilon)
            weight_UH.addcdiv_(mean_UH, scale_UH, value=-learning_rate / of_mean)
            self._put(used_U, (weight_UH, mean_UH, square_UH), self.steps.now + 1)
        self._taken = []

    @torch.no_grad()
    def settle(self) -> None:
        """All rows up to now."""
        every = torch.arange(self.embedding.num_embeddings)
        for part in every.split(SETTLED_AT_ONCE):
            self._put(part, self._rows(part), self.steps.now)

    def _rows(self, used_U: torch.Tensor) -> Rows:
        """Copies of (weight, mean, square) of these rows, up to now."""
        weight_UH, mean_UH, square_UH = (whole.detach()[used_U] for whole in self._wholes())
        self.steps.make_up(self._seen_N[used_U], weight_UH, mean_UH, square_UH)
        return weight_UH, mean_UH, square_UH

    def _put(self, used_U: torch.Tensor, rows: Rows, seen: int) -> None:
        for whole, part in zip(self._wholes(), rows, strict=True):
            whole.detach()[used_U] = part
        self._seen_N[used_U] = seen

    def _wholes(self) -> Rows:
        return self.embedding.weight, self.mean_NH, self.square_NH


class TouchedTables:
    """All large embedding tables of a model, from step `first` to `last`: the other half of its optimizer.

    `settle` ends it: the model is as it was, with the weights trained.
    """

    def __init__(self, model: nn.Module, weight_decay: float, first: int, last: int) -> None:
        self._steps = SkippedSteps(first, last, weight_decay)
        self._model = model
        self._tables = {name: TouchedRows(embedding, self._steps) for name, embedding in large_tables(model).items()}
        for name, table in self._tables.items():
            table.embedding.weight.requires_grad_(False)  # the plain optimizer's sign to leave it alone
            model.set_submodule(name, table)

    def collected(self) -> list[torch.Tensor]:
        """After the backward pass: the used rows of all tables, with gradients, for clipping."""
        return [rows for table in self._tables.values() for rows in table.collected()]

    def step(self, learning_rate: float) -> None:
        corrections = self._steps.bias_corrections(self._steps.now + 1)
        for table in self._tables.values():
            table.step(learning_rate, *corrections)
        self._steps.advance(learning_rate)

    def settle(self) -> None:
        for name, table in self._tables.items():
            table.settle()
            self._model.set_submodule(name, table.embedding)
            table.embedding.weight.requires_grad_(True)

    def moments(self) -> dict[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """AdamW's state itself, by the tables' weights; of now once settled."""
        return {table.embedding.weight: (table.mean_NH, table.square_NH) for table in self._tables.values()}


def large_tables(model: nn.Module) -> dict[str, nn.Embedding]:
    """The embeddings worth it, by their place in the model: at the bottom of an architecture that `LAYOUTS` knows (others may
    read a table's weight themselves), trained, of many rows, of plain kind, nobody else's weight."""
    places: dict[int, int] = {}
    for _, weight in model.named_parameters(remove_duplicate=False):
        places[id(weight)] = places.get(id(weight), 0) + 1
    bottoms = tuple(_bottoms(model))
    return {
        name: module
        for name, module in model.named_modules()
        if name.startswith(bottoms)
        and type(module) is nn.Embedding
        and module.num_embeddings >= MIN_ROWS
        and module.weight.requires_grad
        and places[id(module.weight)] == 1
        and module.max_norm is None
        and not module.scale_grad_by_freq
    }


def _bottoms(model: nn.Module) -> Iterator[str]:
    """Where the embeddings lie of each known architecture in the model."""
    for name, module in model.named_modules():
        layout = LAYOUTS.get(getattr(getattr(module, "config", None), "model_type", ""))
        with contextlib.suppress(AttributeError):  # an inner part has the config too, and not the path
            if layout is not None and module.get_submodule(layout.embeddings):
                yield f"{name}.{layout.embeddings}.".lstrip(".")


def _column(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32))[:, None]
