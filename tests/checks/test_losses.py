"""Losses that change nothing, over hand-made models."""

from __future__ import annotations

from dataclasses import replace

from moedsl.checks import CHECKS
from moedsl.checks.losses import check_losses
from moedsl.diagnostics.model import Diagnostic, Sink
from moedsl.ir.graph import Dim, Graph, Node, RecordType, TensorType, Value
from moedsl.ir.ops import Field, Op
from moedsl.source import Span
from tests.checks import hand
from tests.checks.hand import Sizes

S = Sizes()


def found(graph: Graph, *checks) -> list[Diagnostic]:
    sink = Sink()
    for check in checks or (check_losses,):
        check(graph, sink)
    return list(sink.sorted())


def with_loss(loss: Op, detached: bool = False, sizes: Sizes = S) -> Graph:
    graph = hand.decoder(sizes)
    pick = next(unit for unit in graph.units if unit.name == "pick")
    read = pick.nodes[0].outputs
    if detached:
        cut = Node(hand.Detach(), read, (replace(read[0]),))
        pick.nodes.append(cut)
        read = cut.outputs
    pick.nodes.append(Node(loss, read, (), role="balance", span=Span(7, 9, "pick")))
    return graph


def test_a_loss_over_scores_moves_the_router() -> None:
    assert found(with_loss(hand.Balance())) == []


def test_a_coefficient_of_zero_does_nothing() -> None:
    (problem,) = found(with_loss(hand.Balance(coefficient=0.0)))
    assert (problem.code, problem.severity) == ("W1003", "warning")


def test_a_detached_loss_moves_nothing() -> None:
    (problem,) = found(with_loss(hand.Balance(), detached=True))
    assert (problem.code, problem.severity) == ("E0502", "error")
    assert problem.message == "the loss `balance` moves no parameter"


class Record(Op):
    """Weights and statistics in one value, as routers hand them up."""

    fields = ("weight", "")

    def infer(self, *inputs):
        return (RecordType("Routing"),)


def routed(sizes: Sizes) -> Graph:
    """The decoder whose router makes a record; the mixture reads its weights, a loss at the root the rest."""
    graph = hand.decoder(sizes)
    units = {unit.name: unit for unit in graph.units}
    pick, sparse, layer, root = (units[name] for name in ("pick", "sparse", "layer", "hand"))
    routing = [Value("routing", RecordType("Routing")) for _ in range(5)]
    weights, picked = pick.outputs
    pick.nodes.append(Node(Record(), (weights, pick.nodes[0].outputs[0]), (routing[0],)))
    pick.outputs = [picked]
    pick.taps = [routing[0]]
    call = next(n for n in sparse.nodes if n.place == "router")
    old_weights, old_picked = call.outputs
    call.outputs = (old_picked, routing[1])
    read = Field(field="weight", type=TensorType((hand.B, hand.T, Dim("K", sizes.picks))))
    sparse.nodes.insert(1, Node(read, (routing[1],), (old_weights,)))
    sparse.taps = [routing[1]]
    for unit, place, tap in ((layer, "sparse", routing[2]), (root, "layer", routing[3])):
        node = next(n for n in unit.nodes if n.place == place)
        node.outputs = (*node.outputs, tap)
        unit.taps = [tap]
    root.nodes.append(Node(hand.Balance(), (routing[3],), (), span=Span(1, 2, "root")))
    return graph


def test_records_are_followed_field_by_field() -> None:
    assert found(routed(S), *CHECKS) == []
    problems = found(routed(replace(S, picks=1)), *CHECKS)
    assert [p.code for p in problems] == ["W1001"]
    assert problems[0].message.startswith("only losses move")
