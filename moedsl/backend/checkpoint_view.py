"""What checkpoint.py of a printed package needs to know: the declared names as loops over layers and experts.

A map prints as a generator that reads as a table, one line for each entry of the spec:

    for i in range(32):
        file, here = f"model.layers.{i}", f"layer.{i}"
        yield Entry(f"{file}.self_attn.q_proj.weight", f"{here}.gqa.q.weight")
        for e in range(8):
            expert = f"{file}.block_sparse_moe.experts.{e}"
            yield Entry(f"{expert}.w1.weight", f"{here}.sparse.experts.gate_up", (e, GATE))

Layers get loops of their own only where they differ in what an entry says of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import field

from moedsl.backend.checkpoint_fills import filled
from moedsl.backend.checkpoint_lines import BRACES, Block, Line, quoted, safe, table_lines
from moedsl.backend.naming import attribute, identifier
from moedsl.backend.plan_lines import fits, indented
from moedsl.frozen import frozen, record
from moedsl.ir.checkpoint_map import Layout, Places, Row, Target, match
from moedsl.ir.graph import Graph, Storage
from moedsl.ir.one_way import is_start
from moedsl.model.terms import Checkpoint, Items, PathPattern, Text

_CONSTANTS = frozenset({"SINGLE", "INDEX", "IGNORED", "FORMATS", "ALL"})


@frozen(kw_only=True)
class FormatView:
    """One declared checkpoint. `lines`: the body of its generator, at depth 0."""

    name: str
    function: str
    lines: tuple[str, ...]
    ignored: tuple[str, ...] = ()


@frozen(kw_only=True)
class CheckpointView:
    """checkpoint.py. No formats: the names in the file are the model's own. `constants`: slices that entries name."""

    formats: tuple[FormatView, ...] = ()
    constants: tuple[str, ...] = ()
    partial: bool = False
    transposed: bool = False
    joined: bool = False
    interleaved: bool = False

    @property
    def stepped(self) -> bool:
        """Some entry says more than what it fills."""
        return self.transposed or self.joins

    @property
    def joins(self) -> bool:
        return self.joined or self.interleaved

    @property
    def several(self) -> bool:
        return len(self.formats) > 1

    @property
    def ignored(self) -> tuple[str, ...]:
        """The lines that bind IGNORED."""
        names = dict.fromkeys(name for format in self.formats for name in format.ignored)
        items = [quoted(name) for name in names]
        if len(items) == 1:
            return (f"IGNORED = ({items[0]},)",)
        one = f"IGNORED = ({', '.join(items)})"
        if not items or fits(one):
            return (one,) if items else ()
        return ("IGNORED = (", *indented([f"{item}," for item in items]), ")")

    @property
    def named(self) -> tuple[str, ...]:
        """The lines that bind FORMATS."""
        items = [f"{quoted(format.name)}: {format.function}" for format in self.formats]
        one = f"FORMATS = {{{', '.join(items)}}}"
        return (one,) if fits(one) else ("FORMATS = {", *indented([f"{i}," for i in items]), "}")

    @property
    def source(self) -> str:
        if not self.formats:
            return "entries(model)"
        return "FORMATS[format]()" if self.several else f"{self.formats[0].function}()"

    @property
    def entry_text(self) -> str:
        """The docstring of Entry."""
        what = (
            "the parameter, or the part of one, that it fills" if self.partial else "what it fills"
        )
        lines = [f"A tensor of the file, and {what}."]
        if self.transposed or self.joins:
            lines.append("")
        if self.transposed:
            lines.append("transposed: in the file its last two axes stand the other way round.")
        if self.joined:
            lines.append("joined: entries of one tensor follow one another along this axis.")
        if self.interleaved:
            lines.append("interleaved: entries of one tensor take turns along this axis.")
        if self.transposed and self.joins:
            lines.append("An axis is counted in the parameter's order.")
        body = "\n".join(f"    {line}" if line else "" for line in lines).lstrip()
        return f"{body}\n    " if len(lines) > 1 else body


def plan_checkpoint(graph: Graph) -> CheckpointView:
    """The view of every checkpoint that the spec declares; its map is sound (checks/checkpoint.py)."""
    checkpoints = graph.model.checkpoints if graph.model is not None else ()
    both_ways = [each for each in checkpoints if not is_start(each)]
    return plan_formats(both_ways, Places.of(graph)) if both_ways else CheckpointView()


def plan_formats(checkpoints: Sequence[Checkpoint], places: Places) -> CheckpointView:
    table = Table(sizes_of(places.weights))
    blocks = [table.blocks(match(checkpoint, places)[0]) for checkpoint in checkpoints]
    stepped = bool(table.used & {"transposed", "joined", "interleaved"})
    formats = [
        FormatView(
            name=checkpoint.name,
            function=f"{identifier(checkpoint.name)}_entries" if blocks[1:] else "entries",
            lines=tuple(table_lines(own, stepped)),
            ignored=ignored_of(checkpoint),
        )
        for checkpoint, own in zip(checkpoints, blocks, strict=True)
    ]
    return CheckpointView(
        formats=tuple(formats),
        constants=tuple(table.constants()),
        partial="part" in table.used,
        transposed="transposed" in table.used,
        joined="joined" in table.used,
        interleaved="interleaved" in table.used,
    )


