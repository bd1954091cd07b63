"""A checkpoint's declared names, matched against the places of a graph.

    layer[i].sparse.experts[e].gate = "layers.{i}.experts.{e}.w1"    ->    for each layer that has the path one `Row`:
                                                                          its weight, its layer number, and e for all experts

Rows exist per layer, never per expert: an index into a bank stays a variable, so that a map of hundreds of thousands of
tensors is a table of a thousand rows. What cannot be matched becomes a `Problem`; checks/checkpoint.py words it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import field
from typing import TYPE_CHECKING, Literal

from moedsl.frozen import frozen, record
from moedsl.ir.one_way import ONE_WAY, TOGETHER, is_start, misfit, whole
from moedsl.model.terms import Checkpoint, CheckpointEntry, PathPattern, Recipe

if TYPE_CHECKING:
    from moedsl.ir.graph import Graph, Storage

_PART = re.compile(r"[^.\[\]]+")
_VARIABLE = re.compile(r"\{([^{}]*)\}")
_EACH = "#"  # stands for any index

Part = str | tuple[str, int | str]  # as in PathPattern
Skeleton = tuple[str, ...]


@frozen
class Target:
    """One weight that an entry names. `expert`: which of a bank (a variable or a number), None for all of it."""

    storage: Storage
    expert: str | int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.storage.shape if self.expert is None else self.storage.shape[1:]


@frozen
class Layout:
    """How a tensor of the file holds its targets: the steps in one normal form.

    After the last two axes are exchanged (`transposed`), the targets follow one another (`joined`) or take turns
    (`interleaved`) along `axis`; "" where the tensor holds one target.
    """

    transposed: bool = False
    join: Literal["", "joined", "interleaved"] = ""
    axis: int = 0


@frozen
class Row:
    """An entry at one layer. `binding`: its variables' values, that of the bank left out.

    `expert`: the bank's variable; `experts`: how many values it takes (0: none). Where `spread`, all experts are in one
    tensor of the file; else each is in its own. `start`: the step that loses or makes up something, if there is one.
    """

    entry: CheckpointEntry
    binding: tuple[tuple[str, int], ...]
    targets: tuple[Target, ...]
    layout: Layout
    expert: str = ""
    experts: int = 0
    spread: bool = False
    start: Recipe | None = None

    @property
    def file(self) -> str:
        """The name in the file; the expert's variable stays."""
        values = dict(self.binding)
        return _VARIABLE.sub(lambda m: str(values.get(m[1], m[0])), self.entry.file)


@frozen
class Problem:
    """`kind`: no place | indexed twice | not in the name | steps."""

    kind: str
    entry: CheckpointEntry
    message: str = ""
    path: PathPattern | None = None


@record
class Places:
    """Every weight of a graph, by its path with indices taken out; banks with and without an index of their own."""

    weights: tuple[Storage, ...]
    table: dict[Skeleton, list[tuple[tuple[int, ...], Storage, int | None]]] = field(
        default_factory=dict
    )

    @staticmethod
    def of(graph: Graph) -> Places:
        banks = {place.path for place in graph.places() if place.unit.bank}
        return Places.made(graph.storage().values(), banks)

    @staticmethod
    def made(weights: Iterable[Storage], banks: Iterable[str] = ()) -> Places:
        """`banks`: the paths of the places whose weights are side by side."""
        places, known = Places(tuple(weights)), frozenset(banks)
        single = _single(w.path for w in places.weights)
        for weight in places.weights:
            for path in {weight.path, single.get(weight.path, weight.path)}:
                places._add(path, weight, known)
        return places

    def _add(self, path: str, weight: Storage, banks: frozenset[str]) -> None:
        names: list[str] = []
        indices: list[int] = []
        position = None
        for match in _PART.finditer(path):
            text, end = match[0], match.end()
            if path[match.start() - 1 : match.start()] == "[":
                indices.append(int(text))
                names.append(_EACH)
                end += 1
            else:
                names.append(text)
            if weight.bank and position is None and path[:end] in banks:
                position = len(names)
        self.table.setdefault(tuple(names), []).append((tuple(indices), weight, None))
        if position is not None:
            key = (*names[:position], _EACH, *names[position:])
            at = names[:position].count(_EACH)
            self.table.setdefault(key, []).append((tuple(indices), weight, at))

    def find(self, path: PathPattern) -> Iterator[tuple[dict[str, int], Target]]:
        """(values of the path's variables, weight) for each instance that has the path."""
        key = tuple(_EACH if isinstance(part, tuple) else part for part in path.parts)
        asked = [part[1] for part in path.parts if isinstance(part, tuple)]
        for indices, weight, at in self.table.get(key, ()):
            own = list(asked)
            expert = own.pop(at) if at is not None else None
            binding: dict[str, int] = {}
            fits = not isinstance(expert, int) or expert < weight.shape[0]
            if fits and all(_agrees(a, i, binding) for a, i in zip(own, indices, strict=True)):
                yield binding, Target(weight, expert)


def _agrees(asked: int | str, index: int, binding: dict[str, int]) -> bool:
    return asked == index if isinstance(asked, int) else binding.setdefault(asked, index) == index


