"""How rows stand before and after experts.

Shapes: N rows, E experts, K chosen per row, R routed rows sorted by expert, M rows that
are the heads of N tokens, the heads of a token next to each other.
"""

import torch
from torch import Tensor

from .routing import Dispatch


def sort_rows(x_NX: Tensor, plan: Dispatch) -> Tensor:
    """Part j of each row for its choice j, sorted by expert, [R, X / K]."""
    x_PD = x_NX.reshape(plan.place_NK.numel(), -1)
    rows = plan.source_R.shape[0]
    place_P = plan.place_NK.flatten().long()
    place_P = place_P.where(place_P >= 0, rows)
    part_P = torch.arange(place_P.shape[0], device=place_P.device)
    part_R = place_P.new_zeros(rows + 1).scatter(0, place_P, part_P)[:-1]
    return x_PD.index_select(0, part_R)


def stack_rows(y_RD: Tensor, plan: Dispatch) -> Tensor:
    """What the choices of each row gave, side by side in their order, [N, K * D]."""
    y_PD = y_RD.index_select(0, plan.place_NK.flatten())
    return y_PD.view(plan.place_NK.shape[0], -1)


def stack_present_rows(y_RD: Tensor, plan: Dispatch) -> Tensor:
    """What the choices of each row gave, side by side, zeros for absent ones."""
    place_P = plan.place_NK.flatten()
    y_PD = y_RD.index_select(0, place_P.clamp(min=0))
    y_PD = y_PD.where((place_P >= 0).unsqueeze(1), 0)
    return y_PD.view(plan.place_NK.shape[0], -1)


def number_by_head(expert_MK: Tensor, num_heads: int, num_choices: int) -> Tensor:
    """The choices of all heads counted through, [N, H * K]: head h's from h * E on.

    Absent picks, numbered E, become H * E.
    """
    expert_NHK = expert_MK.unflatten(0, (-1, num_heads))
    first_H1 = num_choices * torch.arange(num_heads, device=expert_MK.device)[:, None]
    absent_NHK = expert_NHK >= num_choices
    all_NHK = (expert_NHK + first_H1).masked_fill(absent_NHK, num_heads * num_choices)
    return all_NHK.flatten(1)


def count_through(expert_MK: Tensor, num_heads: int, num_choices: int) -> Tensor:
    """The same for the heads of tokens as rows of their own, [M, K]."""
    return number_by_head(expert_MK, num_heads, num_choices).view_as(expert_MK)


def own_choices(expert_MK: Tensor, num_heads: int, num_choices: int) -> Tensor:
    """Choices that were counted through, each head's from 0 on; absent ones are E."""
    expert_NHK = expert_MK.unflatten(0, (-1, num_heads))
    first_H1 = num_choices * torch.arange(num_heads, device=expert_MK.device)[:, None]
    absent_NHK = expert_NHK >= num_heads * num_choices
    return (expert_NHK - first_H1).masked_fill(absent_NHK, num_choices).flatten(0, 1)


def merge_plan(plan: Dispatch, num_heads: int) -> Dispatch:
    """The plan of M rows as one of N: of each token, with the picks of all heads."""
    place_NK = plan.place_NK.view(plan.place_NK.shape[0] // num_heads, -1)
    source_R = plan.source_R // num_heads
    return Dispatch(source_R, place_NK, plan.offset_E)


def gates(weight_NK: Tensor, expert_NK: Tensor, num_choices: int) -> Tensor:
    """The weight of each choice, zero where it was not picked, [N, E]."""
    gate_NE = weight_NK.new_zeros(weight_NK.shape[0], num_choices + 1)
    return gate_NE.scatter(1, expert_NK, weight_NK)[:, :-1]
