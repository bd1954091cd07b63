"""Which picks find room where experts take a limited number of rows.

Rows stand in groups of `size` neighbours; each expert takes `slots` rows of a group.
Both are numbers known before anything is routed, so nothing waits for the device, and
all counting is in integers. A pick that is absent is numbered E, one past the last
expert; padding picks nothing.

Shapes: N rows, E experts, K picks of each row, G groups, S rows of a group, M = S * K.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .routing import place_in_line, take_rows


def share_up(size: int, numerator: int, denominator: int) -> int:
    """size * numerator / denominator, rounded up."""
    return -(-size * numerator // denominator)


def share_down(size: int, numerator: int, denominator: int) -> int:
    """size * numerator / denominator, rounded down."""
    return size * numerator // denominator


def share_nearest(size: int, numerator: int, denominator: int) -> int:
    """size * numerator / denominator, rounded; a half goes to the even neighbour."""
    double = 2 * size * numerator
    below = -(-(double - denominator) // (2 * denominator))
    above = (double + denominator) // (2 * denominator)
    return below + (above - below) * (below % 2)  # they differ at a half alone


def next_multiple(count: int, factor: int) -> int:
    """The multiple of factor that is count, or comes next."""
    return -(-count // factor) * factor


def num_slots(expert_NK: Tensor, num_experts: int, size: int, slots: int) -> int:
    """The most rows that all experts together can get."""
    return -(-expert_NK.shape[0] // size) * num_experts * slots


def grouped(x_NK: Tensor, size: int, fill: float) -> Tensor:
    """Rows in groups, [G, S, K]; the last group is filled up with `fill`."""
    return F.pad(x_NK, (0, 0, 0, -x_NK.shape[0] % size), value=fill).unflatten(
        0, (-1, size)
    )


def without_padding(
    expert_NK: Tensor, num_experts: int, real_N: Tensor | None
) -> Tensor:
    """The picks of real rows; those of padding are absent."""
    if real_N is None:
        return expert_NK
    return expert_NK.where(real_N.unsqueeze(1), num_experts)


def serve_first_come(
    expert_NK: Tensor, num_experts: int, size: int, slots: int, real_N: Tensor | None
) -> Tensor:
    """The picks that find room in the order of rows, [N, K]; the others are absent."""
    expert_NK = without_padding(expert_NK, num_experts, real_N)
    expert_GM = grouped(expert_NK, size, num_experts).flatten(1)
    room_GM = place_in_line(expert_GM, num_experts) < slots
    room_NK = room_GM.view(-1, expert_NK.shape[1])[: expert_NK.shape[0]]
    return expert_NK.where(room_NK, num_experts)


def serve_by_rank(
    expert_NK: Tensor, num_experts: int, size: int, slots: int, real_N: Tensor | None
) -> Tensor:
    """The picks that find room, [N, K]: all first picks come before all second ones."""
    expert_NK = without_padding(expert_NK, num_experts, real_N)
    expert_GKS = grouped(expert_NK, size, num_experts).transpose(1, 2)
    room_GM = place_in_line(expert_GKS.flatten(1), num_experts) < slots
    room_GSK = room_GM.view_as(expert_GKS).transpose(1, 2)
    return expert_NK.where(room_GSK.flatten(0, 1)[: expert_NK.shape[0]], num_experts)


def serve_best_rows(
    expert_NK: Tensor,
    gate_NK: Tensor,
    num_experts: int,
    size: int,
    slots: int,
    real_N: Tensor | None,
) -> Tensor:
    """The picks that find room, [N, K]: rank after rank, rows by their highest gate."""
    key_N1 = gate_NK.detach().amax(1, keepdim=True)
    return serve_rows_by(expert_NK, key_N1, num_experts, size, slots, real_N)


def serve_rows_by(
    expert_NK: Tensor,
    key_N1: Tensor,
    num_experts: int,
    size: int,
    slots: int,
    real_N: Tensor | None,
) -> Tensor:
    """The picks that find room, [N, K]: rank after rank, rows by their key."""
    expert_NK = without_padding(expert_NK, num_experts, real_N)
    key_GS1 = grouped(key_N1, size, -torch.inf)
    order_GS1 = key_GS1.sort(dim=1, descending=True, stable=True).indices
    order_GSK = order_GS1.expand(-1, -1, expert_NK.shape[1])
    expert_GSK = grouped(expert_NK, size, num_experts).gather(1, order_GSK)
    line_GM = expert_GSK.transpose(1, 2).flatten(1)
    room_GM = place_in_line(line_GM, num_experts) < slots
    room_GSK = room_GM.view_as(expert_GSK.transpose(1, 2)).transpose(1, 2)
    room_GSK = torch.empty_like(room_GSK).scatter(1, order_GSK, room_GSK)
    return expert_NK.where(room_GSK.flatten(0, 1)[: expert_NK.shape[0]], num_experts)


def serve_best_picks(
    expert_NK: Tensor,
    gate_NK: Tensor,
    num_experts: int,
    size: int,
    slots: int,
    real_N: Tensor | None,
) -> Tensor:
    """The picks that find room, [N, K]: each expert takes those of highest gate."""
    expert_NK = without_padding(expert_NK, num_experts, real_N)
    key_GM = grouped(gate_NK.detach(), size, -torch.inf).flatten(1)
    order_GM = key_GM.sort(dim=1, descending=True, stable=True).indices
    expert_GM = grouped(expert_NK, size, num_experts).flatten(1).gather(1, order_GM)
    room_GM = place_in_line(expert_GM, num_experts) < slots
    room_GM = torch.empty_like(room_GM).scatter(1, order_GM, room_GM)
    room_NK = room_GM.view(-1, expert_NK.shape[1])[: expert_NK.shape[0]]
    return expert_NK.where(room_NK, num_experts)


def serve_shuffled(
    expert_NK: Tensor,
    num_experts: int,
    size: int,
    slots: int,
    real_N: Tensor | None,
    training: bool,
) -> Tensor:
    """The picks that find room, [N, K]: rows in an order drawn anew in training."""
    if not training:
        return serve_first_come(expert_NK, num_experts, size, slots, real_N)
    key_N1 = torch.rand(expert_NK.shape[0], 1, device=expert_NK.device)
    return serve_rows_by(expert_NK, key_N1, num_experts, size, slots, real_N)


def serve_next(
    served_NK: Tensor,
    expert_NK: Tensor,
    further_NX: Tensor,
    num_experts: int,
    size: int,
    slots: int,
    real_N: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Let rows that got less than they picked ask for further choices, one a round.

    Returns what each row holds, what it got before what it only picked, [N, K]; and the
    same with what it did not get absent.
    """
    num_picks = expert_NK.shape[1]
    asked = [expert_NK]
    got = [served_NK]
    for further_N in without_padding(further_NX, num_experts, real_N).unbind(1):
        held_N = (torch.cat(got, 1) < num_experts).sum(1)
        ask_N = further_N.where(held_N < num_picks, num_experts)
        # Who holds a place already stands before all who ask now.
        line_NX = torch.cat([*got, ask_N.unsqueeze(1)], 1)
        line_GXS = grouped(line_NX, size, num_experts).transpose(1, 2)
        room_GM = place_in_line(line_GXS.flatten(1), num_experts) < slots
        room_GS = room_GM.view_as(line_GXS)[:, -1]
        room_N = room_GS.flatten()[: ask_N.shape[0]]
        got.append(ask_N.where(room_N, num_experts).unsqueeze(1))
        asked.append(further_N.unsqueeze(1))
    asked_NX, got_NX = torch.cat(asked, 1), torch.cat(got, 1)
    absent_NX = (got_NX == num_experts).long()
    absent_NX[:, num_picks:] *= 2
    order_NK = absent_NX.argsort(dim=1, stable=True)[:, :num_picks]
    return asked_NX.gather(1, order_NK), got_NX.gather(1, order_NK)


