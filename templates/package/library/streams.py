"""Streams as wholes: rows put before them, and what is pooled from them.

Shapes: B sequences, T tokens, N rows put before them, D channels.
"""

import torch
from torch import Tensor


def prepend(first_1ND: Tensor, x_BTD: Tensor) -> Tensor:
    """The same rows before the tokens of every sequence, [B, N + T, D]."""
    return torch.cat([first_1ND.expand(x_BTD.shape[0], -1, -1), x_BTD], 1)


def sequence_mean(x_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
    """The mean over the real tokens of each sequence, [B, D]."""
    if mask_BT is None:
        return x_BTD.mean(1)
    real_BT1 = mask_BT.unsqueeze(-1)
    return x_BTD.where(real_BT1, 0).sum(1) / real_BT1.sum(1).clamp_min(1)


def first_token(x_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
    """The first real token of each sequence, [B, D]."""
    if mask_BT is None:
        return x_BTD[:, 0]
    first_B11 = mask_BT.long().argmax(1)[:, None, None]
    return x_BTD.take_along_dim(first_B11, 1).squeeze(1)
