"""Which tokens a block serves: the others pass it by.

Shapes: B sequences, T tokens of this call, S tokens of this call and those before it,
A tokens that are served, D width.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .capacity import share_up
from .state import Cache, Rotary


class Chosen(NamedTuple):
    """The tokens that a block serves.

    index_BA: where they stand, in order; None where all tokens stay in their places.
    here_BA: which of those are served; None where all are.
    seen_BS: whose keys are seen, of earlier calls too; None where no keys are hidden.
    """

    index_BA: Tensor | None
    here_BA: Tensor | None
    seen_BS: Tensor | None


class Depth(NamedTuple):
    """What a block decided for each token, [B, T].

    served_BT: whom it served. logit_BT: positive where it would be when decoding; where
    decoding knows no rule of its own, the score. among_BT: who could be; None for all.
    """

    served_BT: Tensor
    logit_BT: Tensor
    among_BT: Tensor | None


class FirstRound:
    """Keys and values of a block's first round, which all its rounds read."""

    def __init__(self) -> None:
        self.kept: list[Tensor] = []
        self.turn = 0

    def again(self) -> "FirstRound":
        """Begin a later round."""
        self.turn = 0
        return self

    def remember(self, x_BTX: Tensor, cache: Cache | None) -> Tensor:
        """In the first round x, after what the cache has; else what that was."""
        if self.turn == len(self.kept):
            self.kept.append(x_BTX if cache is None else cache.append(x_BTX))
        self.turn += 1
        return self.kept[self.turn - 1]


def all_tokens(real_BT: Tensor | None) -> Chosen:
    """Every token, in its place."""
    return Chosen(None, real_BT, None)


def best_share(
    score_BT1: Tensor,
    numerator: int,
    denominator: int,
    real_BT: Tensor | None,
    among_BT: Tensor | None = None,
) -> Chosen:
    """Of each sequence the tokens of highest score, a share of its length, rounded up.

    Ties go to the earlier token. Where only some may be chosen, among_BT says which.
    """
    count = share_up(score_BT1.shape[1], numerator, denominator)
    if real_BT is None:
        return ranked(score_BT1, count, None, among_BT)
    asked_B1 = share_up(real_BT.sum(1, keepdim=True), numerator, denominator)
    among_BT = real_BT if among_BT is None else among_BT
    return ranked(score_BT1, count, asked_B1, among_BT)


def best_number(score_BT1: Tensor, number: int, among_BT: Tensor | None) -> Chosen:
    """Of each sequence so many tokens of highest score, ties to the earlier one."""
    return ranked(score_BT1, min(number, score_BT1.shape[1]), None, among_BT)


def ranked(
    score_BT1: Tensor, count: int, asked_B1: Tensor | None, among_BT: Tensor | None
) -> Chosen:
    """The `count` tokens of highest score, or as many as a sequence asks for."""
    score_BT = score_BT1.detach().squeeze(-1)
    if among_BT is not None:
        score_BT = score_BT.masked_fill(~among_BT, -torch.inf)
    best_BT = score_BT.sort(dim=1, descending=True, stable=True).indices
    index_BA, rank_BA = best_BT[:, :count].sort(dim=1)
    if among_BT is None:
        return Chosen(index_BA, None, None)
    here_BA = among_BT.gather(1, index_BA)
    if asked_B1 is not None:
        here_BA = here_BA & (rank_BA < asked_B1)
    return Chosen(index_BA, here_BA, None)


def above(logit_BT1: Tensor, threshold: float, among_BT: Tensor | None) -> Tensor:
    """Which tokens have a logit above the threshold, each decided by itself, [B, T]."""
    here_BT = logit_BT1.detach().squeeze(-1) > threshold
    return here_BT if among_BT is None else here_BT & among_BT


def in_place(here_BT: Tensor, cache: Cache | None) -> Chosen:
    """All tokens stay where they are, and the keys of those not served are hidden."""
    return Chosen(None, here_BT, here_BT if cache is None else cache.append(here_BT))


