"""Autoencoders side by side: who rebuilds a row well knows its kind.

Shapes: N rows, E autoencoders, D width, H width of a code.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def rebuild(
    x_ND: Tensor, code_EHD: Tensor, code_EH: Tensor, back_EDH: Tensor, back_ED: Tensor
) -> Tensor:
    """What each autoencoder makes of each row, [N, E, D], before the sigmoid."""
    code_NEH = F.relu(torch.einsum("nd,ehd->neh", x_ND, code_EHD) + code_EH)
    return torch.einsum("neh,edh->ned", code_NEH, back_EDH) + back_ED


def distances(rebuilt_NED: Tensor, x_ND: Tensor) -> Tensor:
    """The squared distance of each from the row that was to be rebuilt, [N, E]."""
    return (rebuilt_NED.sigmoid() - x_ND.unsqueeze(1)).square().sum(2)


def cross_entropies(rebuilt_NED: Tensor, x_ND: Tensor, label_N: Tensor) -> Tensor:
    """How badly the autoencoder of its label rebuilds each row, [N, 1]."""
    label_N1D = label_N[:, None, None].expand(-1, 1, rebuilt_NED.shape[2])
    own_ND = rebuilt_NED.gather(1, label_N1D).squeeze(1)
    loss_ND = F.binary_cross_entropy_with_logits(own_ND, x_ND, reduction="none")
    return loss_ND.sum(1, keepdim=True)


def relatedness(error_E: Tensor, error_new: Tensor) -> Tensor:
    """How near a new task is to each known one: 1 where nothing tells them apart.

    error_E are the mean distances of the known autoencoders, error_new that of the
    task's own, all on rows of the new task that none was trained with. Above 0.85 it
    may share the known one's expert; else it starts from a copy of it.
    """
    return 1 - (error_E - error_new) / error_new
