"""What is proved of a graph before a tensor exists. Each check reports and never raises; poisoned nodes are silent."""

from __future__ import annotations

from collections.abc import Callable

from moedsl.checks.causality import check_causality
from moedsl.checks.checkpoint import check_checkpoint
from moedsl.checks.gradients import check_gradients, check_unread
from moedsl.checks.left_out import check_left_out
from moedsl.checks.losses import check_losses
from moedsl.checks.routing import check_picks
from moedsl.checks.stages import check_stages
from moedsl.checks.starts import check_starts
from moedsl.diagnostics.model import Sink
from moedsl.ir.graph import Graph

CHECKS: tuple[Callable[[Graph, Sink], None], ...] = (
    check_picks,
    check_causality,
    check_left_out,
    check_gradients,
    check_losses,
    check_unread,
    check_checkpoint,
    check_stages,
    check_starts,
)
