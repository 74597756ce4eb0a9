"""What a student of a smaller embedding rank starts from: tables and a projection near the teacher's, and a head that tells pieces.

Legend: V vocabulary, H the teacher's width there, E embedding rank, T positions, K kinds of token (types), M pieces drawn.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.nn.functional import layer_norm

from search.trial.data import Vocabulary

DRAWN = 16_384
UNSEEN = 0.1  # of the mean count, for each piece: what the training text never uses is read elsewhere
RIDGE = 1e-6  # of the mean diagonal: fewer pieces than E still solve
LINEAR_AT, LINEAR_SPREAD = 3.0, 0.6  # 3.0 ± 0.6, where GELU is a straight line to 1 %

Norm = tuple[torch.Tensor, torch.Tensor]


def factorise(
    words_VH: torch.Tensor,
    vocabulary: Vocabulary,
    positions_TH: torch.Tensor,
    types_KH: torch.Tensor,
    norm: Norm,
    rank: int,
    epsilon: float = 1e-12,
    mapping: tuple[torch.Tensor, torch.Tensor] | None = None,
    normalises: bool = True,
    lengths: np.ndarray | None = None,
) -> dict[str, torch.Tensor]:
    """Rank-E embeddings with LayerNorm in E and a projection to H, close to the teacher's with its LayerNorm in H.

    What is kept is the best subspace for the sums that the teacher normalises (Eckart and Young): of a word, a position and a token
    type, words drawn as often as the training text has them and positions as its texts, of so many pieces (`lengths`; None: all
    alike), have them. Words alone leave positions outside, which beside a short word weigh more than it does (decision 0038).
    Because ALBERT normalises in E and BERT in H, the projection is then fitted by least squares to the teacher's normalised output:
    the copy is close, not exact. A teacher that factorises its own (H is then its rank) comes with its `mapping`. `basis` (H, E) is
    the subspace.

    Where the student does not normalise (MobileBERT), words are projected as they are, and positions and token types, which
    it adds at its full width, stand for what they change in the teacher's output at its words' mean deviation.
    """
    generator = torch.Generator().manual_seed(0)

    def drawn(weights: torch.Tensor) -> torch.Tensor:
        return torch.multinomial(weights, DRAWN, replacement=True, generator=generator)

    counts_V = torch.from_numpy(np.asarray(vocabulary.counts, np.float64))
    words_MH = words_VH[drawn(counts_V + UNSEEN * counts_V.mean() + 1e-9)]
    offset_H = positions_TH.mean(0) + types_KH[0]
    beside_MH = offset_H.expand_as(words_MH)
    if normalises:
        reached_T = torch.ones(len(positions_TH))
        if lengths is not None:  # how many texts have a piece there
            ends_T = np.bincount(np.minimum(lengths, len(positions_TH)), minlength=len(positions_TH) + 1)
            reached_T = torch.from_numpy(ends_T[::-1].cumsum()[-2::-1].copy()).double() + 1e-9
        beside_MH = positions_TH[drawn(reached_T)] + types_KH[drawn(torch.ones(len(types_KH)))]
    target_MH = _mapped(layer_norm(words_MH + beside_MH, norm[0].shape, *norm, epsilon), mapping)
    kept_MH = words_MH + beside_MH if normalises else words_MH
    values, vectors = torch.linalg.eigh((kept_MH.T @ kept_MH).double())
    basis_HE = vectors[:, values.argsort(descending=True)[:rank]].float()
    words, positions, types = (part @ basis_HE for part in (words_VH, positions_TH, types_KH))
    inside_ME, size = kept_MH @ basis_HE, rank
    if normalises:
        inside_ME = layer_norm(inside_ME, (rank,), eps=epsilon)
    else:
        deviation, size = (words_MH + offset_H).std(1).mean().clamp(min=1e-6), target_MH.shape[1]

        def changes(rows: torch.Tensor) -> torch.Tensor:
            out = norm[0] * (rows - rows.mean(1, keepdim=True)) / deviation
            return out if mapping is None else out @ mapping[0].T

        positions, types = changes(positions_TH - positions_TH.mean(0)), changes(types_KH - types_KH[0])
    projection, bias = _fitted(inside_ME, target_MH)
    return {
        "words": words, "positions": positions, "types": types, "norm": torch.ones(size), "norm_bias": torch.zeros(size),
        "projection": projection, "projection_bias": bias, "basis": basis_HE,
    }  # fmt: skip


def piece_head(
    dense: tuple[torch.Tensor, torch.Tensor],
    norm: Norm,
    basis_HE: torch.Tensor,
    states_norm: Norm,
    activation: Callable[[torch.Tensor], torch.Tensor],
    epsilon: float,
) -> list[torch.Tensor]:
    """A masked-LM head of rank E near the teacher's (its `dense` and `norm`): a layer, of which the activation keeps a straight
    line, and its norm, fitted by least squares to what the teacher's head makes of last states, seen in the words' subspace. States
    are drawn as the last layer's norm leaves them, each of its G numbers by itself. Returns (E, G), (E,), (E,) and (E,)."""
    generator = torch.Generator().manual_seed(0)
    states_MG = torch.randn(DRAWN, len(states_norm[0]), generator=generator)
    states_MG = layer_norm(states_MG, states_norm[0].shape, *states_norm, epsilon)
    wanted_ME = layer_norm(activation(states_MG @ dense[0].T + dense[1]), norm[0].shape, *norm, epsilon) @ basis_HE
    weight_EG, bias_E = _fitted(states_MG, wanted_ME)
    line_ME = states_MG @ weight_EG.T + bias_E
    mean_E, scale = line_ME.mean(0), LINEAR_SPREAD / line_ME.std(0).mean().clamp(min=1e-6)
    weight_EG, bias_E = weight_EG * scale, (bias_E - mean_E) * scale + LINEAR_AT
    seen_ME = layer_norm(activation(states_MG @ weight_EG.T + bias_E), mean_E.shape, eps=epsilon)
    seen_E, wanted_E = seen_ME.mean(0), wanted_ME.mean(0)
    slope_E = ((seen_ME - seen_E) * (wanted_ME - wanted_E)).sum(0) / (seen_ME - seen_E).square().sum(0).clamp(min=1e-9)
    return [weight_EG, bias_E, slope_E, wanted_E - slope_E * seen_E]


def _mapped(rows: torch.Tensor, mapping: tuple[torch.Tensor, torch.Tensor] | None) -> torch.Tensor:
    return rows if mapping is None else rows @ mapping[0].T + mapping[1]


def _fitted(inside: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The linear layer, weight and bias, that comes nearest to `target` from `inside`, by least squares."""
    design = torch.cat([inside, torch.ones(len(inside), 1)], dim=1)
    gram = (design.T @ design).double()
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.double)
    solution = torch.linalg.solve(gram, (design.T @ target).double()).float()
    return solution[:-1].T.contiguous(), solution[-1]
