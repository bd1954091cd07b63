"""Checkpoints in the model's own names, of which only what is otherwise is said: `checkpoint before = native { experts =
grow(3) }`."""

from __future__ import annotations

from moedsl.frozen import frozen
from moedsl.ir.graph import Graph, Storage
from moedsl.ir.one_way import TOGETHER, cannot_grow, growth
from moedsl.ir.selections import Selections
from moedsl.model.terms import Checkpoint, CheckpointEntry, PathPattern, Recipe, Word


@frozen
class Filled:
    """What one entry fills, and how. Of a growth those weights that have members."""

    entry: CheckpointEntry
    step: Recipe
    weights: dict[str, Storage]


@frozen
class Fault:
    """`kind`: nothing (is there) | steps | twice (`other` fills it too)."""

    kind: str
    entry: CheckpointEntry
    message: str
    other: CheckpointEntry | None = None


def fills(checkpoint: Checkpoint, graph: Graph) -> tuple[list[Filled], list[Fault]]:
    """The entries of a checkpoint whose names are the model's own, in order."""
    selections, stored = Selections(graph), graph.storage()
    found: list[Filled] = []
    faults: list[Fault] = []
    taken: dict[str, CheckpointEntry] = {}
    for entry in checkpoint.entries:
        named: dict[str, Storage] = {}
        for path in entry.paths:
            word = spelled(path)
            selected = selections.select(Word(word, path.span))
            named |= {each: stored[each] for each in selected}
            if not selected:
                faults.append(Fault("nothing", entry, word))
        filled, odd = _filled(entry, named)
        if odd and named:
            faults.append(Fault("steps", entry, odd))
        for each in filled.weights:
            other = taken.setdefault(stored[each].module, entry)
            if other is not entry:
                faults.append(Fault("twice", entry, each, other))
        found.append(filled)
    return found, faults


def _filled(entry: CheckpointEntry, named: dict[str, Storage]) -> tuple[Filled, str]:
    *before, step = entry.steps
    if before or step.construct not in TOGETHER:
        return Filled(
            entry, step, {}
        ), "with the model's own names a weight can `grow`, or `extend`"
    if step.construct == "extend":
        return Filled(entry, step, named), ""
    how = growth(step)
    kept = {path: one for path, one in named.items() if one.members}
    odd = next((o for one in (kept or named).values() if (o := cannot_grow(how, one))), "")
    return Filled(entry, step, kept), odd


def spelled(path: PathPattern) -> str:
    """The path as a selection: an index that stands for any number is left out."""
    text = ""
    for part in path.parts:
        if isinstance(part, tuple):
            text += f"[{part[1]}]" if isinstance(part[1], int) else ""
        else:
            text += f".{part}"
    return text.removeprefix(".")
