"""Whether a graph is all there. What reads or moves nothing can only be told of a model without holes: where an
earlier stage reported an error, values are missing, and a check for absence would blame their neighbours."""

from __future__ import annotations

from moedsl.diagnostics.model import Sink
from moedsl.ir.graph import Graph

# Errors that checks find on graphs without holes.
_FOUND_HERE = frozenset({"E0401", "E0410", "E0501", "E0502"})


def is_whole(graph: Graph, sink: Sink) -> bool:
    if any(d.severity == "error" and d.code not in _FOUND_HERE for d in sink.found):
        return False
    return not any(node.poisoned for unit in graph.units for node in unit.nodes)
