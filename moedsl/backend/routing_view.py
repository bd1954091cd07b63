"""What the routing files of a printed package need to know, and their rendering.

A `RoutingView` holds plain values; `print_route` takes every decision that follows from them;
the templates `templates/package/{routing,experts,kernels,reference}.py.j2` only print.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from moedsl.backend.records_view import FIELDS, RecordView, Statistic, sums_of
from moedsl.backend.route_view import RouteView, names, print_route
from moedsl.frozen import frozen

if TYPE_CHECKING:
    from jinja2 import Environment

FILES = ("routing.py", "experts.py", "reference.py", "kernels.py")


@frozen(kw_only=True)
class RoutingView:
    """The routing files of one package.

    `header` is the provenance comment, one line with its `#`. `package` is the namespace of the
    custom operators, so two packages can live in one process. `records`: what its routers give.
    `expert_bias` asks for `grouped_linear_bias`, `expert_vectors` for `expert_rows`; `expert_scale` and
    `expert_affine` for themselves (norms, scales). `loose`: picks may be absent; `bounded`: a router limits
    the rows that experts get, `unbounded`: another does not.
    `lines`: picks stand in line for the room of their experts; `columns`: experts choose rows.
    Not `routed`: a dense model that computes something in float32, and needs `wide` alone.
    """

    header: str
    package: str
    routes: tuple[RouteView, ...] = ()
    records: tuple[RecordView, ...] = ()
    expert_bias: bool = False
    expert_scale: bool = False
    expert_affine: bool = False
    expert_vectors: bool = False
    loose: bool = False
    bounded: bool = False
    unbounded: bool = False
    lines: bool = False
    columns: bool = False
    routed: bool = True

    @property
    def expert_rows(self) -> bool:
        """Weights that are no matrices: each routed row takes its expert's."""
        scaled = self.expert_scale or self.expert_affine
        return scaled or self.expert_bias or self.expert_vectors

    @property
    def union(self) -> str:
        """All that routers of the package give, where that is more than one record."""
        names = [record.name for record in self.records]
        one = f"Routing = {' | '.join(names)}"
        if len(one) <= 88:
            return one
        return "\n".join(
            ["Routing = (", f"    {names[0]}", *(f"    | {n}" for n in names[1:]), ")"]
        )

    def __post_init__(self) -> None:
        assert self.package.isidentifier()
        assert self.loose or not self.bounded
        names = [route.name for route in self.routes]
        assert len(names) == len(set(names))

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """What is read of any decision, in the order of the printed fields."""
        asked = {name for record in self.records for name in record.statistics}
        return tuple(name for name in FIELDS if name in asked)


def layout(opening: str, items: Iterable[str], closing: str, indent: int = 0) -> str:
    """A call or a signature on one line of 88, else its items on a line, else one by line."""
    margin, items = " " * indent, tuple(items)
    joined = ", ".join(items)
    if len(margin + opening + joined + closing) <= 88:
        return margin + opening + joined + closing
    if len(margin) + 4 + len(joined) <= 88:
        return f"{margin}{opening}\n{margin}    {joined}\n{margin}{closing}"
    listed = "".join(f"{margin}    {item},\n" for item in items)
    return f"{margin}{opening}\n{listed}{margin}{closing}"


def render_routing_files(view: RoutingView, environment: Environment) -> dict[str, str]:
    """The texts of routing.py, experts.py, reference.py and kernels.py, by file name."""
    routes = tuple(print_route(route) for route in view.routes)
    sums = sums_of(routes)
    context = {
        "view": view,
        "routes": routes,
        "visits": "visits" in view.statistics,
        "sums": sums,
        "kernel_of": {one.wants: one.kernel for one in sums},
        "fused_z": any("z" in route.wants for route in routes),
        "smooth": any(route.smooth for route in routes),
        "softmax": any(route.uses_softmax or route.kept_softmax for route in routes),
        "softmax_backward": any(route.chains_softmax for route in routes),
        "kept_softmax": any(route.kept_softmax for route in routes),
        "limits": any(route.limits for route in routes),
        "most_kept": max((route.K for route in routes), default=0),
        "layout": layout,
        "names": names,
    }
    files = FILES if view.routed else ("reference.py",)
    return {file: environment.get_template(f"package/{file}.j2").render(context) for file in files}
