"""How weights start: one start, a flow of a start and its changes, or several by name."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from moedsl.constructs.declare import RecipeOf, Starts
from moedsl.model import terms, values
from moedsl.model.run import Run
from moedsl.model.scope import At, Env, Layer
from moedsl.syntax import ast

if TYPE_CHECKING:
    from moedsl.model.values import Slot, Some

_ONE = RecipeOf(kinds=("init",), flows=True, words=Starts.words)
_SHOWN = "`[all = normal(0.02), router = zeros]`"


def coerce(
    run: Run, slot: Slot, expr: ast.Expr, env: Env, at: At, edits: tuple[Layer, ...]
) -> Some:
    single = replace(slot, setting=_ONE)
    if not isinstance(expr, ast.List):
        return _checked(run, values.coerce(run, single, expr, env, at, edits))
    found: list[tuple[str | None, terms.Term]] = []
    for item in expr.items:
        if item.name is None or item.name in dict(found):
            said = f"names `{item.name}` twice" if item.name else "wants a name for each start"
            run.sink.error(
                "E0210",
                f"{slot.what} {said}",
                at.where(item.value),
                help=f"{_SHOWN}: the word of a place, a role, a kind, or `all`",
            )
            return None
        term = _checked(run, values.coerce(run, single, item.value, env, at))
        if term is None:
            return None
        found.append((item.name, term))
    return terms.Items(tuple(found), at.where(expr))


def _checked(run: Run, term: Some) -> Some:
    """Only what comes first in a flow draws; what follows changes the draw."""
    stages = term.stages if isinstance(term, terms.Flow) else ()
    for stage in stages[1:]:
        assert isinstance(stage, terms.Recipe)
        if getattr(run.registry[stage.construct], "draws", False):
            run.sink.error(
                "E0236",
                f"`{stage.name}` starts anew what was drawn before it",
                stage.span,
                "a start comes first",
                help="after the arrow stands what changes a draw: `normal(0.02) -> alike`",
            )
            return None
    return term
