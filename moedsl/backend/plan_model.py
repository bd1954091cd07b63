"""The root class: what runs once around the layers, how weights start, what comes back."""

from __future__ import annotations

from collections import Counter

from moedsl.backend.naming import attribute
from moedsl.backend.plan_adapting import adapts, plan_adapt
from moedsl.backend.plan_classes import (
    BODY,
    MEMBER,
    ClassView,
    Method,
    Names,
    attributes,
    looped,
    parameter_name,
    parameters,
    plan_part,
)
from moedsl.backend.plan_lines import (
    STEP,
    WIDTH,
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
from moedsl.ir.graph import Graph, Node, Parameter, Unit, Value
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
    methods.append(_init_weights(graph))
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


# --- weights at the start -----------------------------------------------------------------------


def _init_weights(graph: Graph) -> Method:
    """Draws every parameter. Most are normal with one deviation; the others are told by the ends of their names."""
    inits: dict[str, tuple[str, float]] = {}
    weight: dict[tuple[str, float], int] = {}
    for name, parameter in named_parameters(graph):
        start = (
            parameter.init,
            parameter.value if parameter.init in ("normal", "constant") else 0.0,
        )
        inits[name] = start
        weight[start] = weight.get(start, 0) + parameter.size
    common = max((s for s in weight if s[0] == "normal"), key=lambda s: weight[s], default=None)
    special = [s for s in weight if s != common]
    lines = [
        "device = next(self.parameters()).device",
        "generator = torch.Generator(device).manual_seed(seed)",
        "for name, weight in self.named_parameters():",
    ]
    word = "if"
    for start in sorted(special, key=lambda s: (s[0], s[1])):
        ends = endings(inits, start)
        test = f'name.endswith("{ends[0]}")' if len(ends) == 1 else f"name.endswith({_tuple(ends)})"
        lines += indented(_condition(word, ends, test))
        lines.append(STEP * 2 + _start(start))
        word = "elif"
    if common and special:
        lines += [STEP + "else:", STEP * 2 + _start(common)]
    elif common:
        lines.append(STEP + _start(common))
    lines += _states(graph)
    return Method(
        ("def init_weights(self, seed: int = 0) -> None:",),
        tuple(lines),
        docstring(
            "Start from new weights; equal seeds give equal ones on one kind of device.", BODY
        ),
        "@torch.no_grad()",
    )


def _states(graph: Graph) -> list[str]:
    """Numbers that a rule moves start where they were made, also where they had no memory then; modules that fill their
    buffers by a rule of their own do so."""
    buffers = named_parameters(graph, buffers=True)
    values = {name: parameter.value for name, parameter in buffers if parameter.init != "own"}
    lines = _started(graph) if len(values) < len(buffers) else []
    return [*_filled(values, bool(lines)), *lines]


def _started(graph: Graph) -> list[str]:
    """Modules of the library that fill their own buffers."""
    found = dict.fromkeys(
        node.op.module().partition("(")[0]
        for unit in graph.units
        for node in unit.nodes
        if any(parameter.init == "own" for parameter in node.op.parameters())
    )
    kinds = " | ".join(sorted(found))
    return [
        "for module in self.modules():",
        STEP + f"if isinstance(module, {kinds}):",
        STEP * 2 + "module.start()",
    ]


def _filled(values: dict[str, float], others: bool) -> list[str]:
    """`others`: there are buffers beside these."""
    found = sorted(set(values.values()))
    if not found:
        return []
    lines = ["for name, state in self.named_buffers():"]
    if len(found) == 1 and not others:
        return ["for state in self.buffers():", STEP + f"state.fill_({found[0]!r})"]
    for index, value in enumerate(found):
        ends = endings({n: ("", v) for n, v in values.items()}, ("", value))
        test = f'name.endswith("{ends[0]}")' if len(ends) == 1 else f"name.endswith({_tuple(ends)})"
        lines += indented(_condition("elif" if index else "if", ends, test))
        lines.append(STEP * 2 + f"state.fill_({value!r})")
    return lines


def _condition(word: str, ends: list[str], test: str) -> list[str]:
    one = f"{word} {test}:"
    if len(one) + len(STEP) * (BODY + 1) <= WIDTH:
        return [one]
    inner = _tuple(ends)
    if len(inner) + len(STEP) * (BODY + 2) <= WIDTH:
        return [f"{word} name.endswith(", STEP + inner, "):"]
    items = [f'"{end}",' for end in ends]
    return [f"{word} name.endswith(", STEP + "(", *indented(items, 2), STEP + ")", "):"]


def _tuple(ends: list[str]) -> str:
    return "(" + ", ".join(f'"{end}"' for end in ends) + ")"


def _start(start: tuple[str, float]) -> str:
    kind, value = start
    match kind:
        case "ones":
            return "weight.fill_(1.0)"
        case "zeros":
            return "weight.zero_()"
        case "constant":
            return f"weight.fill_({value!r})"
    return f"weight.normal_(std={value!r}, generator=generator)"


def named_parameters(graph: Graph, buffers: bool = False) -> list[tuple[str, Parameter]]:
    """Every trainable or frozen weight by its name in the state dict, each once; or every buffer."""
    found: dict[str, Parameter] = {}
    for place in graph.places():
        for node in place.unit.nodes:
            for parameter in node.op.parameters():
                if parameter.buffer != buffers:
                    continue
                inner = (
                    f"{attribute(node.place)}.{parameter.name}"
                    if node.op.module()
                    else parameter_name(node, parameter)
                )
                path = attribute(place.module) if place.module else ""
                found.setdefault(f"{path}.{inner}" if path else inner, parameter)
    return list(found.items())


def endings(inits: dict[str, tuple[str, float]], start: tuple[str, float]) -> list[str]:
    """The shortest ends of names that all weights with this start have, and no other weight."""
    others = [name for name, other in inits.items() if other != start]
    ends: list[str] = []
    for name in (name for name, own in inits.items() if own == start):
        if any(name.endswith(end) for end in ends):
            continue
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            end = ".".join(parts[-length:])
            telling = length > 1 or len(parts) == 1 or "bias" in end
            if telling and not any(other.endswith(end) for other in others):
                ends.append(end)
                break
    return ends
