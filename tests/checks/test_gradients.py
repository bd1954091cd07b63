"""What training cannot move, over hand-made models."""

from __future__ import annotations

from dataclasses import replace

from moedsl.checks.gradients import check_gradients, check_unread
from moedsl.diagnostics.model import Diagnostic, Sink
from moedsl.ir.graph import Dim, Graph, Node
from moedsl.ir.ops import Linear
from moedsl.source import Span
from tests.checks import hand
from tests.checks.hand import Sizes

S, D = Sizes(), Dim("D", 64)


def found(graph: Graph, check=check_gradients) -> list[Diagnostic]:
    sink = Sink()
    check(graph, sink)
    return list(sink.sorted())


def unit(graph: Graph, name: str):
    return next(u for u in graph.units if u.name == name)


def node(graph: Graph, name: str, role: str) -> Node:
    return next(n for n in unit(graph, name).nodes if n.role == role)


def test_a_healthy_model_is_silent() -> None:
    assert found(hand.decoder(S)) == []
    assert found(hand.decoder(S), check_unread) == []


def test_one_pick_divided_by_itself_leaves_the_router_untrained() -> None:
    (problem,) = found(hand.decoder(replace(S, picks=1, layers=3)))
    assert (problem.code, problem.severity) == ("W1001", "warning")
    assert problem.message == (
        "no gradient reaches `layer[0..2].sparse.router.score`: the weight that it decides is always 1"
    )
    picked, score = problem.secondary
    assert picked.span.file == "spec"
    assert score.span == problem.primary.span.__class__(10, 15, "pick")


def test_a_loss_may_be_all_that_moves_it() -> None:
    graph = hand.decoder(replace(S, picks=1))
    pick = unit(graph, "pick")
    pick.nodes.append(Node(hand.Balance(), (pick.nodes[0].outputs[0],), ()))
    (problem,) = found(graph)
    assert problem.message.startswith("only losses move `layer[0..1].sparse.router.score`")


def test_what_is_detached_is_an_error_where_nothing_else_moves_it() -> None:
    graph = hand.decoder(S)
    pick = unit(graph, "pick")
    score, select, _ = pick.nodes
    cut = Node(hand.Detach(), score.outputs, (replace(score.outputs[0]),))
    pick.nodes.insert(1, cut)
    select.inputs = cut.outputs
    (problem,) = found(graph)
    assert (problem.code, problem.severity) == ("E0501", "error")
    assert problem.message == "no gradient reaches `layer[0..1].sparse.router.score`"
    pick.nodes.append(Node(hand.Balance(), score.outputs, ()))
    assert found(graph) == []


def test_whole_places_are_named_once() -> None:
    """A bank whose result is detached: the bank, not each of its matrices."""
    graph = hand.decoder(S)
    sparse = unit(graph, "sparse")
    bank = next(n for n in sparse.nodes if n.place == "experts")
    combine = sparse.nodes[-1]
    cut = Node(hand.Detach(), bank.outputs, (replace(bank.outputs[0]),))
    sparse.nodes.insert(-1, cut)
    combine.inputs = (*cut.outputs, *combine.inputs[1:])
    assert [p.message for p in found(graph)] == ["no gradient reaches `layer[0..1].sparse.experts`"]


def test_what_nothing_reads_is_named_by_the_last_of_its_chain() -> None:
    graph = hand.decoder(S)
    layer = unit(graph, "layer")
    b = hand.Body(layer, at=500)
    x = b.add(Linear(out=D, inner=D), layer.inputs[0], place="spare")
    b.add(Linear(out=D, inner=D), x, place="more")
    assert found(graph) == []
    (problem,) = found(graph, check_unread)
    assert problem.code == "W1002"
    assert problem.message == "nothing reads `layer[0..1].more`, so its weights never change"


def test_frozen_weights_need_no_gradient() -> None:
    class Frozen(Linear):
        def parameters(self):
            return tuple(replace(p, trainable=False) for p in super().parameters())

    graph = hand.decoder(replace(S, picks=1))
    score = node(graph, "pick", "score")
    score.op = Frozen(out=score.op.out, inner=score.op.inner)
    assert found(graph) == []


def test_a_graph_with_holes_is_not_judged() -> None:
    graph = hand.decoder(replace(S, picks=1))
    assert found(graph)
    node(graph, "own", "q").poisoned = True
    assert found(graph) == []
    sink = Sink()
    sink.error("E0301", "shapes differ", Span(0, 1))
    check_gradients(hand.decoder(replace(S, picks=1)), sink)
    assert [d.code for d in sink.found] == ["E0301"]
