"""What queries are multiplied by, beyond what their channels say.

Shapes: B sequences, T tokens of this call.
"""

import torch
from torch import Tensor


def temperature(position_BT: Tensor, every: int, by: float, first: int) -> Tensor:
    """1 + by log(1 + floor(p / every)) at position p, [B, T, 1, 1], float32.

    Positions count from `first`.
    """
    steps_BT = torch.floor((position_BT.float() + first) / every)
    return (1 + by * torch.log1p(steps_BT))[..., None, None]
