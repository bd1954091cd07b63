"""Recipes on values, and tensor expressions: the algebra of the language, turned into nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from moedsl.constructs import declare
from moedsl.ir import before, deciding, ops, problems
from moedsl.ir.frame import Hint
from moedsl.ir.graph import Dim, Init, TensorType, Value
from moedsl.ir.shapes import is_ids, is_sequence, per_sequence
from moedsl.ir.walk import fits_width, flattened, sets_width, takes_width
from moedsl.model import terms
from moedsl.model.terms import Term, type_of
from moedsl.model.users import users

if TYPE_CHECKING:
    from moedsl.constructs.declare import Construct
    from moedsl.ir.build import Builder


SEQUENCED = ("attention", "moe")  # kinds that look at several tokens, or count them


def statement(
    build: Builder, one: terms.Let | terms.Assign, after: Sequence[Term | terms.Let | terms.Assign]
) -> None:
    """`after`: what the body says next; a decision asks who will use it."""
    build.spans.append(one.span)
    old = build.scope.get(one.name)
    if deciding.is_decision(one.value):
        build.frame.mixtures = users(one.name, after)
    value = build.evaluate(one.value)
    build.frame.mixtures = ()
    if isinstance(one, terms.Assign) and old is not None:
        value = back(build, value, old)
    if value is not old:
        if value.name and value.name != one.name and value in build.scope.values():
            pass  # a second name for what has one already
        else:
            value.name = one.name
    build.bind(one.name, value)
    build.spans.pop()


def back(build: Builder, value: Value, old: Value) -> Value:
    """In the precision of the stream again, where a stage left it."""
    new_type, old_type = value.type, old.type
    if getattr(new_type, "dtype", "") == "float32" and getattr(old_type, "dtype", "") == "float":
        return build.op(ops.Cast(dtype="float"), value, old)
    return value


def evaluate(build: Builder, term: Term) -> Value:
    """A tensor expression; a recipe is fed with the body's `x`."""
    match term:
        case terms.Tensor(name):
            known = build.scope.get(name)
            return known if known is not None else problems.unknown_tensor(build, term)
        case terms.Apply(recipe, inputs, named):
            values = [_without_hint(build, i) for i in inputs]
            by_name = {name: _without_hint(build, value) for name, value in named}
            return apply(build, recipe, values[0], tuple(values[1:]), by_name)
        case terms.Arithmetic() if type_of(term) == "tensor":
            return _arithmetic(build, term, None)
        case terms.Phase():
            return _phase(build, term)
    x = build.scope.get("x")
    return apply(build, term, x) if x is not None else problems.nothing_feeds(build, term)


def _without_hint(build: Builder, term: Term) -> Value:
    """What is fed into a recipe has no width asked of it."""
    with build.at("", Hint()):
        return evaluate(build, term)


def apply(
    build: Builder,
    term: Term,
    x: Value,
    more: tuple[Value, ...] = (),
    named: dict[str, Value] | None = None,
) -> Value:
    """A recipe on a value. `more`: a second stream; `named`: inputs given by name."""
    match term:
        case terms.Recipe():
            return _recipe(build, term, x, more, named or {})
        case terms.Flow(stages):
            return _flow(build, stages, x, more, named or {})
        case terms.Copies() if build.frame.rows is not None:
            for _ in range(term.count):
                x = apply(build, term.recipe, x)
            return x
        case terms.Copies():
            return build.units.stack([term], x)
        case terms.Arithmetic():
            return _arithmetic(build, term, x)
        case terms.Tensor() | terms.Apply():  # a tensor beside a recipe: it ignores its input
            return evaluate(build, term)
        case terms.Phase():
            return _phase(build, term, x)
    return problems.not_a_tensor(build, term)


def _recipe(
    build: Builder,
    recipe: terms.Recipe,
    x: Value,
    more: tuple[Value, ...],
    named: dict[str, Value],
) -> Value:
    from moedsl.constructs.registry import construct_of, constructs

    construct = constructs()[recipe.construct]
    if not _is_stage(build, construct):
        return problems.not_a_stage(build, construct_of(recipe), recipe, x)
    build.spans.append(recipe.span)
    try:
        if construct.unit and build.frame.rows is None:
            if construct.kind == "block":
                return build.units.stack([recipe], x, plain=True)
            if construct.kind == "router":
                return deciding.applied(build, recipe, x, named)
            return build.units.call(recipe, x, more, named, width=_asked(build, recipe, x))
        if construct.unit:
            frame = build.frame
            *_, own = frame.places.claim(frame.prefix, recipe.place or recipe.name)
            with build.at(own), build.body(x=x):
                return lower(build, construct_of(recipe), x, *more, **named)
        return lower(build, construct_of(recipe), x, *more, **named)
    finally:
        build.spans.pop()


def _asked(build: Builder, recipe: terms.Recipe, x: Value) -> Dim | None:
    """The width that a place asks of a mixture there, where its experts give another than they get."""
    mixture = (fits_width(recipe) or sets_width(recipe)) and recipe.construct != "linear"
    return build.width if mixture and build.width != build.last(x) else None


def lower(build: Builder, construct: Construct, x: Value, *more: Any, **named: Value) -> Value:
    """What a construct says, with the tensors that its body names in scope."""
    with build.at(""):
        if (init := getattr(construct, "init", None)) is not None:
            build.frame.inits = (*build.frame.inits, Init(init))
        return _lowered(build, construct, x, *more, **named)