def keep_first(expert_NK: Tensor, num_experts: int, first: int) -> Tensor:
    """The first picks of each row; the others are absent."""
    rest_NX = torch.full_like(expert_NK[:, first:], num_experts)
    return torch.cat([expert_NK[:, :first], rest_NX], 1)


def keep_above(
    expert_NK: Tensor, share_NK: Tensor, num_experts: int, first: int, below: float
) -> Tensor:
    """All picks but those after the first ones whose share is not above `below`."""
    rest_NX = expert_NK[:, first:].where(share_NK[:, first:] > below, num_experts)
    return torch.cat([expert_NK[:, :first], rest_NX], 1)


def keep_by_chance(
    expert_NK: Tensor, share_NK: Tensor, num_experts: int, first: int, below: float
) -> Tensor:
    """Picks after the first ones stay with probability share / below, at most 1."""
    chance_NX = share_NK[:, first:] / below
    kept_NX = torch.rand_like(chance_NX) < chance_NX
    rest_NX = expert_NK[:, first:].where(kept_NX, num_experts)
    return torch.cat([expert_NK[:, :first], rest_NX], 1)


def choose_rows(key_NE: Tensor, size: int, slots: int, real_N: Tensor | None) -> Tensor:
    """Each expert takes the rows of its highest keys, ties to the earlier row, [N, E].

    Column e holds e where expert e took the row; else the pick is absent.
    """
    if real_N is not None:
        key_NE = key_NE.where(real_N.unsqueeze(1), -torch.inf)
    return take_rows(key_NE, size, slots)


def capped_plan(
    key_NE: Tensor,
    size: int,
    slots: int,
    real_N: Tensor | None,
    most: int,
    entropy: float,
    rounds: int,
) -> Tensor:
    """How much of each row each expert takes, in logarithms, [N, E].

    Maximises the keys of what is taken plus `entropy` times the plan's entropy, where
    an expert takes `slots` rows of a group, a row goes to `most` experts at most, and
    nothing is taken twice. Each round projects onto these conditions in turn.
    """
    log_NE = key_NE.detach().float() / entropy
    if real_N is not None:
        log_NE = log_NE.where(real_N.unsqueeze(1), -torch.inf)
    real_GS1 = grouped(log_NE, size, -torch.inf).isfinite().any(2, keepdim=True)
    slots_G11 = real_GS1.sum(1, keepdim=True).clamp(max=slots)
    plan_GSE = grouped(log_NE, size, -torch.inf).where(real_GS1, 0)
    row_GS1 = torch.zeros_like(plan_GSE[..., :1])
    one_GSE = torch.zeros_like(plan_GSE)
    for _ in range(rounds):
        taken_G1E = plan_GSE.where(real_GS1, -torch.inf).logsumexp(1, keepdim=True)
        plan_GSE = plan_GSE - taken_G1E + slots_G11.log()
        raised_GSE = plan_GSE + row_GS1
        over_GS1 = raised_GSE.logsumexp(2, keepdim=True) - math.log(most)
        row_GS1 = over_GS1.clamp(min=0)
        raised_GSE = raised_GSE - row_GS1 + one_GSE
        one_GSE = raised_GSE.clamp(min=0)
        plan_GSE = raised_GSE - one_GSE
    plan_GSE = plan_GSE.where(real_GS1, -torch.inf)
    return plan_GSE.flatten(0, 1)[: key_NE.shape[0]]
