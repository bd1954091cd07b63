"""First weights, each drawn by its own name: what it gets depends neither on what else
is drawn nor on which weights are kept as one. Draws are float32, then rounded.
"""

import math
import zlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


def each_weight(
    model: nn.Module, joined: dict[str, tuple]
) -> Iterator[tuple[str, Tensor]]:
    """Every weight and its name. `joined`: weights of one size that are kept as one, by
    the end of its name: along which axis, and the ends of theirs.
    """
    for name, weight in model.named_parameters():
        end = next((end for end in joined if name.endswith(end)), None)
        if end is None:
            yield name, weight
            continue
        axis, *own = joined[end]
        for part, view in zip(own, weight.chunk(len(own), axis), strict=True):
            yield name.removesuffix(end) + part, view


def named_generator(name: str, seed: int, device: torch.device) -> torch.Generator:
    """Equal names and seeds draw equal numbers on one kind of device."""
    return torch.Generator(device).manual_seed(zlib.crc32(f"{seed} {name}".encode()))


def blank(weight: Tensor) -> Tensor:
    """Room for a draw: in one piece, and at least float32."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return torch.empty(weight.shape, dtype=dtype, device=weight.device)


def normal_(weight: Tensor, std: float, generator: torch.Generator) -> None:
    weight.copy_(blank(weight).normal_(std=std, generator=generator))


def uniform_(weight: Tensor, bound: float, generator: torch.Generator) -> None:
    weight.copy_(blank(weight).uniform_(-bound, bound, generator=generator))


def truncated_(
    weight: Tensor, std: float, generator: torch.Generator, cut: float = 2.0
) -> None:
    """Normal numbers of this deviation, none further than `cut` deviations from 0."""
    edge = math.erf(cut / 2**0.5)
    drawn = blank(weight).uniform_(-edge, edge, generator=generator).erfinv_()
    weight.copy_(drawn.mul_(std * 2**0.5).clamp_(-cut * std, cut * std))


def orthogonal_(weight: Tensor, gain: float, generator: torch.Generator) -> None:
    """Each matrix by itself: rows of length `gain` at right angles, or columns where
    there are fewer of those.
    """
    tall = weight.shape[-2] >= weight.shape[-1]
    drawn = blank(weight).normal_(generator=generator)
    q, r = torch.linalg.qr(drawn if tall else drawn.mT)
    q = q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
    weight.copy_(gain * (q if tall else q.mT))


def eye_(weight: Tensor, gain: float) -> None:
    """`gain` where row and column have one number."""
    weight.zero_().diagonal(dim1=-2, dim2=-1).fill_(gain)


def equal_rows_(weight: Tensor) -> None:
    """Rows of one length; the deviation of all numbers stays what it was."""
    std = weight.std()
    rows = weight / weight.norm(dim=-1, keepdim=True)
    weight.copy_(rows * (std / rows.std()))
