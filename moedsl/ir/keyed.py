"""Selections by ids and labels, and selections that differ by phase."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from moedsl.ir import ops, problems
from moedsl.ir.graph import Dim, TensorType, Value
from moedsl.ir.shapes import is_ids, spell
from moedsl.model import terms
from moedsl.model.terms import Term

if TYPE_CHECKING:
    from moedsl.ir.build import Builder
    from moedsl.source import Span


def ids_of(build: Builder, recipe: terms.Recipe, by: Term, x: Value) -> Value:
    """The ids that a selection goes by, one for each row of `x`."""
    ids = build.evaluate(by)
    if ids in build.bad:
        return ids
    if not is_ids(ids):
        return problems.ids_and_numbers(build, f"`{recipe.name}`", by.span, ids)
    found = of_rows(build, ids, x)
    if found is not None:
        return found
    build.sink.error(
        "E0414",
        f"`{recipe.name}` wants one id for each token, and gets {spell(ids.type)}",
        by.span,
        "other rows than those that are routed",
        help="name the input of the same stream, or a `label`, which is one for each sequence",
    )
    return build.poison(ids)


def of_rows(build: Builder, ids: Value, x: Value) -> Value | None:
    """Ids that are one for each sequence or for each row of `x`, as those of its rows; None for others."""
    assert isinstance(ids.type, TensorType) and isinstance(x.type, TensorType)
    rows = x.type.dims[0]
    if ids.type.letters == "B" and rows.split == (Dim("B"),):
        return build.op(ops.RowNames(rows=rows), ids)
    if ids.type.letters == "B":
        return build.op(ops.EveryRow(), ids, x)
    return ids if ids.type.dims == x.type.dims[:1] else None


def size_of(ids: Value) -> Dim | None:
    return ids.type.below if isinstance(ids.type, TensorType) else None


def no_size(build: Builder, recipe: terms.Recipe, ids: Value) -> Value:
    build.sink.error(
        "E0414",
        f"nothing says how many different ids `{recipe.name}` can meet",
        recipe.origin("by"),
        "its table needs a row for each",
        help="name an input: `by = tokens`, where `input tokens = ids(vocab)`",
    )
    return build.poison(ids)


def are_choices(build: Builder, recipe: terms.Recipe, ids: Value, choices: Dim) -> bool:
    return name_choices(build, recipe.origin("by"), ids, choices)


def name_choices(build: Builder, at: Span, ids: Value, choices: Dim) -> bool:
    """Are there as many labels as choices?"""
    below = size_of(ids)
    if below is None or below.size == choices.size:
        return True
    build.mismatch(
        "E0414",
        f"a label below {below.size} cannot name one of {choices.size} choices",
        (at, "names a choice"),
        (below.origin, f"{below.size} different ones"),
        (choices.origin, f"{choices.size} choices"),
        help="give both one name: `model m(tasks = 4)`, `label(tasks)` and `tasks * swiglu(64)`",
    )
    return False


def by_phase(build: Builder, select: Term) -> Value:
    """The picks of a router's `select`; those of the phase, where it says `phase(train = ..., eval = ...)`."""
    if not isinstance(select, terms.Phase) or select.train == select.eval == select.decode:
        return build.evaluate(select.train if isinstance(select, terms.Phase) else select)
    if select.decode != select.eval:
        problems.differs_when_decoding(build, select)
    train, else_ = build.evaluate(select.train), build.evaluate(select.eval)
    if {train, else_} & build.bad or not (is_ids(train) and is_ids(else_)):
        return else_ if is_ids(train) else train
    kept, other = build.last(train), build.last(else_)
    choices = build.last(build.scope["x"])
    if kept.size != other.size:  # those that one phase does not have are absent in it
        most = max(kept, other, key=lambda axis: axis.size or 0)
        fewer = train if most is other else else_
        added = abs((kept.size or 0) - (other.size or 0))
        op = ops.FillPicks(kept=replace(most, loose=True), choices=choices, added=added)
        fewer.name = ""
        filled = build.op(op, fewer)
        train, else_ = (filled, else_) if fewer is train else (train, filled)
        kept = replace(most, loose=True)
    train.name = else_.name = ""  # written where the phase asks for them
    kept = replace(kept, loose=kept.loose or other.loose)
    return build.op(ops.ByPhase(kept=kept), train, else_, name="expert")
