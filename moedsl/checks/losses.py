"""Losses that change nothing: those with a coefficient of zero, and those whose gradient reaches no parameter."""

from __future__ import annotations

from moedsl.checks.backward import Backward
from moedsl.checks.gradients import trainable
from moedsl.checks.traits import coefficient, is_loss
from moedsl.checks.whole import is_whole
from moedsl.diagnostics.model import Sink
from moedsl.ir.graph import Graph, Node


def check_losses(graph: Graph, sink: Sink) -> None:
    if not is_whole(graph, sink):
        return
    for unit in graph.units:
        for node in filter(is_loss, unit.nodes):
            if coefficient(node) == 0:
                _report_idle(node, sink)
            elif not _moves_something(graph, node):
                _report_unread(node, sink)


def _moves_something(graph: Graph, loss: Node) -> bool:
    walk = Backward("gradients", losses=(loss,))
    return any(
        trainable(node) and next(node.calls(), None) is None
        for _, reached in walk.bodies(graph)
        for node in reached
    )


def name_of(node: Node) -> str:
    """What the model calls the loss."""
    return getattr(node.op, "loss", "") or node.role or node.place or "this loss"


def _report_idle(node: Node, sink: Sink) -> None:
    sink.warn(
        "W1003",
        f"the loss `{name_of(node)}` has a coefficient of 0, so it moves nothing",
        node.span,
        "adds zero to what is minimised",
        help="give it a coefficient, or write `loss = none`",
    )


def _report_unread(node: Node, sink: Sink) -> None:
    sink.error(
        "E0502",
        f"the loss `{name_of(node)}` moves no parameter",
        node.span,
        "no gradient of it reaches a weight",
        help="what it reads is decided without learned scores, or detached from them: "
        "read what a parameter makes, or take the loss out",
    )
