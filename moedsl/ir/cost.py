"""What a model weighs and what a token costs: integers, counted on the graph before a tensor exists.

How things are counted:

- total: every parameter once (tied places once, buffers not at all); trainable: those that are not frozen.
- active: what one token meets. A bank's weights count by the rows that it gets per token over its experts, so k of E
  experts count k/E of the bank; everything else counts whole, the embedding and the head too, as published counts do, but for what serves a share of
  the tokens: that counts by the share.
- FLOPs: multiply-adds as two, matrix products only, for one token, as `torch.utils.flop_counter` counts them.
  Attention over a context of `tokens` is the whole square that the products compute, masked or not.
- training FLOPs: three times forward, since backward makes two products of the same size for each one of forward.
- bytes: bfloat16, for weights and for what a decoding cache keeps of each token. Where one stream is read across, what
  is kept of a token of it (keys and values in each layer) counts too: one token of each stream is counted.

Costs are summed per unit and per density of rows, not per layer: a hundred equal layers are one sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field
from fractions import Fraction
from typing import Any

from moedsl.frozen import frozen, record
from moedsl.ir.graph import Dim, Graph, Node, TensorType, Unit, Value
from moedsl.ir.shapes import MAIN, STREAMS, streams_in

BYTES = 2  # bfloat16
TRAINING = 3  # forward, and twice that backward
ONE = Fraction(1)


@frozen(kw_only=True)
class Sum:
    """Counts that add up. `flops` is forward, per token at the context that was asked for."""

    total: int = 0
    active: int = 0
    trainable: int = 0
    flops: int = 0
    cache_bytes: int = 0

    @property
    def training_flops(self) -> int:
        return TRAINING * self.flops

    @property
    def weight_bytes(self) -> int:
        return BYTES * self.total

    def __add__(self, other: Sum) -> Sum:
        return Sum(
            total=self.total + other.total,
            active=self.active + other.active,
            trainable=self.trainable + other.trainable,
            flops=self.flops + other.flops,
            cache_bytes=self.cache_bytes + other.cache_bytes,
        )


@frozen
class Line:
    """One place of the model. `experts` is the size of the bank in it (0 where there is none), `picks` how many of
    them serve a token (a fraction where that is an average); `parts` are the places one level below."""

    path: str
    unit: str
    kind: str
    sum: Sum
    experts: int = 0
    picks: Fraction = Fraction(0)
    parts: tuple[Line, ...] = ()


@frozen
class Cost:
    """`layers`: the places of the root in order of execution, stacked layers one by one."""

    name: str
    tokens: int
    layers: tuple[Line, ...]
    total: Sum
    lengths: tuple[tuple[str, int], ...] = ()  # of the streams beside the main one


def cost(graph: Graph, tokens: int = 1, lengths: dict[str, int] | None = None) -> Cost:
    """Count `graph`, with a context of `tokens` for what depends on it (attention); further streams are as long as
    `lengths` says by the name of their input, or as the main one. What is counted is one token of each stream."""
    named = {dim: v.name for v in graph.root.inputs for dim in streams_in(v.type)}
    given = lengths or {}
    streams = {dim: given.get(named.get(dim, ""), tokens) for dim in STREAMS} | {MAIN: tokens}
    counter = _Counter(streams)
    layers, _ = counter.walk(graph.root, ())
    beside = tuple((name, streams[dim]) for dim, name in named.items() if dim in STREAMS[1:])
    return Cost(graph.name, tokens, layers, sum((line.sum for line in layers), Sum()), beside)


Rows = tuple[Fraction, ...]


@record
class _Counter:
    """Walks units. Rows: how many rows of a value there are per token of the model. `lengths`: how many tokens the
    streams have, as the unit at hand calls them."""

    lengths: dict[Dim, int]
    memo: dict[Any, tuple[tuple[Line, ...], Rows]] = field(default_factory=dict)
    again: bool = False  # in a round that reads what the first one keeps

    @property
    def tokens(self) -> int:
        return self.lengths[MAIN]

    def walk(self, unit: Unit, rows: Rows) -> tuple[tuple[Line, ...], Rows]:
        """The unit's lines, and the rows of its outputs and taps."""
        key = (unit, rows, tuple(self.lengths.values()), self.again)
        if key not in self.memo:
            density: dict[Value, Fraction] = dict(
                zip([*unit.inputs, *unit.ambients], rows, strict=False)
            )
            seen: set[str] = set()
            lines = tuple(
                line for node in unit.nodes for line in self._node(node, unit, density, seen)
            )
            outputs = tuple(density.get(v, ONE) for v in [*unit.outputs, *unit.taps])
            self.memo[key] = (lines, outputs)
        return self.memo[key]

    def _node(
        self, node: Node, unit: Unit, density: dict[Value, Fraction], seen: set[str]
    ) -> Iterator[Line]:
        rows = tuple(density.get(v, ONE) for v in node.inputs)
        units = list(node.calls())
        if units:
            results: Rows = ()
            before, self.again = self.again, self.again or _is_later(unit, node)
            around, axes = self.lengths, dict(getattr(node.op, "axes", ()))
            self.lengths = {dim: around.get(axes.get(dim, dim), around[MAIN]) for dim in around}
            for path, module, called in units:
                lines, results = self.walk(called, rows)
                yield _line(path, called, lines, owned=module not in seen)
                seen.add(module)
                rows = (*results[:1], *rows[1:])  # a stack hands its stream from layer to layer
            self.lengths, self.again = around, before
        else:
            yield self._weights(node, rows, owned=node.place not in seen)
            results = (self._after(node, rows),) * len(node.outputs)
        if node.place:
            seen.add(node.place)
        density.update(zip(node.outputs, results, strict=False))

    def _looked_at(self, node: Node, types: list) -> int:
        """How many positions there are to look at, in the stream of the keys."""
        mask = getattr(node.op, "mask", None)
        if mask is None or mask.main:
            return self._context(types)
        return self.lengths.get(mask.stream) or self._context(types)

    def _context(self, types: list) -> int:
        """How many positions there are to look at: all of a stream of known length, else what was asked for."""
        return next((n for t in types[-1:] if (n := _known_length(t))), self.tokens)

    def _group(self, types: list) -> int:
        """How many tokens share merged experts: those of a segment, else all."""
        dims = types[0].dims if types and isinstance(types[0], TensorType) else ()
        return next((dim.segment for dim in dims if dim.segment), self._context(types[:1]))

    def _after(self, node: Node, rows: Rows) -> Fraction:
        """Rows of the result: as many as the densest input's, times `spread` (k where rows go to k experts, 1/k back);
        `rows_per_token` says how many rows each expert gets for a token, `rows_of` whose rows come back. A record of no
        sizes (a cache, a table) has no rows of its own."""
        if count := getattr(node.op, "rows_per_token", None):
            return (ONE if getattr(node.op, "by_sequence", False) else rows[0]) * count(self.tokens)
        if (source := getattr(node.op, "rows_of", None)) is not None:
            return rows[source]
        tensors = [r for r, v in zip(rows, node.inputs, strict=True) if v.type.dims]
        return max(tensors or rows, default=ONE) * getattr(node.op, "spread", ONE)

    def _weights(self, node: Node, rows: Rows, owned: bool) -> Line:
        """An operation's own cost. `owned` is False where its place was counted before (a tied one)."""
        types = [v.type for v in node.inputs]
        density = (rows[0] if rows else ONE) * getattr(node.op, "meets", ONE)
        known = any(_known_length(type_) for type_ in types[-1:])
        seen = min(ONE, rows[_looks(node)]) if rows and not known else ONE
        looked_at = self._looked_at(node, types)
        flops = node.op.flops(*types) + seen * looked_at * _per_position(node, types)
        flops += getattr(node.op, "flops_per_merge", 0) // self._group(types)
        counted = Sum(
            flops=int(flops * density),
            cache_bytes=0 if self.again and _is_first(node) else BYTES * _cached(node, types),
        )
        experts = 0
        for parameter in node.op.parameters() if owned else ():
            if parameter.buffer:
                continue
            experts = parameter.shape[0] if parameter.bank else experts
            bank = parameter.shape[0] if parameter.bank else 0
            met = ONE if _per_sequence(types) else min(ONE, density)
            share = _share(node, density, bank) if bank else met
            counted += Sum(
                total=parameter.size,
                active=int(parameter.size * share),
                trainable=parameter.size * parameter.trainable,
            )
        kept, choices = getattr(node.op, "chosen", None) or (None, None)
        if (
            kept and choices
        ):  # a selection knows better than a bank, which may be one of several kinds
            experts, density = choices.size or 0, density * kept.picks
        elif experts and getattr(node.op, "met", "grouped") != "grouped":
            density = experts * _share(node, density, experts)
        picks = density if experts else Fraction(0)
        return Line(
            node.path or node.place, "", type(node.op).__name__.lower(), counted, experts, picks
        )


