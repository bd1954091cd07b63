"""Blocks that serve some tokens, token by token: as the formulas say it, with nothing shared and nothing shaped.

Raposo et al., 2024, equation (1): x_t + r_t f(X)_t for the tokens of a sequence with the highest r, x_t for the others,
where f is what the block adds, to those tokens among themselves. Weights are read from the model by their names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Weights = dict[str, Tensor]
Turn = Callable[[int], float]


def rms(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    return x / (x.square().mean() + eps).sqrt() * weight


def turned(head: Tensor, position: float, theta: float = 1e4) -> Tensor:
    """One head's channels, each half's i-th channel a pair."""
    half = head.shape[0] // 2
    out = []
    for i in range(half):
        angle = position * theta ** (-2 * i / head.shape[0])
        out.append(head[i] * math.cos(angle) - head[i + half] * math.sin(angle))
    for i in range(half):
        angle = position * theta ** (-2 * i / head.shape[0])
        out.append(head[i + half] * math.cos(angle) + head[i] * math.sin(angle))
    return torch.stack(out)


def attention(
    w: Weights, at: str, xs: Sequence[Tensor], positions: Sequence[int], heads: int, window: int = 0
) -> list[Tensor]:
    """Each token of the list sees those of the list that are not after it (nor `window` or more places before)."""
    found = []
    for t, x in enumerate(xs):
        size = x.shape[0] // heads
        mixed = []
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            q = turned((w[f"{at}.q.weight"] @ x)[part], positions[t])
            keys = [
                s
                for s in range(t + 1)
                if not window or positions[t] - positions[s] < window
            ]  # fmt: skip
            score = []
            for s in keys:
                k = turned((w[f"{at}.k.weight"] @ xs[s])[part], positions[s])
                score.append(q @ k / math.sqrt(size))
            weight = torch.stack(score).softmax(0)
            values = torch.stack([(w[f"{at}.v.weight"] @ xs[s])[part] for s in keys])
            mixed.append(weight @ values)
        found.append(w[f"{at}.o.weight"] @ torch.cat(mixed))
    return found


def swiglu(w: Weights, at: str, x: Tensor) -> Tensor:
    gate, up = w[f"{at}.gate.weight"] @ x, w[f"{at}.up.weight"] @ x
    return w[f"{at}.down.weight"] @ (gate * gate.sigmoid() * up)


def layer(
    w: Weights, at: str, xs: Sequence[Tensor], positions: Sequence[int], heads: int, window: int = 0
) -> list[Tensor]:
    normed = [rms(x, w[f"{at}.before.weight"]) for x in xs]
    mixed = attention(w, f"{at}.own", normed, positions, heads, window)
    xs = [x + y for x, y in zip(xs, mixed, strict=True)]
    return [x + swiglu(w, f"{at}.dense", rms(x, w[f"{at}.after.weight"])) for x in xs]


def best(scores: Sequence[Tensor], count: int, among: Sequence[int]) -> list[int]:
    """The tokens of highest score, ties to the earlier, in their order."""
    ordered = sorted(among, key=lambda t: (-scores[t].item(), t))
    return sorted(ordered[:count])


def mixture_of_depths(
    xs: Sequence[Tensor],
    scores: Sequence[Tensor],
    served: Sequence[int],
    positions: Sequence[int],
    inner: Callable[[list[Tensor], list[int]], list[Tensor]],
    gate: Callable[[Tensor], Tensor] = lambda r: r,
) -> list[Tensor]:
    """The tokens `served` go through the block among themselves; the others stay as they are."""
    given = inner([xs[t] for t in served], [positions[t] for t in served])
    out = list(xs)
    for t, y in zip(served, given, strict=True):
        out[t] = xs[t] + gate(scores[t]) * (y - xs[t])
    return out
