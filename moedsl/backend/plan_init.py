"""How weights start: the root's `init_weights`.

Where the spec says nothing, every weight is drawn in its turn from one generator. Where it says anything, each is drawn by
its own name: what a weight of the spec gets depends neither on the others nor on which of them are kept as one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

from moedsl.backend.branches import branches
from moedsl.backend.naming import attribute
from moedsl.backend.plan_classes import BODY, Method, Names, parameter_name, short_exponents
from moedsl.backend.plan_lines import STEP, fits, indented
from moedsl.backend.plan_words import docstring
from moedsl.ir.graph import Graph, Node, Parameter, Place
from moedsl.ir.starts import Start
from moedsl.ir.storage import join, module_name


def init_weights(graph: Graph, names: Names) -> Method:
    lines = _by_name(graph, names) if graph.starts else _in_turn(graph)
    said = (
        "Start from new weights, each drawn by its own name and the seed."
        if graph.starts
        else "Start from new weights; equal seeds give equal ones on one kind of device."
    )
    return Method(
        ("def init_weights(self, seed: int = 0) -> None:",),
        (*lines, *_states(graph)),
        docstring(said, BODY),
        "@torch.no_grad()",
    )


# --- one generator for all ---------------------------------------------------------------------------


def _in_turn(graph: Graph) -> list[str]:
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
    special = sorted((s for s in weight if s != common), key=lambda s: (s[0], s[1]))
    bodies = {start: [_filled_with(start)] for start in special}
    return [
        "device = next(self.parameters()).device",
        "generator = torch.Generator(device).manual_seed(seed)",
        "for name, weight in self.named_parameters():",
        *branches(inits, bodies, [_filled_with(common)] if common else []),
    ]


def _filled_with(start: tuple[str, float]) -> str:
    kind, value = start
    match kind:
        case "ones":
            return "weight.fill_(1.0)"
        case "zeros":
            return "weight.zero_()"
        case "constant":
            return f"weight.fill_({value!r})"
    return f"weight.normal_(std={value!r}, generator=generator)"


# --- each by its name ----------------------------------------------------------------------------------


def _by_name(graph: Graph, names: Names) -> list[str]:
    sizes: dict[tuple[str, ...], int] = {}
    lines_of: dict[str, tuple[str, ...]] = {}
    printed = _printed(graph)
    for path, one in graph.storage().items():
        if (start := graph.starts.get(path)) is not None:
            lines_of[printed[path]] = lines = _lines(start)
            sizes[lines] = sizes.get(lines, 0) + prod(one.shape)
    common = max(sizes, key=lambda lines: sizes[lines])
    bodies = {lines: list(lines) for lines in sizes if lines != common}
    joined, weights = _joined(graph, printed)
    generator = []
    if _draws(lines_of.values()):
        generator = [STEP + "generator = named_generator(name, seed, weight.device)"]
    names.imports.ask(wanted(graph))
    return [
        *joined,
        f"for name, weight in {weights}:",
        *generator,
        *branches(lines_of, bodies, list(common)),
    ]


def wanted(graph: Graph) -> list[str]:
    """What `init_weights` uses of the library, as an op would ask for it."""
    lines = [_lines(start) for start in graph.starts.values()]
    called = {line.partition("(")[0] for each in lines for line in each}
    names = {name for name in called if name.isidentifier()}
    names |= {"named_generator"} if _draws(lines) else set()
    apart = any(one.axis is not None for one in graph.storage().values())
    names |= {"each_weight"} if graph.starts and apart else set()
    return [f".initial:{name}" for name in sorted(names)]


def _draws(bodies: Iterable[Sequence[str]]) -> bool:
    return any("generator" in line for body in bodies for line in body)


def _lines(start: Start) -> tuple[str, ...]:
    """The statements that fill one weight."""
    if start.form == "constant":
        return ("weight.zero_()" if start.value == 0 else f"weight.fill_({start.value!r})",)
    weight = "weight[0]" if start.alike else "weight"
    matrix = f"{weight}.view(len(weight), -1)" if start.flat else weight
    filled = matrix if start.form in ("orthogonal", "eye") else weight
    random = ", generator" if start.draws else ""
    cut = f", cut={start.cut!r}" if start.form == "truncated" and start.cut != 2 else ""
    lines = [f"{start.form}_({filled}, {short_exponents(start.amount)}{random}{cut})"]
    if start.equal_rows:
        lines.append(f"equal_rows_({matrix})")
    if start.alike:
        lines.append("weight[1:] = weight[0]")
    return tuple(lines)


def _printed(graph: Graph) -> dict[str, str]:
    """The name of every weight by its path: of its parameter, or that which it would have if it stood alone."""
    known: dict[str, str] = {}
    for place in graph.places():
        for node in place.unit.nodes:
            for parameter in node.op.parameters():
                raw = join(place.module, module_name(node, parameter))
                known.setdefault(raw, _printed_name(place, node, parameter))
    found = {}
    for path, one in graph.storage().items():
        if one.axis is None:
            found[path] = known[one.module]
        elif path in graph.starts:
            found[path] = attribute(graph.starts[path].module)
    return found


def _joined(graph: Graph, printed: dict[str, str]) -> tuple[list[str], str]:
    """Lines that say which parameters hold several weights, and what goes through all weights."""
    parts: dict[str, list[tuple[int, str]]] = {}
    for path, one in graph.storage().items():
        if one.axis is not None and path in printed:
            parts.setdefault(attribute(one.module), []).append((one.axis, printed[path]))
    taken = {name for name, _ in named_parameters(graph)}
    table = dict(_entry(whole, own, taken) for whole, own in parts.items())
    if not table:
        return [], "self.named_parameters()"
    rows = [f'"{end}": ({axis}, {_quoted(own)})' for end, (axis, own) in table.items()]
    line = f"joined = {{{', '.join(rows)}}}"
    if fits(line, BODY):
        return [line], "each_weight(self, joined)"
    lines = ["joined = {", *indented([f"{row}," for row in rows]), "}"]
    return lines, "each_weight(self, joined)"


def _entry(
    whole: str, own: list[tuple[int, str]], taken: set[str]
) -> tuple[str, tuple[int, list[str]]]:
    """A short end of the name, of two parts or more, which no name of other parts has; the same ends of what it holds."""
    names = [name.split(".") for name in (whole, *(name for _, name in own))]
    start = 0
    while len({tuple(name[: start + 1]) for name in names}) == 1:
        start += 1
    start = max(0, min(start, len(names[0]) - 2))
    while start and any(_misleads(other, names[0][start:]) for other in taken):
        start -= 1
    ends = [".".join(name[start:]) for name in names]
    return ends[0], (own[0][0], ends[1:])


def _misleads(other: str, parts: list[str]) -> bool:
    return other.endswith(".".join(parts)) and other.split(".")[-len(parts) :] != parts


def _quoted(names: list[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


# --- numbers that a rule moves -----------------------------------------------------------------------------


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
    if len(found) == 1 and not others:
        return ["for state in self.buffers():", STEP + f"state.fill_({found[0]!r})"]
    bodies = {value: [f"state.fill_({value!r})"] for value in found}
    return ["for name, state in self.named_buffers():", *branches(values, bodies, [])]


# --- names -------------------------------------------------------------------------------------------------


def named_parameters(graph: Graph, buffers: bool = False) -> list[tuple[str, Parameter]]:
    """Every trainable or frozen weight by its name in the state dict, each once; or every buffer."""
    found: dict[str, Parameter] = {}
    for place in graph.places():
        for node in place.unit.nodes:
            for parameter in node.op.parameters():
                if parameter.buffer != buffers:
                    continue
                found.setdefault(_printed_name(place, node, parameter), parameter)
    return list(found.items())


def _printed_name(place: Place, node: Node, parameter: Parameter) -> str:
    inner = (
        f"{attribute(node.place)}.{parameter.name}"
        if node.op.module()
        else parameter_name(node, parameter)
    )
    return join(attribute(place.module) if place.module else "", inner)
