"""Losses over routing, one value for each place, from sums that leave padding out.

Shapes: L places, S sequences, E experts.
"""

import torch
from torch import Tensor

from .routing import Routing


def variation(x_E: Tensor) -> Tensor:
    """The squared coefficient of variation along the last axis: of one number, 0."""
    return x_E.var(-1, correction=0) / (x_E.mean(-1).square() + 1e-10)


def varied(sums: list[Tensor]) -> Tensor:
    """The variation of what each expert got at each place."""
    return torch.stack([variation(x_SE.sum(0)) for x_SE in sums])


def varied_by_sequence(sums: list[Tensor], routing: list[Routing]) -> Tensor:
    """The mean over sequences of their variations; padding alone is no sequence."""
    values = []
    for x_SE, r in zip(sums, routing, strict=True):
        real_S = r.tokens_S > 0
        total = variation(x_SE).where(real_S, 0).sum()
        values.append(total / real_S.sum().clamp_min(1))
    return torch.stack(values)


def entropy(probability_E: Tensor) -> Tensor:
    """Along the last axis, in nats; what has no chance adds nothing, nor a gradient."""
    log_E = probability_E.where(probability_E > 0, 1).log()
    return -(probability_E * log_E).sum(-1)


def token_entropy(routing: list[Routing]) -> Tensor:
    """The mean entropy of a token's routing probability."""
    return torch.stack(
        [r.entropy_S.sum() / r.tokens_S.sum().clamp_min(1) for r in routing]
    )


def mean_rebuilt(routing: list[Routing]) -> Tensor:
    """The mean over tokens of how badly they were rebuilt."""
    return torch.stack(
        [r.rebuilt_S.sum() / r.tokens_S.sum().clamp_min(1) for r in routing]
    )


def mean_entropy(routing: list[Routing]) -> Tensor:
    """The entropy of the mean routing probability of each place."""
    mean = [r.probability_SE.sum(0) / r.tokens_S.sum().clamp_min(1) for r in routing]
    return torch.stack([entropy(mean_E) for mean_E in mean])


def pooled_entropy(routing: list[Routing]) -> Tensor:
    """The entropy of the mean routing probability over all places."""
    sum_E = torch.stack([r.probability_SE.sum(0) for r in routing]).sum(0)
    tokens = torch.stack([r.tokens_S.sum() for r in routing]).sum()
    return entropy(sum_E / tokens.clamp_min(1))


def place_entropy(routing: list[Routing], places: tuple[int, ...]) -> Tensor:
    """The entropy of the mean routing probability over all runs of each place."""
    return torch.stack([pooled_entropy(runs) for runs in runs_of(routing, places)])


def sequence_entropy(routing: list[Routing], places: tuple[int, ...]) -> Tensor:
    """The mean over sequences of the entropy of a sequence's mean routing probability,
    over all runs of each place; padding alone is no sequence."""
    values = []
    for runs in runs_of(routing, places):
        sum_SE = torch.stack([r.probability_SE for r in runs]).sum(0)
        tokens_S = torch.stack([r.tokens_S for r in runs]).sum(0)
        entropy_S = entropy(sum_SE / tokens_S.clamp_min(1).unsqueeze(1))
        values.append(entropy_S.sum() / (tokens_S > 0).sum().clamp_min(1))
    return torch.stack(values)


def runs_of(routing: list[Routing], places: tuple[int, ...]) -> list[list[Routing]]:
    """The decisions of each place; `places` says for each whose run it is."""
    runs: list[list[Routing]] = [[] for _ in range(max(places) + 1)]
    for one, place in zip(routing, places, strict=True):
        runs[place].append(one)
    return runs


def balanced_l1(routing: list[Routing], picks: float) -> Tensor:
    """E * sum over experts of (tokens that it gets / (picks * tokens) * mean gate)."""
    value = []
    for r in routing:
        choices_E, gate_E = r.choices_SE.sum(0), r.gate_SE.sum(0)
        scale = picks * r.tokens_S.sum().square().clamp_min(1)
        value.append(gate_E.numel() * (choices_E * gate_E).sum() / scale)
    return torch.stack(value)
