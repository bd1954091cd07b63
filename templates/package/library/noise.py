"""Chance: what is drawn anew in each forward. An amount of 0 draws nothing.

Draws come from torch's generators, which activation checkpointing sets back: what is
made again in backward is what forward made.

Shapes: N rows, E experts.
"""

import torch
from torch import Tensor


def jitter(x: Tensor, amount: float) -> Tensor:
    """x times numbers drawn evenly between 1 - amount and 1 + amount."""
    if amount == 0:
        return x
    return x * (1 + amount * (2 * torch.rand_like(x) - 1))


def gaussian(x: Tensor, std: Tensor | float) -> Tensor:
    """x plus normal noise."""
    if not isinstance(std, Tensor) and std == 0:
        return x
    return x + std * torch.randn_like(x)


def gumbel(x: Tensor, scale: float) -> Tensor:
    """x plus Gumbel noise, the negative logarithm of an exponential variable."""
    if scale == 0:
        return x
    return x - scale * torch.empty_like(x).exponential_().log()


def hide(x: Tensor, rate: float) -> Tensor:
    """x with -inf in place of what is hidden."""
    if rate == 0:
        return x
    return x.masked_fill(torch.rand_like(x) < rate, -torch.inf)


def drop_tokens(x: Tensor, rate: float) -> Tensor:
    """Rows zeroed as a whole with this probability, the others scaled up."""
    if rate == 0:
        return x
    kept = torch.rand_like(x[..., :1]) >= rate
    return (x / (1 - rate)).where(kept, 0) if rate < 1 else torch.zeros_like(x)


def load_by_pair(
    clean_NE: Tensor, noisy_NE: Tensor, std: Tensor | float, k: int, training: bool
) -> Tensor:
    """The probability of each expert to be kept, were its own noise alone drawn again.

    It must pass the k-th largest of the others: the (k + 1)-th of all if it is among
    the first k itself, else the k-th. Without noise: 1 for the kept, 0 for the others.
    """
    if not training or k == clean_NE.shape[1]:
        return count_largest(noisy_NE, k)
    largest_NK = noisy_NE.topk(k + 1, dim=1).values
    next_N1, last_N1 = largest_NK[:, k:], largest_NK[:, k - 1 : k]
    bar_NE = next_N1.where(noisy_NE > next_N1, last_N1)
    return torch.special.ndtr((clean_NE - bar_NE) / std)


def load_by_last(
    clean_NE: Tensor, noisy_NE: Tensor, std: Tensor | float, k: int, training: bool
) -> Tensor:
    """The probability of each expert to pass the k-th largest, its noise drawn again.

    Without noise: 1 for the kept, 0 for the others.
    """
    if not training:
        return count_largest(noisy_NE, k)
    last_N1 = noisy_NE.topk(k, dim=1).values[:, -1:]
    return torch.special.ndtr((clean_NE - last_N1) / std)


def count_largest(key_NE: Tensor, k: int) -> Tensor:
    """1 for the k largest of each row, 0 for the others."""
    expert_NK = key_NE.sort(dim=1, descending=True, stable=True).indices[:, :k]
    return torch.zeros_like(key_NE).scatter(1, expert_NK, 1)
