"""Very many experts: chosen by two halves of a key, one vector in and one out.

Shapes: N rows, M rows of all heads, D width, C half of a query, A half keys,
E = A * A experts, H heads, K kept of each row.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def score_halves(query_NQ: Tensor, key_2AC: Tensor, heads: int) -> Tensor:
    """How well each half of each head's query goes with each half key, [M, 2, A]."""
    query_M2C = query_NQ.unflatten(1, (heads, 2, -1)).flatten(0, 1)
    return torch.einsum("mtc,tac->mta", query_M2C, key_2AC)


def score_halves_by_head(query_NQ: Tensor, key_H2AC: Tensor) -> Tensor:
    """The same, where each head has keys of its own."""
    query_NH2C = query_NQ.unflatten(1, (len(key_H2AC), 2, -1))
    return torch.einsum("nhtc,htac->nhta", query_NH2C, key_H2AC).flatten(0, 1)


def top_products(score_M2A: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """Of all sums of two halves' scores the `kept` largest: expert_MK and score_MK.

    Expert a * A + b is named by half keys a and b. None of the largest sums has a half
    that is not among the `kept` largest of its own kind, so these are enough.
    """
    halves = score_M2A.shape[2]
    order_M2A = score_M2A.sort(dim=2, descending=True, stable=True).indices
    half_M2K = order_M2A[:, :, :kept]
    best_M2K = score_M2A.gather(2, half_M2K)
    score_MP = (best_M2K[:, 0, :, None] + best_M2K[:, 1, None, :]).flatten(1)
    place_MP = score_MP.sort(dim=1, descending=True, stable=True).indices
    place_MK = place_MP[:, :kept]
    size = half_M2K.shape[2]
    first_MK = half_M2K[:, 0].gather(1, place_MK // size)
    second_MK = half_M2K[:, 1].gather(1, place_MK % size)
    return first_MK * halves + second_MK, score_MP.gather(1, place_MK)


def look_up(x_ND: Tensor, vector_ED: Tensor, expert_NK: Tensor) -> Tensor:
    """The product of each row with the vectors of its experts, [N, K]."""
    return torch.einsum("nd,nkd->nk", x_ND, F.embedding(expert_NK, vector_ED))


def sum_up(h_NK: Tensor, vector_ED: Tensor, expert_NK: Tensor) -> Tensor:
    """The vectors of the experts of each row, times h, summed: [N, D]."""
    return torch.einsum("nk,nkd->nd", h_NK, F.embedding(expert_NK, vector_ED))