def _single(paths: Iterable[str]) -> dict[str, str]:
    """`q.weight` -> `q` where the place has no other weight: a path to a place with one parameter is that parameter."""
    below: dict[str, list[str]] = {}
    for path in paths:
        if path.endswith((".weight", ".bias")):
            below.setdefault(path.rpartition(".")[0], []).append(path)
    return {own[0]: place for place, own in below.items() if len(own) == 1}


def match(checkpoint: Checkpoint, places: Places) -> tuple[list[Row], list[Problem]]:
    """Every entry at every layer, in the order of the map."""
    rows: list[Row] = []
    problems: list[Problem] = []
    one_way = is_start(checkpoint)
    for entry in checkpoint.entries:
        found = list(_rows(entry, places, one_way))
        rows += [row for row in found if isinstance(row, Row)]
        problems += [problem for problem in found if isinstance(problem, Problem)][:1]
    return rows, problems


def _rows(entry: CheckpointEntry, places: Places, one_way: bool) -> Iterator[Row | Problem]:
    by_binding: dict[tuple[tuple[str, int], ...], list[Target]] = {}
    for path in entry.paths:
        found = list(places.find(path))
        if not found:
            yield Problem("no place", entry, path=path)
            return
        for binding, target in found:
            by_binding.setdefault(tuple(sorted(binding.items())), []).append(target)
    for key, targets in by_binding.items():
        if len(targets) < len(entry.paths):
            yield Problem("no place", entry, f"some places lack a part of this list at {dict(key)}")
        else:
            yield _row(entry, key, tuple(targets), one_way)


def _row(
    entry: CheckpointEntry,
    binding: tuple[tuple[str, int], ...],
    targets: tuple[Target, ...],
    is_start: bool,
) -> Row | Problem:
    written = set(_VARIABLE.findall(entry.file))
    lost = [name for name, _ in binding if name not in written]
    if lost and entry.file:
        return Problem("not in the name", entry, lost[0])
    expert = next((t.expert for t in targets if isinstance(t.expert, str)), "")
    experts = next((t.storage.shape[0] for t in targets if t.expert == expert), 0) if expert else 0
    start = entry.steps[-1] if entry.steps and entry.steps[-1].construct in ONE_WAY else None
    each = start is not None and start.construct not in TOGETHER  # every expert by itself
    spread = bool(expert) and expert not in written and not each
    if spread and len(targets) > 1:
        return Problem("not in the name", entry, expert)
    if start is not None and (odd := misfit(start, targets, expert, expert in written)):
        return Problem("steps", entry, odd)
    steps = entry.steps[:-1] if start is not None else entry.steps
    layout = _layout(entry, steps, targets, experts if spread else len(targets))
    if isinstance(layout, Problem):
        return layout
    if layout.join and is_start:
        return Problem(
            "steps", entry, "files that a model only starts from are taken tensor by tensor"
        )
    return Row(entry, binding, targets, layout, expert, experts, spread, start)


def _layout(
    entry: CheckpointEntry, steps: tuple[Recipe, ...], targets: tuple[Target, ...], parts: int
) -> Layout | Problem:
    """The steps in normal form: a transposition after a cut is one before it, with the axis exchanged."""
    rank = len(targets[0].shape)
    transposed, join, axis = False, "", 0
    for step in steps:
        if step.construct in ONE_WAY:
            return Problem("steps", entry, f"`{step.construct}` is the last step where it stands")
        if step.construct == "transpose":
            if rank < 2:
                return Problem("steps", entry, "a tensor with one axis cannot be transposed")
            transposed = not transposed
            axis = {rank - 1: rank - 2, rank - 2: rank - 1}.get(axis, axis) if join else axis
        elif step.construct in ("split", "interleave"):
            if join:
                return Problem("steps", entry, "a tensor is cut once; this cuts it again")
            count, axis = whole(step, "count"), whole(step, "axis")
            if count != parts:
                return Problem("steps", entry, f"cut into {count} parts for {parts} places")
            if axis >= rank:
                return Problem("steps", entry, f"axis {axis} of a tensor with {rank} axes")
            join = "joined" if step.construct == "split" else "interleaved"
        elif step.construct != "stack":
            return Problem("steps", entry, f"`{step.construct}` does not act on a file's tensor")
    if parts > 1 and not join:
        return Problem(
            "steps", entry, f"{parts} places share one tensor; say how: `split({parts})`"
        )
    odd = _disagreement(targets, axis, join == "interleaved") if join else ""
    return Problem("steps", entry, odd) if odd else Layout(transposed, join, axis)  # type: ignore[arg-type]


def _disagreement(targets: tuple[Target, ...], axis: int, alike: bool) -> str:
    """Places in one tensor agree in every axis but the one along which they are joined."""
    shapes = [list(target.shape) for target in targets]
    if len({len(shape) for shape in shapes}) == 1 and not alike:
        for shape in shapes:
            shape[axis] = 0
    if any(shape != shapes[0] for shape in shapes):
        sizes = ", ".join(str(list(target.shape)) for target in targets)
        return f"places of shapes {sizes} cannot share a tensor along axis {axis}"
    return ""
