"""Flows are written out: counts multiplied, blocks numbered from 0, plans by layer looked up and their lengths checked.

3 * dense -> 58 * sparse    ->    Flow(Copies(3, dense), Copies(58, sparse))
4 * layer(by_layer(2 * (local -> full)))    ->    layer(local), layer(full), layer(local), layer(full)
"""

from __future__ import annotations

from moedsl.diagnostics.model import Edit, Label
from moedsl.frozen import record
from moedsl.model import algebra, evaluate, foresee, limits, misfits, terms
from moedsl.model.run import Run
from moedsl.model.scope import At, Env, Layer, Numbering, Plan
from moedsl.source import Span
from moedsl.syntax import ast

Stages = list[tuple[int, terms.Term, Span]]


def flow(
    run: Run, expr: ast.Expr, env: Env, at: At, edits: tuple[Layer, ...] = ()
) -> terms.Term | None:
    """One flow, from a `Flow` or a count: a numbering of its own."""
    numbering = Numbering()
    writing = _Writing(run, numbering, env, at, edits)
    whole = writing.write(expr)
    if not whole:
        return None
    _check_plans(run, numbering, writing.position, at.where(expr))
    return algebra.compose(run, writing.stages, at.where(expr))


@record
class _Writing:
    """Writes the stages of one flow out, in order. `position`: blocks so far."""

    run: Run
    numbering: Numbering
    env: Env
    at: At
    edits: tuple[Layer, ...]
    position: int = 0
    total: int = 0

    def __post_init__(self) -> None:
        self.stages: Stages = []

    def write(self, expr: ast.Expr) -> bool:
        match expr:
            case ast.Flow(stages):
                written = [
                    self.write(stage) for stage in stages
                ]  # all of them: each has mistakes to tell
                return all(written)
            case ast.Binary("*", left, right) if (
                foresee.classify(self.run, left, self.env) == "number"
            ):
                return self._repeat(left, right)
        return self._stage(expr)

    def _stage(self, expr: ast.Expr) -> bool:
        run, span = self.run, self.at.where(expr)
        at = At(self.position, self.numbering, self.at, self.at.choices, self.at.blame)
        run.keep(expr, self.env, *self.edits)
        key = ("stage", id(expr), id(self.env), id(self.numbering), *map(id, self.edits))
        term = run.remember(key, at, lambda: evaluate.evaluate(run, expr, self.env, at, self.edits))
        if term is None:
            return False
        for stage in term.stages if isinstance(term, terms.Flow) else (term,):
            self._append(stage, span)
        return self._check_length(span)

    def _append(self, term: terms.Term, span: Span) -> None:
        self.position += algebra.blocks(self.run, term)
        count, recipe = (term.count, term.recipe) if isinstance(term, terms.Copies) else (1, term)
        self.total += count
        self.stages.append((count, recipe, span))

    def _repeat(self, count_expr: ast.Expr, what: ast.Expr) -> bool:
        n = count(self.run, count_expr, self.env, self.at, limits.MAX_LAYERS)
        if n is None:
            self.write(what)  # for its own mistakes
            return False
        start, first, before = len(self.stages), self.position, self.total
        good, asked = self.run.recorded(lambda: self.write(what))
        if not good or n == 1:
            return good
        if any(isinstance(dep, tuple) and self.numbering in dep for dep in asked):
            return all(self.write(what) and self._check_length(what.span) for _ in range(n - 1))
        self.total += (n - 1) * (self.total - before)
        if not self._check_length(self.at.where(what)):
            return False
        self._multiply(start, first, n)
        return True

    def _multiply(self, start: int, first: int, n: int) -> None:
        written = self.stages[start:]
        self.position += (n - 1) * (self.position - first)
        if len(written) == 1:
            each, term, where = written[0]
            self.stages[start:] = [(each * n, term, where)]
        else:
            self.stages[start:] = written * n

    def _check_length(self, span: Span) -> bool:
        if self.total > limits.MAX_LAYERS:
            too_many(self.run, span)
        return self.total <= limits.MAX_LAYERS


def too_many(run: Run, span: Span) -> None:
    message = f"a flow may have {limits.MAX_LAYERS:,} stages at most, and this makes more"
    run.sink.error("E0230", message, span)


def count(run: Run, expr: ast.Expr, env: Env, at: At, most: int) -> int | None:
    """The number in front of `*`, as a count."""
    term = evaluate.evaluate(run, expr, env, at)
    if term is None:
        return None
    if not isinstance(term, terms.Number):
        misfits.wrong_type(run.sink, "a count", "a number", term, at.where(expr))
        return None
    if term.value != int(term.value) or term.value < 1:
        misfits.bad_count(run.sink, term.value, at.where(expr))
        return None
    if term.value > most:
        message = f"{misfits.shown(term.value)} copies are too many: at most {most:,}"
        run.sink.error("E0230", message, at.where(expr))
        return None
    return int(term.value)


