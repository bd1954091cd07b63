"""The builder: what a construct's `lower` works with.

It holds a frame for each unit under construction. Nodes are appended in order; errors become diagnostics and poisoned
nodes, on which everything later stays silent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from moedsl.diagnostics.model import Label, Sink
from moedsl.ir import expressions, ops, problems
from moedsl.ir.frame import Frame, Hint
from moedsl.ir.graph import NOWHERE, Dim, Node, RecordType, TensorType, Value
from moedsl.ir.ops_base import Op
from moedsl.ir.shapes import Mismatch, NotATensor
from moedsl.ir.units import Units
from moedsl.model import terms
from moedsl.source import Span


class Builder:
    def __init__(self, model: terms.Model, sink: Sink) -> None:
        self.model, self.sink = model, sink
        self.units = Units(self)
        self.frames: list[Frame] = []
        self.bad: set[Value] = set()
        self.flats: dict[tuple[Dim, ...], Dim] = {}
        self.functions: dict[str, dict[object, str]] = {}
        self.shares_keys = False  # in rounds that read keys and values of the first one
        self.shared: dict[str, Dim] = {}  # by place: the axis of a table that all share
        self.spans: list[Span] = [model.span]
        self.model_width = self._size("width", "D")
        self.vocab = self._size("vocab", "V")

    def _size(self, setting: str, letter: str) -> Dim:
        term = self.model.setting(setting)
        size = int(term.value) if isinstance(term, terms.Number) else None
        return Dim(letter, size, origin=term.span if term is not None else self.model.span)

    # --- the frame at work ---------------------------------------------------------------------

    @property
    def frame(self) -> Frame:
        return self.frames[-1]

    @property
    def scope(self) -> dict[str, Value]:
        """Named tensors of the body at work."""
        return self.frame.scope

    @property
    def width(self) -> Dim | None:
        """The width that the place at work asks for."""
        return self.frame.hint.width

    @property
    def span(self) -> Span:
        for span in reversed(self.spans):
            if span != NOWHERE:
                return span
        return NOWHERE

    def bind(self, name: str, value: Value) -> None:
        self.scope[name] = value

    def body(self, **named: Value) -> _Inside:
        """Names of an inner body; those around it stay readable and come back after."""
        inside = _Inside(self.frame)
        self.frame.scope = {**self.frame.scope, **named}
        return inside

    def at(self, name: str, hint: Hint | None = None, role: str = "") -> _Inside:
        """Inside a role or a recipe that is spelled out in this unit."""
        frame = self.frame
        inside = _Inside(frame)
        frame.prefix = (*frame.prefix, name) if name else frame.prefix
        frame.hint = hint if hint is not None else frame.hint
        frame.role = role or frame.role
        return inside

    def outermost(self) -> _Inside:
        """At the top of the unit: places are called by their own names, without the role around them."""
        inside = _Inside(self.frame)
        self.frame.prefix = ()
        return inside

    # --- nodes ---------------------------------------------------------------------------------

    def op(
        self,
        op: Op,
        *values: Value,
        name: str = "",
        place: str = "",
        role: str = "",
        tied: str = "",
    ) -> Value:
        """Add a node with one result."""
        return self.many(op, *values, names=(name,), place=place, role=role, tied=tied)[0]

    def many(
        self,
        op: Op,
        *values: Value,
        names: tuple[str, ...] = ("",),
        place: str = "",
        role: str = "",
        tied: str = "",
    ) -> tuple[Value, ...]:
        """Add a node; its results."""
        poisoned = any(value in self.bad for value in values)
        types: tuple[TensorType | RecordType, ...] = ()
        try:
            types = op.infer(*(value.type for value in values))
        except (Mismatch, NotATensor) as misfit:
            if not poisoned:
                problems.misfit(self, misfit)
            poisoned = True
            types = (values[0].type,) * len(names)
        names = (*names, *("",) * (len(types) - len(names)))
        span = self.span
        outputs = tuple([Value(n, t, span) for n, t in zip(names, types, strict=False)])
        node = Node(op, values, outputs, role=role or self.frame.role, span=span)
        node.poisoned, node.inits = poisoned, self.frame.inits
        if poisoned:
            self.bad.update(outputs)
        if place:
            self.frame.places.draft(node, self.frame.places.claim(self.frame.prefix, place, tied))
        _name_repeated(op, values)
        self.frame.unit.nodes.append(node)
        return outputs

    def placed(self, op: Op, recipe: terms.Recipe, *values: Value) -> Value:
        """Add a node with weights of its own, at the place of its recipe; in a bank, one set for each expert."""
        if self.frame.rows is not None and op.parameters():
            if "bank" in op.__dataclass_fields__:
                op = replace(op, bank=self.frame.unit.bank, met=self.frame.met)  # type: ignore[call-arg]
                values = values if self.frame.met == "batched" else (*values, self.frame.rows)
            else:
                problems.not_in_a_bank(self, recipe)
        return self.op(op, *values, place=recipe.place or recipe.name, tied=recipe.tied)

    def rates(self, rate: float | terms.Phase) -> tuple[float, float]:
        """A probability in training, and else: noise acts in training only, unless phases say more."""
        if not isinstance(rate, terms.Phase):
            return float(rate), 0.0
        if rate.decode != rate.eval:
            problems.differs_when_decoding(self, rate)
        train, eval_ = (float(getattr(each, "value", 0)) for each in (rate.train, rate.eval))
        return train, eval_

    def named(self, value: Value, name: str) -> Value:
        """Call a value by this name, unless it has one."""
        value.name = value.name or name
        return value

    def poison(self, value: Value) -> Value:
        self.bad.add(value)
        return value

    def ambient(self, op: ops.Ambient) -> Value:
        """A value that is made once at the root."""
        known = self.frame.ambients
        if op not in known:
            known[op] = Value(op.name, op.infer()[0])
        return known[op]

    def tap(self, value: Value) -> None:
        """Hand a value up to the root."""
        self.frame.unit.handed.append(value)

    def function(self, base: str, key: object) -> str:
        """A name for one kind of runtime function: `base` for the first kind, `base_2` for the next, ..."""
        known = self.functions.setdefault(base, {})
        number = len(known) + 1
        return known.setdefault(key, base if number == 1 else f"{base}_{number}")

    # --- axes ----------------------------------------------------------------------------------

    def last(self, value: Value) -> Dim:
        if isinstance(value.type, TensorType) and value.type.dims:
            return value.type.dims[-1]
        return Dim("X", None, origin=value.span)

    def dim(self, size: int, origin: Span, letter: str = "") -> Dim:
        """An axis of a size that the spec fixed at `origin`."""
        if not letter:
            known = {self.vocab.size: "V", self.model_width.size: "D", 1: "1"}
            letter = known.get(size, "F")
        return Dim(letter, int(size), origin=origin)

    def width_of(self, width: int | str, origin: Span) -> Dim:
        """A written width, or the one that the place asks for."""
        if isinstance(width, (int, float)):
            asked = self.width
            same = asked is not None and asked.size == width
            return replace(asked, origin=origin) if asked and same else self.dim(int(width), origin)
        if self.width is None:
            self.sink.error(
                "E0302",
                "this `linear` needs a width",
                self.span,
                "nothing around it says which",
                help="write the size of its result: `linear(256)`; only the last `linear` of a recipe takes the "
                "width that is needed where the recipe stands",
            )
            return self.model_width
        return self.width

    def flat(self, letter: str, *parts: Dim) -> Dim:
        """One axis made of several (heads and their channels)."""
        size = 1
        for part in parts:
            size *= part.size or 1
        return self.flats.setdefault(parts, Dim(letter, size, parts, origin=parts[0].origin))

    def is_opened(self, x: Value) -> bool:
        return isinstance(x.type, TensorType) and x.type.dims[-2:] in self.flats

    def hint(self, width: Dim | None, bias: bool = False) -> Hint:
        return Hint(width, bias)

    def opened(self, x: Value) -> Value:
        """With heads and channels apart, where the last axis is made of them."""
        parts = self.last(x).split
        if parts:
            for node in reversed(self.frame.unit.nodes):
                if x in node.outputs and isinstance(node.op, ops.MergeHeads):
                    return node.inputs[0]
        return self.op(ops.SplitHeads(parts=parts), x) if parts else x

    def merged(self, x: Value) -> Value:
        """With heads side by side in one axis."""
        dims = x.type.dims[-2:] if isinstance(x.type, TensorType) else ()
        flat = self.flats.get(dims)
        return x if flat is None else self.op(ops.MergeHeads(flat=flat), x)

    # --- terms ---------------------------------------------------------------------------------

    def apply(self, term: terms.Term, x: Value, *more: Value, **named: Value) -> Value:
        """A recipe on a value."""
        return expressions.apply(self, term, x, more, named)

    def evaluate(self, term: terms.Term) -> Value:
        """A tensor expression over the names in scope; a recipe is fed with `x`."""
        return expressions.evaluate(self, term)

    def role(
        self,
        role: str,
        term: terms.Term,
        x: Value,
        width: Dim | None = None,
        bias: bool = False,
        name: str = "",
    ) -> Value:
        """What stands at a role, with `x` in scope. Its weights are called by the role."""
        with self.at(role, Hint(width, bias), role), self.body(x=x):
            value = self.evaluate(term)
        return self.named(value, name) if name else value

    def run(
        self, body: Sequence[terms.Let | terms.Assign], then: Sequence[terms.Term] = ()
    ) -> None:
        """Statements of a body, in order; `then`: what else the body says, and will be evaluated after them."""
        for index, statement in enumerate(body, 1):
            expressions.statement(self, statement, (*body[index:], *then))

    # --- diagnostics ---------------------------------------------------------------------------

    def mismatch(self, code: str, message: str, *labels: tuple[Span, str], help: str = "") -> None:
        """An error with a label for each fact."""
        (first, text), *rest = labels
        more = tuple(Label(s, t) for s, t in rest if s not in (NOWHERE, first))
        self.sink.error(code, message, first, text, secondary=more, help=help)


class _Inside:
    """At its end the frame stands where it stood."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.before = frame.scope, frame.prefix, frame.hint, frame.role, frame.inits

    def __enter__(self) -> None:
        pass

    def __exit__(self, *problem: object) -> None:
        frame = self.frame
        frame.scope, frame.prefix, frame.hint, frame.role, frame.inits = self.before


def _name_repeated(op: Op, values: tuple[Value, ...]) -> None:
    """A value that one expression reads twice is computed once, so it needs a name."""
    for index, value in enumerate(values):
        if not value.name and op.code.count(f"{{{index}}}") > 1:
            value.name = "y"
