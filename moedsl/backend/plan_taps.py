"""Where routing was decided: the places behind what units hand up, and the dictionary that the model gives back."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence

from moedsl.backend.naming import attribute
from moedsl.backend.plan_lines import statement_lines
from moedsl.ir.graph import Node, Unit, Value
from moedsl.ir.ops import DEPTH, Stack
from moedsl.ir.ops_calls import handed_by, tap_in

BODY = 2
_COUNTERS = "ijklmn"


def maker(unit: Unit, tap: Value) -> Node:
    return next(node for node in unit.nodes if tap in node.outputs)


def is_list(unit: Unit, tap: Value) -> bool:
    """Is this a list of decisions, since a stack somewhere below makes it?"""
    node = maker(unit, tap)
    if isinstance(node.op, Stack):
        return True
    called = next((called for _, _, called in node.calls()), None)
    inner = _inner(node, called, tap) if called else None
    return called is not None and inner is not None and is_list(called, inner)


def tap_paths(unit: Unit, tap: Value) -> list[str]:
    """The places that decided, below this unit, in order; "" is the mixture itself (for its own router); what is
    decided for several is called by its name."""
    node = maker(unit, tap)
    found: list[str] = []
    for step, (_, module, called) in enumerate(node.calls()):
        inner = _inner(node, called, tap)
        if isinstance(node.op, Stack) and node.op.order:  # what comes back is counted as often
            module = f"{module.rpartition('.')[0]}.{step}"
        if called.kind == "router":
            found.append("" if unit.kind == "moe" else tap.name)
        elif inner is not None:
            place = attribute(module)
            found.extend(f"{place}.{rest}" if rest else place for rest in tap_paths(called, inner))
    several = sum(value.type == tap.type == DEPTH for value in unit.handed) > 1
    return found or ([tap.name if several else ""] if not isinstance(node.op, Stack) else [])


def _inner(node: Node, called: Unit, tap: Value) -> Value | None:
    """What the called unit hands up as `tap`."""
    index = list(node.outputs).index(tap) - len(called.outputs)
    handed = called.taps
    if isinstance(node.op, Stack):
        handed = handed_by(unit for unit, _ in node.op.runs)
    inner = tap_in(called, handed, index) if index >= 0 else None
    return None if inner is None else called.taps[inner]


def routing_lines(root: Unit, names: dict[Value, str]) -> list[str]:
    """`routing = {"layer.0.sparse": ..., ...}`, and `depth = {"layer.1": ...}` where blocks decide about tokens."""
    lines: list[str] = []
    begun: set[str] = set()
    names_of = ["depth" if tap.type == DEPTH else "routing" for tap in root.taps]
    paths = _told_apart(names_of, [tap_paths(root, tap) for tap in root.taps])
    for tap, name, own in zip(root.taps, names_of, paths, strict=True):
        code = _dictionary(names[tap], own, is_list(root, tap))
        lines.extend(statement_lines(f"{name} {'|=' if name in begun else '='} {code}", BODY))
        begun.add(name)
    return lines


def _told_apart(names: list[str], paths: list[list[str]]) -> list[list[str]]:
    """What decides several times at one place is told apart by its runs."""
    count = Counter((name, path) for name, own in zip(names, paths, strict=True) for path in own)
    seen: Counter[tuple[str, str]] = Counter()
    found: list[list[str]] = []
    for name, own in zip(names, paths, strict=True):
        found.append([])
        for path in own:
            run = f".run_{seen[name, path]}" if count[name, path] > 1 else ""
            found[-1].append(path + run)
            seen[name, path] += 1
    return found


def _dictionary(name: str, paths: Sequence[str], listed: bool) -> str:
    if not listed:
        return f'{{"{paths[0]}": {name}}}'
    template, numbers = _template(paths)
    if not template:
        keys = ", ".join(f'"{path}"' for path in paths)
        return f"dict(zip(({keys},), {name}, strict=True))"
    if len(numbers) == 1:
        return f'{{f"{template}": r for i, r in {_numbered(name, numbers[0])}}}'
    loops = " ".join(f"for {c} in {_range(n)}" for c, n in zip(_COUNTERS, numbers, strict=False))
    return f'dict(zip((f"{template}" {loops}), {name}, strict=True))'


def _template(paths: Sequence[str]) -> tuple[str, list[tuple[int, ...]]]:
    """`layer.{i}.sparse` and the values of each number, where the paths are all combinations of them in order."""
    split = [re.split(r"(?<=\.)(\d+)(?=\.|$)", path) for path in paths]
    if len({tuple(parts[::2]) for parts in split}) != 1:
        return "", []
    columns = zip(*(map(int, parts[1::2]) for parts in split), strict=True)
    numbers = [tuple(dict.fromkeys(column)) for column in columns]
    if [tuple(map(int, parts[1::2])) for parts in split] != list(itertools.product(*numbers)):
        return "", []
    text = split[0][0]
    for counter, rest in zip(_COUNTERS, split[0][2::2], strict=False):
        text += f"{{{counter}}}{rest}"
    return text, numbers


def numbered(paths: Sequence[str]) -> tuple[str, list[tuple[str, str]]] | None:
    """`layer.{i}.sparse` and (i, what it runs over), where the paths are all combinations of their numbers in order."""
    template, numbers = _template(paths)
    if not template:
        return None
    return template, [(c, _range(n)) for c, n in zip(_COUNTERS, numbers, strict=False)]


def _range(indices: tuple[int, ...]) -> str:
    first, last = indices[0], indices[-1]
    step = indices[1] - first if len(indices) > 1 else 1
    if indices != tuple(range(first, last + 1, step)):
        return repr(indices)
    start = f"{first}, " if first or step > 1 else ""
    return f"range({start}{last + 1}{f', {step}' if step > 1 else ''})"


def _numbered(name: str, indices: tuple[int, ...]) -> str:
    """(layer number, decision) pairs."""
    first = indices[0]
    if indices == tuple(range(first, first + len(indices))):
        return f"enumerate({name}{f', {first}' if first else ''})"
    return f"zip({_range(indices)}, {name}, strict=True)"
