"""Layers in sequence: how they are made, the loop that runs them, and what they hand up."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from moedsl.backend.naming import attribute
from moedsl.backend.plan_lines import indented, statement_lines
from moedsl.backend.plan_reads import Reads
from moedsl.backend.statements import BODY, Writer
from moedsl.ir.graph import Node, Unit
from moedsl.ir.ops import Stack

FEW = 3  # more stretches of unlike layers than this are told apart inside one loop


@dataclass(frozen=True)
class Stretch:
    """Neighbouring layers that are called alike."""

    first: int
    count: int
    unit: Unit


def made(runs: Sequence[tuple[Unit, int]], classes: dict[Unit, str]) -> str:
    """The argument of `nn.ModuleList`."""
    if len(runs) == 1:
        unit, count = runs[0]
        return f"{classes[unit]}() for _ in range({count})"
    names = [classes[unit] for unit, count in runs for _ in range(count)]
    if length := period(names):
        pattern = ", ".join(names[:length])
        return f"layer() for _ in range({len(names) // length}) for layer in ({pattern})"
    parts = [
        f"*({classes[u]}() for _ in range({n}))" if n > 1 else f"{classes[u]}()" for u, n in runs
    ]
    return f"[{', '.join(parts)}]"


def period(names: Sequence[object]) -> int:
    """The length of what is repeated throughout, or 0."""
    length = len(names)
    periods = (p for p in range(2, length // 2 + 1) if length % p == 0)
    return next((p for p in periods if names == names[:p] * (length // p)), 0)


def loop(
    writer: Writer, node: Node, reads: Reads, classes: dict[Unit, str], run: bool
) -> list[str]:
    """The lines that run the layers. `run`: through the model's `run`, which may recompute activations."""
    assert isinstance(node.op, Stack)
    printer = _Loop(writer, node, reads, run)
    lists = [f"{name} = []" for name in printer.lists]
    found = stretches(node.op, reads)
    kinds = {(reads.unit(one.unit), len(one.unit.taps)) for one in found}
    if len(found) == len(kinds) <= FEW:
        return lists + [line for stretch in found for line in printer.over(stretch, len(found))]
    return lists + printer.telling_apart(classes)


def stretches(stack: Stack, reads: Reads) -> list[Stretch]:
    found: list[Stretch] = []
    index = 0
    for _, group in groupby(stack.runs, key=lambda run: (reads.unit(run[0]), len(run[0].taps))):
        runs = list(group)
        count = sum(n for _, n in runs)
        found.append(Stretch(index, count, runs[0][0]))
        index += count
    return found


class _Loop:
    def __init__(self, writer: Writer, node: Node, reads: Reads, run: bool) -> None:
        self.writer, self.node, self.reads, self.run = writer, node, reads, run
        self.place = f"self.{attribute(node.place)}"
        self.stream = writer.names[node.outputs[0]]
        # A list that nobody reads is not collected.
        self.all_lists = [writer.names.get(value, "") for value in node.outputs[1:]]
        self.lists = [name for name in self.all_lists if name]

    def over(self, stretch: Stretch, of: int) -> list[str]:
        if stretch.count == 1:
            return self.call(stretch.unit, f"{self.place}[{stretch.first}]", BODY)
        stop = stretch.first + stretch.count
        whole = sum(count for _, count in self.node.op.runs)  # type: ignore[attr-defined]
        cut = f"[{stretch.first or ''}:{'' if stop == whole else stop}]" if of > 1 else ""
        lines = [f"for layer in {self.place}{cut}:"]
        return lines + indented(self.call(stretch.unit, "layer", BODY + 1))

    def telling_apart(self, classes: dict[Unit, str]) -> list[str]:
        """One loop in which layers are called by their class."""
        kinds: dict[tuple, list[Unit]] = {}
        for unit, _ in self.node.op.runs:  # type: ignore[attr-defined]
            kind = kinds.setdefault((self.reads.unit(unit), len(unit.taps)), [])
            kind.extend([unit] if unit not in kind else [])
        lines = [f"for layer in {self.place}:"]
        for index, units in enumerate(kinds.values()):
            names = " | ".join(classes[unit] for unit in units)
            test = f"{'elif' if index else 'if'} isinstance(layer, {names}):"
            lines += indented(["else:" if index == len(kinds) - 1 else test])
            lines += indented(self.call(units[0], "layer", BODY + 2), 2)
        return lines

    def call(self, unit: Unit, layer: str, depth: int) -> list[str]:
        mask = self.reads.unit(unit)
        inputs = zip(self.node.inputs[1:], mask[1:], strict=True)
        arguments = [self.stream, *(self.writer.text(v).code for v, read in inputs if read)]
        code = f"{layer}({', '.join(arguments)})"
        if self.run:
            code = f"self.run({', '.join([layer, *arguments])})"
        handed = self.all_lists[: len(unit.taps)]
        one = [_element(name, len(self.lists)) for name in handed]
        lines = list(statement_lines(f"{', '.join([self.stream, *one])} = {code}", depth))
        return lines + [f"{a}.append({b})" for a, b in zip(handed, one, strict=True) if a]


