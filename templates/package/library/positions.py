"""Distances between positions, in buckets: near ones by themselves, far ones together.

Shapes: B sequences, T tokens of this call, S = past + T tokens in all, K buckets,
H heads, O ways from a query to a key.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def relative_buckets(
    tokens_BT: Tensor, past: int, count: int, max_distance: int
) -> Tensor:
    """The bucket of each query's way to each key, [T, S]: half for keys after it."""
    ahead_TS = offsets(tokens_BT, past)
    bucket_TS = distance_bucket(ahead_TS.abs(), count // 2, max_distance)
    return bucket_TS + (ahead_TS > 0) * (count // 2)


def causal_buckets(
    tokens_BT: Tensor, past: int, count: int, max_distance: int
) -> Tensor:
    """The bucket of each query's way back to each key, [T, S]."""
    back_TS = (-offsets(tokens_BT, past)).clamp_min(0)
    return distance_bucket(back_TS, count, max_distance)


def relative_bias(
    weight_KH: Tensor, tokens_BT: Tensor, past: int, max_distance: int
) -> Tensor:
    """What the way from each query to each key adds to their score, [H, T, S]."""
    count = weight_KH.shape[0]
    return biases(weight_KH, relative_buckets(tokens_BT, past, count, max_distance))


def causal_bias(
    weight_KH: Tensor, tokens_BT: Tensor, past: int, max_distance: int
) -> Tensor:
    """What the way from each query back to each key adds to their score, [H, T, S]."""
    count = weight_KH.shape[0]
    return biases(weight_KH, causal_buckets(tokens_BT, past, count, max_distance))


def biases(weight_KH: Tensor, bucket_TS: Tensor) -> Tensor:
    """What each head adds to a score for its bucket, [H, T, S].

    Ways of one length stand on a diagonal, and share a bucket: each is looked up once,
    and diagonals sum their gradients in one order, which many lookups on a GPU do not.
    """
    length, seen = bucket_TS.shape
    ahead_T = bucket_TS[:, -1].flip(0)
    bucket_O = torch.cat([bucket_TS[-1, :-1], ahead_T, ahead_T[-1:]])
    bias_HTO = F.embedding(bucket_O, weight_KH).T.unsqueeze(1).expand(-1, length, -1)
    # Rows that are one shorter than they were begin one further left, each.
    bias_HTO = bias_HTO.flatten(1)[:, length - 1 : -1].unflatten(1, (length, -1))
    return bias_HTO[..., :seen]


def offsets(tokens_BT: Tensor, past: int) -> Tensor:
    """How far each key stands after each query, [T, S]."""
    key_S = torch.arange(past + tokens_BT.shape[1], device=tokens_BT.device)
    return key_S - key_S[past:, None]


def distance_bucket(distance: Tensor, count: int, max_distance: int) -> Tensor:
    """One bucket for each short distance; the other half grow by a factor each.

    The last one holds max_distance and all beyond.
    """
    exact = count // 2
    grown = (distance.float() / exact).log() / math.log(max_distance / exact)
    far = exact + (grown * (count - exact)).long()
    return distance.where(distance < exact, far.clamp_max(count - 1))