def at_once(here_BT: Tensor) -> Chosen:
    """The same of a stream that is all there, with nothing before it."""
    return Chosen(None, here_BT, here_BT)


def rounds_taken(expert_NK: Tensor, x_BTD: Tensor) -> Tensor:
    """How many rounds each token takes, [B, T]: one more than its pick's number."""
    return expert_NK[:, 0].view(x_BTD.shape[:2]) + 1


def rounds_or_none(expert_NK: Tensor, x_BTD: Tensor, most: int) -> Tensor:
    """The same, and no round for a token whose pick is absent."""
    rounds_BT = rounds_taken(expert_NK, x_BTD)
    return rounds_BT.where(rounds_BT <= most, 0)


def going_on(rounds_BT: Tensor, number: int, real_BT: Tensor | None) -> Tensor:
    """Which tokens take more than `number` rounds, [B, T]."""
    here_BT = rounds_BT > number
    return here_BT if real_BT is None else here_BT & real_BT


def served(chosen: Chosen, score_BT1: Tensor) -> Tensor:
    """Which tokens are served, [B, T] bool."""
    none_BT = torch.zeros_like(score_BT1.squeeze(-1), dtype=torch.bool)
    if chosen.index_BA is None:
        return ~none_BT if chosen.here_BA is None else chosen.here_BA
    if chosen.here_BA is None:
        return none_BT.scatter(1, chosen.index_BA, True)
    return none_BT.scatter(1, chosen.index_BA, chosen.here_BA)


# What a block gets, of the chosen tokens alone.


def chosen_rows(x_BTD: Tensor, chosen: Chosen) -> Tensor:
    """Their rows, [B, A, D]."""
    if chosen.index_BA is None:
        return x_BTD
    return x_BTD.take_along_dim(chosen.index_BA[..., None], 1)


def chosen_positions(position_BT: Tensor, chosen: Chosen) -> Tensor:
    """Where they stand in the whole sequence, [B, A]."""
    if chosen.index_BA is None:
        return position_BT
    return position_BT.take_along_dim(chosen.index_BA, 1)


def chosen_rotary(rotary: Rotary, chosen: Chosen) -> Rotary:
    """Their angles, by where they stand in the whole sequence."""
    if chosen.index_BA is None:
        return rotary
    index_BA11 = chosen.index_BA[..., None, None]
    cos, sin = (table.take_along_dim(index_BA11, 1) for table in rotary)
    return Rotary(cos, sin)


def chosen_factors(factor_BT11: Tensor, chosen: Chosen) -> Tensor:
    """What their queries are multiplied by, [B, A, 1, 1]."""
    if chosen.index_BA is None:
        return factor_BT11
    return factor_BT11.take_along_dim(chosen.index_BA[..., None, None], 1)


def chosen_pairs(table: Tensor, chosen: Chosen) -> Tensor:
    """Of what stands for each query and key, [..., T, T], that of theirs, [B, ..., A, A]."""
    if chosen.index_BA is None:
        return table
    query_BA1, key_B1A = chosen.index_BA[:, :, None], chosen.index_BA[:, None]
    return table[..., query_BA1, key_B1A].movedim(-3, 0)


def chosen_tokens(mask_BS: Tensor | None, chosen: Chosen) -> Tensor | None:
    """Which of them are there, those of earlier calls too; None where all are."""
    if chosen.index_BA is not None:
        return chosen.here_BA
    return mask_BS if chosen.seen_BS is None else chosen.seen_BS


def chosen_real(chosen: Chosen) -> Tensor | None:
    """Which of all their rows are there, [N]; None where all are."""
    return None if chosen.here_BA is None else chosen.here_BA.flatten()


