"""Where weights are: parameters of the module, and the weights of the spec inside them."""

from __future__ import annotations

from collections.abc import Iterator

from moedsl.ir.graph import Graph, Node, Parameter, Place, Site, Storage
from moedsl.ir.ops import Linear


def parameters(graph: Graph) -> Iterator[tuple[str, str, Parameter, Place]]:
    seen: set[str] = set()
    for place in graph.places():
        for node in place.unit.nodes:
            own = node.op.parameters()
            for parameter in own:
                module = join(place.module, module_name(node, parameter))
                if module not in seen:
                    seen.add(module)
                    path = join(place.path, path_of(node, parameter, len(own)))
                    yield path, module, parameter, place


def storage(graph: Graph) -> dict[str, Storage]:
    found: dict[str, Storage] = {}
    for place in graph.places():
        for node in place.unit.nodes:
            for one in _stored(node, place):
                found.setdefault(one.path, one)
    return found


def _stored(node: Node, place: Place) -> Iterator[Storage]:
    if getattr(node.op, "coefficient", None) is not None:
        return  # a loss's number with state: it belongs to a training, not to the files of a model
    own = node.op.parameters()
    parts = node.op.parts if isinstance(node.op, Linear) else ()
    for parameter in own:
        module = join(place.module, module_name(node, parameter))
        if not parts:
            path = join(place.path, path_of(node, parameter, len(own)))
            yield Storage(
                path,
                module,
                parameter.shape,
                bank=parameter.bank,
                members=parameter.members,
                init=parameter.init,
                value=parameter.value,
            )
        start, axis = 0, int(parameter.bank) + (_along(node) == "inner")
        for part, size in parts:
            shape = (*parameter.shape[:axis], size, *parameter.shape[axis + 1 :])
            suffix = f".{parameter.name}" if len(own) > 1 else ""
            yield Storage(
                join(place.path, part + suffix),
                module,
                shape,
                axis,
                start,
                size,
                parameter.bank,
                parameter.members,
                parameter.init,
                parameter.value,
            )
            start += size


def sites(graph: Graph) -> list[Site]:
    return [Site(place, value) for place in graph.places() for value in place.unit.handed]


def module_name(node: Node, parameter: Parameter) -> str:
    """`q.weight` for a submodule's, `gate` and `gate_bias` for bare ones."""
    if node.op.module():
        return f"{node.place}.{parameter.name}"
    plain = parameter.name in ("", "weight")
    return node.place if plain else f"{node.place}_{parameter.name}"


def path_of(node: Node, parameter: Parameter, count: int) -> str:
    """A path to a place with one parameter is that parameter."""
    path = node.path or node.place
    return f"{path}.{parameter.name}" if count > 1 else path


def _along(node: Node) -> str:
    return node.op.along if isinstance(node.op, Linear) else "out"


def join(parent: str, child: str) -> str:
    if child.startswith("["):
        return parent + child
    return f"{parent}.{child}" if parent else child
