"""What a spec amounts to, as plain data: the rows that `moedsl info` prints and the object its JSON is."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from fractions import Fraction
from typing import Any

from moedsl.frozen import frozen
from moedsl.ir.cost import Cost, Line, Sum, cost
from moedsl.ir.graph import Graph
from moedsl.ir.ranges import ranges

_INDEX = re.compile(r"\[(\d+)\]")


@frozen(kw_only=True)
class Counts:
    """The counts of one place, as they are shown."""

    total: int
    active: int
    trainable: int
    flops: int
    training_flops: int
    weight_bytes: int
    cache_bytes: int


@frozen(kw_only=True)
class Row:
    """Equal places in a row: `path` has the range (`layer[0..31]`), `counts` are those of one of them."""

    path: str
    unit: str
    kind: str
    count: int
    experts: int
    picks: float
    counts: Counts
    parts: tuple[Row, ...] = ()


@frozen(kw_only=True)
class Info:
    """A model in numbers. `flops` are for one token (of each stream) at a context of `tokens`, other streams being as
    long as `lengths` says. `stacks`: all layers of each stack, where there are several."""

    name: str
    tokens: int
    total: Counts
    rows: tuple[Row, ...]
    lengths: tuple[tuple[str, int], ...] = ()
    stacks: tuple[tuple[str, Counts], ...] = ()

    def json(self) -> dict[str, Any]:
        """`parameters` and `flops` for who reads numbers, `layers` for who reads tables."""
        return {
            "name": self.name,
            "tokens": self.tokens,
            **({"lengths": dict(self.lengths)} if self.lengths else {}),
            "parameters": {
                "total": self.total.total,
                "active": self.total.active,
                "trainable": self.total.trainable,
            },
            "flops": {"forward": self.total.flops, "training": self.total.training_flops},
            "bytes": {"weights": self.total.weight_bytes, "cache": self.total.cache_bytes},
            "layers": [asdict(row) for row in self.rows],
            **({"stacks": {name: asdict(c) for name, c in self.stacks}} if self.stacks else {}),
        }


def info_table(graph: Graph, tokens: int = 1, lengths: dict[str, int] | None = None) -> Info:
    counted: Cost = cost(graph, tokens, lengths)
    return Info(
        name=counted.name,
        tokens=tokens,
        total=_counts(counted.total),
        rows=_rows(counted.layers),
        lengths=counted.lengths,
        stacks=_stacks(counted.layers),
    )


def _stacks(lines: tuple[Line, ...]) -> tuple[tuple[str, Counts], ...]:
    found: dict[str, Sum] = {}
    for line in lines:
        if match := _INDEX.search(line.path):
            name = line.path[: match.start()]
            found[name] = found.get(name, Sum()) + line.sum
    return tuple((n, _counts(s)) for n, s in found.items()) if len(found) > 1 else ()


def _rows(lines: tuple[Line, ...]) -> tuple[Row, ...]:
    """One row for all places that differ in nothing but their number; places that cost nothing are left out."""
    equal: dict[Line, list[str]] = {}
    for line in lines:
        if line.path and line.sum != Sum():
            equal.setdefault(replace(line, path=_INDEX.sub("[]", line.path)), []).append(line.path)
    return tuple(_row(paths, line) for line, paths in equal.items())


def _row(paths: list[str], line: Line) -> Row:
    return Row(
        path=", ".join(ranges(paths)),
        unit=line.unit,
        kind=line.kind,
        count=len(paths),
        experts=line.experts,
        picks=_plain(line.picks),
        counts=_counts(line.sum),
        parts=_rows(line.parts),
    )


def _counts(counted: Sum) -> Counts:
    return Counts(
        total=counted.total,
        active=counted.active,
        trainable=counted.trainable,
        flops=counted.flops,
        training_flops=counted.training_flops,
        weight_bytes=counted.weight_bytes,
        cache_bytes=counted.cache_bytes,
    )


def _plain(number: Fraction) -> float:
    return number.numerator if number.denominator == 1 else float(number)
