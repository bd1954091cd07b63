"""The body of one unit as Python statements.

A value is written inside the expression that reads it where that reads well: it is read once, nothing named it, and
the line stays within the width. All else becomes a statement. A name is used again (`x_BTD = x_BTD + ...`) where its
old value is not read any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import field
from string import Formatter

from moedsl.backend.naming import Scope, attribute
from moedsl.backend.plan_lines import fits, indented, statement_lines
from moedsl.backend.plan_reads import Reads
from moedsl.backend.plan_records import Records, record_of
from moedsl.frozen import frozen, record
from moedsl.ir.graph import Node, TensorType, Unit, Value
from moedsl.ir.ops import ByPhase, Call, Combination, Routed, Stack, Statistic

BODY = 2  # a method's body stands two steps in
NESTING = 4  # calls within calls that a reader follows without a name in between


@frozen
class Text:
    """A printed expression. `depth` counts calls within calls; `operator` is set for a sum or product."""

    code: str
    atom: bool = True
    depth: int = 0
    operator: str = ""


_UNREAD = Text("")


@record
class Writer:
    """Writes the nodes of one unit. `names` holds the names of inputs; `loop` prints a stack's lines, `finish` the
    return where it is more than the results."""

    unit: Unit
    names: dict[Value, str]
    reads: Reads
    loop: Callable[[Writer, Node], list[str]]
    finish: Callable[[Writer, list[Text]], list[str]] | None = None
    reserved: frozenset[str] = frozenset()
    results: list[Value] = field(default_factory=list)  # what the return reads
    pinned: frozenset[Value] = frozenset()  # never written inside another expression
    # Names that are better here than the values' own.
    stems: dict[Value, str] = field(default_factory=dict)
    records: Records = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    _inline: set[Node] = field(default_factory=set)
    _producer: dict[Value, Node] = field(default_factory=dict)
    _scope: Scope = field(default_factory=Scope)

    def __post_init__(self) -> None:
        self.nodes = self.reads.live(self.unit, tuple(self.results))

    def lines(self) -> tuple[str, ...]:
        """The statements, return last."""
        self._producer = {value: node for node in self.nodes for value in node.outputs}
        self._inline = {node for node in self.nodes if self._may_inline(node, self.nodes)}
        given = dict(self.names)
        while True:
            self.names, self._scope = dict(given), Scope(self.reserved, set(given.values()))
            printed, crowded = self._attempt([n for n in self.nodes if n not in self._inline])
            if crowded is None:
                return tuple(printed)
            self._inline.discard(crowded)

    def _may_inline(self, node: Node, nodes: list[Node]) -> bool:
        if (
            len(node.outputs) != 1
            or isinstance(node.op, Stack | ByPhase)
            or node.outputs[0] in self.pinned
        ):
            return False
        value = node.outputs[0]
        if getattr(node.op, "literal", False):
            return True
        readers = [other for other in nodes for read in self.reads.of(other) if read is value]
        returned = sum(value is result for result in self.results)
        if returned:
            return returned == 1 and not readers
        return len(readers) == 1 and not value.name and not isinstance(readers[0].op, Stack)

    def _attempt(self, statements: list[Node]) -> tuple[list[str], Node | None]:
        """Lines with the present choice of what is inlined, or the node that should have a line of its own."""
        last = self._last_reads(statements)
        printed: list[str] = []
        for index, node in enumerate(statements):
            if isinstance(node.op, Stack):
                printed.extend(self._stack(node, last, index))
                continue
            if isinstance(node.op, ByPhase):
                lines, crowded = self._by_phase(node, last, index)
                if crowded is not None:
                    return [], crowded
                printed.extend(lines)
                continue
            value = self._code(node)
            targets = self._targets(node, last, index)
            statement = f"{', '.join(targets)} = {value.code}"
            if (crowded := self._crowded(statement, value, self.reads.of(node))) is not None:
                return [], crowded
            printed.extend(statement_lines(statement, BODY))
        ending, crowded = self._ending()
        return [*printed, *ending], crowded

    def _ending(self) -> tuple[list[str], Node | None]:
        parts = [self.text(value) for value in self.results]
        if self.finish is not None:
            return self.finish(self, parts), None
        statement = "return " + ", ".join(part.code for part in parts)
        deepest = max(parts, key=lambda part: part.depth, default=Text(""))
        crowded = self._crowded(statement, deepest, tuple(self.results))
        return list(statement_lines(statement, BODY)), crowded

    def _last_reads(self, statements: list[Node]) -> dict[Value, int]:
        """The index of the statement that reads a named value last; the return counts as one more."""
        last: dict[Value, int] = {}
        for index, node in enumerate(statements):
            last.update((value, index) for value in self._leaves(self.reads.of(node)))
        last.update((value, len(statements)) for value in self._leaves(tuple(self.results)))
        return last

    def _leaves(self, values: tuple[Value, ...]) -> Iterator[Value]:
        """The named values that are read once the inlined ones are written out."""
        for value in values:
            node = self._producer.get(value)
            if node in self._inline:
                yield from self._leaves(self.reads.of(node))
            else:
                yield value

    def _targets(self, node: Node, last: dict[Value, int], index: int) -> list[str]:
        read = dict.fromkeys(self._leaves(self.reads.of(node)))
        ended = [self.names[value] for value in read if last.get(value) == index]
        # A loop reads until its end what it is given, but for the stream: that it replaces.
        kept = ended if isinstance(node.op, Stack) else []
        kept = [name for name in kept if name != self.names[node.inputs[0]]]
        for name in ended:
            if name not in kept:
                self._scope.release(name)
        targets = []
        for value in node.outputs:
            if value not in last:
                targets.append("_")
                continue
            self.names[value] = self._scope.free(self._stem(value, node), suffix(value))
            targets.append(self.names[value])
        for name in kept:
            self._scope.release(name)
        return targets

    def _stack(self, node: Node, last: dict[Value, int], index: int) -> list[str]:
        """A loop over layers. The stream keeps one name from before the loop to after it."""
        before = self.names[node.inputs[0]]
        targets = self._targets(node, last, index)
        lines = [f"{targets[0]} = {before}"] if targets[0] != before else []
        return lines + self.loop(self, node)

    def _by_phase(
        self, node: Node, last: dict[Value, int], index: int
    ) -> tuple[list[str], Node | None]:
        """One statement for training and one for else: what the other phase needs is not computed."""
        values = [self.text(value) for value in node.inputs]
        (target,) = self._targets(node, last, index)
        lines: list[str] = []
        for word, value, source in zip(
            ("if self.training:", "else:"), values, node.inputs, strict=True
        ):
            statement = f"{target} = {value.code}"
            made = self._producer.get(source)
            if made in self._inline and not fits(statement, BODY + 1):
                crowded = max(
                    self._inlined(self.reads.of(made)),
                    key=lambda n: len(self._code(n).code),
                    default=None,
                )
                if crowded is not None:
                    return [], crowded
            lines += [word, *indented(statement_lines(statement, BODY + 1))]
        return lines, None

    def _crowded(self, statement: str, value: Text, inputs: tuple[Value, ...]) -> Node | None:
        """The inlined node to take out of a statement that is too long or too deep.

        Best is one that leaves two lines that fit, as near to the top as there is one; else the longest at the top.
        """
        if fits(statement, BODY) and value.depth <= NESTING:
            return None
        level = self._inlined(inputs)
        alone = len(inputs) == len(level) == 1 and statement.startswith("return ")
        if alone:  # a lone result stays in the return; what it is made of gets lines
            level = self._inlined(self.reads.of(level[0])) or level
        top = level
        while level:
            if cuts := [node for node in level if self._cuts_well(node, statement)]:
                return cuts[0]
            level = [below for node in level for below in self._inlined(self.reads.of(node))]
        return max(top, key=lambda n: len(self._code(n).code), default=None)

    def _cuts_well(self, node: Node, statement: str) -> bool:
        code = self._code(node)
        name = "_".join(filter(None, (self._stem(node.outputs[0], node), suffix(node.outputs[0]))))
        rest = statement.replace(code.code, name, 1)
        return fits(f"{name} = {code.code}", BODY) and fits(rest, BODY) and code.depth <= NESTING

    def _inlined(self, values: tuple[Value, ...]) -> list[Node]:
        made = [self._producer[v] for v in values if self._producer.get(v) in self._inline]
        return [node for node in made if not getattr(node.op, "literal", False)]

    def _stem(self, value: Value, node: Node) -> str:
        """What to call a value that needs a name; a call's result is `y`, as the stream that it joins is `x`."""
        given = self.stems.get(value) or value.name or node.role
        match node.op:
            case _ if given:
                return given
            case Statistic(which=which):
                return which
            case Call():
                return "y"
        return "h"

    def text(self, value: Value) -> Text:
        node = self._producer.get(value)
        return self._code(node) if node in self._inline else Text(self.names[value])

    def _code(self, node: Node) -> Text:
        mask = self.reads.mask(node)
        operands = [
            self.text(v) if read else _UNREAD for v, read in zip(node.inputs, mask, strict=True)
        ]
        record = record_of(node.outputs[0], self.records) if isinstance(node.op, Routed) else ""
        return print_op(node, operands, record)


