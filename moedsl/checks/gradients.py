"""What training cannot move: parameters that no gradient reaches, and values that nothing reads.

Published systems do some of this on purpose (one expert a token with its weight divided by itself), so a constant
weight warns; a parameter that is cut off for any other reason is an error.
"""

from __future__ import annotations

from functools import lru_cache

from moedsl.checks.backward import Backward
from moedsl.checks.traits import constant
from moedsl.checks.whole import is_whole
from moedsl.diagnostics.model import Label, Sink
from moedsl.ir.graph import NOWHERE, Graph, Node, Unit
from moedsl.ir.ranges import ranges
from moedsl.model import terms


def check_gradients(graph: Graph, sink: Sink) -> None:
    if not is_whole(graph, sink):
        return
    unread = unread_in(graph)
    by_outputs = Backward("gradients", losses=()).missed(
        graph, lambda node: node not in unread and trainable(node)
    )
    if not by_outputs:
        return  # as in most models: nothing to tell apart
    by_all = Backward("gradients").missed(graph, by_outputs.__contains__)
    nearly = Backward("nearly").missed(graph, by_outputs.__contains__)
    homes = {node: unit for unit in graph.units for node in unit.nodes}
    for node, paths in by_outputs.items():
        if node not in nearly and (cause := _constant_after(node, homes[node])):
            _warn_constant(node, cause, paths, node in by_all, sink)
        elif node in by_all:
            _report_cut_off(node, by_all[node], sink)


def check_unread(graph: Graph, sink: Sink) -> None:
    """Places and `let`s that nothing reads. The last of a chain is named, not all of it."""
    if not is_whole(graph, sink):
        return
    unread = unread_in(graph)
    read = {value for node in unread for value in node.inputs}
    for unit in graph.units:
        for node in unit.nodes:
            if node not in unread or any(v in read for v in node.outputs):
                continue
            name = _named(unread[node]) if node.place else _let(unit, node)
            if name:
                _warn_unread(node, name, sink)


@lru_cache(maxsize=1)
def unread_in(graph: Graph) -> dict[Node, list[str]]:
    """Asked by two checks, one after the other."""
    return Backward("values").missed(graph, lambda node: True, taps=True)


def _let(unit: Unit, node: Node) -> str:
    """The name that the spec gave to the node's result, if it gave one."""
    body = unit.recipe.body if unit.recipe is not None else ()
    lets = {statement.name for statement in body if isinstance(statement, terms.Let)}
    return next((f"`{value.name}`" for value in node.outputs if value.name in lets), "")


def _warn_unread(node: Node, name: str, sink: Sink) -> None:
    weights = ", so its weights never change" if trainable(node) else ""
    sink.warn(
        "W1002",
        f"nothing reads {name}{weights}",
        node.span,
        "made here, and read by no output and no loss",
        help="use it, or take it out",
    )


def trainable(node: Node) -> bool:
    """Are there weights in the node, or anywhere below it, that training is meant to move?"""
    own = any(p.trainable and not p.buffer for p in node.op.parameters())
    below = (unit for _, _, unit in node.calls())
    return own or any(trainable(inner) for unit in dict.fromkeys(below) for inner in unit.nodes)


def _constant_after(node: Node, unit: Unit) -> Node | None:
    """The operation behind the node that makes a constant of what it is given."""
    import networkx

    behind = networkx.descendants(unit.network, node)
    return next((n for n in unit.nodes if n in behind and constant(n)), None)


def _named(paths: list[str]) -> str:
    return ", ".join(f"`{path}`" for path in ranges(reversed(paths)))


def _warn_constant(node: Node, cause: Node, paths: list[str], dead: bool, sink: Sink) -> None:
    axis = constant(cause)
    who = "no gradient reaches" if dead else "only losses move"
    places = (
        Label(axis.origin if axis else NOWHERE, "there is only one, so its share is all there is"),
        Label(node.span, "this stays as it was drawn" if dead else "moved by losses alone"),
    )
    sink.warn(
        "W1001",
        f"{who} {_named(paths)}: the weight that it decides is always 1",
        cause.span,
        "one number divided by itself",
        secondary=tuple(label for label in places if label.span not in (NOWHERE, cause.span)),
        help="normalise over two or more: over all scores (`gate = score -> softmax`, and no `weigh`), "
        "or over more picks",
    )


def _report_cut_off(node: Node, paths: list[str], sink: Sink) -> None:
    sink.error(
        "E0501",
        f"no gradient reaches {_named(paths)}",
        node.span,
        "its result matters, but not in a way that can be differentiated",
        help="let a weight or a loss read it, or freeze it on purpose",
    )
