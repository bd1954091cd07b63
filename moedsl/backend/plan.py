"""Graph -> Plan: every decision about the printed package. Templates only print what stands here."""

from __future__ import annotations

import dataclasses
from typing import Any

import moedsl
from moedsl.backend import plan_init
from moedsl.backend.card import CardView, numbers, plan_card
from moedsl.backend.class_names import name_classes
from moedsl.backend.header import header
from moedsl.backend.imports import ImportSet
from moedsl.backend.library import LibraryFile, plan_library, wants_of
from moedsl.backend.naming import identifier, output_fields
from moedsl.backend.plan_adapting import HOME, WANTS, adapts
from moedsl.backend.plan_classes import ClassView, Names, imported_names, plan_class
from moedsl.backend.plan_lines import call_lines
from moedsl.backend.plan_model import plan_model
from moedsl.backend.plan_records import ANY, name_records, record_views
from moedsl.backend.plan_views import losses_want, plan_routing, plan_runtime, wants
from moedsl.backend.plan_words import docstring, further_streams, legend, opening_comment
from moedsl.backend.routing_view import RoutingView
from moedsl.backend.runtime_view import RuntimeView
from moedsl.backend.stages_view import StagesView, plan_stages
from moedsl.backend.starts_view import StartsView, plan_starts
from moedsl.frozen import frozen
from moedsl.ir.graph import Graph, TensorType, Value
from moedsl.ir.info import info_table
from moedsl.ir.ops import DEPTH
from moedsl.source import Source


@frozen
class OutputView:
    """What `forward` gives back."""

    doc: tuple[str, ...]
    fields: tuple[str, ...]


@frozen
class ModelView:
    """model.py, top to bottom."""

    header: str
    doc: tuple[str, ...]
    imports: tuple[tuple[str, ...], ...]
    output: OutputView
    classes: tuple[ClassView, ...]


@frozen
class ExportsView:
    """__init__.py"""

    header: str
    doc: tuple[str, ...]
    imports: tuple[str, ...]
    exported: tuple[str, ...]
    names: tuple[str, ...]


@frozen
class Plan:
    package: str
    model: ModelView
    exports: ExportsView
    card: CardView
    routing: RoutingView | None
    runtime: RuntimeView
    library: tuple[LibraryFile, ...] = ()
    stages: StagesView | None = None
    starts: StartsView | None = None


def plan_package(graph: Graph, source: Source, settings: tuple[str, ...] = ()) -> Plan:
    first_line = header(source, settings, moedsl.__version__)
    package = identifier(graph.name)
    about = summary(graph, source)
    named = name_classes(graph)
    records = name_records(graph, named)
    reserved = imported_names(graph) | {"Output", ANY, *records.values(), *named.values()}
    names = Names(named, reserved=reserved, records=records)
    names.keep(graph)
    classes = tuple(plan_class(unit, names) for unit in graph.units[:-1])
    root = plan_model(graph, names)
    shapes = legend(names.letters, further_streams(graph))
    model = ModelView(
        first_line,
        docstring("\n\n".join((about, numbers(info_table(graph)), shapes)), 0),
        names.imports.blocks(),
        plan_output(graph),
        (*classes, root),
    )
    adapting = [*(WANTS if adapts(graph) else ()), *losses_want(graph)]
    wanted = [*wants(graph), *adapting, *plan_init.wanted(graph)]
    library = plan_library(wanted, first_line, package)
    made = tuple(record_views(graph, named, records))
    routing = plan_routing(graph, first_line, package, made, frozenset(wants_of(library)))
    runtime = plan_runtime(graph, first_line, once=bool(names.parts))
    stages = plan_stages(graph, first_line)
    starts = plan_starts(graph, first_line)
    exports = plan_exports(first_line, about, graph, names, routing, runtime, stages, starts)
    card = plan_card(graph, about, source, settings, exports.names, names.classes)
    return Plan(package, model, exports, card, routing, runtime, library, stages, starts)


def summary(graph: Graph, source: Source) -> str:
    """What the spec says of the model: the comment above it, else the one at the top of the file."""
    return graph.root.doc.strip() or opening_comment(source.text) or f"The model {graph.name}."


def plan_output(graph: Graph) -> OutputView:
    fields = output_fields([value.name for value in graph.root.outputs])
    outputs = [f"{name}: Tensor" for name in fields]
    values = zip(fields, graph.root.outputs, strict=True)
    letters = ", ".join(f"{name} [{_axes(value)}]" for name, value in values)
    doc = f"{letters}; losses by name, coefficients applied; routing by place."
    # A dense model gives empty ones, so that one training loop fits all models.
    depth = [tap for tap in graph.root.taps if tap.type == DEPTH]
    routing = "Routing" if len(depth) < len(graph.root.taps) else "Any"
    if depth:
        doc = doc.removesuffix(".") + "; depth: whom blocks served, by place."
    decided = ("depth: dict[str, Depth]",) if depth else ()
    more = ("losses: dict[str, Tensor]", f"routing: dict[str, {routing}]")
    return OutputView(docstring(doc, 1), (*outputs, *more, *decided))


def _axes(value: Value) -> str:
    return ", ".join(value.type.letters) if isinstance(value.type, TensorType) else value.type.name


def plan_exports(
    first_line: str,
    about: str,
    graph: Graph,
    names: Names,
    routing: RoutingView | None,
    runtime: RuntimeView,
    stages: StagesView | None,
    starts: StartsView | None,
) -> ExportsView:
    """Imports of what users call, and `__all__`."""
    imports = ImportSet()
    imports.name(".model", names.classes[graph.root], "Output")
    if routing is not None and routing.records:
        imports.name(".routing", ANY)
    if adapts(graph):
        imports.name(HOME, "Load", "tally")
    if runtime.state is not None and runtime.state.cache:
        imports.name(".state", "Cache")
    if runtime.checkpoint is not None:
        imports.name(".checkpoint", "load_checkpoint", "save_checkpoint")
    if runtime.generation is not None:
        imports.name(".generation", "generate")
    if stages is not None:
        imports.name(".stages", "STAGES", "begin")
    if starts is not None:
        imports.name(".start", *(format.function for format in starts.formats))
    lines = tuple(line for block in imports.blocks() for line in block)
    exported = sorted(imports.local_names, key=_exported_order)
    quoted = [f'"{name}"' for name in exported]
    return ExportsView(
        first_line,
        docstring(about, 0),
        lines,
        call_lines("__all__ = [", quoted, "]", brackets=False),
        tuple(exported),
    )


def _exported_order(name: str) -> tuple[bool, str]:
    return name.islower(), name


def dump_plan(plan: Plan) -> str:
    """The plan as text: each view model's fields, one a line."""
    return "\n".join(_dump(plan, 0)) + "\n"


def _dump(value: Any, depth: int) -> list[str]:
    pad = "  " * depth
    lines = []
    for field in dataclasses.fields(value):
        content = getattr(value, field.name)
        items = content if isinstance(content, tuple) else (content,)
        if items and all(dataclasses.is_dataclass(item) for item in items):
            for item in items:
                lines += [f"{pad}{field.name}: {type(item).__name__}", *_dump(item, depth + 1)]
        elif isinstance(content, tuple) and content and all(isinstance(i, str) for i in content):
            lines += [f"{pad}{field.name}:", *(f"{pad}  | {line}".rstrip() for line in content)]
        else:
            lines.append(f"{pad}{field.name} = {content!r}")
    return lines
