"""What the graph asks of the files beside model.py: their views."""

from __future__ import annotations

from moedsl.backend.routing_view import RoutingView
from moedsl.backend.runtime_view import RuntimeView
from moedsl.ir.graph import Graph


def plan_routing(graph: Graph, header: str, package: str) -> RoutingView | None:
    return None


def plan_runtime(graph: Graph, header: str) -> RuntimeView:
    return RuntimeView(header=header)
