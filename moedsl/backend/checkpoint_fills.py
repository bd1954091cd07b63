"""How a weight is filled where it is not by a copy: `fill=Copies(e, axis=1)`, `fill=Grow(8, like=0)`."""

from __future__ import annotations

from dataclasses import replace

from moedsl.backend.checkpoint_lines import Line
from moedsl.ir.checkpoint_map import Row
from moedsl.ir.graph import Storage
from moedsl.ir.one_way import Growth, growth
from moedsl.model.terms import Number, Recipe, Term


def filled(row: Row, line: Line, used: set[str]) -> list[Line]:
    """The lines of an entry, with their last step. `used`: what start.py needs for it."""
    if row.start is None:
        return [line]
    if row.start.construct == "grow":
        return _grown(growth(row.start, row.targets[0].storage), line, used)
    used.add(row.start.construct)
    return [_with(line, _fill(row.start, line.expert))]


def in_one(start: Recipe, weight: Storage) -> str:
    """What fills a weight from one tensor with all of its members."""
    return _grow(growth(start, weight)) if start.construct == "grow" else _fill(start, "")


def _fill(start: Recipe, expert: str) -> str:
    given = [
        f"{name}={_spelled(term)}"
        for name, term in start.settings
        if name in start.given or name == "init"
    ]
    first = [expert] if start.construct == "copies" else []
    return f"{start.construct.title()}({', '.join([*first, *given])})"


def _grown(how: Growth, line: Line, used: set[str]) -> list[Line]:
    """One entry where all members are in one tensor; where each has its own, those of the files, then the new ones."""
    like = _copied(how)
    if not line.expert:
        used.add("grow")
        return [_with(line, _grow(how))]
    old = replace(line, experts=how.members)
    new = replace(line, first=how.members)
    if not like:
        used.add("fresh")
        drawn = replace(new, file="", rest=_untransposed(new.rest))
        return [old, _with(drawn, f"Fresh(std={how.noise!r})")]
    copy = f"{{{like}}}" if how.like == "given" else like
    new = replace(new, file=line.file.replace(f"{{{line.expert}}}", copy))
    if not how.noise:
        return [old, new]
    used.add("noisy")
    return [old, _with(new, f"Noisy({how.noise!r})")]


def _copied(how: Growth) -> str:
    return "" if how.like is None else "like" if how.like == "given" else str(how.like)


def _grow(how: Growth) -> str:
    said = {"like": _copied(how), "start": how.start or "", "noise": how.noise or ""}
    given = [f"{name}={value}" for name, value in said.items() if value != ""]
    return f"Grow({', '.join([str(how.members), *given])})"


def _untransposed(rest: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(item for item in rest if item != "transposed=True")


def _with(line: Line, fill: str) -> Line:
    return replace(line, rest=(*line.rest, f"fill={fill}"))


def _spelled(term: Term) -> str:
    return f"{term.value!r}" if isinstance(term, Number) else f'"{getattr(term, "text", "")}"'
