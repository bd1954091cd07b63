"""Autoencoders side by side: who rebuilds a row well knows its kind.

Shapes: N rows, E autoencoders, D width, H width of a code.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
    task's own, all on rows of the new task that none was trained with:
    `-output.routing[...].logits_NE.mean(0)` where the score is minus the distance.
    """
    return 1 - (error_E - error_new) / error_new


class Beginning(NamedTuple):
    """Where the expert of a new task begins: at which expert, and how related.

    keeps: near enough to learn without forgetting what that expert gave, else its
    weights are only where training starts.
    """

    expert: int
    relatedness: float
    keeps: bool


def choose_beginning(
    error_E: Tensor, error_new: Tensor, threshold: float = 0.85
) -> Beginning:
    """The known expert that is most related to a new task; see `relatedness`."""
    related, expert = relatedness(error_E, error_new).max(0)
    return Beginning(expert.item(), related.item(), related.item() > threshold)


@torch.no_grad()
def copy_expert(experts: nn.Module, source: int, target: int) -> None:
    """Let one of the experts of a bank begin as a copy of another."""
    for weight in experts.parameters():
        weight[target] = weight[source]


def distillation(
    logits_NX: Tensor, recorded_NX: Tensor, temperature: float = 2.0
) -> Tensor:
    """Learning without forgetting: how far outputs are from recorded ones.

    recorded_NX is what the expert that a new one began at gave for the same rows
    before training. The cross-entropy of softened outputs, mean over rows.
    """
    wanted_NX = (recorded_NX / temperature).softmax(1)
    log_share_NX = (logits_NX / temperature).log_softmax(1)
    return -(wanted_NX * log_share_NX).sum(1).mean()
