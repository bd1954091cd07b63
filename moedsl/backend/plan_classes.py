"""Units as classes: names, attributes, forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from moedsl.backend.imports import ImportSet
from moedsl.backend.naming import attribute, camel, class_name
from moedsl.backend.plan_lines import call_lines, statement_lines
from moedsl.backend.plan_words import describe, docstring
from moedsl.backend.statements import Writer, suffix
from moedsl.ir.graph import Graph, Node, Parameter, RecordType, Unit, Value
from moedsl.ir.ops import Call, Stack

BODY = 2
MEMBER = 1


@dataclass(frozen=True)
class Method:
    """One function of a class. Lines carry their indentation relative to the method's own."""

    signature: tuple[str, ...]
    body: tuple[str, ...]
    doc: tuple[str, ...] = ()
    decorator: str = ""


@dataclass(frozen=True)
class ClassView:
    name: str
    base: str
    doc: tuple[str, ...]
    attributes: tuple[str, ...]
    methods: tuple[Method, ...]


@dataclass
class Names:
    """Class names of all units, and what the file of classes imports."""

    classes: dict[Unit, str]
    imports: ImportSet = field(default_factory=ImportSet)
    reserved: frozenset[str] = frozenset()


def name_classes(graph: Graph) -> dict[Unit, str]:
    """A class name per unit. Units that share a name are told apart by what is bound to them, else by number."""
    names: dict[Unit, str] = {graph.root: class_name(graph.name, "model", ())}
    for unit in graph.units[:-1]:
        alike = [other for other in graph.units[:-1] if camel(other.name) == camel(unit.name)]
        stem = unit.name
        if len(alike) > 1:
            stem = _telling(unit, alike)
        names[unit] = class_name(stem, unit.kind, names.values())
    return names


def _telling(unit: Unit, alike: list[Unit]) -> str:
    """The unit's name and what differs: `layer` bound to `sparse` -> `layer_sparse`."""
    for difference in (_bound_names, _called_names, _sizes):
        found = [difference(other) for other in alike]
        if len(set(found)) == len(found) and all(found):
            common = set.intersection(*(set(words) for words in found))
            own = [word for word in difference(unit) if word not in common]
            if own:
                return "_".join([unit.name, *own])
    return f"{unit.name}_{alike.index(unit)}"


def _bound_names(unit: Unit) -> tuple[str, ...]:
    bound = getattr(unit.recipe, "bound", ())
    return tuple(getattr(term, "name", "") for _, term in bound)


def _called_names(unit: Unit) -> tuple[str, ...]:
    return tuple(called.name for node in unit.nodes for _, _, called in node.op.calls(node.place))


def _sizes(unit: Unit) -> tuple[str, ...]:
    return (f"{unit.bank}_copies",) if unit.bank else ()


def plan_class(unit: Unit, names: Names) -> ClassView:
    """The class of a unit that is not the root."""
    results = [*unit.outputs, *unit.taps]
    inputs = {value: input_name(value) for value in [*unit.inputs, *unit.ambients]}
    writer = Writer(unit, dict(inputs), names.reserved, results=results)
    body = writer.lines()
    for node in writer.live():
        names.imports.ask(node.op.imports)
    parameters = [f"{name}: {annotation(value)}" for value, name in inputs.items()]
    signature = call_lines(
        "def forward", ["self", *parameters], f" -> {result_type(results)}:", MEMBER
    )
    for value in [*inputs, *results]:
        names.imports.ask(annotation_imports(value))
    return ClassView(
        names.classes[unit],
        "nn.Module",
        docstring(describe(unit), MEMBER),
        attributes(unit, names),
        (Method(signature, body),),
    )


def input_name(value: Value) -> str:
    letters = "" if value.name in _OPTIONAL else suffix(value)
    return value.name + (f"_{letters}" if letters else "")


# Values that a caller may leave out.
_OPTIONAL = frozenset({"mask", "cache", "real", "attention_mask"})


def annotation(value: Value) -> str:
    name = value.type.name if isinstance(value.type, RecordType) else "Tensor"
    return f"{name} | None" if value.name in _OPTIONAL else name


def annotation_imports(value: Value) -> tuple[str, ...]:
    homes = {"Cache": ".state:Cache", "Rotary": ".state:Rotary", "Routing": ".routing:Routing"}
    homes["Dispatch"] = ".routing:Dispatch"
    if isinstance(value.type, RecordType):
        return (homes[value.type.name],) if value.type.name in homes else ()
    return ("Tensor",)


def result_type(results: Sequence[Value]) -> str:
    kinds = [annotation(value) for value in results]
    return kinds[0] if len(kinds) == 1 else f"tuple[{', '.join(kinds)}]"


def attributes(unit: Unit, names: Names) -> tuple[str, ...]:
    """The lines of `__init__` after `super().__init__()`, each place once, in order of use."""
    lines: list[str] = []
    seen: set[str] = set()
    for node in unit.nodes:
        if node.place and node.place not in seen:
            seen.add(node.place)
            for statement in _attribute(node, names):
                lines.extend(statement_lines(statement, BODY))
    return tuple(lines)


def _attribute(node: Node, names: Names) -> list[str]:
    place = f"self.{attribute(node.place)}"
    match node.op:
        case Call(unit=unit):
            return [f"{place} = {names.classes[unit]}()"]
        case Stack(runs=runs):
            return [f"{place} = nn.ModuleList({_layers(runs, names)})"]
    if module := node.op.module():
        return [f"{place} = {module}"]
    return [_bare(node, parameter, names) for parameter in node.op.parameters()]


def parameter_name(node: Node, parameter: Parameter) -> str:
    """`gate_up` for its weight, `gate_up_bias` for what stands beside it."""
    place = attribute(node.place)
    return place if parameter.name in ("", "weight") else f"{place}_{parameter.name}"


def _bare(node: Node, parameter: Parameter, names: Names) -> str:
    names.imports.ask(["torch"])
    shape = ", ".join(map(str, parameter.shape))
    name = parameter_name(node, parameter)
    if parameter.buffer:
        return f'self.register_buffer("{name}", torch.zeros({shape}))'
    return f"self.{name} = nn.Parameter(torch.empty({shape}))"


def _layers(runs: Sequence[tuple[Unit, int]], names: Names) -> str:
    if len(runs) == 1:
        unit, count = runs[0]
        return f"{names.classes[unit]}() for _ in range({count})"
    parts = [
        f"*({names.classes[unit]}() for _ in range({count}))"
        if count > 1
        else f"{names.classes[unit]}()"
        for unit, count in runs
    ]
    return f"[{', '.join(parts)}]"