def product(
    run: Run, expr: ast.Binary, env: Env, at: At, edits: tuple[Layer, ...]
) -> terms.Term | None:
    """`a * b`: numbers multiplied, copies in sequence, or what comes out multiplied."""
    left = foresee.classify(run, expr.left, env)
    right = foresee.classify(run, expr.right, env)
    if left == "number" and right == "recipe":
        return flow(run, expr, env, at, edits)
    if edits:
        evaluate.uneditable(run, expr, at)
        return None
    if left == "recipe" and right == "number" and not at.blame:
        _swapped(run, expr)
        return None
    one, other = (
        evaluate.evaluate(run, expr.left, env, at),
        evaluate.evaluate(run, expr.right, env, at),
    )
    return algebra.arithmetic(run, "*", one, other, at.where(expr))


def _swapped(run: Run, expr: ast.Binary) -> None:
    edits: tuple[Edit, ...] = ()
    if isinstance(expr.right, ast.Number):
        edits = (
            Edit(Span(expr.span.start, expr.span.start, expr.span.file), f"{expr.right.text} * "),
            Edit(Span(expr.left.span.end, expr.right.span.end, expr.span.file), ""),
        )
    misfits.copies_after(run.sink, expr.span, edits)


# --- plans by layer ----------------------------------------------------------------------------


def by_layer(run: Run, expr: ast.Call, env: Env, at: At) -> tuple[ast.Expr, Env] | None:
    """`by_layer(plan)`: the expression that the plan has for the layer at hand."""
    span = at.where(expr)
    if len(expr.arguments) != 1 or expr.arguments[0].name is not None:
        run.sink.error("E0205", "`by_layer` takes one plan: a list, or a flow", span)
        return None
    plan = _plan(run, expr, env, at)
    if plan is None:
        return None
    if at.flow is None or at.index is None:
        help = (
            "it gives a value per block of a flow: pass it to a block, `n * block(by_layer(...))`"
        )
        run.sink.error("E0232", "`by_layer` is not inside a flow of blocks", span, help=help)
        return None
    slot = plan.slots[at.index % len(plan.slots)]
    at.flow.plans[id(plan)] = (len(plan.slots), expr.arguments[0].span)
    run.note(("plan", at.flow, plan), id(slot))
    return slot, plan.env


def _plan(run: Run, expr: ast.Call, env: Env, at: At) -> Plan | None:
    key = (id(expr), id(env))
    if key not in run.plans:
        slots = _slots(run, expr.arguments[0].value, env, at)
        if slots is not None and not slots:
            run.sink.error("E0232", "a plan has at least one value", at.where(expr))
        run.plans[key] = Plan(tuple(slots), env) if slots else None
        run.keep(expr, env)
    return run.plans[key]


def _slots(run: Run, expr: ast.Expr, env: Env, at: At) -> list[ast.Expr] | None:
    with run.step(at.where(expr)):
        match expr:
            case ast.List(items):
                return _joined(run, [item.value for item in items], env, at)
            case ast.Flow(stages):
                return _joined(run, list(stages), env, at)
            case ast.Binary("*", left, right) if foresee.classify(run, left, env) == "number" and (
                foresee.classify(run, right, env) != "number" or isinstance(right, ast.List)
            ):
                n = count(run, left, env, at, limits.MAX_LAYERS)
                slots = _slots(run, right, env, at)
                return (
                    None if n is None or slots is None else _limited(run, slots, n, at.where(expr))
                )
    return [expr]


def _joined(run: Run, parts: list[ast.Expr], env: Env, at: At) -> list[ast.Expr] | None:
    joined: list[ast.Expr] = []
    for part in parts:
        slots = _slots(run, part, env, at)
        if slots is None or _limited(run, joined, 1, part.span) is None:
            return None
        joined += slots
    return joined


def _limited(run: Run, slots: list[ast.Expr], n: int, span: Span) -> list[ast.Expr] | None:
    if n * len(slots) > limits.MAX_LAYERS:
        too_many(run, span)
        return None
    return slots * n


def _check_plans(run: Run, numbering: Numbering, total: int, flow_span: Span) -> None:
    for length, span in numbering.plans.values():
        if length != total:
            values, blocks = _counted(length, "value"), _counted(total, "block")
            run.sink.error(
                "E0232",
                f"the plan has {values}, but the flow has {blocks}",
                span,
                f"{values}, one a block",
                secondary=(Label(flow_span, blocks),),
                help="a plan covers every block of its flow, in order",
            )


def _counted(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
