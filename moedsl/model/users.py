"""Who uses a decision that a `let` names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from moedsl.model import terms
from moedsl.model.terms import Term

Statements = Sequence[Term | terms.Let | terms.Assign]


def users(name: str, after: Sequence[Term | terms.Let | terms.Assign]) -> list[terms.Recipe]:
    """The mixtures in what comes after a `let` that name it as their router."""
    return list(_in_sequence(after, frozenset((name,))))


def _in_sequence(
    after: Sequence[Term | terms.Let | terms.Assign], names: frozenset[str]
) -> Iterator[terms.Recipe]:
    for one in after:
        if not isinstance(one, terms.Let | terms.Assign):
            yield from _users(one, names)
            continue
        yield from _users(one.value, names)
        names = names | {one.name} if _is(one.value, names) else names - {one.name}


def _users(term: Term, names: frozenset[str]) -> Iterator[terms.Recipe]:
    if not isinstance(term, terms.Recipe):
        for child in term.parts:
            yield from _users(child, names)
        return
    settings = dict(term.settings)
    if kind_of(term) == "moe" and _is(settings["router"], names):
        yield term
    given = {name for name, value in term.bound if _is(value, names)}
    inner = names - {name for name, _ in term.bound} | given
    yield from _in_sequence((*term.body, *settings.values()), inner)


def _is(term: Term, names: frozenset[str]) -> bool:
    return isinstance(term, terms.Tensor) and term.name in names


def kind_of(recipe: terms.Recipe) -> str:
    from moedsl.constructs.registry import constructs

    return constructs()[recipe.construct].kind
