"""Looking through resolved terms."""

from __future__ import annotations

from collections.abc import Iterator

from moedsl.model import terms
from moedsl.model.terms import Term


def children(term: Term) -> Iterator[Term]:
    """What a term is made of, in the order it was written."""
    match term:
        case terms.Items(items):
            yield from (item for _, item in items)
        case terms.Recipe():
            yield from (value for _, value in term.settings)
            yield from (statement.value for statement in term.body)
            yield from (value for _, value in term.bound)
        case terms.Flow(stages):
            yield from stages
        case terms.Copies(recipe=recipe):
            yield recipe
        case terms.Apply(recipe=recipe, inputs=inputs, named=named):
            yield from inputs
            yield from (value for _, value in named)
            yield recipe
        case terms.Arithmetic(left=left, right=right):
            yield from (left, right)
        case terms.Phase(train, eval_, decode):
            yield from (train, eval_, decode)


def walk(term: Term) -> Iterator[Term]:
    """The term and all below it, outermost first."""
    yield term
    for child in children(term):
        yield from walk(child)


def recipes(model: terms.Model) -> Iterator[terms.Recipe]:
    """Every recipe that stands in the model, each occurrence."""
    for term in [*(let.value for let in model.lets), *(out.value for out in model.outputs)]:
        yield from (found for found in walk(term) if isinstance(found, terms.Recipe))


def tensors_in(term: Term) -> set[str]:
    """Names of all tensors that the term mentions, its own and those around it."""
    return {found.name for found in walk(term) if isinstance(found, terms.Tensor)}


def sets_width(term: Term) -> bool:
    """Does it give a width that it names itself, whatever it gets?"""
    match term:
        case terms.Recipe(construct="linear"):
            return isinstance(term.setting("width"), terms.Number)
        case terms.Recipe(construct="embedding" | "tied"):
            return True
        case terms.Flow(stages):
            return any(sets_width(stage) for stage in stages)
        case terms.Arithmetic(left=left, right=right):
            return sets_width(left) or sets_width(right)
    return False


def fits_width(term: Term) -> bool:
    """Does the width of its result come from its place? (a `linear` without a width somewhere on the way out)"""
    match term:
        case terms.Recipe(construct="linear"):
            return isinstance(term.setting("width"), terms.Word)
        case terms.Flow(stages):
            return any(fits_width(stage) for stage in stages)
        case terms.Copies(recipe=recipe) | terms.Apply(recipe=recipe):
            return fits_width(recipe)
        case terms.Arithmetic(left=left, right=right):
            return fits_width(left) or fits_width(right)
        case terms.Phase(train=train):
            return fits_width(train)
    return False
