"""Tokens that get nothing: harmless beside a stream that carries them on, a hole where an attention projects.

In `x += sparse(norm(x))` a token that nobody serves stays as it was. A query, key or value has nothing beside it: it
would be zero, and still take part in attention; so would what leaves the attention.

Followed is how few of its picks serve a token, from where they are picked (`chosen`), through what takes some away
(`least`), to the sums that are made of what they gave. Nothing is left out of a sum that anything whole takes part in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from moedsl.checks.traits import among_choices, chosen, least, meant, sees
from moedsl.diagnostics.model import Label, Sink
from moedsl.frozen import frozen
from moedsl.ir.graph import NOWHERE, Graph, Node, RecordType, TensorType, Unit, Value
from moedsl.ir.ops import Combination

ROUTED = "R"


@frozen
class Served:
    """What some of a token's picks gave it: `least` picks among `choices`, of which the `ranges` (first, count) count
    here. `cause` takes picks away; `site` is where the result of them first stands."""

    least: int
    choices: int
    ranges: frozenset[tuple[int, int]]
    cause: Node
    site: Node | None = None

    @property
    def leaves_out(self) -> bool:
        return self.least <= self.choices - self.counted

    @property
    def counted(self) -> int:
        return sum(count for _, count in self.ranges)


States = tuple[Served | None, ...]


def check_left_out(graph: Graph, sink: Sink) -> None:
    _Walk(sink).unit(graph.root, ())


class _Walk:
    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.memo: dict[tuple[Unit, States], States] = {}

    def unit(self, unit: Unit, given: States) -> States:
        """What its results are to those that its inputs are."""
        inputs = [*unit.inputs, *unit.ambients]
        if unit.kind not in ("moe", "router", "experts"):
            # What comes from a stream is taken as it is: only decisions made outside count.
            given = tuple(
                state if isinstance(value.type, RecordType) else None
                for value, state in zip(inputs, given, strict=False)
            )
        key = (unit, given)
        if key not in self.memo:
            states = dict(zip(inputs, given, strict=False))
            for node in unit.nodes:
                self._node(node, states)
                if unit.kind == "attention":
                    self._projections(node, states)
            ends = [*unit.outputs, *unit.taps]
            if unit.kind == "attention":
                self._holes(unit.outputs, states)
            self.memo[key] = tuple(states.get(value) for value in ends)
        return self.memo[key]

    def _node(self, node: Node, states: dict[Value, Served | None]) -> None:
        own = tuple(states.get(value) for value in node.inputs)
        called = [inner for _, _, inner in node.calls()]
        if called:
            found = [self.unit(inner, own) for inner in dict.fromkeys(called)]
            for value, state in zip(node.outputs, found[-1], strict=False):
                is_tensor = state is not None and isinstance(value.type, TensorType)
                states[value] = replace(state, site=node) if state and is_tensor else state
            return
        state = _after(node, own)
        for value in node.outputs:
            states[value] = None if _is_routed(value) else state

    def _projections(self, node: Node, states: dict[Value, Served | None]) -> None:
        """Of an attention: what is read by more than its own token."""
        if _mixes(node):
            self._holes(node.inputs, states)

    def _holes(self, values: Iterable[Value], states: dict[Value, Served | None]) -> None:
        for value in values:
            state = states.get(value)
            if state is not None and state.leaves_out:
                self._report(state, value)

    def _report(self, state: Served, value: Value) -> None:
        cause, site = state.cause, state.site
        if cause.poisoned or (site is not None and site.poisoned):
            return
        span = value.span if site is None else site.span
        places = (Label(cause.span, "may leave a token with nothing"),)
        self.sink.error(
            "E0421",
            f"a token that nobody serves would have no `{(site and site.role) or value.name}`",
            span,
            "nothing beside it serves every token",
            secondary=tuple(label for label in places if label.span not in (NOWHERE, span)),
            help="let each token have something: room for all (`capacity = none`), a pick that stays, or `linear + "
            "moe(...)`; where zeros are meant, write `overflow = zero` in the router",
        )


def _after(node: Node, own: States) -> Served | None:
    """What a node makes of picks, or of what they gave."""
    picks, fewest = chosen(node), least(node)
    if picks is not None:
        kept, choices = (axis.size or 1 for axis in picks)
        number = kept if fewest is None else fewest
        return Served(number, choices, frozenset({(0, choices)}), node)
    found = [state for state in own if state is not None]
    if not found or meant(node):
        return None
    if isinstance(node.op, Combination) and node.op.operator in ("+", "-"):
        return _sum(node, found) if len(found) == len(own) else None
    if _mixes(node) and not _are_picks(node):
        return None
    state = min(found, key=lambda each: each.least - each.choices + each.counted)
    if fewest is not None and fewest < state.least:
        state = replace(state, least=fewest, cause=node)
    among = among_choices(node)
    if among is not None:
        cause = node if state.least else state.cause
        state = replace(state, ranges=frozenset({among}), cause=cause)
    return state


def _sum(node: Node, found: list[Served]) -> Served | None:
    """A token has something where any of the parts has: kinds of experts cover each other's choices."""
    least = min(state.least for state in found)
    ranges = frozenset[tuple[int, int]]().union(*(state.ranges for state in found))
    state = replace(found[0], least=least, ranges=ranges)
    return state if state.leaves_out else None


def _mixes(node: Node) -> bool:
    return any(sees(node, index) != "row" for index in range(len(node.inputs)))


def _are_picks(node: Node) -> bool:
    return all(isinstance(v.type, TensorType) and v.type.dtype == "int" for v in node.outputs)


def _is_routed(value: Value) -> bool:
    """Rows that experts get: each of a token that is served."""
    axes = value.type.dims if isinstance(value.type, TensorType) else ()
    return bool(axes) and axes[0].letter == ROUTED