def chosen_mask(mask: Tensor | None, chosen: Chosen) -> Tensor | None:
    """Which keys they see, of those that the mask shows them: each other's alone.

    What is not served sees itself, so that no softmax is empty.
    """
    if chosen.index_BA is None:
        if chosen.seen_BS is None:
            return mask
        length = chosen.seen_BS.shape[1]
        key_S = torch.arange(length, device=chosen.seen_BS.device)
        query_T1 = key_S[length - chosen.here_BA.shape[1] :, None]
        sees = key_S <= query_T1 if mask is None else mask
        return sees & (chosen.seen_BS[:, None, None] | (key_S == query_T1))
    if mask is None:
        if chosen.here_BA is None:
            return None
        key_A = torch.arange(chosen.here_BA.shape[1], device=chosen.here_BA.device)
        sees_BAA = (key_A <= key_A[:, None])[None]
    else:
        sees_BAT = mask.squeeze(1).take_along_dim(chosen.index_BA[..., None], 1)
        sees_BAA = sees_BAT.take_along_dim(chosen.index_BA[:, None], 2)
    if chosen.here_BA is not None:
        one_AA = torch.eye(
            chosen.here_BA.shape[1], dtype=torch.bool, device=chosen.here_BA.device
        )
        sees_BAA = sees_BAA & (chosen.here_BA[:, None] | one_AA)
    return sees_BAA[:, None]


def chosen_padding(chosen: Chosen) -> Tensor | None:
    """The same where each sees all others, [B, 1, 1, A]; None where all are served."""
    if chosen.here_BA is None:
        return None
    here_BA = chosen.here_BA
    return (here_BA | ~here_BA.any(1, keepdim=True))[:, None, None]


# What becomes of what it gives.


def add_chosen(
    x_BTD: Tensor, x_BAD: Tensor, y_BAD: Tensor, gate_BT1: Tensor, chosen: Chosen
) -> Tensor:
    """x and, for those served, what the block added to it, times their gate."""
    added_BAD = (chosen_rows(gate_BT1, chosen) * (y_BAD - x_BAD)).type_as(x_BTD)
    return put_back(x_BTD, added_BAD, chosen)


def add_result(
    x_BTD: Tensor, y_BAD: Tensor, gate_BT1: Tensor, chosen: Chosen
) -> Tensor:
    """x and, for those served, all that came out of the block, times their gate."""
    added_BAD = (chosen_rows(gate_BT1, chosen) * y_BAD).type_as(x_BTD)
    return put_back(x_BTD, added_BAD, chosen)


def put_back(x_BTD: Tensor, added_BAD: Tensor, chosen: Chosen) -> Tensor:
    """x and, for those served, what is added."""
    if chosen.here_BA is not None:
        added_BAD = added_BAD.where(chosen.here_BA[..., None], 0)
    if chosen.index_BA is None:
        return x_BTD + added_BAD
    index_BAD = chosen.index_BA[..., None].expand_as(added_BAD)
    return x_BTD.scatter_add(1, index_BAD, added_BAD)


def advance(x_BTD: Tensor, y_BTD: Tensor, chosen: Chosen) -> Tensor:
    """y for those that take part in a round; the others stay as they are."""
    return y_BTD.where(chosen.here_BA[..., None], x_BTD)


def membership(depths: list[Depth], coefficient: float) -> Tensor:
    """How well each block's logits tell whom it serves: their mean cross-entropy,
    summed over blocks, times the coefficient."""
    return coefficient * torch.stack([telling(depth) for depth in depths]).sum()


def telling(depth: Depth) -> Tensor:
    """The mean over those that could be served of -log p(served or not)."""
    served_BT = depth.served_BT.to(depth.logit_BT.dtype)
    if depth.among_BT is None:
        return F.binary_cross_entropy_with_logits(depth.logit_BT, served_BT)
    loss_BT = F.binary_cross_entropy_with_logits(
        depth.logit_BT, served_BT, reduction="none"
    )
    return (loss_BT * depth.among_BT).sum() / depth.among_BT.sum().clamp_min(1)
