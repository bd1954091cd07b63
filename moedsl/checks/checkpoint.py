"""Every weight has one place in a checkpoint, and every entry of its map has a place in the model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from moedsl.diagnostics.model import Label, Sink
from moedsl.diagnostics.suggest import did_you_mean
from moedsl.ir.checkpoint_map import Places, Problem, Row, Target, match
from moedsl.ir.graph import Graph, Storage
from moedsl.ir.native import fills
from moedsl.ir.one_way import is_native
from moedsl.ir.selections import Selections
from moedsl.model.terms import Checkpoint, CheckpointEntry, PathPattern

_INDEX = re.compile(r"\[\d+\]")
_MOST = 6  # weights that one message names


def check_checkpoint(graph: Graph, sink: Sink) -> None:
    checkpoints = graph.model.checkpoints if graph.model is not None else ()
    if not checkpoints or any(node.poisoned for unit in graph.units for node in unit.nodes):
        return
    mapped = [each for each in checkpoints if not is_native(each)]
    if mapped:
        check_maps(mapped, Places.of(graph), sink)
    for each in checkpoints:
        if is_native(each):
            _check_native(each, graph, sink)


def check_maps(checkpoints: Iterable[Checkpoint], places: Places, sink: Sink) -> None:
    for checkpoint in checkpoints:
        rows, problems = match(checkpoint, places)
        for problem in problems:
            _report(problem, places, sink)
        _check_twice(rows, sink)
        if not sink.has_errors:  # an entry that failed would show once more as what it left out
            _check_missing(checkpoint, rows, places, sink)


def _check_native(checkpoint: Checkpoint, graph: Graph, sink: Sink) -> None:
    if not checkpoint.entries and not sink.has_errors:
        message = f"`{checkpoint.name}` says nothing that the files of this very model would not"
        sink.error("E0604", message, checkpoint.span, help="say what grows: `experts = grow(3)`")
    for fault in fills(checkpoint, graph)[1]:
        span = fault.entry.span
        if fault.kind == "nothing":
            close = did_you_mean(fault.message.split(".")[0], Selections(graph).words())
            help = f"did you mean `{close[0]}`?" if close and close[0] != fault.message else ""
            sink.error("E0601", f"no weight is at `{fault.message}`", span, help=help)
        elif fault.other is not None:
            _twice(f"`{fault.message}` is filled twice", fault.entry, fault.other, sink)
        else:
            sink.error("E0604", fault.message, span)


# --- entries -----------------------------------------------------------------------------------


def _report(problem: Problem, places: Places, sink: Sink) -> None:
    span = (problem.path or problem.entry.paths[0]).span
    match problem.kind:
        case "no place" if problem.path is not None:
            text = spelled(problem.path)
            sink.error("E0601", f"no weight is at `{text}`", span, help=_hint(problem.path, places))
        case "no place":
            sink.error("E0601", problem.message, span)
        case "not in the name":
            name = problem.message
            sink.error(
                "E0605",
                f"the index `{name}` is not in the name, so its places would share one tensor",
                span,
                help=f"write `{{{name}}}` in the name, or say how a tensor is cut: `split(n)`",
            )
        case _:
            sink.error("E0604", problem.message, span)


def spelled(path: PathPattern) -> str:
    """The path as a spec writes it."""
    text = ""
    for part in path.parts:
        text += f"[{part[1]}]" if isinstance(part, tuple) else f".{part}"
    return text.removeprefix(".")


def _hint(path: PathPattern, places: Places) -> str:
    """What stands where the path leaves the model."""
    parts = tuple("#" if isinstance(part, tuple) else part for part in path.parts)
    known = 0
    while known < len(parts) and any(
        key[: known + 1] == parts[: known + 1] for key in places.table
    ):
        known += 1
    here = spelled(PathPattern(path.parts[:known]))
    next_ = {
        key[known] for key in places.table if key[:known] == parts[:known] and len(key) > known
    }
    if parts in places.table:
        return "its numbers are out of range"
    if known == len(parts):
        return (
            f"it has several weights: {_listed(f'{here}.{name}' for name in sorted(next_ - {'#'}))}"
        )
    wanted, names = parts[known], sorted(next_ - {"#"})
    if wanted == "#":
        return f"`{here}` takes no index"
    if "#" in next_ and not names:
        return f"`{here}` is numbered: write `{here}[i]`"
    close = did_you_mean(wanted, names)
    if close:
        return f"did you mean `{f'{here}.{close[0]}'.removeprefix('.')}`?"
    return f"there are: {_listed(names)}" if names else ""


def _listed(names: Iterable[str]) -> str:
    shown = list(names)
    more = f" and {len(shown) - _MOST} more" if len(shown) > _MOST else ""
    return ", ".join(f"`{name}`" for name in shown[:_MOST]) + more


# --- coverage ----------------------------------------------------------------------------------

Part = int  # a set of experts, one bit each; a weight outside of a bank is one


def _check_twice(rows: list[Row], sink: Sink) -> None:
    weights: dict[str, list[tuple[Part, CheckpointEntry]]] = {}
    names: dict[str, CheckpointEntry] = {}
    for row in rows:
        for target in row.targets:
            seen = weights.setdefault(target.storage.path, [])
            part = _part(target)
            other = next((e for p, e in seen if p & part), None)
            seen.append((part, row.entry))
            if other is not None:
                _twice(f"`{target.storage.path}` is mapped twice", row.entry, other, sink)
        other = names.setdefault(row.file, row.entry)
        if other is not row.entry and row.file:
            _twice(f"two places take the tensor `{row.file}`", row.entry, other, sink)


def _twice(message: str, entry: CheckpointEntry, other: CheckpointEntry, sink: Sink) -> None:
    first = (Label(other.span, "first here"),)
    sink.error("E0603", message, entry.span, "and again here", secondary=first)


def _part(target: Target) -> Part:
    if isinstance(target.expert, int):
        return 1 << target.expert
    return _whole(target.storage)


def _whole(storage: Storage) -> Part:
    return (1 << storage.shape[0]) - 1 if storage.bank else 1


def _check_missing(checkpoint: Checkpoint, rows: list[Row], places: Places, sink: Sink) -> None:
    covered: dict[str, Part] = {}
    for row in rows:
        for target in row.targets:
            path = target.storage.path
            covered[path] = covered.get(path, 0) | _part(target)
    missing = list(_missing(covered, places))
    if missing:
        weights = "weight is" if len(missing) == 1 else "weights are"
        message = (
            f"{len(missing)} {weights} in no tensor of `{checkpoint.name}`: {_listed(missing)}"
        )
        help = f'each has a line: `{missing[0]} = "its name in the files"`'
        sink.error("E0602", message, checkpoint.span, "maps the whole model", help=help)


def _missing(covered: dict[str, Part], places: Places) -> Iterator[str]:
    """Weights or experts left out, layers that differ in nothing but their number once."""
    counts: dict[str, list[str]] = {}
    for weight in places.weights:
        left = _whole(weight) & ~covered.get(weight.path, 0)
        if left:
            some = "" if left == _whole(weight) else f" of {left.bit_count()} experts"
            counts.setdefault(_INDEX.sub("[i]", weight.path) + some, []).append(weight.path + some)
    for pattern, paths in counts.items():
        yield pattern if len(paths) > 1 else paths[0]