def ignored_of(checkpoint: Checkpoint) -> tuple[str, ...]:
    term = dict(checkpoint.source.settings).get("ignore")
    items = [item for _, item in term.items] if isinstance(term, Items) else [term]
    return tuple(item.value for item in items if isinstance(item, Text))


def sizes_of(weights: Iterable[Storage]) -> dict[str, int]:
    """How long each parameter is along the axis in which weights of the spec share it."""
    sizes: dict[str, int] = {}
    for weight in weights:
        if weight.axis is not None:
            end = weight.start + weight.length
            sizes[weight.module] = max(end, sizes.get(weight.module, 0))
    return sizes


# --- from rows to entries ------------------------------------------------------------------------


@record
class Table:
    """Prints rows, and remembers which slices and fields they used."""

    sizes: dict[str, int]
    slices: dict[str, tuple[int, int]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def blocks(self, rows: Sequence[Row]) -> list[Block]:
        """Entries in the map's order, each with the layers that it holds for."""
        found: dict[tuple[int, int, tuple[str, ...], Line], list[tuple[int, ...]]] = {}
        for row in rows:
            variables = tuple(name for name, _ in row.binding)
            values = tuple(value for _, value in row.binding)
            for number, line in enumerate(self._entries(row)):
                found.setdefault((id(row.entry), number, variables, line), []).append(values)
        return [Block(names, tuple(values), line) for (_, _, names, line), values in found.items()]

    def _entries(self, row: Row) -> list[Line]:
        names = {name: safe(name) for name, _ in row.binding} | {row.expert: safe(row.expert)}
        file = BRACES.sub(lambda m: f"{{{names.get(m[1], m[1])}}}", row.entry.file)
        targets, layout = self._merged(row)
        expert = names[row.expert] if row.expert else ""
        lines = []
        for target, path in zip(targets, row.entry.paths, strict=False):
            rest = (*self._part(target, names), *self._layout(layout))
            module = _templated(target, path, names)
            lines += filled(row, Line(file, module, rest, expert, row.experts), self.used)
        return lines

    def _merged(self, row: Row) -> tuple[tuple[Target, ...], Layout]:
        """Places that follow one another in the file as they do in one parameter are that parameter."""
        first, *others = row.targets
        axis = row.layout.axis + (first.expert is not None)
        end = 0
        for target in row.targets:
            same = (target.storage.module, target.expert) == (first.storage.module, first.expert)
            if not same or (target.storage.axis, target.storage.start) != (axis, end):
                return row.targets, row.layout
            end += target.storage.length
        if row.layout.join != "joined" or not others or end != self.sizes[first.storage.module]:
            return row.targets, row.layout
        whole = Storage(
            first.storage.path, first.storage.module, first.storage.shape, bank=first.storage.bank
        )
        return (Target(whole, first.expert),), Layout(row.layout.transposed)

    def _part(self, target: Target, names: dict[str, str]) -> list[str]:
        index: list[str] = []
        if target.expert is not None:
            expert = target.expert
            index.append(str(expert) if isinstance(expert, int) else names[expert])
        if (
            target.storage.axis is not None
            and target.storage.length != self.sizes[target.storage.module]
        ):
            if not index and target.storage.axis:
                index.append(self._all())
            index.append(self._slice(target.storage))
        if not index:
            return []
        self.used.add("part")
        return [index[0] if len(index) == 1 else f"({', '.join(index)})"]

    def _layout(self, layout: Layout) -> list[str]:
        fields = []
        if layout.transposed:
            self.used.add("transposed")
            fields.append("transposed=True")
        if layout.join:
            self.used.add(layout.join)
            fields.append(f"{layout.join}={layout.axis}")
        return fields

    def _all(self) -> str:
        self.used.add("ALL")
        return "ALL"

    def _slice(self, storage: Storage) -> str:
        """A constant named after the role; another slice of that name stands in place."""
        span = (storage.start, storage.start + storage.length)
        role = storage.path.removesuffix(".weight").removesuffix(".bias").rpartition(".")[2]
        name = identifier(role).upper()
        if name not in _CONSTANTS and self.slices.setdefault(name, span) == span:
            return name
        return f"slice({span[0]}, {span[1]})"

    def constants(self) -> list[str]:
        fixed = ["ALL = slice(None)"] if "ALL" in self.used else []
        return fixed + [f"{name} = slice({a}, {b})" for name, (a, b) in self.slices.items()]


def _templated(target: Target, path: PathPattern, names: dict[str, str]) -> str:
    """The parameter's name, with the path's variables for the numbers of its layers."""
    asked = [part[1] for part in path.parts if isinstance(part, tuple)]
    if target.expert is not None:
        asked.remove(target.expert)  # the bank's own index is in the part
    numbers = iter(asked)
    parts = []
    for part in attribute(target.storage.module).split("."):
        index = next(numbers, None) if part.isdigit() else None
        parts.append(f"{{{names[index]}}}" if isinstance(index, str) else part)
    return ".".join(parts)
