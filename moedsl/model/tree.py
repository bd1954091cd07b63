"""Terms as trees: what each is made of, and how much it stands for."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from moedsl.model.terms import Term


class Leaf:
    parts: ClassVar[tuple[Term, ...]] = ()
    size: ClassVar[int] = 1


class Compound:
    @property
    def parts(self) -> tuple[Term, ...]:
        """The terms that it is made of, in the order in which they were written."""
        raise NotImplementedError

    @cached_property
    def size(self) -> int:
        """Nodes of the term as a tree, counts not multiplied."""
        return 1 + sum([part.size for part in self.parts])
