"""Tables for a terminal, drawn by rich."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from moedsl.cli.reference import Entry
from moedsl.cli.units import bytes_text, count_text
from moedsl.ir.info import Counts, Info, Row
from moedsl.ir.routers import RouterNote
from moedsl.trial.record import TrialRecord
from moedsl.trial.verdict import bits

WIDE = 118  # columns where the output is a file or a pipe


def console() -> Console:
    """Without markup: brackets in a spec are brackets."""
    found = Console(highlight=False, markup=False)
    return found if found.is_terminal else Console(highlight=False, markup=False, width=WIDE)


def print_info(info: Info, routers: tuple[RouterNote, ...] = (), causality: str = "") -> None:
    total = info.total
    table = Table(
        box=box.SIMPLE_HEAD,
        title_justify="left",
        title=_headline(info),
        title_style="bold",
        pad_edge=False,
    )
    table.add_column("layer", overflow="fold")  # what gives way where a line is full
    table.add_column("kind", no_wrap=True)
    for name in (
        "experts",
        "k",
        "total",
        "active",
        "trainable",
        "FLOPs",
        "training",
        "weights",
        "KV/token",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for row in info.rows:
        _add(table, row, 0)
    table.add_section()
    for name, counts in info.stacks:
        table.add_row(f"all of {name}", "", "", "", *_cells(counts))
    table.add_row("total", "", "", "", *_cells(total), style="bold")
    console().print(table)
    console().print(
        f"FLOPs: {_context(info)}, forward; training: forward and backward. "
        "Weights and KV cache in bfloat16. Rows with a range give one layer of it.",
        style="dim",
    )
    for line in (line for router in routers for line in router.lines):
        console().print(line, style="dim")
    if causality not in ("", "causal", "nothing to decode"):
        console().print(f"Predictions: {causality}.", style="dim")


def _context(info: Info) -> str:
    if not info.lengths:
        return f"one token at a context of {info.tokens:,}"
    others = ", ".join(f"{length:,} of {name}" for name, length in info.lengths)
    return f"one token of each stream at a context of {info.tokens:,}, beside {others}"


def _headline(info: Info) -> str:
    total = info.total
    return (
        f"{info.name}: {count_text(total.total)} parameters, "
        f"{count_text(total.active)} active for a token, {count_text(total.trainable)} trainable"
    )


def _add(table: Table, row: Row, depth: int) -> None:
    """The row, and under it the parts that hold experts or are worth a line."""
    experts = f"{row.experts:,}" if row.experts else ""
    picks = f"{row.picks:g}" if row.experts else ""
    name = "  " * depth + (
        row.path if depth else row.path + (f"  ×{row.count}" if row.count > 1 else "")
    )
    table.add_row(name, row.kind, experts, picks, *_cells(row.counts), style="dim" if depth else "")
    if depth == 0:
        for part in row.parts:
            _add(table, part, depth + 1)


def _cells(counts: Counts) -> tuple[str, ...]:
    return (
        count_text(counts.total),
        count_text(counts.active),
        count_text(counts.trainable),
        count_text(counts.flops),
        count_text(counts.training_flops),
        bytes_text(counts.weight_bytes),
        bytes_text(counts.cache_bytes),
    )


def print_constructs(entries: list[Entry]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("kind", style="dim", no_wrap=True)
    table.add_column("construct", style="bold", no_wrap=True)
    table.add_column("what it is")
    before = ""
    for entry in entries:
        if before and entry.kind != before:
            table.add_section()
        table.add_row(entry.kind if entry.kind != before else "", entry.name, entry.title)
        before = entry.kind
    console().print(table)


def print_construct(entry: Entry) -> None:
    out = console()
    out.print(" · ".join((entry.name, entry.kind, *entry.traits)), style="bold")
    out.print(entry.title)
    if entry.body:
        out.print(f"\n{entry.body}")
    if entry.source:
        out.print(f"\nSource: {entry.source}")
    if not entry.settings:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("setting", style="bold", no_wrap=True)
    for name in ("takes", "default", "bounds", "what it does"):
        table.add_column(name)
    for setting in entry.settings:
        default = "required" if setting.default is None else setting.default
        bounds = " ".join(filter(None, (setting.bounds, setting.unit)))
        doc = setting.doc + (" (positional)" if setting.positional else "")
        table.add_row(setting.name, setting.type, default, bounds, doc)
    out.print(table)


def print_markdown(text: str) -> None:
    """Rendered for a person at a terminal, as it is otherwise."""
    out = console()
    if out.is_terminal:
        out.print(Markdown(text))
    else:
        out.file.write(text)


def print_contestants(record: TrialRecord) -> None:
    out = console()
    out.print(
        f"{record.about}; {record.batch} x {record.length} {record.units} in a step"
        if record.unit == "byte"
        else f"{record.about}; {record.batch} in a step",
        style="dim",
    )
    for one in record.contestants:
        sizes = (
            f"{count_text(one.parameters)} parameters, {count_text(one.active)} active for a token"
        )
        out.print(f"  {one.name}: {one.what}; {sizes}")


def print_results(record: TrialRecord) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", style="bold", no_wrap=True)
    for name in (
        "parameters",
        "active",
        f"held-out bits/{record.unit}",
        f"training {record.units}",
        "ms a step",
        f"{record.units}/s",
    ):
        table.add_column(name, justify="right")
    for one in record.contestants:
        table.add_row(
            one.name,
            count_text(one.parameters),
            count_text(one.active),
            f"{bits(one):.3f}",
            f"{one.tokens:,}",
            f"{1000 * one.seconds / max(1, len(one.train_bits)):.0f}",
            f"{one.tokens / max(1e-9, one.seconds):,.0f}",
        )
    console().print(table)
