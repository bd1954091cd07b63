"""The root class: what runs once around the layers, and what comes back."""

from __future__ import annotations

from collections import Counter

from moedsl.backend.plan_adapting import adapts, plan_adapt
from moedsl.backend.plan_classes import (
    BODY,
    MEMBER,
    ClassView,
    Method,
    Names,
    attributes,
    looped,
    parameters,
    plan_part,
)
from moedsl.backend.plan_init import init_weights
from moedsl.backend.plan_lines import (
    call_lines,
    expression_lines,
    fits,
    indented,
    operands,
    statement_lines,
)
from moedsl.backend.plan_reads import is_loss
from moedsl.backend.plan_records import ANY
from moedsl.backend.plan_records import HOME as RECORDS
from moedsl.backend.plan_stacks import loop
from moedsl.backend.plan_taps import routing_lines
from moedsl.backend.plan_words import docstring, flow
from moedsl.backend.statements import Text, Writer
from moedsl.ir.graph import Graph, Node, Unit, Value
from moedsl.ir.ops import DEPTH, AttentionMask, Stack
from moedsl.ir.shapes import streams_in

# Names that the root's `forward` has beside the values of its graph.
ROOT_LOCALS = frozenset({"losses", "routing", "depth", "layer", "routed"})


def plan_model(graph: Graph, names: Names) -> ClassView:
    root = graph.root
    methods = [_forward(root, names)]
    if part := names.parts.get(root):
        methods.append(plan_part(part, names, run=True, stems=_stacked(root)))
    if any(isinstance(node.op, Stack) for node in root.nodes):
        names.imports.name("torch.utils.checkpoint", "checkpoint")
        names.imports.name("typing", "Any")
        methods.append(_RUN)
    methods.append(init_weights(graph, names))
    if adapts(graph):
        methods.append(plan_adapt(graph, names))
    names.imports.ask(["torch", "nn", "Tensor"])
    names.imports.name("typing", "NamedTuple")
    if not any(tap.type != DEPTH for tap in root.taps):
        names.imports.name("typing", "Any")  # of a routing that nothing decides
    lines = attributes(root, names)
    if any(isinstance(node.op, Stack) for node in root.nodes):
        lines = (*lines, "self.checkpoint_layers = False")
    return ClassView(
        names.classes[root], "nn.Module", docstring(flow(graph), MEMBER), lines, tuple(methods)
    )


_RUN = Method(
    ("def run(self, layer: nn.Module, *inputs: Any) -> Any:",),
    (
        "if self.checkpoint_layers and torch.is_grad_enabled():",
        "    return checkpoint(layer, *inputs, use_reentrant=False)",
        "return layer(*inputs)",
    ),
    docstring("One layer; with `checkpoint_layers` backward makes its activations again.", BODY),
)


def losses_of(unit: Unit) -> list[Node]:
    """The nodes that make losses, in order."""
    return [node for node in unit.nodes if is_loss(node)]


def _forward(root: Unit, names: Names) -> Method:
    losses = losses_of(root)
    inputs = parameters(root, names)
    part = names.parts.get(root)
    writer = Writer(
        part.rest(root) if part else root,
        {p.value: p.name for p in inputs},
        names.reads,
        loop=lambda w, node: loop(w, node, names.reads, names.classes, run=True),
        finish=lambda w, parts: _finish(root, w, parts, losses),
        reserved=names.reserved | ROOT_LOCALS | looped(root),
        records=names.records,
        results=[*root.outputs, *(node.outputs[0] for node in losses), *root.taps],
        pinned=frozenset(root.outputs),
        stems=_masks(root) | _stacked(root),
    )
    body = writer.lines()
    names.legend(writer.names)
    for node in writer.nodes:
        names.imports.ask(node.op.imports)
    if any(tap.type != DEPTH for tap in root.taps):
        names.imports.name(RECORDS, ANY)
    items = [
        f"{p.name}: {p.annotation}{' = None' if 'None' in p.annotation else ''}" for p in inputs
    ]
    return Method(call_lines("def forward", ["self", *items], " -> Output:", MEMBER), body)


def _masks(root: Unit) -> dict[Value, str]:
    """Several masks of one stream are told apart by what they are: `mask_causal`, `mask_window`."""
    found = {n.outputs[0]: n.op for n in root.nodes if isinstance(n.op, AttentionMask)}
    several = {s for s, n in Counter(op.stream for op in found.values()).items() if n > 1}
    names = {dim: value.name for value in root.inputs for dim in streams_in(value.type)}
    return {
        value: ("" if op.main else f"{names[op.stream]}_")
        + f"mask_{op.function.removesuffix('_mask')}"
        for value, op in found.items()
        if op.stream in several
    }


def _stacked(root: Unit) -> dict[Value, str]:
    """What two stacks hand up under one name is told apart by the stack."""
    handed = {v: n.place for n in root.nodes if isinstance(n.op, Stack) for v in n.outputs[1:]}
    count = Counter(value.name for value in handed)
    return {
        value: f"{place}_{value.name}" for value, place in handed.items() if count[value.name] > 1
    }


def _finish(root: Unit, writer: Writer, parts: list[Text], losses: list[Node]) -> list[str]:
    """Losses and decisions by name, and the return."""
    outputs = len(root.outputs)
    values = parts[outputs : outputs + len(losses)]
    labels = [getattr(node.op, "loss", "") for node in losses]
    entries = [f'"{label}": {part.code}' for label, part in zip(labels, values, strict=True)]
    taps = routing_lines(root, writer.names)
    logits = ", ".join(part.code for part in parts[:outputs])
    kinds = {tap.type == DEPTH for tap in writer.unit.taps}
    if not taps and not entries:
        return [*statement_lines(f"return Output({logits}, losses={{}}, routing={{}})", BODY)]
    routing = "routing" if False in kinds else "routing={}"
    more = ", depth=depth" if True in kinds else ""
    ending = statement_lines(f"return Output({logits}, losses, {routing}{more})", BODY)
    return [*_dictionary("losses", entries), *taps, *ending]


def _dictionary(name: str, entries: list[str]) -> list[str]:
    one = f"{name} = {{{', '.join(entries)}}}"
    if fits(one, BODY):
        return [one]
    lines = [line for entry in entries for line in _entry(entry)]
    return [f"{name} = {{", *indented(lines), "}"]


def _entry(entry: str) -> list[str]:
    """`"key": value,` a step in, on as many lines as it takes; a product is broken without parentheses."""
    key, separator, value = entry.partition(": ")
    if not fits(f"{entry},", BODY + 1) and (parts := operands(value)):
        *lines, last = (f"{key}: {parts[0]}", *parts[1:])
    else:
        *lines, last = expression_lines(value, BODY + 1, key + separator, spare=1)
    return [*lines, f"{last},"]