def _lowered(build: Builder, construct: Construct, x: Value, *more: Any, **named: Value) -> Value:
    recipe = construct.recipe
    if build.frame.rows is not None and construct.whole:
        problems.not_in_a_bank(build, recipe)
        return build.poison(x)
    if construct.kind in SEQUENCED and x not in build.bad and not _serves(construct, x):
        return problems.no_sequence(build, recipe, x)
    if not construct.unit and x not in build.bad and not _takes(construct, x):
        return problems.ids_and_numbers(build, f"`{recipe.name}`", recipe.span, x)
    if construct.kind == "block" or not recipe.body:
        return construct.lower(build, x, *more, **named)
    with build.body(x=x):
        build.run(recipe.body, [value for _, value in recipe.settings])
        return construct.lower(build, x, *more, **named)


def _serves(construct: Construct, x: Value) -> bool:
    """A mixture also serves rows that are one for each sequence."""
    return is_sequence(x) or (construct.kind == "moe" and per_sequence(x))


def _takes(construct: Construct, x: Value) -> bool:
    """Rows are looked up by ids; everything else computes with numbers."""
    return construct.takes in ("any", "ids" if is_ids(x) else "numbers")


def _is_stage(build: Builder, construct: type[Construct]) -> bool:
    """Does a tensor go through it? Some are one where they belong only: a selection in a router's `select`."""
    if construct.kind == "select":
        return build.frame.role == "select"
    if construct.kind == "score":
        return build.frame.role == "scores"
    if construct.kind == "correction":
        return build.frame.role == "choose"
    if construct.kind == "estimator":
        return build.frame.role == "estimator"
    return construct.lower is not declare.Construct.lower


def _flow(
    build: Builder,
    stages: tuple[Term, ...],
    x: Value,
    more: tuple[Value, ...],
    named: dict[str, Any],
) -> Value:
    """Stage after stage; the last that can takes the width that the place asks for; layers in a row are one stack."""
    flat = list(flattened(stages))
    if before.is_previous(flat[0]) and build.frame.prefix != before.PLACE:
        with before.at_place(build):
            return _flow(build, tuple(flat), x, more, named)
    taker = takes_width(flat)
    index = 0
    while index < len(flat):
        layers = index
        while layers < len(flat) and build.frame.rows is None and _is_layer(flat[layers]):
            layers += 1
        if layers > index:
            x = build.units.stack(flat[index:layers], x)
            index = layers
            continue
        hint = build.frame.hint if index == taker else Hint()
        with build.at("", hint):
            x = apply(
                build, flat[index], x, more if index == 0 else (), named if index == 0 else {}
            )
        index += 1
    return x


def _is_layer(term: Term) -> bool:
    from moedsl.constructs.registry import constructs

    if isinstance(term, terms.Recipe):
        return constructs()[term.construct].kind == "block"
    return isinstance(term, terms.Copies)


def _arithmetic(build: Builder, term: terms.Arithmetic, x: Value | None) -> Value:
    """Both sides get the same input; a number stands on either side of a tensor."""
    left, right = term.left, term.right
    if (alone := before.there(build, term)) is not None:
        return _given(build, alone, x)
    if isinstance(right, terms.Number):
        return build.op(
            ops.Combination(operator=term.operator, number=right.value), _side(build, left, x)
        )
    if isinstance(left, terms.Number):
        value = _side(build, right, x)
        return build.op(_number_first(term.operator, left.value), value)
    if fits_width(left) and not fits_width(right) and build.width is None:
        second = _side(build, right, x)
        first = _sized(build, left, x, second)
    else:
        first = _side(build, left, x)
        second = _sized(build, right, x, first)
    first, second = _alike(build, first, second)
    build.spans.append(term.span)
    result = build.op(ops.Combination(operator=term.operator), first, second)
    build.spans.pop()
    return result


def _number_first(operator: str, number: float) -> ops.Op:
    if operator in ("+", "*"):
        return ops.Combination(operator=operator, number=number)
    return ops.Pointwise(function=f"({number!r} {operator} {{0}})")


def _given(build: Builder, term: Term, x: Value | None) -> Value:
    return evaluate(build, term) if x is None else apply(build, term, x)


def _side(build: Builder, term: Term, x: Value | None) -> Value:
    """One side of a sum or a product."""
    value = _given(build, term, x)
    if is_ids(value) and value not in build.bad:
        return problems.ids_and_numbers(build, "arithmetic", term.span, value)
    return value


def _sized(build: Builder, term: Term, x: Value | None, other: Value) -> Value:
    """A side whose width comes from what it is combined with, where its place asks for none."""
    hint = build.frame.hint if build.width is not None else Hint(build.last(other))
    with build.at("", hint):
        return _side(build, term, x)


def _alike(build: Builder, first: Value, second: Value) -> tuple[Value, Value]:
    """Heads opened on one side are closed where the other has them closed, unless one number is for a whole head."""
    if _is_per_head(first) or _is_per_head(second):
        return build.opened(first), build.opened(second)
    if build.last(first).split and not build.last(second).split:
        return first, build.merged(second)
    if build.last(second).split and not build.last(first).split:
        return build.merged(first), second
    if is_sequence(first) and per_sequence(second):
        return first, build.op(ops.EveryPosition(), second)
    if is_sequence(second) and per_sequence(first):
        return build.op(ops.EveryPosition(), first), second
    return first, second


def _is_per_head(value: Value) -> bool:
    dims = value.type.dims if isinstance(value.type, TensorType) else ()
    return len(dims) > 3 and dims[-1].size == 1


def _phase(build: Builder, term: terms.Phase, x: Value | None = None) -> Value:
    if not term.train == term.eval == term.decode:
        problems.differs_by_phase(build, term)
    return _given(build, term.train, x)
