"""Numbers that no gradient moves: a rule does, once after each step of the optimizer.

    for tokens_BT in micro_batches:
        output = model(tokens_BT)
        ...  # backward
        loads.append(tally(output.routing))
    optimizer.step()
    model.adapt(*loads)

Loads are counted from what `forward` gave back: layers whose activations are made again
in backward count once.

Shapes: E choices.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .routing import Routing


class Load(NamedTuple):
    """What one place routed.

    choices_E: how often each choice was taken, int64.
    tokens: the real tokens themselves, int64.
    """

    choices_E: Tensor
    tokens: Tensor


def tally(routing: dict[str, Routing]) -> dict[str, Load]:
    """The load of each place that counts choices: all that is read later, and small."""
    return {
        place: Load(r.choices_SE.sum(0), r.tokens_S.sum())
        for place, r in routing.items()
        if "choices_SE" in r._fields
    }


def total(loads: tuple[dict[str, Load], ...]) -> dict[str, Load]:
    """Sums over the forwards of a step, and over all ranks in one exchange."""
    counts = [
        torch.cat([torch.hstack(load) for load in each.values()]) for each in loads
    ]
    count = over_ranks(torch.stack(counts).sum(0))
    sizes = [load.choices_E.numel() + 1 for load in loads[0].values()]
    parts = zip(loads[0], count.split(sizes), strict=True)
    return {place: Load(part[:-1], part[-1]) for place, part in parts}


def over_ranks(count: Tensor) -> Tensor:
    """The sum over all ranks; the count itself where there is one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        count = count.clone()
        torch.distributed.all_reduce(count)
    return count


class State(nn.Module):
    """Buffers that stay in float32, or wider, when the model is cast to less."""

    def _apply(
        self, function: Callable[[Tensor], Tensor], recurse: bool = True
    ) -> nn.Module:
        def kept(state: Tensor) -> Tensor:
            moved = function(state)
            narrow = torch.promote_types(moved.dtype, torch.float32) != moved.dtype
            return state.to(moved.device, torch.float32) if narrow else moved

        return super()._apply(kept, recurse)


class SignBalancing(State):
    """A number for each choice, added to what ranks it.

    One step raises it by `rate` where the choice was taken less than its share, and
    lowers it where more. `among` bounds the choices that adapt, all unless said. Their
    shares are equal, of what a token takes of them together: `picks`, unless said what
    it takes now.
    """

    value_E: Tensor

    def __init__(
        self,
        choices: int,
        rate: float,
        among: tuple[int, int] | None = None,
        picks: float | None = None,
    ) -> None:
        super().__init__()
        self.rate, self.picks = rate, picks
        self.among = slice(*among) if among else slice(None)
        self.register_buffer("value_E", torch.zeros(choices, dtype=torch.float32))

    @torch.no_grad()
    def adapt(self, load: Load) -> None:
        self.value_E[self.among] += self.rate * missing(load, self).sign()


class ProportionalBalancing(SignBalancing):
    """The same, by `rate` times the missing share of all picks."""

    @torch.no_grad()
    def adapt(self, load: Load) -> None:
        share_E = missing(load, self) / load.choices_E.sum().clamp_min(1)
        self.value_E[self.among] += self.rate * share_E


def missing(load: Load, state: SignBalancing) -> Tensor:
    """How many picks the choices that adapt lack to have equal shares, in float64."""
    count_E = load.choices_E[state.among].double()
    wanted = count_E.sum() if state.picks is None else state.picks * load.tokens
    return wanted / count_E.numel() - count_E


class SparsityCoefficient(State):
    """A factor that grows while routing is less sparse than `target`, and shrinks else.

    Sparsity is the share of choices that a token leaves out, its mean over places.
    """

    value: Tensor

    def __init__(self, start: float, target: float, factor: float) -> None:
        super().__init__()
        self.target, self.factor = target, factor
        self.register_buffer("value", torch.tensor(start, dtype=torch.float32))

    @torch.no_grad()
    def adapt(self, loads: list[Load]) -> None:
        sparsity = torch.stack([left_out(load) for load in loads]).mean()
        change = torch.full_like(sparsity, self.factor)
        self.value *= change.where(sparsity < self.target, 1 / self.factor)


def left_out(load: Load) -> Tensor:
    """The share of choices that a token leaves out, in float64."""
    taken = load.choices_E.sum().double() / load.tokens.clamp_min(1)
    return 1 - taken / load.choices_E.numel()


class Ramp(State):
    """A number on its way from `start` to `end`, reached after `steps` steps."""

    value: Tensor
    step: Tensor

    def __init__(self, start: float, end: float, steps: int) -> None:
        super().__init__()
        self.start, self.end, self.steps = start, end, steps
        self.register_buffer("value", torch.tensor(start, dtype=torch.float32))
        self.register_buffer("step", torch.tensor(0.0, dtype=torch.float32))

    @torch.no_grad()
    def adapt(self, loads: list[Load]) -> None:
        self.step += 1
        way = (self.step / self.steps).clamp(max=1)
        self.value.copy_(self.start + (self.end - self.start) * way)


class StepCounts(nn.Module):
    """What L places of E experts routed since the last `adapt`, summed over ranks."""

    count_LE: Tensor

    def __init__(self, places: int, choices: int) -> None:
        super().__init__()
        count_LE = torch.zeros(places, choices, dtype=torch.int64)
        self.register_buffer("count_LE", count_LE, persistent=False)

    @torch.no_grad()
    def forward(self, count_LE: Tensor) -> Tensor:
        if not self.training:
            return over_ranks(count_LE)
        self.count_LE += count_LE
        return over_ranks(self.count_LE.clone())

    @torch.no_grad()
    def adapt(self, loads: list[Load]) -> None:
        self.count_LE.zero_()
