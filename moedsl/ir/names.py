"""Which tensors of the body around a term is about, and which its own bodies bring along."""

from __future__ import annotations

from dataclasses import field
from functools import cache

from moedsl.frozen import frozen, record
from moedsl.model import terms
from moedsl.model.terms import Term


@frozen
class Names:
    """`mentioned`: all tensors in the term; `own`: lets, assigned streams, bound parameters, a form's tensors."""

    mentioned: frozenset[str]
    own: frozenset[str]


NONE: frozenset[str] = frozenset()
LEAF = Names(NONE, NONE)


@record
class Naming:
    """Remembers the answer for each term by identity, since large terms are asked about at every level around them."""

    _found: dict[int, tuple[Term, Names]] = field(default_factory=dict)

    def of(self, term: Term) -> Names:
        if isinstance(term, terms.Tensor):
            return Names(frozenset((term.name,)), NONE)
        if isinstance(term, terms.Number | terms.Word | terms.Text):
            return LEAF
        if id(term) not in self._found:  # the term is kept beside the answer: its id stays its own
            self._found[id(term)] = term, self._of_parts(term)
        return self._found[id(term)][1]

    def _of_parts(self, term: Term) -> Names:
        mentioned: set[str] = set()
        own = set(_brought(term)) if isinstance(term, terms.Recipe) else set()
        for part in term.parts:
            if isinstance(part, terms.Tensor):
                mentioned.add(part.name)
            elif part.size > 1:
                names = self.of(part)
                mentioned |= names.mentioned
                own |= names.own
        return Names(frozenset(mentioned), frozenset(own))


def _brought(recipe: terms.Recipe) -> frozenset[str]:
    bound = (name for name, _ in recipe.bound)
    return _seen(recipe.construct).union((one.name for one in recipe.body), bound)


@cache
def _seen(construct: str) -> frozenset[str]:
    from moedsl.constructs.declare import Expression
    from moedsl.constructs.registry import constructs

    settings = constructs()[construct].settings.values()
    return frozenset(n for one in settings if isinstance(one, Expression) for n in one.sees)
