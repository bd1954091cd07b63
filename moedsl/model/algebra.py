"""What may be added, multiplied and fed into what."""

from __future__ import annotations

import math
from dataclasses import replace

from moedsl.model import limits, misfits, terms
from moedsl.model.run import Run
from moedsl.source import Span

PROJECTION = "linear"  # the one stage of a projection that `+=` and `->=` act at

Some = terms.Term | None


def negative(run: Run, term: Some, span: Span) -> Some:
    if term is None:
        return None
    if isinstance(term, terms.Number):
        return terms.Number(-term.value, span)
    misfits.number_times(run.sink, -1, terms.type_of(term), span)
    return None


def arithmetic(run: Run, operator: str, left: Some, right: Some, span: Span) -> Some:
    """`left operator right`; a product with a count is settled in flows."""
    if left is None or right is None:
        return None
    if isinstance(left, terms.Number) and isinstance(right, terms.Number):
        return computed(run, operator, left, right, span)
    kinds = {terms.type_of(left), terms.type_of(right)}
    if not kinds <= {"number", "tensor", "recipe"} or kinds == {"number"}:
        misfits.cannot_combine(run.sink, operator, left, right, span)
        return None
    if "number" in kinds and operator in "*/":
        _scaled(run, operator, left, right, span)
        return None
    if operator == "/" and "recipe" in kinds:
        misfits.cannot_combine(run.sink, operator, left, right, span)
        return None
    return terms.Arithmetic(operator, left, right, span)  # type: ignore[arg-type]


def _scaled(run: Run, operator: str, left: terms.Term, right: terms.Term, span: Span) -> None:
    number, other = (left, right) if isinstance(left, terms.Number) else (right, left)
    kind = terms.type_of(other)
    if not isinstance(number, terms.Number) or (operator == "/" and number is left):
        misfits.cannot_combine(run.sink, operator, left, right, span)
    elif operator == "*" and kind == "recipe":
        misfits.copies_after(run.sink, span, ())
    else:
        value = number.value if operator == "*" else 1 / number.value if number.value else math.inf
        misfits.number_times(run.sink, value, kind, span)


def computed(run: Run, operator: str, left: terms.Number, right: terms.Number, span: Span) -> Some:
    """Arithmetic on numbers; whole stays whole where it can."""
    a, b = left.value, right.value
    if operator == "/" and b == 0:
        run.sink.error("E0206", "this divides by zero", span)
        return None
    match operator:
        case "+":
            value = a + b
        case "-":
            value = a - b
        case "*":
            value = a * b
        case _:
            whole = isinstance(a, int) and isinstance(b, int) and a % b == 0
            value = a // b if whole else a / b
    if not math.isfinite(value) or abs(value) > limits.MAX_NUMBER:
        run.sink.error(
            "E0231", "this number is too large", span, help="numbers go up to 2 to the power of 53"
        )
        return None
    return terms.Number(value, span)


# --- flows -------------------------------------------------------------------------------------


def compose(run: Run, stages: list[tuple[int, terms.Term, Span]], span: Span) -> Some:
    """Stages in runs, to a flow; a tensor in front is what the flow is applied to."""
    good = True
    for position, (count, term, where) in enumerate(stages):
        kind = terms.type_of(term)
        if kind == "recipe" or (kind == "tensor" and position == 0 and count == 1):
            continue
        misfits.cannot_follow(run.sink, term, where, stages[0][2])
        good = False
    if not good:
        return None
    first = stages[0][1]
    if terms.type_of(first) == "tensor":
        if len(stages) == 1:
            return first
        rest = joined(run, stages[1:], span)
        return None if rest is None else terms.Apply(rest, (first,), span=span)
    return joined(run, stages, span)


def joined(run: Run, stages: list[tuple[int, terms.Term, Span]], span: Span) -> Some:
    flat: list[terms.Term] = []
    for count, term, where in merged(run, stages):
        made = term if count == 1 else terms.Copies(count, term, where)
        flat.extend(made.stages if isinstance(made, terms.Flow) else (made,))
    whole = flat[0] if len(flat) == 1 else terms.Flow(tuple(flat), span)
    return sized(run, whole, span)


def merged(
    run: Run, stages: list[tuple[int, terms.Term, Span]]
) -> list[tuple[int, terms.Term, Span]]:
    """Runs of equal blocks as one. Other recipes stay as written: `silu -> silu` is two stages."""
    runs: list[tuple[int, terms.Term, Span]] = []
    for count, term, where in stages:
        same = bool(runs) and (runs[-1][1] is term or (is_block(run, term) and runs[-1][1] == term))
        if same and isinstance(term, terms.Recipe):
            runs[-1] = (runs[-1][0] + count, runs[-1][1], where)
        else:
            runs.append((count, term, where))
    return runs


def is_block(run: Run, term: terms.Term) -> bool:
    return isinstance(term, terms.Recipe) and run.kind(term) == "block"


def blocks(run: Run, term: terms.Term) -> int:
    """How many of a flow's numbered blocks a term is."""
    match term:
        case terms.Recipe():
            return int(is_block(run, term))
        case terms.Copies(count, recipe):
            return count * blocks(run, recipe)
        case terms.Flow(stages):
            return sum(blocks(run, stage) for stage in stages)
    return 0


def sized(run: Run, term: terms.Term, span: Span) -> Some:
    """The term, if it can be written out: sharing hides how much a doubling recipe stands for."""
    if term.size > limits.MAX_TERM:
        run.sink.error(
            "E0230", "this stands for too many operations", span, help="use a count: `n * block`"
        )
        raise limits.Stopped
    return term


# --- changes in place --------------------------------------------------------------------------


def changed(run: Run, old: Some, operator: str, new: Some, span: Span) -> Some:
    """`name += new` stands beside what was there, `name ->= new` follows it; both at the projection inside a flow."""
    if old is None or new is None:
        return None
    if isinstance(old, terms.Apply) and _projections(old.recipe) == 1:
        recipe = changed(run, old.recipe, operator, new, span)
        return None if recipe is None else replace(old, recipe=recipe)
    if isinstance(old, terms.Flow):
        at = [i for i, stage in enumerate(old.stages) if is_projection(stage)]
        if len(at) == 1:
            stage = changed(run, old.stages[at[0]], operator, new, span)
            if stage is None:
                return None
            inner = stage.stages if isinstance(stage, terms.Flow) else (stage,)
            return replace(old, stages=(*old.stages[: at[0]], *inner, *old.stages[at[0] + 1 :]))
    if operator == "+=":
        return arithmetic(run, "+", old, new, span)
    return compose(run, [(1, old, span), (1, new, span)], span)


def _projections(recipe: terms.Term) -> int:
    stages = recipe.stages if isinstance(recipe, terms.Flow) else (recipe,)
    return sum(map(is_projection, stages))


def is_projection(term: terms.Term) -> bool:
    return isinstance(term, terms.Recipe) and term.construct == PROJECTION


def begins_with_tensor(term: terms.Term) -> bool:
    """`gate + balancing(rate = 1e-3)` does: a tensor beside what ignores its input."""
    match term:
        case terms.Tensor() | terms.Apply() | terms.Number():
            return True
        case terms.Arithmetic(left=left):
            return begins_with_tensor(left)
        case terms.Phase(train=train):
            return begins_with_tensor(train)
    return False
