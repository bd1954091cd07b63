"""The typed graph: what is computed, on what shapes, with which weights; nothing about files, classes or torch.

A `Graph` is a set of `Unit`s. A unit is one body (a block, an attention, a mixture, its bank of experts, the model):
typed nodes over values, in an order that is topological. Equal bodies are one unit, however many layers call it, so
everything here grows with what differs, not with depth. Calls from unit to unit form a tree of places from the root;
`Graph.places()` walks it when a question is about instances (parameters, cost, checkpoint names).

Three things cross unit borders without being written in a spec, and lowering threads them:
  ambients  values computed once at the root and handed down (rotary tables, masks, the cache): extra unit inputs;
  taps      values handed up (routing decisions): extra unit outputs, in order of computation;
  weights   a parameter lives in the unit that calls its op; its path is the place's path plus the node's `place`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from moedsl.frozen import frozen, record
from moedsl.source import Span

if TYPE_CHECKING:
    from fractions import Fraction

    import networkx

    from moedsl.ir.ops import Op
    from moedsl.ir.starts import Start

NOWHERE = Span(0, 0)


@frozen(hash_once=True)
class Dim:
    """One axis. `letter` suffixes names in printed code; `size` is None where known only at run time (B, T, N, R).

    `split`: the axes that this flat one is made of (HC = H times C), so that heads can be opened where needed.
    `loose`: an axis of picks of which some may be absent: those are numbered one past the last choice, weigh nothing,
    and no expert serves them.
    `stream`: the positions of a stream of tokens; what differs by stream (lengths, padding, ...) is asked of this axis.
    `mean`: how many of them are there on average, where that is known and fewer than all.
    `part`: which of the parts of a stream that a body makes, where it makes several.
    `segment`: of an axis of segments, how many tokens each has.
    `origin`: where the spec fixed the size; a shape error shows both origins. `meaning`: what the letter stands for,
    where that is not the usual.
    """

    letter: str
    size: int | None = None
    split: tuple[Dim, ...] = ()
    loose: bool = False
    stream: bool = False
    mean: Fraction | None = None
    segment: int = 0
    part: int = field(default=0, repr=False)
    meaning: str = field(default="", compare=False, repr=False)
    origin: Span = field(default=NOWHERE, compare=False, repr=False)

    @property
    def is_choices(self) -> bool:
        """Are these what a router chooses among?"""
        return self.letter == "E" and not self.split

    @property
    def picks(self) -> Fraction:
        """How many of an axis of picks are there: what serving them costs."""
        from fractions import Fraction  # only counts of cost ask: not worth importing for a check

        return self.mean if self.mean is not None else Fraction(self.size or 1)


@frozen(hash_once=True)
class TensorType:
    """`below`: of ids, how many different ones there are, where that is known."""

    dims: tuple[Dim, ...]
    dtype: str = "float"  # float (the model's) | float32 | int | bool
    below: Dim | None = None

    @property
    def letters(self) -> str:
        return "".join(d.letter for d in self.dims)


@frozen
class RecordType:
    """A named tuple or object of the generated runtime: Routing, Dispatch, Cache, Rotary, ...

    `dims`: sizes that readers need (Routing: K kept, E choices). `fields`: what a Routing has beside its picks, their
    weights and the logits. A bare "Tensor" is one of no fixed shape, or None.
    """

    name: str
    dims: tuple[Dim, ...] = ()
    fields: tuple[str, ...] = ()


@record
class Value:
    """An edge: produced once, read by any number of nodes. `name` is what printed code calls it, without the suffix;
    "" where nothing named it: written inline where it is read once."""

    name: str
    type: TensorType | RecordType
    span: Span = NOWHERE


@frozen
class Parameter:
    """A weight as the spec speaks of it. `name` is "weight", "bias", or "" where the place has just one.

    `shape` counts the bank's axis first (experts) where there is one. `init`: normal | zeros | ones | constant, to
    which `value` belongs, or `own`: what its module does at `start`. A buffer has `trainable` False and `buffer` True.
    `choices`: it has one row for each choice of a router.
    `fans`: of how many numbers one result is made, and of how many one number is part, where rows and columns do not
    say so.
    """

    name: str
    shape: tuple[int, ...]
    init: str = "normal"
    value: float = 0.02
    trainable: bool = True
    buffer: bool = False
    bank: bool = False
    choices: bool = False
    fans: tuple[int, int] | None = None

    @property
    def members(self) -> int:
        """How many stand side by side along the first axis: experts, or what a router has for each; else 0."""
        return self.shape[0] if self.bank or self.choices else 0

    @property
    def size(self) -> int:
        total = 1
        for n in self.shape:
            total *= n
        return total


@frozen(eq=False)
class Init:
    """What one body says about how the weights in it start."""

    said: Any


@record
class Node:
    """One operation. `place` is the attribute under which its weights or its called unit live ("" for pure ops);
    `path` is that place in the spec's words (`q.linear` at attribute `q_linear`), "" where it is the same;
    `role` is the role it plays (q, gate, score, ...); `poisoned` where an error was reported: checks stay silent;
    `inits`: what is said around it, in its unit, about how weights start (see ir/said.py).
    """

    op: Op
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    place: str = ""
    role: str = ""
    span: Span = NOWHERE
    doc: str = ""
    poisoned: bool = False
    path: str = ""
    inits: tuple[Init, ...] = ()

    def calls(self) -> Iterator[tuple[str, str, Unit]]:
        """(path, module, unit) for each unit instance under this node."""
        return self.op.calls(self.place, self.path)


@record
class Unit:
    """One body. `inputs` = the spec's own, then ambients; `outputs` = the spec's own, then taps.

    name: the recipe's name (classes are named after it); kind: model | block | attention | moe | experts | router |
    ffn | ...; doc: from the spec's comment; recipe: the terms.Recipe it was lowered from (None for the root);
    bank: number of copies side by side whose weights carry a leading experts axis, else 0.
    streams: those that the body makes itself, of some tokens of its `x`, each with the value that says which.
    decides: the routers that decide in it for those after them (`ir/before.py`); decided: their decisions, or lists of
    them.
    given: rounds of a block that share the keys of the first, each with what that one leaves (`ops_rounds.FirstRound`).
    wants: the ambient ops behind `ambients`, pairwise. handed: those of `taps` that are made here rather than below.
    """

    name: str
    kind: str
    inputs: list[Value] = field(default_factory=list)
    ambients: list[Value] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    taps: list[Value] = field(default_factory=list)
    doc: str = ""
    recipe: Any = None
    bank: int = 0
    span: Span = NOWHERE
    wants: list[Op] = field(default_factory=list)
    handed: list[Value] = field(default_factory=list)
    streams: dict[Dim, Value] = field(default_factory=dict)
    decides: dict[tuple[str, Dim], Any] = field(default_factory=dict)
    decided: dict[Op, Value] = field(default_factory=dict)
    given: list[tuple[Node, Value]] = field(default_factory=list)

    def producer(self, value: Value) -> Node | None:
        return next((n for n in self.nodes if value in n.outputs), None)

    def consumers(self, value: Value) -> list[Node]:
        return [n for n in self.nodes if value in n.inputs]

    @cached_property
    def network(self) -> networkx.DiGraph:
        """Nodes and values as a bipartite networkx graph, for analyses; built once the unit is complete."""
        import networkx

        graph = networkx.DiGraph()
        for value in [*self.inputs, *self.ambients]:
            graph.add_node(value, kind="input")
        for node in self.nodes:
            graph.add_node(node, kind="node")
            graph.add_edges_from((value, node) for value in node.inputs)
            graph.add_edges_from((node, value) for value in node.outputs)
        return graph


@frozen(eq=False)
class Place:
    """An instance: `path` in the spec's words (`layer[3].sparse.router`), `module` as attributes (`layer.3.sparse.router`)."""

    path: str
    module: str
    unit: Unit
    parent: Place | None = None
    node: Node | None = None  # that calls it