def _is_later(unit: Unit, node: Node) -> bool:
    """Does it run a round that reads what the first one left?"""
    own = (unit.producer(value) for value in node.inputs)
    return any(getattr(one.op, "later", False) for one in own if one is not None)


def _is_first(node: Node) -> bool:
    """Does it keep anything in the first round only?"""
    return getattr(node.op, "first", False)


def _per_sequence(types: list) -> bool:
    """Does it work once for a sequence? Then each of its tokens counts as meeting all of it."""
    dims = types[0].dims if types and isinstance(types[0], TensorType) else ()
    return bool(dims) and dims[0].letter == "B" and not any(dim.stream for dim in dims)


def _known_length(type_: object) -> int | None:
    """Of a stream that is there at once."""
    dims = type_.dims if isinstance(type_, TensorType) else ()
    return next((dim.size for dim in dims if dim.stream), None)


def _line(path: str, unit: Unit, parts: tuple[Line, ...], owned: bool) -> Line:
    """The line of a unit's place. A place called twice weighs once and works twice."""
    counted = sum((part.sum for part in parts), Sum())
    if not owned:
        counted = Sum(flops=counted.flops, cache_bytes=counted.cache_bytes)
    widest = max(parts, key=lambda part: (part.picks < part.experts, part.experts), default=None)
    experts, picks = (widest.experts, widest.picks) if widest else (0, Fraction(0))
    return Line(path, unit.name, unit.kind, counted, experts, picks, parts)


# What an op may say beyond `flops`; nothing said means nothing to add.


def _looks(node: Node) -> int:
    """The input whose rows are looked at: the keys of an attention."""
    return next(iter(getattr(node.op, "looks", None) or ()), 0)


def _per_position(node: Node, types: list) -> int:
    """FLOPs for each position of the context that one row looks at: `flops_per_position(*types)`."""
    count = getattr(node.op, "flops_per_position", None)
    return count(*types) if count else 0


def _cached(node: Node, types: list) -> int:
    """Numbers that a decoding cache keeps of one token: `cached(*types)`."""
    count = getattr(node.op, "cached", None)
    return count(*types) if count else 0


def _share(node: Node, density: Fraction, experts: int) -> Fraction:
    """The part of a bank's weights that a token meets."""
    match getattr(node.op, "met", "grouped"):
        case "batched":  # density is that of one expert's rows
            return min(ONE, density)
        case "merged":
            return ONE
    return min(ONE, density / experts)
