"""Which choices a row keeps, where no kernel has the selection as one step.

Shapes: N rows, E experts, K kept of each row, R routed rows. A pick that is absent is
numbered E, one past the last expert.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .reference import segment_sum
from .routing import Dispatch


def count_picks(expert_NK: Tensor, num_experts: int) -> Tensor:
    """How often each row picked each expert, int64; absent picks count for none."""
    count_NE = expert_NK.new_zeros(expert_NK.shape[0], num_experts + 1)
    return count_NE.scatter(1, expert_NK, 1)[:, :-1]


def shares(weight_NK: Tensor) -> Tensor:
    """The weights of each row divided by their sum; rows without any stay at zero."""
    sum_N1 = weight_NK.sum(1, keepdim=True)
    return weight_NK / sum_N1.where(sum_N1 != 0, 1)


def detached_shares(weight_NK: Tensor) -> Tensor:
    """As `shares`; the sum counts as a constant."""
    sum_N1 = weight_NK.sum(1, keepdim=True).detach()
    return weight_NK / sum_N1.where(sum_N1 != 0, 1)


def limit_groups(key_NE: Tensor, num_groups: int, keep: int, best: int) -> Tensor:
    """The keys of the groups whose `best` highest keys have the largest sums.

    All other keys become -inf, so that none of them is chosen before a key that stays.
    """
    key_NGC = key_NE.unflatten(1, (num_groups, -1))
    rank_NG = key_NGC.topk(best, dim=2).values.sum(2)
    group_NG = rank_NG.sort(dim=1, descending=True, stable=True).indices
    kept_NG = torch.zeros_like(rank_NG, dtype=torch.bool)
    kept_NG = kept_NG.scatter(1, group_NG[:, :keep], True)
    return key_NGC.where(kept_NG.unsqueeze(2), -torch.inf).flatten(1)


def sum_z(score_NE: Tensor, real_N: Tensor | None, num_sequences: int) -> Tensor:
    """The squared log-sum-exps of each sequence's real rows, summed, [S]."""
    z_N1 = score_NE.logsumexp(1, keepdim=True).square()
    return segment_sum(z_N1, real_N, num_sequences).squeeze(1)


def row_weights(weight_NK: Tensor, plan: Dispatch) -> Tensor:
    """The weight of each routed row, [R, 1]; zero for rows that are nobody's."""
    rows = plan.source_R.shape[0]
    place_R = plan.place_NK.flatten().long()
    place_R = place_R.where(place_R >= 0, rows)
    weight_R = weight_NK.new_zeros(rows + 1).scatter(0, place_R, weight_NK.flatten())
    return weight_R[:-1].unsqueeze(1)


def in_turn(key_NE: Tensor, num_picks: int, rank: Callable[[Tensor], Tensor]) -> Tensor:
    """Picks one after another: each the best of what `rank` makes of the keys left."""
    picks, left_NE = [], key_NE.detach()
    for _ in range(num_picks):
        picks.append(rank(left_NE).argmax(1, keepdim=True))
        left_NE = left_NE.scatter(1, picks[-1], -torch.inf)
    return torch.cat(picks, dim=1)


def near_ties(key_NE: Tensor, within: float) -> Tensor:
    """The keys s that nearly tie with the row's best, m; the others become -inf.

    They do where (m - s) / max(|s|, m) is at most `within`.
    """
    best_N1 = key_NE.detach().amax(1, keepdim=True)
    size_NE = torch.maximum(key_NE.detach().abs(), best_N1)
    far_NE = (best_N1 - key_NE.detach()) / size_NE > within
    return key_NE.masked_fill(far_NE, -torch.inf)


def share_near_ties(logits_NE: Tensor, expert_NK: Tensor, within: float) -> Tensor:
    """Each pick's share of the softmax over what nearly ties with the best, [N, K].

    The best is that of what earlier picks left, and so are those that tie with it.
    """
    found, left_NE = [], logits_NE
    for pick_N1 in expert_NK.split(1, dim=1):
        share_NE = near_ties(left_NE, within).softmax(1)
        found.append(share_NE.gather(1, pick_N1))
        left_NE = left_NE.scatter(1, pick_N1, -torch.inf)
    return torch.cat(found, dim=1)


def positive(key_NE: Tensor) -> Tensor:
    """Every expert whose key is above 0, in its own column; the others are absent."""
    num_experts = key_NE.shape[1]
    expert_E = torch.arange(num_experts, device=key_NE.device)
    return expert_E.where(key_NE > 0, num_experts)


def top_p(key_NE: Tensor, share: float, most: int) -> Tensor:
    """The fewest largest keys whose sum reaches `share`: 1 at least, `most` at most."""
    sorted_NE = key_NE.sort(dim=1, descending=True, stable=True)
    before_NK = (sorted_NE.values.cumsum(1) - sorted_NE.values)[:, :most]
    return sorted_NE.indices[:, :most].where(before_NK < share, key_NE.shape[1])


def weight_of_each(weight_NK: Tensor, expert_NK: Tensor, num_experts: int) -> Tensor:
    """The weight that each row gives to each expert, zero for those it did not pick."""
    weight_NE = weight_NK.new_zeros(weight_NK.shape[0], num_experts + 1)
    return weight_NE.scatter_add(1, expert_NK, weight_NK)[:, :-1]


def kept_sum(weight_NK: Tensor, expert_NK: Tensor, first: int, stop: int) -> Tensor:
    """The weight that each row gives to experts from `first` up to `stop`, [N, 1].

    1 where it picked none of them, so that what is divided by it stays as it is.
    """
    among_NK = (expert_NK >= first) & (expert_NK < stop)
    sum_N1 = weight_NK.where(among_NK, 0).sum(1, keepdim=True)
    return sum_N1.where(among_NK.any(1, keepdim=True), 1)
