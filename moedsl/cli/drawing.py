"""The graph as a drawing: one frame for each unit, an arrow for each value. DOT, Mermaid, or SVG."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from moedsl.ir.graph import Graph, TensorType, Unit, Value
from moedsl.ir.ops_base import Op


@dataclass(frozen=True)
class Box:
    """`form`: input | weight | call | plain | output."""

    id: str
    text: str
    form: str


@dataclass(frozen=True)
class Arrow:
    start: str
    end: str
    text: str


@dataclass(frozen=True)
class Frame:
    """One unit. Boxes are in an order in which every arrow points onward."""

    id: str
    title: str
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]


def frames(graph: Graph) -> list[Frame]:
    """The root first, then what it calls."""
    return [_frame(unit, f"u{i}") for i, unit in enumerate(reversed(graph.units))]


def _frame(unit: Unit, frame: str) -> Frame:
    boxes: list[Box] = []
    arrows: list[Arrow] = []
    source: dict[Value, str] = {}
    for value in (*unit.inputs, *unit.ambients):
        source[value] = f"{frame}i{len(boxes)}"
        boxes.append(Box(source[value], value.name, "input"))
    for i, node in enumerate(unit.nodes):
        name = f"{frame}n{i}"
        called = [callee.name for _, _, callee in node.op.calls(node.place, node.path)]
        form = "call" if called else "weight" if node.op.parameters() else "plain"
        operation = _phrase(node.op, called)
        place = node.place or node.role
        boxes.append(
            Box(name, f"{place}: {operation}" if place and place != operation else operation, form)
        )
        arrows += [Arrow(source[v], name, _letters(v)) for v in node.inputs if v in source]
        source.update(dict.fromkeys(node.outputs, name))
    for value in (*unit.outputs, *unit.taps):
        name = f"{frame}o{len(boxes)}"
        boxes.append(Box(name, value.name or "result", "output"))
        if value in source:
            arrows.append(Arrow(source[value], name, _letters(value)))
    return Frame(frame, f"{unit.name} ({unit.kind})", tuple(boxes), tuple(dict.fromkeys(arrows)))


def _phrase(op: Op, called: list[str]) -> str:
    """`Stack` of 32 `layer`s -> `32 x layer`; an operation by its sign, its function, or its name."""
    if not called:
        sign = getattr(op, "operator", "") or getattr(op, "function", "")
        return sign or type(op).__name__.lower()
    kinds = list(dict.fromkeys(called))
    return f"{len(called)} x {', '.join(kinds)}" if len(called) > 1 else kinds[0]


def _letters(value: Value) -> str:
    return value.type.letters if isinstance(value.type, TensorType) else value.type.name


def dot(graph: Graph) -> str:
    lines = [
        f'digraph "{graph.name}" {{',
        '  node [shape=box, fontname="Helvetica"]; edge [fontname="Helvetica"];',
    ]
    for frame in frames(graph):
        lines.append(f'  subgraph "cluster_{frame.id}" {{')
        lines.append(f'    label="{frame.title}";')
        lines += [f'    {b.id} [label="{b.text}"{_DOT[b.form]}];' for b in frame.boxes]
        lines += [f'    {a.start} -> {a.end} [label="{a.text}"];' for a in frame.arrows]
        lines.append("  }")
    return "\n".join((*lines, "}", ""))


_DOT = {
    "input": ", shape=plaintext",
    "output": ", shape=plaintext",
    "weight": ", style=filled, fillcolor=lightblue",
    "call": ", style=bold",
    "plain": "",
}


def mermaid(graph: Graph) -> str:
    lines = ["flowchart TD"]
    for frame in frames(graph):
        lines.append(f'  subgraph {frame.id}["{frame.title}"]')
        lines += [f"    {b.id}{_MERMAID[b.form].format(b.text)}" for b in frame.boxes]
        lines += [f"    {a.start} -->|{a.text}| {a.end}" for a in frame.arrows]
        lines.append("  end")
    return "\n".join((*lines, ""))


_MERMAID = {
    "input": '(["{}"])',
    "output": '(["{}"])',
    "weight": '["{}"]',
    "call": '[["{}"]]',
    "plain": '("{}")',
}


def svg(graph: Graph) -> str:
    from moedsl.cli.drawing_svg import draw

    return draw(frames(graph))


DRAWINGS: dict[str, Callable[[Graph], str]] = {"dot": dot, "mermaid": mermaid, "svg": svg}
