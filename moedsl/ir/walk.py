"""Looking through resolved terms."""

from __future__ import annotations

from collections.abc import Iterator

from moedsl.model import terms
from moedsl.model.terms import Term


def walk(term: Term) -> Iterator[Term]:
    """The term and all below it, outermost first."""
    waiting = [term]
    while waiting:
        found = waiting.pop()
        yield found
        waiting.extend(reversed(found.parts))


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
        case terms.Recipe(construct="linear" | "cosine" | "autoencoder" | "product_keys"):
            return isinstance(term.setting("width"), terms.Number)
        case terms.Recipe(construct="embedding" | "tied"):
            return True
        case terms.Recipe():
            return any(sets_width(expert) for expert in _experts(term))
        case terms.Flow(stages):
            return any(sets_width(stage) for stage in stages)
        case terms.Arithmetic(left=left, right=right):
            return sets_width(left) or sets_width(right)
    return False


def fits_width(term: Term) -> bool:
    """Does the width of its result come from its place? (a `linear` without a width somewhere on the way out)"""
    match term:
        case terms.Recipe(construct="linear" | "cosine" | "autoencoder" | "product_keys"):
            return isinstance(term.setting("width"), terms.Word)
        case terms.Recipe():
            return any(fits_width(expert) for expert in _experts(term))
        case terms.Flow(stages):
            return any(fits_width(stage) for stage in stages)
        case terms.Copies(recipe=recipe) | terms.Apply(recipe=recipe):
            return fits_width(recipe)
        case terms.Arithmetic(left=left, right=right):
            return fits_width(left) or fits_width(right)
        case terms.Phase(train=train):
            return fits_width(train)
    return False


def takes_width(stages: list[Term]) -> int:
    """The last stage that gives another width than it gets; -1 where none does. One that says which may say the very
    one."""
    for index in reversed(range(len(stages))):
        if fits_width(stages[index]) or sets_width(stages[index]):
            return index
    return -1


def flattened(stages: tuple[Term, ...]) -> Iterator[Term]:
    """The stages of a flow, those of flows in it too."""
    for stage in stages:
        if isinstance(stage, terms.Flow):
            yield from flattened(stage.stages)
        else:
            yield stage


def takes_choices(score: Term) -> bool:
    """Does a router's score need to know how many choices there are?"""
    return isinstance(score, terms.Number) or fits_width(score)


def _experts(recipe: terms.Recipe) -> Iterator[Term]:
    """What a mixture chooses among gives its width."""
    for name, bank in recipe.settings:
        if name == "experts":
            kinds = bank.items if isinstance(bank, terms.Items) else ((None, bank),)
            yield from (
                body.recipe if isinstance(body, terms.Copies) else body for _, body in kinds
            )
