"""start.py of a printed package: checkpoints that a model can only start from, since a step loses or makes up something."""

from __future__ import annotations

from moedsl.backend.checkpoint_fills import in_one
from moedsl.backend.checkpoint_lines import quoted, table_lines
from moedsl.backend.checkpoint_view import FormatView, Table, ignored_of, sizes_of
from moedsl.backend.naming import identifier
from moedsl.backend.patterns import patterns_of
from moedsl.backend.plan_lines import call_lines, indented
from moedsl.frozen import frozen
from moedsl.ir.checkpoint_map import Places, match
from moedsl.ir.graph import Graph
from moedsl.ir.native import fills
from moedsl.ir.one_way import growth, is_native, is_start
from moedsl.model.terms import Checkpoint


@frozen
class StartsView:
    """start.py: the entries of each checkpoint, and which fields and steps they use. `given`: of those where whoever
    starts the model says which member new ones copy, how many there are to copy. `native`: those in the model's own names."""

    header: str
    formats: tuple[FormatView, ...]
    constants: tuple[str, ...]
    used: frozenset[str]
    given: dict[str, int]
    native: frozenset[str]

    def parameters(self, format: FormatView) -> str:
        """What the function that yields its entries takes."""
        model = ["model: nn.Module"] if format.name in self.native else []
        return ", ".join([*model, *(["like: int"] if format.name in self.given else [])])

    def arguments(self, format: FormatView) -> str:
        return ", ".join(each.partition(":")[0] for each in self.parameters(format).split(", "))

    def ignored(self, format: FormatView) -> str:
        return f"({', '.join(quoted(each) for each in format.ignored)},)"


def plan_starts(graph: Graph, header: str) -> StartsView | None:
    """The view of every checkpoint that a model can only start from."""
    checkpoints = graph.model.checkpoints if graph.model is not None else ()
    starts = [each for each in checkpoints if is_start(each)]
    if not starts:
        return None
    places = Places.of(graph)
    table = Table(sizes_of(places.weights))
    formats = [
        FormatView(
            name=each.name,
            function=f"start_from_{identifier(each.name)}",
            lines=_native(each, graph, table.used)
            if is_native(each)
            else tuple(table_lines(table.blocks(match(each, places)[0]), stepped=True)),
            ignored=ignored_of(each),
        )
        for each in starts
    ]
    native = frozenset(each.name for each in starts if is_native(each))
    given = {each.name: _given(each) for each in starts if _given(each)}
    constants = tuple(table.constants())
    return StartsView(header, tuple(formats), constants, frozenset(table.used), given, native)


def _native(checkpoint: Checkpoint, graph: Graph, used: set[str]) -> tuple[str, ...]:
    """What is not as it was, by patterns of names; then every name."""
    every = list(dict.fromkeys(one.module for one in graph.storage().values()))
    lines = ["changed = {"]
    for filled in fills(checkpoint, graph)[0]:
        used.add(filled.step.construct)
        how: dict[str, set[str]] = {}
        for one in filled.weights.values():
            how.setdefault(in_one(filled.step, one), set()).add(one.module)
        for fill, own in how.items():
            head, _, given = fill.removesuffix(")").partition("(")
            for each in patterns_of(own, every):
                call = call_lines(f'"{each}": {head}', given.split(", "), ",", depth=2)
                lines += indented(call)
    return (
        *lines,
        "}",
        "for name, _ in (*model.named_parameters(), *model.named_buffers()):",
        "    fills = [fill for one, fill in changed.items() if fnmatchcase(name, one)]",
        "    yield Entry(name, name, fill=fills[0] if fills else None)",
    )


def _given(checkpoint: Checkpoint) -> int:
    """How many members the files have at least, where it is left open which of them is copied; else 0."""
    grown = [growth(s) for e in checkpoint.entries for s in e.steps if s.construct == "grow"]
    return min((how.members for how in grown if how.like == "given"), default=0)
