"""A drawing of a model in text: the stream from top to bottom, layers as boxes of what they do."""

from __future__ import annotations

from moedsl.backend.plan_stacks import period
from moedsl.backend.plan_words import chosen_of, kept_text, spell_statement
from moedsl.ir.graph import Graph, Node, Unit
from moedsl.ir.ops import Stack

SHOWN = 16  # experts that are drawn one by one


def drawing(graph: Graph, classes: dict[Unit, str]) -> tuple[str, ...]:
    """`classes` names layers where there is more than one kind of them."""
    root = graph.root
    lines = [f"  {value.name}" for value in root.inputs]
    for node in root.nodes:
        if node.place:
            lines += ["    |", *_node(node, classes)]
    return (*lines, "    |", *(f"  {value.name}" for value in root.outputs))


def _node(node: Node, classes: dict[Unit, str]) -> list[str]:
    if not isinstance(node.op, Stack):
        return [f"  {node.place}"]
    units = [unit for unit, count in node.op.steps for _ in range(count)]
    length = period(units)
    runs = [(unit, 1) for unit in units[:length]] if length else node.op.steps
    lines: list[str] = []
    for unit, count in runs:
        title = node.place if len(set(units)) == 1 else classes[unit]
        lines += (["    |"] if lines else []) + _box(title, unit, count)
    again = f"    |  {len(units) // length} times these {length}" if length else ""
    return [*lines, again] if again else lines


def _box(name: str, unit: Unit, count: int) -> list[str]:
    """`+-- layer x 32 --+`, one line for each statement, experts beside those that have them."""
    title = f"-- {name} x {count} " if count > 1 else f"-- {name} "
    body = getattr(unit.recipe, "body", ())
    said = [spell_statement(one) for one in body] or [unit.name]
    experts = [_experts(unit, one) for one in said]
    width = max(len(title), *(len(line) + 2 for line in said))
    lines = [f"  +{title}{'-' * (width - len(title))}+"]
    for line, dots in zip(said, experts, strict=True):
        lines.append(f"  | {line.ljust(width - 1)}|{dots}")
    return [*lines, f"  +{'-' * width}+"]


def _experts(unit: Unit, statement: str) -> str:
    """The experts of the mixture that a statement calls, the chosen ones filled."""
    for node in unit.nodes:
        for path, _, called in node.calls():
            found = chosen_of(called)
            if found and f"{path}(" in statement:
                kept, among = found
                shown = min(among, SHOWN)
                filled = min(round(kept.picks), shown)
                dots = "#" * filled + "." * (shown - filled) + ("..." if shown < among else "")
                return f"  {dots}  {kept_text(kept)} of {among} experts"
    return ""