def _element(name: str, lists: int) -> str:
    """What a layer hands up, on its way into the list."""
    if not name:
        return "_"
    return "routed" if lists == 1 else f"{name}_routed"


# --- where routing was decided ------------------------------------------------------------------


@dataclass(frozen=True)
class Tap:
    """Decisions that the root hands out under `paths`: `name` is one of them, or (`listed`) a list."""

    name: str
    paths: tuple[str, ...]
    listed: bool = False


def taps_of(root: Unit, names: dict) -> Iterator[Tap]:
    """The root's decisions, by what holds them."""
    for node in root.nodes:
        for position, value in enumerate(node.outputs):
            if value not in root.taps:
                continue
            match node.op:
                case Stack(runs=runs):
                    yield _stacked(names[value], attribute(node.place), runs, position - 1)
                case _:
                    yield Tap(names[value], (tap_path(root, value),))


def _stacked(name: str, place: str, runs: Sequence[tuple[Unit, int]], position: int) -> Tap:
    paths: list[str] = []
    index = 0
    for unit, count in runs:
        if position < len(unit.taps):
            rest = tap_path(unit, unit.taps[position])
            end = f".{rest}" if rest else ""
            paths.extend(f"{place}.{i}{end}" for i in range(index, index + count))
        index += count
    return Tap(name, tuple(paths), listed=True)


def tap_path(unit: Unit, tap: object) -> str:
    """Where in a unit a tap comes from: `sparse`, for a decision of `sparse.router`."""
    node = next((n for n in unit.nodes if tap in n.outputs), None)
    if node is None:
        return ""
    for _, module, called in node.calls():
        if called.kind == "router":
            return ""
        index = list(node.outputs).index(tap) - len(called.outputs)
        rest = tap_path(called, called.taps[index]) if 0 <= index < len(called.taps) else ""
        return attribute(module) + (f".{rest}" if rest else "")
    return ""


def routing_lines(taps: Sequence[Tap]) -> list[str]:
    """`routing = {"layer.0.sparse": ..., ...}`"""
    if not taps:
        return []
    parts = [_dictionary(tap) for tap in taps]
    lines = list(statement_lines(f"routing = {parts[0]}", BODY))
    for part in parts[1:]:
        lines.extend(statement_lines(f"routing |= {part}", BODY))
    return lines


def _dictionary(tap: Tap) -> str:
    if not tap.listed:
        return f'{{"{tap.paths[0]}": {tap.name}}}'
    found = [re.fullmatch(r"(.*?\.)(\d+)((?:\.\w+)*)", path) for path in tap.paths]
    matches = [match for match in found if match is not None]
    if len(matches) < len(found) or len({(m[1], m[3]) for m in matches}) > 1:
        return f"dict(zip({tap.paths!r}, {tap.name}, strict=True))".replace("'", '"')
    numbered = _numbered(tap.name, tuple(int(match[2]) for match in matches))
    return f'{{f"{matches[0][1]}{{i}}{matches[0][3]}": r for i, r in {numbered}}}'


def _numbered(name: str, indices: tuple[int, ...]) -> str:
    """(layer number, decision) pairs."""
    first, last = indices[0], indices[-1]
    step = indices[1] - first if len(indices) > 1 else 1
    if indices != tuple(range(first, last + 1, step)):
        return f"zip({indices}, {name}, strict=True)"
    if step == 1:
        return f"enumerate({name}{f', {first}' if first else ''})"
    return f"zip(range({first}, {last + 1}, {step}), {name}, strict=True)"
