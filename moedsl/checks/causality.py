"""Who sees the future: a proof over the flow from ids to what is predicted from them.

An output predicts the next id where it has a value for each entry of a vocabulary and row t of it answers to row t of
ids. Nothing on any way from those ids to that output may then depend on later rows, unless the spec allows it or says
what takes its place when decoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from moedsl.checks.flow import Flow, Strand
from moedsl.checks.traits import causal_form, lookahead
from moedsl.diagnostics.model import Edit, Label, Sink
from moedsl.frozen import frozen
from moedsl.ir.graph import NOWHERE, Graph, Node, TensorType, Unit, Value
from moedsl.ir.ops import Embedding
from moedsl.ir.shapes import is_ids
from moedsl.model import terms
from moedsl.source import Span


@frozen
class Verdict:
    """`rules`: what the spec puts in place of the operations that look ahead, when decoding."""

    kind: Literal["causal", "decodes", "looks ahead", "nothing to decode"]
    rules: tuple[str, ...] = ()

    def __str__(self) -> str:
        rules = ", ".join(self.rules)
        return f"causal when decoding with {rules}" if self.kind == "decodes" else self.kind


def causality(graph: Graph) -> Verdict:
    """One verdict for the whole model."""
    found = list(_predictions(graph))
    ahead = [node for _, _, strand in found for node in _ordered(strand.ahead)]
    if not found:
        return Verdict("nothing to decode")
    rules = tuple(dict.fromkeys(lookahead(node) for node in ahead))
    if "" in rules or "allowed" in rules:
        return Verdict("looks ahead")
    return Verdict("decodes", rules) if rules else Verdict("causal")


def check_causality(graph: Graph, sink: Sink) -> None:
    for output, tokens, strand in _predictions(graph):
        for node in _ordered(strand.ahead):
            if not lookahead(node):
                _report(graph, node, output, tokens, strand, sink)


def _predictions(graph: Graph) -> Iterator[tuple[Value, Value, Strand]]:
    """(output, the ids whose next one it predicts, how they reach it)"""
    root = graph.root
    sizes = _vocabularies(graph)
    for output, strands in zip(root.outputs, Flow().summary(root), strict=False):
        for index, strand in strands.items():
            source = [*root.inputs, *root.ambients][index]
            if strand.aligned and is_ids(source) and _width(output) in sizes:
                yield output, source, strand


def _vocabularies(graph: Graph) -> set[int | None]:
    return {
        node.op.vocab.size
        for u in graph.units
        for node in u.nodes
        if isinstance(node.op, Embedding)
    }


def _width(value: Value) -> int | None:
    return (
        value.type.dims[-1].size if isinstance(value.type, TensorType) and value.type.dims else None
    )


def _ordered(nodes: frozenset[Node]) -> list[Node]:
    return sorted(nodes, key=lambda node: (node.span.file, node.span.start, node.place))


def _report(
    graph: Graph, node: Node, output: Value, tokens: Value, strand: Strand, sink: Sink
) -> None:
    unit = next(unit for unit in graph.units if node in unit.nodes)
    setting, _, value = causal_form(node).partition(" = ")
    written = _written(unit, setting)
    places = [Label(output.span, f"`{output.name}` predicts what follows each of `{tokens.name}`")]
    causal = next(iter(_ordered(strand.past)), None)
    if causal is not None:
        places.append(Label(causal.span, "on the same way, this sees only what came before"))
    name = unit.name if value else node.role or node.place or unit.name
    sink.error(
        "E0410",
        f"`{output.name}` would see the future: `{name}` looks at the whole sequence",
        written or node.span,
        "sees later tokens as well as earlier ones",
        secondary=tuple(label for label in places if label.span != NOWHERE),
        help=_mend(unit, f"{setting} = {value}" if value else ""),
        edits=(Edit(written, value),) if written else (),
    )


def _mend(unit: Unit, form: str) -> str:
    mend = f"write `{form}`" if form else "use a form of it that only looks back"
    settings = dict(unit.recipe.settings) if unit.recipe is not None else {}
    if "lookahead" in settings:
        mend += "; where that is meant, write `lookahead = allowed`"
    return mend


def _written(unit: Unit, setting: str) -> Span | None:
    """Where the spec wrote the word of this setting itself, if it did."""
    if unit.recipe is None or setting not in unit.recipe.given:
        return None
    word = unit.recipe.setting(setting)
    exact = isinstance(word, terms.Word) and word.span.end - word.span.start == len(word.text)
    return word.span if exact else None
