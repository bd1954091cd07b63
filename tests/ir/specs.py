"""Small specs, and their graphs: what the tests of this folder are written in."""

from __future__ import annotations

from textwrap import indent

from moedsl.diagnostics.model import Diagnostic, Sink
from moedsl.ir.graph import Graph, Node, Unit
from moedsl.ir.lower import lower
from moedsl.model.resolve import resolve
from moedsl.source import Source
from moedsl.syntax.parser import parse

START = """\
vocab = 256
width = 64
norm a, b, last = rms(eps = 1e-5)
input tokens = ids(vocab)
"""
ATTENTION = """\
attention own {
  heads = 4
  mask  = causal
  q, k  = linear -> rope(theta = 1e4)
}
"""
ROUTER = """\
router top2 {
  score  = linear
  select = top_k(2)
  weigh  = score -> softmax
}
"""
OUTPUT = "output logits = tokens -> embed -> 2 * layer -> last -> head\n"


def model(*parts: str) -> str:
    return "model m {\n" + indent("".join((START, *parts)), "  ") + "}\n"


def feed_forward(expression: str, *parts: str) -> str:
    """A model of layers with nothing but this in them."""
    return model(*parts, f"block layer {{ x += ({expression})(a(x)) }}\n", OUTPUT)


def mixture(body: str, router: str = ROUTER) -> str:
    """A model of layers with one mixture each; `body` is what the mixture says beside its router."""
    moe = "moe sparse {\n  router = top2\n" + indent(body, "  ") + "\n}\n"
    return model(router, moe, "block layer { x += sparse(b(x)) }\n", OUTPUT)


def lowered(text: str) -> tuple[Graph, Sink]:
    sink, source = Sink(), Source(text)
    resolved = resolve(parse(source, sink), source, sink)
    assert resolved is not None and not sink.has_errors, sink.found
    sink.found.clear()  # what nobody reads is not what is tested here
    return lower(resolved, sink), sink


def errors_of(text: str) -> list[Diagnostic]:
    """Errors of resolving and lowering."""
    sink, source = Sink(), Source(text)
    resolved = resolve(parse(source, sink), source, sink)
    if resolved is not None:
        lower(resolved, sink)
    return [found for found in sink.found if found.severity == "error"]


def graph_of(text: str) -> Graph:
    graph, sink = lowered(text)
    assert not sink.found, sink.found
    return graph


def unit_of(graph: Graph, name: str) -> Unit:
    (unit,) = [unit for unit in graph.units if unit.name == name]
    return unit


def ops_of(unit: Unit) -> list[str]:
    return [type(node.op).__name__ for node in unit.nodes]


def nodes_of(unit: Unit, kind: type) -> list[Node]:
    return [node for node in unit.nodes if isinstance(node.op, kind)]
