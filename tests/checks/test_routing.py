"""Selections that cannot be made, over hand-made models."""

from __future__ import annotations

from dataclasses import replace

from moedsl.checks.routing import check_picks
from moedsl.diagnostics.model import Diagnostic, Sink
from moedsl.ir.graph import Dim, Graph
from moedsl.source import Span
from tests.checks import hand
from tests.checks.hand import Sizes

S, D = Sizes(), Dim("D", 64)


def found(graph: Graph) -> list[Diagnostic]:
    sink = Sink()
    check_picks(graph, sink)
    return list(sink.sorted())


def pyramid(*experts: int) -> Graph:
    """Layers in pairs, with numbers of experts of their own."""
    runs = []
    for count in experts:
        sizes = replace(S, experts=count, picks=4)
        block = hand.layer(sizes, D, hand.attention(S, D), hand.mixture(sizes, D))
        runs.append((block, 2))
    return hand.decoder(S, *runs)


def test_as_many_picks_as_experts_is_dense_and_fine() -> None:
    assert found(pyramid(4, 8)) == []


def test_both_places_and_the_layers() -> None:
    (problem,) = found(pyramid(8, 2, 4))
    assert problem.code == "E0401"
    assert problem.message == (
        "4 experts are picked for a token, but `layer[2..3].sparse` has only 2 experts"
    )
    assert problem.primary.span == Span(80, 81, "spec")
    assert [label.span for label in problem.secondary] == [Span(40, 41, "spec")]
