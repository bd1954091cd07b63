"""What decisions are called in printed code: one named tuple where all routers fill the same fields, else one for each
shape of what is read of a decision, named after the first mixture that decides so."""

from __future__ import annotations

from collections.abc import Mapping

from moedsl.backend.naming import class_name
from moedsl.backend.records_view import FIELDS, RecordView
from moedsl.ir import ops
from moedsl.ir.graph import Graph, RecordType, Unit, Value

ANY = "Routing"
HOME = ".routing"
Records = Mapping[tuple[str, ...], str]  # the name of each, by its fields


def name_records(graph: Graph, classes: Mapping[Unit, str]) -> Records:
    makers = _makers(graph)
    if len(makers) < 2:
        return dict.fromkeys(makers, ANY)
    taken = {ANY, *classes.values()}
    found: dict[tuple[str, ...], str] = {}
    for fields, units in makers.items():
        name = _decider(graph, units[0]) or classes[units[0]]
        found[fields] = class_name(f"{name}_{ANY}", "record", taken)
        taken.add(found[fields])
    return found


def record_views(graph: Graph, classes: Mapping[Unit, str], records: Records) -> list[RecordView]:
    return [
        RecordView(
            name=records[fields],
            statistics=tuple(name for name in FIELDS if name in fields),
            bounded=ops.ROWS_FIELD in fields,
            makers=tuple(classes[unit] for unit in units),
        )
        for fields, units in _makers(graph).items()
    ]


def record_of(value: Value, records: Records) -> str:
    """The printed type of a decision."""
    assert isinstance(value.type, RecordType)
    return records.get(value.type.fields, ANY)


def _decider(graph: Graph, router: Unit) -> str:
    """The mixture that decides by a router for itself alone."""
    for unit in graph.units:
        calls = (called for node in unit.nodes for _, _, called in node.calls())
        if unit.kind == "moe" and router in calls:
            return unit.name
    return ""


def _makers(graph: Graph) -> dict[tuple[str, ...], list[Unit]]:
    """The routers of each shape of record, in order."""
    found: dict[tuple[str, ...], list[Unit]] = {}
    for unit in graph.units:
        for node in unit.nodes:
            if isinstance(node.op, ops.Route | ops.Routed):
                record = node.outputs[0].type
                assert isinstance(record, RecordType)
                found.setdefault(record.fields, []).append(unit)
    return found
