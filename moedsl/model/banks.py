"""Recipes side by side: only the outermost count of a bank counts copies; what is inside parentheses is a flow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moedsl.diagnostics.model import Edit
from moedsl.model import evaluate, flows, foresee, limits, misfits, terms
from moedsl.model.run import Run
from moedsl.model.scope import At, Env, Layer
from moedsl.source import Span
from moedsl.syntax import ast

if TYPE_CHECKING:
    from moedsl.model.values import Slot

Some = terms.Term | None
Edits = tuple[Layer, ...]


def bank(run: Run, slot: Slot, expr: ast.Expr, env: Env, at: At, edits: Edits) -> Some:
    """`8 * swiglu(64)`, a recipe, a word, or kinds by name."""
    if isinstance(expr, ast.List) and not edits:
        found = [(item.name, _kind(run, slot, item.value, env, at, ())) for item in expr.items]
        if any(term is None for _, term in found):
            return None
        return terms.Items(tuple(found), at.where(expr))  # type: ignore[arg-type]
    return _kind(run, slot, expr, env, at, edits)


def _kind(run: Run, slot: Slot, expr: ast.Expr, env: Env, at: At, edits: Edits) -> Some:
    from moedsl.model import values

    if _ambiguous(run, expr, env):
        return None
    if isinstance(expr, ast.Binary) and _counts(run, expr, env):
        n = flows.count(run, expr.left, env, at, limits.MAX_COPIES)
        recipe = evaluate.evaluate(run, expr.right, env, at, edits)
        fitted = None if recipe is None else values.fit(run, slot, recipe, at.where(expr.right))
        if n is None or fitted is None or isinstance(fitted, terms.Word):
            return None
        return terms.Copies(n, fitted, at.where(expr))
    term = evaluate.evaluate(run, expr, env, at, edits)
    return None if term is None else values.fit(run, slot, term, at.where(expr))


def _counts(run: Run, expr: ast.Expr, env: Env) -> bool:
    return (
        isinstance(expr, ast.Binary)
        and expr.operator == "*"
        and foresee.classify(run, expr.left, env) == "number"
        and foresee.classify(run, expr.right, env) != "number"
    )


def _ambiguous(run: Run, expr: ast.Expr, env: Env) -> bool:
    """A count beside an arrow or a sum, without parentheses."""
    first: ast.Expr | None = None
    if isinstance(expr, ast.Flow) and not expr.parenthesised:
        first = expr.stages[0]
    elif isinstance(expr, ast.Binary) and expr.operator in "+-" and not expr.parenthesised:
        first = expr.left
    if not isinstance(first, ast.Binary) or first.parenthesised or not _counts(run, first, env):
        return False
    file = expr.span.file
    inner = Span(first.right.span.start, first.right.span.start, file)
    end = Span(expr.span.end, expr.span.end, file)
    edits = (Edit(inner, "("), Edit(end, ")"))
    count = first.left.text if isinstance(first.left, ast.Number) else "count"
    arrow = "->" if isinstance(expr, ast.Flow) else expr.operator  # type: ignore[union-attr]
    rest = f"a {arrow} b"
    misfits.two_readings(run.sink, expr.span, count, rest, edits, f"({count} * a) {arrow} b")
    return True


def size(term: terms.Term | None) -> int | None:
    """How many choices a bank has."""
    match term:
        case terms.Copies(count):
            return count
        case terms.Items(items):
            return sum(size(item) or 0 for _, item in items)
        case None | terms.Word():
            return None
    return 1
