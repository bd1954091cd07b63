"""The same function in fewer steps. Each pass is a file; `rewrite` runs them in order on a copy of the graph."""

from __future__ import annotations

from collections.abc import Callable

from moedsl.ir.graph import Graph
from moedsl.ir.stages import joins_apart
from moedsl.ir.starts import starts
from moedsl.rewrites.copies import copied
from moedsl.rewrites.fuse_gate_up import fuse_gate_up
from moedsl.rewrites.fuse_routes import fuse_routes
from moedsl.rewrites.join_equal import join_equal
from moedsl.rewrites.widen_shared import widen_shared

# What puts several weights of the spec into one parameter.
JOINING: tuple[Callable[[Graph], None], ...] = (widen_shared, fuse_gate_up)
PASSES: tuple[Callable[[Graph], None], ...] = (widen_shared, fuse_gate_up, fuse_routes, join_equal)


def rewrite(graph: Graph) -> Graph:
    """`storage()` and `parameters()` of the result say where each weight of the spec went. Weights that a stage of
    training treats differently stay apart."""
    result = _rewritten(graph, PASSES)
    if joins_apart(result):
        return _rewritten(graph, tuple(one for one in PASSES if one not in JOINING))
    return result


def _rewritten(graph: Graph, passes: tuple[Callable[[Graph], None], ...]) -> Graph:
    result = copied(graph)
    result.starts = starts(graph).of
    for one in passes:
        one(result)
    return result
