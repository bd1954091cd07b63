"""Units as classes: names, attributes, forward."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import field, replace
from typing import Any

from moedsl.backend.imports import ImportSet
from moedsl.backend.naming import Scope, attribute
from moedsl.backend.plan_lines import call_lines, expression_lines, fits, statement_lines
from moedsl.backend.plan_once import Part, kept_parts
from moedsl.backend.plan_reads import Reads
from moedsl.backend.plan_records import ANY, Records, record_of
from moedsl.backend.plan_records import HOME as RECORDS
from moedsl.backend.plan_stacks import fed_names, loop, made
from moedsl.backend.plan_taps import is_list
from moedsl.backend.plan_words import describe, docstring
from moedsl.backend.statements import Writer, suffix
from moedsl.frozen import frozen, record
from moedsl.ir import ops
from moedsl.ir.graph import Dim, Graph, Node, RecordType, TensorType, Unit, Value
from moedsl.ir.graph import Parameter as Weight
from moedsl.ir.ops import Call, Op, Stack

BODY = 2
MEMBER = 1


@frozen
class Method:
    """One function of a class. Lines carry their indentation relative to the method's own."""

    signature: tuple[str, ...]
    body: tuple[str, ...]
    doc: tuple[str, ...] = ()
    decorator: str = ""


@frozen
class ClassView:
    name: str
    base: str
    doc: tuple[str, ...]
    attributes: tuple[str, ...]
    methods: tuple[Method, ...]


@record
class Names:
    """Class names of all units, and what the file of classes imports."""

    classes: dict[Unit, str]
    imports: ImportSet = field(default_factory=ImportSet)
    reads: Reads = field(default_factory=Reads)
    reserved: frozenset[str] = frozenset()
    letters: list[Dim] = field(default_factory=list)
    parts: dict[Unit, Part] = field(default_factory=dict)
    records: Records = field(default_factory=dict)

    def annotation(self, value: Value, any_record: bool = False) -> str:
        """The printed type of a value; `any_record`: of a decision, that it is one."""
        if not isinstance(value.type, RecordType):
            return "Tensor"
        if value.type.name != ANY:
            return value.type.name
        return ANY if any_record else record_of(value, self.records)

    def imported(self, name: str) -> str:
        """The type of this name, which the file needs."""
        if name != "int":
            self.imports.ask([_HOMES.get(name, f"{RECORDS}:{name}")])
        return name

    def keep(self, graph: Graph) -> None:
        """Tell what is computed once from what is computed by every call."""
        self.parts = kept_parts(graph, self.reads)
        self.reads = Reads(caches={unit: part.cache for unit, part in self.parts.items()})
        self.reserved |= {"once"} if self.parts else frozenset()

    def legend(self, named: Iterable[Value]) -> None:
        """Remember the axes of values that have names."""
        for value in named:
            if isinstance(value.type, TensorType):
                self.letters.extend(value.type.dims)


def imported_names(graph: Graph) -> frozenset[str]:
    """What ops import, by the names that are bound: no local may hide them."""
    wanted = {want for unit in graph.units for node in unit.nodes for want in node.op.imports}
    return frozenset(want.rsplit(":", 1)[-1] for want in wanted)


def plan_class(unit: Unit, names: Names) -> ClassView:
    """The class of a unit that is not the root."""
    part = names.parts.get(unit)
    methods = [plan_method(unit, part.rest(unit) if part else unit, names)]
    if part is not None:
        methods.append(plan_part(part, names))
    return ClassView(
        names.classes[unit],
        "nn.Module",
        docstring(describe(unit), MEMBER),
        attributes(unit, names),
        tuple(methods),
    )


def plan_part(part: Part, names: Names, **more: Any) -> Method:
    """The method of what is computed once."""
    about = " and ".join(f"`{value.name}`" for value in part.unit.inputs)
    method = plan_method(part.unit, part.unit, names, part.method, **more)
    doc = docstring(f"What is made of {about} alone: once for each cache.", BODY)
    return replace(method, doc=doc)