@record
class Graph:
    """All units, callees before callers; the last one is the root (kind "model")."""

    name: str
    units: list[Unit] = field(default_factory=list)
    model: Any = None  # the terms.Model it came from
    starts: dict[str, Start] = field(default_factory=dict)  # by path; empty where nothing is said

    @property
    def root(self) -> Unit:
        return self.units[-1]

    def places(self) -> Iterator[Place]:
        """Every instance of every unit, parents first, in order of execution."""
        yield from _walk(Place("", "", self.root))

    def parameters(self) -> Iterator[tuple[str, str, Parameter, Place]]:
        """(path in the spec's words, name in the module, parameter, place of its unit), tied ones once."""
        from moedsl.ir.storage import parameters

        return parameters(self)

    def storage(self) -> dict[str, Storage]:
        """Where each weight that the spec speaks of is kept, by its path; the same before and after rewrites."""
        from moedsl.ir.storage import storage

        return storage(self)

    def sites(self) -> list[Site]:
        """The places where routing is decided, in order of execution."""
        from moedsl.ir.storage import sites

        return sites(self)


@frozen
class Storage:
    """A weight of the spec inside a parameter of the module: `length` entries from `start` along `axis` (all of them
    where `axis` is None). `shape` is its own, experts first. `members`, `init` and `value`: see `Parameter`."""

    path: str
    module: str
    shape: tuple[int, ...]
    axis: int | None = None
    start: int = 0
    length: int = 0
    bank: bool = False
    members: int = 0
    init: str = "normal"
    value: float = 0.02


@frozen(eq=False)
class Site:
    """Where a routing decision is made, as `output.routing` names it."""

    place: Place
    value: Value


def _walk(place: Place) -> Iterator[Place]:
    yield place
    for node in place.unit.nodes:
        for path, module, unit in node.calls():
            yield from _walk(
                Place(_join(place.path, path), _join(place.module, module), unit, place, node)
            )


def _join(parent: str, child: str) -> str:
    return f"{parent}.{child}" if parent else child
