"""Numbers on a common scale, by statistics of the data."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Standardize(nn.Module):
    """Subtract a mean and divide by a deviation, one of each for a channel.

    shape: the channels, and a 1 for each axis that follows them in what comes in.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("deviation", torch.ones(shape))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.deviation

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> None:
        """Take both from all that the batches hold, once, before training.

        Batches are of what comes in here, and may differ in length. A channel that
        never varies keeps the deviation 1. ValueError if the batches hold nothing.
        """
        count = 0
        mean_C = torch.zeros_like(self.mean, dtype=torch.float64).flatten()
        variance_C = torch.zeros_like(mean_C)
        for batch in batches:
            rows_NC = batch.to(mean_C).movedim(-self.mean.dim(), -1).flatten(0, -2)
            if len(rows_NC) == 0:
                continue
            count += len(rows_NC)
            share = len(rows_NC) / count
            step_C = rows_NC.mean(0) - mean_C
            mean_C += share * step_C
            variance_C += share * (rows_NC.var(0, correction=0) - variance_C)
            variance_C += share * (1 - share) * step_C.square()
        if not count:
            raise ValueError("nothing to fit to")
        deviation_C = variance_C.sqrt().where(variance_C > 0, 1)
        self.mean.copy_(mean_C.view_as(self.mean))
        self.deviation.copy_(deviation_C.view_as(self.deviation))
