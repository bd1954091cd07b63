"""Experts merged into one by shares of each.

Shapes: Q groups of rows, E experts; X stands for the axes of a weight.
"""

from torch import Tensor


def merge(weight_EX: Tensor, share_QE: Tensor) -> Tensor:
    """The mean of the experts' weights by the shares of each group, [Q, ...]."""
    merged_QX = share_QE.to(weight_EX.dtype) @ weight_EX.flatten(1)
    return merged_QX.unflatten(1, weight_EX.shape[1:])
