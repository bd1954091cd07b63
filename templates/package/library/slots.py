"""Slots: experts are given mixtures of tokens, and none of them is chosen.

Shapes: B sequences, T tokens, S tokens with those that a cache remembers, D channels,
E experts, Z slots of all experts in order, R rows of one expert, C chunks of U tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .reference import wide

CHUNK = 64  # tokens whose slots are filled together


def cosine(
    x_BTD: Tensor, weight_ZD: Tensor, scale: Tensor | float, eps: float
) -> Tensor:
    """Products of rows and weights of length 1, times the scale, [B, T, Z]; float32."""
    return unit(wide(x_BTD), eps) @ (scale * unit(wide(weight_ZD), eps)).mT


def unit(x: Tensor, eps: float) -> Tensor:
    """Each row divided by its length."""
    return x * (x.square().sum(-1, keepdim=True) + eps).rsqrt()


def hide_padding(score_BTZ: Tensor, mask_BT: Tensor | None) -> Tensor:
    """The lowest score for padding, so that slots take nothing of it."""
    if mask_BT is None:
        return score_BTZ
    lowest = torch.finfo(score_BTZ.dtype).min
    return score_BTZ.masked_fill(~mask_BT.unsqueeze(-1), lowest)


def fill_slots(x_BTD: Tensor, score_BTZ: Tensor, num_experts: int) -> Tensor:
    """Each slot is a mean of all tokens, weighted by a softmax over them, [E, R, D]."""
    weight_BZT = score_BTZ.softmax(1).mT
    return by_expert(weight_BZT.to(x_BTD.dtype) @ x_BTD, num_experts)


def read_slots(y_ERD: Tensor, score_BTZ: Tensor) -> Tensor:
    """Each token is a mean of all slots, weighted by a softmax over them, [B, T, D]."""
    y_BZD = by_sequence(y_ERD, score_BTZ.shape[0])
    return score_BTZ.softmax(2).to(y_BZD.dtype) @ y_BZD


def by_expert(slot_BZD: Tensor, num_experts: int) -> Tensor:
    """The slots of each expert together, [E, R, D]."""
    return slot_BZD.unflatten(1, (num_experts, -1)).transpose(0, 1).flatten(1, 2)


def by_sequence(y_ERD: Tensor, batch: int) -> Tensor:
    """The slots of each sequence together again, [B, Z, D]."""
    return y_ERD.unflatten(1, (batch, -1)).transpose(0, 1).flatten(1, 2)


def fill_prefix(
    x_BSD: Tensor, score_BSZ: Tensor, past: int, num_experts: int
) -> Tensor:
    """Slots for each token from `past` on: means of it and all before it, [E, R, D].

    The sum of a softmax that grows with each token is kept as a logarithm, so no weight
    exceeds 1. Inside a chunk tokens are weighed one by one; each chunk before it, and
    all that a cache remembers, is one mean.
    """
    total_BTZ = score_BSZ.logcumsumexp(1)[:, past:]
    length = total_BTZ.shape[1]
    chunk = min(CHUNK, length)
    x_BCUD = chunks(x_BSD[:, past:], chunk)
    score_BCUZ = chunks(score_BSZ[:, past:], chunk, torch.finfo(score_BSZ.dtype).min)
    total_BCUZ = chunks(total_BTZ, chunk)
    mean_BCZD, sum_BCZ = summed(x_BCUD, score_BCUZ)
    if past > 0:
        before = summed(x_BSD[:, None, :past], score_BSZ[:, None, :past])
        mean_BCZD = torch.cat([before[0], mean_BCZD], 1)
        sum_BCZ = torch.cat([before[1], sum_BCZ], 1)
    own_BCUVZ = score_BCUZ.unsqueeze(2) - total_BCUZ.unsqueeze(3)
    own_BCUVZ = weights(own_BCUVZ, earlier(chunk, chunk, 1, x_BSD)[..., None])
    slot_BCUZD = torch.einsum("bcuvz,bcvd->bcuzd", own_BCUVZ.to(x_BSD.dtype), x_BCUD)
    count, known = x_BCUD.shape[1], sum_BCZ.shape[1]
    rest_BCUKZ = sum_BCZ[:, None, None] - total_BCUZ.unsqueeze(3)
    sees_C1K1 = earlier(count, known, known - count, x_BSD)[:, None, :, None]
    rest_BCUKZ = weights(rest_BCUKZ, sees_C1K1).to(x_BSD.dtype)
    slot_BCUZD = slot_BCUZD + torch.einsum("bcukz,bkzd->bcuzd", rest_BCUKZ, mean_BCZD)
    slot_BTZD = slot_BCUZD.flatten(1, 2)[:, :length]
    return by_expert(slot_BTZD.flatten(0, 1), num_experts)


def chunks(x_BTD: Tensor, chunk: int, fill: float = 0.0) -> Tensor:
    """Cut into chunks, the last one filled up, [B, C, U, D]."""
    rest = -x_BTD.shape[1] % chunk
    return F.pad(x_BTD, (0, 0, 0, rest), value=fill).unflatten(1, (-1, chunk))


def summed(x_BCUD: Tensor, score_BCUZ: Tensor) -> tuple[Tensor, Tensor]:
    """The slots of each chunk by itself, [B, C, Z, D], and the logarithm of its sum."""
    weight_BCZU = score_BCUZ.softmax(2).mT
    return weight_BCZU.to(x_BCUD.dtype) @ x_BCUD, score_BCUZ.logsumexp(2)


def earlier(rows: int, columns: int, shift: int, like: Tensor) -> Tensor:
    """Which columns a row sees: those before its own, moved by `shift`."""
    row, column = (torch.arange(n, device=like.device) for n in (rows, columns))
    return column < row[:, None] + shift


def weights(exponent: Tensor, sees: Tensor) -> Tensor:
    """exp of what is seen, 0 else; what is hidden may be any number."""
    return exponent.where(sees, -torch.inf).exp()


def read_prefix(y_ERD: Tensor, score_BTZ: Tensor) -> Tensor:
    """Each token is a mean of its own slots, by a softmax over them, [B, T, D]."""
    y_NZD = by_sequence(y_ERD, score_BTZ.shape[0] * score_BTZ.shape[1])
    weight_N1Z = score_BTZ.softmax(2).to(y_NZD.dtype).flatten(0, 1).unsqueeze(1)
    return (weight_N1Z @ y_NZD).squeeze(1).unflatten(0, score_BTZ.shape[:2])
