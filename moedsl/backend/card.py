"""README.md of a printed package: a model card in numbers, a drawing, and how to use it."""

from __future__ import annotations

from dataclasses import dataclass

import moedsl
from moedsl.backend.header import header
from moedsl.backend.plan_classes import Names
from moedsl.backend.plan_words import count
from moedsl.ir.graph import Graph
from moedsl.ir.info import Info, Row, info_table
from moedsl.source import Source


@dataclass(frozen=True)
class CardView:
    header: str
    title: str
    summary: str
    table: tuple[str, ...]
    drawing: tuple[str, ...]
    usage: tuple[str, ...]


def plan_card(
    graph: Graph, about: str, source: Source, settings: tuple[str, ...], package: str, names: Names
) -> CardView:
    info = info_table(graph)
    return CardView(
        "<!--" + header(source, settings, moedsl.__version__, comment="") + " -->",
        graph.name,
        _summary(about, info),
        table(info),
        drawing(info),
        usage(package, names.classes[graph.root]),
    )


def _summary(about: str, info: Info) -> str:
    doc = " ".join(about.split())
    total, active = info.total.total, info.total.active
    numbers = f"{count(total)} parameters"
    numbers += f", {count(active)} of them active for a token." if active != total else "."
    return "\n\n".join(part for part in (doc, numbers) if part)


def table(info: Info) -> tuple[str, ...]:
    """One line per run of equal places."""
    head = ("place", "what", "experts", "chosen", "parameters of one", "active for a token")
    body = [_cells(row) for row in info.rows]
    total = ("**total**", "", "", "", f"{info.total.total:,}", f"{info.total.active:,}")
    rows = [head, *body, total]
    width = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [_line(row, width) for row in rows]
    rule = "| " + " | ".join(
        "-" * (w - 1) + (":" if i >= 2 else "-") for i, w in enumerate(width)
    ) + " |"  # fmt: skip
    return (lines[0], rule, *lines[1:])


def _cells(row: Row) -> tuple[str, ...]:
    experts = str(row.experts) if row.experts else ""
    picks = f"{row.picks:g}" if row.experts else ""
    what = row.unit or row.kind
    return (
        f"`{row.path}`",
        what,
        experts,
        picks,
        f"{row.counts.total:,}",
        f"{row.counts.active:,}",
    )


def _line(cells: tuple[str, ...], width: list[int]) -> str:
    padded = [
        c.ljust(w) if i < 2 else c.rjust(w)
        for i, (c, w) in enumerate(zip(cells, width, strict=True))
    ]
    return "| " + " | ".join(padded) + " |"


def drawing(info: Info) -> tuple[str, ...]:
    """The stream from bottom to top as a strip; a mixture's line shows its experts, the chosen ones filled."""
    lines = ["tokens"]
    for row in info.rows:
        times = f" x {row.count}" if row.count > 1 else ""
        lines += ["  |", f"[ {row.path}{times} ]{_experts(row)}"]
    return (*lines, "  |", "logits")


def _experts(row: Row) -> str:
    if not row.experts:
        return ""
    shown = min(row.experts, 16)
    filled = min(max(1, round(row.picks)), shown)
    dots = "#" * filled + "." * (shown - filled) + ("..." if shown < row.experts else "")
    return f"  {dots}  {row.picks:g} of {row.experts} experts"


def usage(package: str, model: str) -> tuple[str, ...]:
    return (
        "import torch",
        f"from {package} import {model}",
        "",
        f"model = {model}()",
        "model.init_weights(seed=0)",
    )
