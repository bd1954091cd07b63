"""Stages of a router's `select`: which of the choices a token keeps.

A stage gets what is ranked, [rows, choices], or the picks of the stage before it, [rows, kept] whole numbers. It either
narrows (what it rules out ranks lowest) or picks. Picks may be loose (see `ir/ops_routing.py`): then `kept` is the
most that a token can keep.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from moedsl.constructs.declare import Construct, Number, RecipeOf
from moedsl.diagnostics.model import Label
from moedsl.ir import ops

if TYPE_CHECKING:
    from moedsl.ir.build import Builder
    from moedsl.ir.graph import Value


class Selection(Construct):
    """What all selections share: from what is ranked, [rows, choices], to the chosen, [rows, kept], best first."""

    abstract: ClassVar[bool] = True
    kind = "select"
    bounds_rows: ClassVar[bool] = False  # experts get no more rows than a number known beforehand


class TopK(Selection):
    """The k largest. Ties go to the lower index, on every device."""

    k = Number(
        low=1, whole=True, positional=True, unit="choices", doc="how many choices a token keeps"
    )

    def lower(self, build: Builder, x: Value) -> Value:
        choices = build.last(x)
        kept = build.dim(self.k, self.recipe.origin("k"), letter="K")
        return build.op(ops.TopK(kept=kept, choices=choices), x, name="expert")


class All(Selection):
    """Every choice is kept, best first."""

    def lower(self, build: Builder, x: Value) -> Value:
        choices = build.last(x)
        kept = build.dim(choices.size or 1, choices.origin, letter="K")
        return build.op(ops.TopK(kept=kept, choices=choices), x, name="expert")


class Best(Construct):
    """How a group of choices is ranked: by the sum of its best."""

    kind = "rank"
    name = "top"
    count = Number(
        low=1, whole=True, positional=True, unit="choices", doc="how many of the best are summed"
    )


class Groups(Selection):
    """Only choices of the best groups: the choices stand in groups of neighbours, and the others rank lowest.

    With one group for each device a token visits few devices. What is ruled out is below every number that a choice
    can be ranked by, so it is never kept while something else is left.
    """

    source = "DeepSeek-V2, 2024, section 2.2.2; DeepSeek-V3, 2024, section 2.1.2"
    count = Number(low=1, whole=True, positional=True, unit="groups", doc="how many groups")
    keep = Number(low=1, whole=True, unit="groups", doc="how many groups a token may choose from")
    rank = RecipeOf(
        "top(1)", kinds=("rank",), doc="what a group is ranked by: `top(2)` sums its two best"
    )

    def check(self, at: Any, sink: Any) -> None:
        if isinstance(self.keep, int) and isinstance(self.count, int) and self.keep > self.count:
            sink.error(
                "E0411",
                f"{self.keep} groups are kept of {self.count}",
                at.origin("keep"),
                "more than there are",
                secondary=(Label(at.origin("count"), f"{self.count} groups"),),
                help=f"keep {self.count} or fewer",
            )

    def lower(self, build: Builder, x: Value) -> Value:
        choices = build.last(x)
        size, rest = divmod(choices.size or 0, self.count)
        best = int(self.rank.setting("count").value)
        if rest or best > size:
            build.mismatch(
                "E0411",
                f"{choices.size} choices do not stand in {self.count} equal groups"
                if rest
                else f"the {best} best of a group are summed, and a group has {size}",
                (self.recipe.origin("count" if rest else "rank"), "here"),
                (choices.origin, f"{choices.size} choices"),
                help="the number of groups must divide the number of choices"
                if rest
                else f"sum {size} or fewer",
            )
            return build.poison(x)
        op = ops.LimitGroups(groups=self.count, keep=self.keep, best=best)
        return build.op(op, x, name="limited")