def plan_method(
    unit: Unit,
    body: Unit,
    names: Names,
    name: str = "forward",
    run: bool = False,
    stems: dict[Value, str] | None = None,
) -> Method:
    """One method that computes a unit's results. `body`: the unit as it is written; `run`: layers go through the model's
    `run`."""
    inputs = parameters(unit, names)
    results = [*unit.outputs, *unit.taps]
    writer = Writer(
        body,
        {p.value: p.name for p in inputs},
        names.reads,
        loop=lambda w, node: loop(w, node, names.reads, names.classes, run=run),
        reserved=names.reserved | {"layer", "routed"} | looped(unit),
        records=names.records,
        results=results,
        stems=stems or {},
    )
    lines = writer.lines()
    names.legend(writer.names)
    for node in writer.nodes:
        names.imports.ask(node.op.imports)
    items = ["self", *(f"{p.name}: {p.annotation}" for p in inputs)]
    return Method(signature_lines(f"def {name}", items, result_type(unit, names)), lines)


def signature_lines(head: str, items: list[str], result: str) -> tuple[str, ...]:
    *lines, last = call_lines(head, items, f" -> {result}:", MEMBER)
    if lines and not fits(last, MEMBER):
        *more, last = expression_lines(result, MEMBER, ") -> ", spare=1)
        return (*lines, *more, f"{last}:")
    return (*lines, last)


def looped(unit: Unit) -> set[str]:
    """Names that loops over layers have beside the values of the graph."""
    stacks = [node.op for node in unit.nodes if isinstance(node.op, Stack)]
    return {name for stack in stacks for _, _, name in fed_names(stack)}


@frozen
class Parameter:
    """One argument of a `forward`."""

    value: Value
    name: str
    annotation: str


def parameters(unit: Unit, names: Names) -> list[Parameter]:
    """Inputs, then what the root hands down; without what the body does not read."""
    wants = dict(zip(unit.ambients, unit.wants, strict=False))
    mask = names.reads.unit(unit)
    taken = [v for v, read in zip([*unit.inputs, *unit.ambients], mask, strict=True) if read]
    kinds = Counter(getattr(wants.get(value), "name", "") for value in taken)
    found: list[Parameter] = []
    scope = Scope(names.reserved)
    for value in taken:
        # The one mask that a unit reads is its `mask`, whatever others the model has.
        kind = getattr(wants.get(value), "name", "")
        stem = kind if kinds[kind] == 1 and kind else value.name
        optional = " | None" if may_be_none(wants.get(value)) else ""
        name = scope.free(stem or "x", suffix(value))
        found.append(Parameter(value, name, names.imported(names.annotation(value)) + optional))
    return found


def may_be_none(ambient: Op | None) -> bool:
    """Is this value None for some calls of the model: no padding, no cache?"""
    return isinstance(ambient, ops.Ambient) and ambient.optional


_HOMES = {
    "Tensor": "Tensor",
    "Cache": ".state:Cache",
    "Rotary": ".state:Rotary",
    "Dispatch": ".routing:Dispatch",
    "Chosen": ".depth:Chosen",
    "FirstRound": ".depth:FirstRound",
    "Depth": ".depth:Depth",
}


def result_type(unit: Unit, names: Names) -> str:
    """Of many decisions it says that they are some, where what each is would not fit on a line."""
    values = [*unit.outputs, *unit.taps]
    lists = [value in unit.taps and is_list(unit, value) for value in values]
    for short in (False, True):
        kinds = [
            f"list[{names.annotation(value, True)}]" if listed else names.annotation(value, short)
            for value, listed in zip(values, lists, strict=True)
        ]
        result = kinds[0] if len(kinds) == 1 else f"tuple[{', '.join(kinds)}]"
        if fits(f") -> {result}:", MEMBER):
            break
    for value, listed in zip(values, lists, strict=True):
        names.imported(names.annotation(value, short or listed))
    return result


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
            return [f"{place} = nn.ModuleList({made(runs, names.classes)})"]
    if module := node.op.module():
        return [f"{place} = {short_exponents(module)}"]
    return [_bare(node, parameter, names) for parameter in node.op.parameters()]


def short_exponents(code: str) -> str:
    """`1e-05` as people write it, `1e-5`."""
    return re.sub(r"(?<=\de)([+-])0(?=\d)", r"\1", code)


def parameter_name(node: Node, parameter: Weight) -> str:
    """`gate_up` for its weight, `gate_up_bias` for what stands beside it."""
    place = attribute(node.place)
    return place if parameter.name in ("", "weight") else f"{place}_{parameter.name}"


def _bare(node: Node, parameter: Weight, names: Names) -> str:
    names.imports.ask(["torch"])
    shape = ", ".join(map(str, parameter.shape))
    name = parameter_name(node, parameter)
    if parameter.buffer:
        return f'self.register_buffer("{name}", torch.zeros({shape}))'
    return f"self.{name} = nn.Parameter(torch.empty({shape}))"
