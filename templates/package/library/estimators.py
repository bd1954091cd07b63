"""Weights of choices that were drawn, with gradients of another function.

Shapes: N rows, E experts, K picks of each row.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


class Instead(torch.autograd.Function):
    """A value in place of a weight: what is behind gets the value, its gradient goes
    to the weight."""

    @staticmethod
    def forward(weight: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx, d_value: Tensor) -> tuple[Tensor, None]:
        return d_value, None


def straight_through(weight_NK: Tensor) -> Tensor:
    """1 for each pick, with the gradient of its weight."""
    return Instead.apply(weight_NK, torch.ones_like(weight_NK))


def heun(
    weight_NK: Tensor, gate_NE: Tensor, expert_NK: Tensor, part: float, training: bool
) -> Tensor:
    """The weights of drawn picks, for a gradient by Heun's third-order method.

    A pick that is not the best of those left to it weighs `part` of its weight, three
    times in four. The weight's own gradient is as if it were whole.
    """
    if not training:
        return weight_NK
    chance_NK = torch.rand_like(weight_NK) > 0.75
    whole_NK = are_best_left(gate_NE, expert_NK) | chance_NK
    return Instead.apply(weight_NK, weight_NK.where(whole_NK, part * weight_NK))


def are_best_left(gate_NE: Tensor, expert_NK: Tensor) -> Tensor:
    """Whether each pick has the highest gate of those that earlier ones left, [N, K].

    A pick that is absent is numbered E, one past the last expert.
    """
    left_NE = F.pad(gate_NE.detach(), (0, 1), value=-torch.inf)
    best = []
    for pick_N1 in expert_NK.split(1, dim=1):
        best.append(left_NE.argmax(1, keepdim=True) == pick_N1)
        left_NE = left_NE.scatter(1, pick_N1, -torch.inf)
    return torch.cat(best, dim=1)
