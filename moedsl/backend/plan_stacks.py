"""Layers in sequence: how they are made, the loop that runs them, and what they hand up."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from moedsl.backend.naming import attribute
from moedsl.backend.plan_lines import indented, statement_lines
from moedsl.backend.plan_reads import Reads
from moedsl.backend.plan_taps import is_list
from moedsl.backend.statements import BODY, Writer
from moedsl.frozen import frozen
from moedsl.ir.decisions import fed_inputs, handed_at
from moedsl.ir.graph import Node, Unit
from moedsl.ir.ops import Before, Stack
from moedsl.ir.ops_calls import handed_by, lists_of

FEW = 3  # more stretches of unlike layers than this are told apart inside one loop


@frozen
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


def period(names: list) -> int:
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
    lists = [*printer.entering, *(f"{name} = []" for name in printer.lists)]
    found = stretches(node.op, reads)
    kinds = {(reads.unit(one.unit), _hands(one.unit, node.op)) for one in found}
    if len(found) == len(kinds) <= FEW and (len(kinds) == 1 or not node.op.order):
        return lists + [line for stretch in found for line in printer.over(stretch, len(found))]
    return lists + printer.telling_apart(classes)


def stretches(stack: Stack, reads: Reads) -> list[Stretch]:
    found: list[Stretch] = []
    index = 0
    for _, group in groupby(
        stack.runs, key=lambda run: (reads.unit(run[0]), _hands(run[0], stack))
    ):
        runs = list(group)
        count = sum(n for _, n in runs)
        found.append(Stretch(index, count, runs[0][0]))
        index += count
    return found


def _hands(unit: Unit, stack: Stack) -> tuple[object, ...]:
    """What it hands up, and on to the next: layers that differ in it are called differently."""
    up = tuple((getattr(tap.type, "name", ""), is_list(unit, tap)) for tap in unit.taps)
    return up, *(handed_at(unit, op) for op in fed_inputs(stack).values())


def fed_names(stack: Stack) -> list[tuple[int, Before, str]]:
    """The inputs of layers that the layers before them decide, with the names of these decisions."""
    unit = stack.runs[0][0]
    values = [*unit.inputs, *unit.ambients]
    return [(index, op, attribute(values[index].name)) for index, op in fed_inputs(stack).items()]


class _Loop:
    def __init__(self, writer: Writer, node: Node, reads: Reads, run: bool) -> None:
        assert isinstance(node.op, Stack)
        self.writer, self.node, self.reads, self.run = writer, node, reads, run
        self.runs = node.op.runs
        self.order = node.op.order
        self.place = f"self.{attribute(node.place)}"
        self.stream = writer.names[node.outputs[0]]
        # A list that nobody reads is not collected.
        self.all_lists = [writer.names.get(value, "") for value in node.outputs[1:]]
        self.lists = [name for name in self.all_lists if name]
        self.fed = {index: (op, name) for index, op, name in fed_names(node.op)}

    @property
    def entering(self) -> list[str]:
        """Decisions before the first layer, under the names that they have in the loop."""
        mask = self.reads.mask(self.node)
        given = [(name, self.node.inputs[i]) for i, (_, name) in self.fed.items() if mask[i]]
        pairs = [(name, self.writer.text(value).code) for name, value in given]
        return [f"{name} = {code}" for name, code in pairs if name != code]

    @property
    def layers(self) -> str:
        """What is looped over: each layer once, or as often and in the order in which they come back."""
        if not self.order:
            return self.place
        count = sum(number for _, number in self.runs)
        times, rest = divmod(len(self.order), count)
        if not rest and self.order == tuple(range(count)) * times:
            return f"[*{self.place}] * {times}"
        return f"[{self.place}[i] for i in {self.order}]"

    def over(self, stretch: Stretch, of: int) -> list[str]:
        if self.order:
            lines = [f"for layer in {self.layers}:"]
            return lines + indented(self.call(stretch.unit, "layer", BODY + 1))
        if stretch.count == 1:
            return self.call(stretch.unit, f"{self.place}[{stretch.first}]", BODY)
        stop = stretch.first + stretch.count
        whole = sum(count for _, count in self.runs)
        cut = f"[{stretch.first or ''}:{'' if stop == whole else stop}]" if of > 1 else ""
        lines = [f"for layer in {self.place}{cut}:"]
        return lines + indented(self.call(stretch.unit, "layer", BODY + 1))

    def telling_apart(self, classes: dict[Unit, str]) -> list[str]:
        """One loop in which layers are called by their class."""
        stack = self.node.op
        assert isinstance(stack, Stack)
        kinds: dict[tuple, list[Unit]] = {}
        for unit, _ in self.runs:
            kind = kinds.setdefault((self.reads.unit(unit), _hands(unit, stack)), [])
            kind.extend([unit] if unit not in kind else [])
        lines = [f"for layer in {self.layers}:"]
        for index, units in enumerate(kinds.values()):
            names = " | ".join(classes[unit] for unit in units)
            test = f"{'elif' if index else 'if'} isinstance(layer, {names}):"
            lines += indented(["else:" if index == len(kinds) - 1 else test])
            lines += indented(self.call(units[0], "layer", BODY + 2), 2)
        return lines

    def call(self, unit: Unit, layer: str, depth: int) -> list[str]:
        mask = self.reads.unit(unit)
        read = [index for index in range(1, len(mask)) if mask[index]]
        arguments = [self.stream, *map(self.argument, read)]
        code = f"{layer}({', '.join(arguments)})"
        if self.run:
            code = f"self.run({', '.join([layer, *arguments])})"
        lists = lists_of(unit, handed_by(other for other, _ in self.runs))
        handed = [self.all_lists[index] for index in lists]
        one = [_element(name, len(self.lists)) for name in handed]
        latest = []
        for op, name in self.fed.values():
            if (found := handed_at(unit, op)) is None:
                continue
            place, back = found
            if back:
                one[place] = one[place] if handed[place] else "routed"
                latest.append(f"{name} = {one[place]}[-{back}]")
            else:
                one[place] = name
        lines = list(statement_lines(f"{', '.join([self.stream, *one])} = {code}", depth))
        for tap, name, element in zip(unit.taps, handed, one, strict=True):
            verb = "extend" if is_list(unit, tap) else "append"
            lines += [f"{name}.{verb}({element})"] if name else []
        return lines + latest

    def argument(self, index: int) -> str:
        """What layers decide for each other has one name throughout the loop."""
        if index in self.fed:
            return self.fed[index][1]
        return self.writer.text(self.node.inputs[index]).code


def _element(name: str, lists: int) -> str:
    """What a layer hands up, on its way into the list."""
    if not name:
        return "_"
    return "routed" if lists == 1 else f"{name}_routed"
