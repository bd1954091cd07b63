"""What classes are called: after their recipes, and told apart where several have one name."""

from __future__ import annotations

from collections.abc import Iterable

from moedsl.backend.naming import camel, class_name
from moedsl.ir.graph import Graph, Unit
from moedsl.ir.ops import Before

Users = dict[Unit, tuple[str, ...]]


def name_classes(graph: Graph) -> dict[Unit, str]:
    """A class name per unit. Units that share a name are told apart by what they hold or who holds them, else by
    number."""
    names: dict[Unit, str] = {graph.root: class_name(graph.name, "model", ())}
    alike: dict[str, list[Unit]] = {}
    for unit in graph.units[:-1]:
        alike.setdefault(camel(unit.name), []).append(unit)
    users = {unit: _users(graph, unit) for units in alike.values() for unit in units if units[1:]}
    stems = {unit: stem for units in alike.values() for unit, stem in _stems(units, users)}
    taken = set(names.values())
    for unit in graph.units[:-1]:
        names[unit] = class_name(stems[unit], unit.kind, taken)
        taken.add(names[unit])
    return names


def _stems(alike: list[Unit], users: Users) -> Iterable[tuple[Unit, str]]:
    """Units of one name, each with its name and what tells it from the others."""
    if len(alike) == 1:
        return [(alike[0], alike[0].name)]
    if firsts := _firsts(alike):
        stems = dict(_stems([unit for unit in alike if unit not in firsts], users))
        stems |= {unit: f"first_{stems[other]}" for unit, other in firsts.items()}
        return [(unit, stems[unit]) for unit in alike]
    words = _telling(alike, users)
    return [(unit, f"{unit.name}_{word}") for unit, word in zip(alike, words, strict=True)]


def _telling(alike: list[Unit], users: Users) -> list[str]:
    """What tells units of one name apart: their numbers of experts, or what each calls and the others do not, or what
    calls each."""
    for difference in (_experts, _held, users.__getitem__):
        found = [difference(unit) for unit in alike]
        if all(found) and len(set(found)) == len(found):
            common = set.intersection(*map(set, found))
            return ["_".join(word for word in words if word not in common) for words in found]
    return [str(number) for number in range(1, len(alike) + 1)]


def _firsts(alike: list[Unit]) -> dict[Unit, Unit]:
    """Units before which nothing was decided, each with the one that it is otherwise."""
    found = {}
    later = [unit for unit in alike if looks_back(unit)]
    for unit in (unit for unit in alike if unit not in later):
        others = [other for other in later if other.recipe == unit.recipe]
        if len(others) == 1:
            found[unit] = others[0]
    return found


def looks_back(unit: Unit) -> bool:
    """Does it read what was decided before?"""
    pairs = zip(unit.wants, unit.ambients, strict=True)
    before = {value for op, value in pairs if isinstance(op, Before)}
    return any(before.intersection(node.inputs) for node in unit.nodes)


def _experts(unit: Unit) -> tuple[str, ...]:
    """`of_4` for a router of 4 experts, `4` for a mixture or bank of them."""
    if unit.kind == "router":
        chosen = [node.op.chosen for node in unit.nodes if hasattr(node.op, "chosen")]
        return (f"of_{chosen[0][1].size}",) if chosen else ()
    banks = [unit.bank, *(called.bank for called in _called(unit))]
    return (str(max(banks)),) if max(banks) else ()


def _users(graph: Graph, unit: Unit) -> tuple[str, ...]:
    """The names of what calls it."""
    return tuple(dict.fromkeys(other.name for other in graph.units if unit in _called(other)))


def _held(unit: Unit) -> tuple[str, ...]:
    """The names of what it calls; mixtures with their number of experts."""
    return tuple("_".join((called.name, *_experts(called))) for called in _called(unit))


def _called(unit: Unit) -> list[Unit]:
    return [called for node in unit.nodes for _, _, called in node.calls()]
