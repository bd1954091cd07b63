"""What a cache keeps beside the past: results that are the same for every call on one batch.

While one stream is decoded, the others stay as they are. What the model makes of them alone, such as an encoder's
output or its keys and values in each layer, becomes a method of its own and is computed once for each cache:

    memory_BMD = once(self.read_source, cache, source_BM, source_attention_mask)
"""

from __future__ import annotations

from moedsl.backend.naming import attribute
from moedsl.backend.plan_reads import Reads, is_loss
from moedsl.frozen import frozen
from moedsl.ir.graph import Graph, Node, TensorType, Unit, Value
from moedsl.ir.ops import Ambient, CacheHandle, Op, Stack
from moedsl.ir.ops_base import Type
from moedsl.ir.shapes import MAIN, streams_in
from moedsl.ir.thread import callees


@frozen(kw_only=True)
class Once(Op):
    """A part of the unit at hand, by the method that computes it: (cache, what it reads) -> what is read of it."""

    method: str
    types: tuple[Type, ...]

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"once(self.{self.method}, {{args}})"

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        return (".state:once",)

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return self.types


@frozen(eq=False)
class Part:
    """Nodes of a unit that are computed once, as a unit without weights of its own."""

    method: str
    cache: Value
    unit: Unit

    def rest(self, whole: Unit) -> Unit:
        """The unit with a call in place of these nodes."""
        own = set(self.unit.nodes)
        results = (*self.unit.outputs, *self.unit.taps)
        op = Once(method=self.method, types=tuple(value.type for value in results))
        call = Node(op, (self.cache, *self.unit.inputs, *self.unit.ambients), results)
        # Ambients, which other nodes may read too, come first in any unit.
        first = next(n for n in whole.nodes if n in own and not isinstance(n.op, Ambient))
        nodes = [
            call if node is first else node for node in whole.nodes if node not in own - {first}
        ]
        return Unit(
            whole.name,
            whole.kind,
            whole.inputs,
            whole.ambients,
            nodes,
            whole.outputs,
            whole.taps,
            recipe=whole.recipe,
            wants=whole.wants,
        )


def kept_parts(graph: Graph, reads: Reads) -> dict[Unit, Part]:
    """The part of each unit that depends on no token that is being decoded, where a cache is kept at all."""
    root = graph.root
    cache = _cache(root)
    if len({dim for value in root.inputs for dim in streams_in(value.type)}) < 2:
        return {}
    if cache is None or not reads.takes(root, cache):
        return {}
    still: dict[Unit, set[Value]] = {root: _given(root)}
    found: dict[Unit, Part] = {}
    for unit in reversed(graph.units):
        if unit not in still:
            continue
        _follow(unit, still[unit], reads)
        for node in reads.live(unit):
            if still[unit].issuperset(node.outputs):
                continue
            for callee in callees(node):
                own = [*callee.inputs, *callee.ambients]
                pairs = list(zip(own, node.inputs, strict=True))
                # What comes through the layers of a stack moves with the first of them.
                pairs = pairs[1:] if isinstance(node.op, Stack) else pairs
                given = {mine for mine, theirs in pairs if theirs in still[unit]}
                still[callee] = still.get(callee, given) & given
        if part := _part(unit, still[unit], reads):
            found[unit] = part
    return found


def _cache(unit: Unit) -> Value | None:
    pairs = zip(unit.ambients, unit.wants, strict=True)
    return next((value for value, op in pairs if op == CacheHandle()), None)


def _given(root: Unit) -> set[Value]:
    """Inputs and arguments that are not of the main stream."""
    beside = {v for v in root.inputs if MAIN not in streams_in(v.type)}
    pairs = zip(root.ambients, root.wants, strict=True)
    return beside | {v for v, op in pairs if isinstance(op, Ambient) and not op.main}


def _follow(unit: Unit, still: set[Value], reads: Reads) -> None:
    """Add what is made of nothing else."""
    for node in unit.nodes:
        if still.issuperset(reads.of(node)):
            still.update(node.outputs)


def _part(unit: Unit, still: set[Value], reads: Reads) -> Part | None:
    cache = _cache(unit)
    live = reads.live(unit)
    made = [n for n in live if still.issuperset(n.outputs) and not is_loss(n)]
    other = [node for node in live if node not in made]
    asked = {v for node in other for v in reads.of(node)} | {*unit.outputs, *unit.taps}
    lasting = [node for node in made if not isinstance(node.op, Ambient)]
    own = _behind(lasting, {v for n in lasting for v in n.outputs if v in asked}, reads)
    if cache is None or not any(node.place for node in own):
        return None
    inner = {value for node in own for value in reads.of(node)}
    own |= {
        node
        for node in made
        if isinstance(node.op, Ambient)
        and not asked.intersection(node.outputs)
        and inner.intersection(node.outputs)
    }
    return _taken(unit, cache, [node for node in live if node in own], asked, reads)


def _behind(nodes: list[Node], wanted: set[Value], reads: Reads) -> set[Node]:
    found: set[Node] = set()
    for node in reversed(nodes):
        if wanted.intersection(node.outputs):
            found.add(node)
            wanted |= set(reads.of(node))
    return found


def _taken(
    unit: Unit, cache: Value, nodes: list[Node], asked: set[Value], reads: Reads
) -> Part | None:
    made = [value for node in nodes for value in node.outputs]
    read = list(dict.fromkeys(v for node in nodes for v in reads.of(node) if v not in made))
    wants = dict(zip(unit.ambients, unit.wants, strict=True))
    wants |= {n.outputs[0]: n.op for n in unit.nodes if isinstance(n.op, Ambient)}
    results = [value for value in made if value in asked]
    part = Unit(
        unit.name,
        "part",
        inputs=[value for value in read if value not in wants],
        ambients=[value for value in read if value in wants],
        nodes=nodes,
        outputs=[value for value in results if isinstance(value.type, TensorType)],
        taps=[value for value in results if not isinstance(value.type, TensorType)],
        wants=[wants[value] for value in read if value in wants],
    )
    if not part.inputs:
        return None
    about = "_".join(value.name for value in part.inputs)
    return Part(attribute(f"read_{about}"), cache, part)
