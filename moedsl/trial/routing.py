"""What the routing of a forward pass says about its layers, measured on the `Routing`s that models return."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from moedsl.trial.record import RoutingRecord

if TYPE_CHECKING:
    from torch import Tensor


class Gauge:
    """Sums statistics on the device between two readings, so that measuring hardly costs a step anything."""

    def __init__(self) -> None:
        self.sums: dict[str, list[Tensor]] = {}
        self.passes = 0

    def see(self, routing: Mapping[str, Any]) -> None:
        import torch

        with torch.no_grad():
            for place, decision in routing.items():
                now = [load(decision), entropy(decision), dropped(decision)]
                before = self.sums.get(place)
                self.sums[place] = (
                    now if before is None else [a + b for a, b in zip(before, now, strict=True)]
                )
        self.passes += 1

    def read(self, step: int, record: RoutingRecord) -> None:
        """Append the means since the last reading."""
        if not self.sums:
            return
        record.places = list(self.sums)
        record.steps.append(step)
        loads, entropies, drops = zip(*self.sums.values(), strict=True)
        record.load.append([(one / self.passes).tolist() for one in loads])
        record.entropy.append([(one / self.passes).item() for one in entropies])
        record.dropped.append([(one / self.passes).item() for one in drops])
        self.sums, self.passes = {}, 0


def load(decision: Any) -> Tensor:
    """Share of the choices that each expert got, [E]; absent picks, numbered E, are nobody's."""
    import torch

    experts = decision.logits_NE.shape[-1]
    count = torch.bincount(decision.expert_NK.flatten(), minlength=experts + 1)[:experts]
    return count / count.sum().clamp_min(1)


def entropy(decision: Any) -> Tensor:
    """Mean entropy of the softmax of a row's logits, over that of a uniform choice."""
    logits = decision.logits_NE.float()
    spread = logits.log_softmax(-1)
    return -(spread.exp() * spread).sum(-1).mean() / math.log(max(2, logits.shape[-1]))


def dropped(decision: Any) -> Tensor:
    """Share of the choices that came away with no weight: beyond an expert's capacity, or thinned out."""
    return (decision.weight_NK == 0).float().mean()
