"""A construct's own checks, on each recipe as soon as it is resolved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moedsl.constructs.declare import Construct
from moedsl.model import terms

if TYPE_CHECKING:
    from moedsl.model.run import Run


def checked(run: Run, recipe: terms.Recipe) -> bool:
    """Whether the construct has nothing against its settings."""
    cls = run.registry[recipe.construct]
    if cls.check is Construct.check:
        return True
    before = run.errors()
    cls(recipe).check(recipe, run.sink)
    return run.errors() == before
