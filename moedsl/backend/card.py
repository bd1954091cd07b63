"""README.md of a printed package: a model card in numbers, a drawing, and how to use it."""

from __future__ import annotations

import moedsl
from moedsl.backend.card_drawing import drawing
from moedsl.backend.header import header
from moedsl.backend.naming import identifier, output_fields
from moedsl.backend.plan_lines import call_lines
from moedsl.backend.plan_words import count
from moedsl.backend.statements import suffix
from moedsl.frozen import frozen
from moedsl.ir.graph import Graph, TensorType, Unit
from moedsl.ir.info import Info, Row, info_table
from moedsl.ir.routers import RouterNote, routers
from moedsl.ir.shapes import MAIN, is_ids, stream_of
from moedsl.source import Source

HEAD = ("place", "what", "experts", "chosen", "parameters of one", "active for a token")


@frozen
class CardView:
    header: str
    title: str
    summary: tuple[str, ...]
    table: tuple[str, ...]
    drawing: tuple[str, ...]
    usage: tuple[str, ...]
    training: tuple[str, ...]
    padded: bool = True
    rooms: tuple[str, ...] = ()


def plan_card(
    graph: Graph,
    about: str,
    source: Source,
    settings: tuple[str, ...],
    exported: tuple[str, ...],
    classes: dict[Unit, str],
) -> CardView:
    """`exported` are the names that the package gives; `classes` those of its units."""
    info = info_table(graph)
    return CardView(
        "<!--" + header(source, settings, moedsl.__version__, comment="") + " -->",
        graph.name,
        (*about.splitlines(), "", numbers(info)),
        table(info),
        drawing(graph, classes),
        usage(graph, exported, classes[graph.root]),
        training(graph, adapts="tally" in exported),
        _reads_tokens(graph),
        rooms(routers(graph)),
    )


def rooms(notes: tuple[RouterNote, ...]) -> tuple[str, ...]:
    """Whose experts have limited room, and what is expected to find none."""
    return tuple(f"- `{note.places}`, {room}" for note in notes for room in note.rooms)


def numbers(info: Info) -> str:
    total, active = info.total.total, info.total.active
    some = f", {count(active)} of them active for a token" if active != total else ""
    return f"{count(total)} parameters{some}."


def table(info: Info) -> tuple[str, ...]:
    """One line per run of equal places, and below a layer its parts."""
    rows: list[tuple[str, ...]] = [HEAD]
    for row in info.rows:
        rows.append(_cells(row, row.path, f" x {row.count}" if row.count > 1 else ""))
        rows.extend(_cells(part, f"{row.path}.{part.path}") for part in row.parts if part.experts)
    rows.append(("**total**", "", "", "", f"{info.total.total:,}", f"{info.total.active:,}"))
    width = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    lines = [_line(row, width) for row in rows]
    rules = ["-" * (w - 1) + (":" if i >= 2 else "-") for i, w in enumerate(width)]
    return (lines[0], f"| {' | '.join(rules)} |", *lines[1:])


def _cells(row: Row, path: str, times: str = "") -> tuple[str, ...]:
    experts = str(row.experts) if row.experts else ""
    picks = f"{row.picks:g}" if row.experts else ""
    what = f"{row.unit or row.kind}{times}"
    return (f"`{path}`", what, experts, picks, f"{row.counts.total:,}", f"{row.counts.active:,}")


def _line(cells: tuple[str, ...], width: list[int]) -> str:
    pairs = enumerate(zip(cells, width, strict=True))
    padded = [cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in pairs]
    return f"| {' | '.join(padded)} |"


def usage(graph: Graph, exported: tuple[str, ...], model: str) -> tuple[str, ...]:
    """Make it, fill it, run it."""
    calls = [
        name for name in ("generate", "load_checkpoint", "save_checkpoint") if name in exported
    ]
    lines = [
        "import torch",
        "",
        *call_lines(f"from {graph.name} import ", [model, *calls], brackets=False),
        "",
        f"model = {model}()",
        "model.init_weights(seed=0)",
    ]
    if "load_checkpoint" in calls:
        lines += ['save_checkpoint(model, "weights")', 'load_checkpoint(model, "weights")']
    given = inputs(graph)
    lines += ["", *(f"{name} = {made}" for name, made in given.items())]
    said = call_lines("said_BT = generate", ["model", *given, "max_new_tokens=8"])
    return (*lines, *(said if "generate" in calls else ()))


def _reads_tokens(graph: Graph) -> bool:
    return any(is_ids(value) and stream_of(value) for value in graph.root.inputs)


def inputs(graph: Graph) -> dict[str, str]:
    """Something of the right shape for each input."""
    found = {}
    given = getattr(graph.model, "inputs", ())
    sizes = {one.name: one.recipe.settings[0][1] for one in given if one.recipe.settings}
    for value in graph.root.inputs:
        assert isinstance(value.type, TensorType)
        axes = ["2", *(str(dim.size or 16) for dim in value.type.dims[1:])]
        shape = f"({', '.join(axes)}{',' if len(axes) == 1 else ''})"
        below = getattr(sizes.get(value.name), "value", 2)
        ids = value.type.dtype == "int"
        made = f"torch.randint({below}, {shape})" if ids else f"torch.randn({shape[1:-1]})"
        found[f"{identifier(value.name)}_{suffix(value)}"] = made
    return found


def training(graph: Graph, adapts: bool) -> tuple[str, ...]:
    after = (
        "# optimizer.step(), then what follows the load:",
        "model.adapt(tally(output.routing))",
    )
    if not _reads_tokens(graph):
        (first, *_) = output_fields([value.name for value in graph.root.outputs])
        return (
            f"output = model({', '.join(inputs(graph))})",
            f"loss = torch.nn.functional.cross_entropy(output.{first}, label_B)",
            "(loss + sum(output.losses.values())).backward()",
            *(after if adapts else ()),
        )
    main = next((v for v in graph.root.inputs if stream_of(v) == MAIN), graph.root.inputs[0])
    tokens = f"{identifier(main.name)}_{suffix(main)}"
    return (
        f"output = model({', '.join(inputs(graph))})",
        "loss = torch.nn.functional.cross_entropy(",
        f"    output.logits[:, :-1].flatten(0, 1), {tokens}[:, 1:].flatten()",
        ")",
        "(loss + sum(output.losses.values())).backward()",
        *(after if adapts else ()),
    )
