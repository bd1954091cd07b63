"""Streams as wholes: rows put before them, and what is pooled from them.

Shapes: B sequences, T tokens, S tokens with those that a cache remembers,
N rows put before them, D channels.
"""

import torch
from torch import Tensor

from .reference import wide
from .state import Cache


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


def running_mean(x_BSD: Tensor, mask_BS: Tensor | None, past: int) -> Tensor:
    """For each token from `past` on the mean of it and all before it, [B, T, D]."""
    x_BSD = wide(x_BSD)
    if mask_BS is None:
        count_BS = torch.arange(1, x_BSD.shape[1] + 1, device=x_BSD.device)[None]
    else:
        x_BSD = x_BSD.where(mask_BS.unsqueeze(-1), 0)
        count_BS = mask_BS.cumsum(1).clamp_min(1)
    return (x_BSD.cumsum(1) / count_BS.unsqueeze(-1))[:, past:]


def prompt_mean(
    x_BTD: Tensor, mask_BS: Tensor | None, past: int, cache: Cache | None
) -> Tensor:
    """The mean over the real tokens of the first call on each sequence, [B, D]."""
    mask_BT = None if mask_BS is None else mask_BS[:, past:]
    mean_BTD = sequence_mean(x_BTD, mask_BT).unsqueeze(1).expand_as(x_BTD)
    return mean_BTD[:, 0] if cache is None else cache.append(mean_BTD)[:, 0]