def print_op(node: Node, operands: list[Text], record: str = "") -> Text:
    """The op's `code` with operands, places and its own fields filled in. `record`: the type that it makes."""
    op = node.op
    fields = {name: getattr(op, name) for name in op.__dataclass_fields__}
    fields["self"] = f"self.{attribute(node.place)}" if node.place else "self"
    fields["args"] = ", ".join(operand.code for operand in operands if operand is not _UNREAD)
    fields["record"] = record
    operator = op.operator if isinstance(op, Combination) else ""
    pieces = []
    parsed = list(Formatter().parse(op.code))
    for place, (literal, key, spec, _) in enumerate(parsed):
        pieces.append(literal)
        if key is None:
            continue
        if key.isdigit():
            following = parsed[place + 1][0] if place + 1 < len(parsed) else ""
            last = place + 1 == len(parsed)
            delimited = _delimited("".join(pieces), following, last)
            pieces.append(_operand(operands[int(key)], delimited, operator, key == "0"))
        else:
            value, _ = Formatter().get_field(key, (), fields)
            pieces.append(format(value, spec or ""))
    depth = max((operand.depth for operand in operands), default=0)
    return Text("".join(pieces), op.atom, depth + (not operator), operator)


def _delimited(before: str, after: str, last: bool) -> bool:
    """Do brackets, commas or the ends of the expression stand on both sides?"""
    left = not before or before.endswith(("(", "[", ", ", "="))
    right = (last and not after) or after.startswith((")", "]", ","))
    return left and right


def _operand(operand: Text, delimited: bool, operator: str, left: bool) -> str:
    if delimited or operand.atom:
        return operand.code
    if operator and operand.operator:
        rank = {"+": 1, "-": 1, "*": 2, "/": 2}
        higher = rank[operand.operator] - rank[operator]
        # Brackets on the right keep the order of additions, which floating point notices.
        if higher > 0 or (higher == 0 and left):
            return operand.code
    return f"({operand.code})"


def suffix(value: Value) -> str:
    return value.type.letters if isinstance(value.type, TensorType) else ""
