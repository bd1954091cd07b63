"""Sequences of which nothing is dropped, drawn in training.

Shapes: B sequences, T tokens, N rows, K picks of each row.
"""

import torch
from torch import Tensor

from .capacity import without_padding


def spare_sequences(tokens_BT: Tensor, share: float) -> Tensor:
    """The rows of a share of the sequences, drawn anew in each forward, [N]."""
    spared_B1 = torch.rand(tokens_BT.shape[0], 1, device=tokens_BT.device) < share
    return spared_B1.expand_as(tokens_BT).flatten()


def spared_first(gate_NK: Tensor, spared_N: Tensor | None) -> Tensor:
    """The gates, of spared rows above all others."""
    if spared_N is None:
        return gate_NK
    return gate_NK.masked_fill(spared_N.unsqueeze(1), torch.inf)


def keep_spared(
    served_NK: Tensor,
    expert_NK: Tensor,
    num_experts: int,
    spared_N: Tensor | None,
    real_N: Tensor | None,
) -> Tensor:
    """What found room, and all picks of spared rows, whether there was room or not."""
    if spared_N is None:
        return served_NK
    expert_NK = without_padding(expert_NK, num_experts, real_N)
    return expert_NK.where(spared_N.unsqueeze(1), served_NK)
