"""Choices that are fixed by the number of a token.

Shapes: V numbers, E experts, K kept of each number, G groups of E neighbouring numbers.
"""

from heapq import heappop, heappush

import torch
from torch import Tensor, nn


class ChoiceTable(nn.Module):
    """The experts of each number: filled once, never trained, and saved."""

    expert_VK: Tensor

    def __init__(
        self, numbers: int, experts: int, kept: int, seed: int, balanced: bool = False
    ) -> None:
        super().__init__()
        self.experts, self.seed, self.balanced = experts, seed, balanced
        table_VK = torch.empty(numbers, kept, dtype=torch.int64)
        self.register_buffer("expert_VK", table_VK)
        self.start()

    def forward(self, number_N: Tensor) -> Tensor:
        return self.expert_VK[number_N]

    @torch.no_grad()
    def start(self) -> None:
        """Fill the table; equal seeds give equal ones on every device."""
        generator = torch.Generator("cpu").manual_seed(self.seed)
        fill = spread_choices if self.balanced else draw_choices
        numbers, kept = self.expert_VK.shape
        self.expert_VK.copy_(fill(numbers, self.experts, kept, generator))

    @torch.no_grad()
    def balance(self, count_V: Tensor) -> None:
        """Fill the table so that experts get equally many tokens of a corpus.

        count_V says how often each number occurs. The most frequent ones come first,
        and each takes the experts that have least so far.
        """
        kept = self.expert_VK.shape[1]
        self.expert_VK.copy_(even_choices(count_V, self.experts, kept))


def draw_choices(
    numbers: int, experts: int, kept: int, generator: torch.Generator
) -> Tensor:
    """Different experts for each number, all with equal chance, [V, K]."""
    draw_VE = torch.rand(numbers, experts, generator=generator, device="cpu")
    return draw_VE.argsort(1)[:, :kept]


def spread_choices(
    numbers: int, experts: int, kept: int, generator: torch.Generator
) -> Tensor:
    """As `draw_choices`; of every E neighbours each expert is once the first, ..."""
    groups = -(-numbers // experts)
    order_GE = draw_choices(groups, experts, experts, generator)
    shift_GK = draw_choices(groups, experts, kept, generator)
    place_E1 = torch.arange(experts, device="cpu").unsqueeze(1)
    place_GEK = (place_E1 + shift_GK.unsqueeze(1)) % experts
    order_GEK = order_GE.unsqueeze(2).expand(-1, -1, kept)
    return order_GEK.gather(1, place_GEK).flatten(0, 1)[:numbers]


def even_choices(count_V: Tensor, experts: int, kept: int) -> Tensor:
    """The experts with the least load for each number, most frequent first, [V, K]."""
    load = [(0.0, expert) for expert in range(experts)]
    table_VK = torch.empty(len(count_V), kept, dtype=torch.int64, device="cpu")
    counts = count_V.tolist()
    for number in count_V.cpu().argsort(descending=True, stable=True).tolist():
        least = [heappop(load) for _ in range(kept)]
        table_VK[number] = torch.tensor([expert for _, expert in least])
        for sum_, expert in least:
            heappush(load, (sum_ + counts[number], expert))
    return table_VK
