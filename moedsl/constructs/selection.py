"""Stages of a router's `select`: which of the choices a token keeps.

A stage gets what is ranked, [rows, choices], or the picks of the stage before it, [rows, kept] whole numbers. It either
narrows (what it rules out ranks lowest) or picks. Picks may be loose (see `ir/ops_routing.py`): then `kept` is the
most that a token can keep.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from moedsl.constructs.declare import Construct, Number, RecipeOf, Setting, Words
from moedsl.constructs.registry import construct_of
from moedsl.diagnostics.model import Label
from moedsl.ir import capacity, ops, problems
from moedsl.ir.capacity import phases
from moedsl.ir.graph import Dim
from moedsl.model import terms

if TYPE_CHECKING:
    from fractions import Fraction

    from moedsl.ir.build import Builder
    from moedsl.ir.graph import Value


class Selection(Construct):
    """What all selections share: from what is ranked, [rows, choices], to the chosen, [rows, kept], best first."""

    abstract: ClassVar[bool] = True
    kind = "select"
    evens_out: ClassVar[bool] = (
        False  # every choice gets as much as every other, whatever is ranked
    )
    ranks: ClassVar[bool] = True  # the first of a token's picks is its best
    bounds_rows: ClassVar[bool] = False  # experts get no more rows than a number known beforehand


class TopK(Selection):
    """The k largest. Ties go to the lower index, on every device."""

    k = Number(
        low=1, whole=True, positional=True, unit="choices", doc="how many choices a token keeps"
    )

    def lower(self, build: Builder, x: Value) -> Value:
        choices = build.last(x)
        kept = build.dim(self.k, self.recipe.origin("k"), letter="K")
        limit = next((n for n in build.frame.unit.nodes if x in n.outputs), None)
        if limit is not None and isinstance(limit.op, ops.LimitGroups):
            left = limit.op.keep * (choices.size or 0) // limit.op.groups
            if self.k > left:
                build.mismatch(
                    "E0411",
                    f"{self.k} choices are picked of the {left} that {limit.op.keep} groups leave",
                    (self.recipe.origin("k"), "more than are left"),
                    (limit.span, f"leaves {left} of {choices.size}"),
                    help="keep more groups, or pick fewer",
                )
                return build.poison(x)
        return build.op(ops.TopK(kept=kept, choices=choices), x, name="expert")


class All(Selection):
    """Every choice is kept, best first."""

    evens_out = True
    ranks = False

    def lower(self, build: Builder, x: Value) -> Value:
        choices = build.last(x)
        kept = build.dim(choices.size or 1, choices.origin, letter="K")
        return build.op(ops.TopK(kept=kept, choices=choices), x, name="expert")


class Thin(Selection):
    """Picks after the first may stay away: the weaker one is, the more likely.

    With `keep = random` a pick stays with probability share / below (at most 1), with `threshold` where its share is
    above `below`, with `all` always, with `none` never. Picks that stay away weigh nothing and cost nothing. Losses
    count them all the same, and `weigh` runs over all that were picked unless `weighed = served`.
    """

    source = "Lepikhin et al., 2020, section 3.2; mesh_tensorflow moe.py, second_policy_train, second_policy_eval"
    takes = "ids"
    settings: ClassVar[dict[str, Setting]] = {
        "from": Number("2", low=1, whole=True, doc="the first pick that may stay away")
    }
    below = Number(low=0, exclusive_low=True, doc="from this share on a pick always stays")
    of = Words(
        "share", choices=("share", "gate"), doc="gate / sum of the picked gates, or the gate itself"
    )
    keep = Words(
        "phase(train = random, eval = all)",
        choices=("random", "threshold", "all", "none"),
        phases=True,
        doc="which of them stay",
    )

    def lower(self, build: Builder, x: Value) -> Value:
        train, eval_, decode = (str(getattr(each, "text", each)) for each in phases(self.keep))
        if decode != eval_ and isinstance(self.keep, terms.Phase):
            problems.differs_when_decoding(build, self.keep)
        build.scope.setdefault("counted", build.named(x, "picked"))
        loose = build.last(x).loose
        share = build.op(ops.Gather(fill="0" if loose else None), build.scope["gate"], x)
        if self.of == "share":
            share = build.op(ops.Normalize(over=build.last(x), eps=0.0), share, name="share")
        op = ops.Thin(
            first=getattr(self, "from") - 1,
            below=float(self.below),
            choices=build.last(build.scope["gate"]).size or 0,
            train=train,
            eval=eval_,
        )
        return build.op(op, x, share)


class ExpertChoice(Selection):
    """Experts choose: each takes the rows of its group that rank highest for it, as many as `capacity` gives it room.

    A token is served by none, one or many experts; `capacity = 2` is two on average, and loads are equal. `choose`
    is what an expert ranks by; ties go to the earlier token, and padding is never taken. With `most` the experts agree
    on a plan with at most so many experts for a token, as regular as `entropy` makes it; of what the plan gives it
    most of, each expert takes as many as it has room for.
    """

    source = (
        "Zhou et al., 2022, sections 3.2 and 3.3; flaxformer routing.py, ExpertsChooseMaskedRouter"
    )
    evens_out = True
    ranks = False
    bounds_rows = True
    causality = "noncausal"
    most = Number(
        "none", low=1, whole=True, words=("none",), doc="about how many experts a token has at most"
    )
    entropy = Number("1e-3", low=0, exclusive_low=True, doc="what a plan's entropy is worth")
    rounds = Number("100", low=1, whole=True, doc="how often conditions are met in turn")

    def lower(self, build: Builder, x: Value) -> Value:
        from moedsl.constructs.router import Router

        router = construct_of(build.frame.unit.recipe)
        assert isinstance(router, Router)
        if not capacity.is_limited(router):
            build.mismatch(
                "E0420",
                "experts choose, and nothing says how many tokens each takes",
                (self.recipe.span, "takes as many as there is room for"),
                (router.recipe.origin("capacity"), "no capacity"),
                help="say how many experts a token has on average: `capacity = 2`",
            )
            return build.poison(x)
        if capacity.is_by_kind(router):
            build.mismatch(
                "E0420",
                "experts that choose have one capacity, and this is one for each kind",
                (self.recipe.span, "takes as many as there is room for"),
                (router.recipe.origin("capacity"), "by kind"),
                help="give all kinds one: `capacity = 2`",
            )
            return build.poison(x)
        choices = build.last(x)
        train, _, _ = capacity.rules(router.capacity, 1, choices.size or 1)
        known = train.share is not None and train.share < 1
        mean = train.share * (choices.size or 1) if train.share is not None and known else None
        kept = Dim("K", choices.size, loose=True, mean=mean, origin=choices.origin)
        axes: dict[str, Any] = {"kept": kept, "choices": choices}
        axes["lookahead"] = capacity.lookahead(router)
        op = ops.ExpertChoice(**axes)
        if self.most != "none":
            op = ops.CappedChoice(
                **axes, most=self.most, entropy=float(self.entropy), rounds=self.rounds
            )
        return capacity.take(build, router, x, op)


class Positive(Selection):
    """Every choice that is above zero: none, some or all of them, so a token costs what it asks for.

    With `gate = score -> relu` this routing has a gradient throughout: a choice comes and goes at weight zero.
    """

    source = "Wang et al., 2024 (ReMoE)"
    ranks = False

    def lower(self, build: Builder, x: Value) -> Value:
        return build.op(ops.Positive(choices=build.last(x)), x, name="expert")


class TopP(Selection):
    """The fewest choices whose numbers add up to a share of 1, the one that crosses it among them.

    What is ranked must add up to 1: `gate = score -> softmax`. A token keeps at least one choice.
    """

    source = "Huang et al., 2024 (harder tasks need more experts)"
    share = Number(
        low=0, exclusive_low=True, high=1, positional=True, doc="the share that is reached"
    )
    most = Number(
        "all",
        low=1,
        whole=True,
        words=("all",),
        unit="choices",
        doc="how many choices a token keeps at most",
    )

    def lower(self, build: Builder, x: Value) -> Value:
        choices = build.last(x)
        if x not in build.bad and not adds_up(build, x):
            build.sink.error(
                "E0413",
                "`top_p` keeps a share of what adds up to 1, and this does not",
                self.recipe.span,
                help="rank a softmax: `gate = score -> softmax`",
            )
            return build.poison(x)
        most = choices.size or 1 if self.most == "all" else int(self.most)
        kept = replace(build.dim(most, self.recipe.origin("most"), letter="K"), loose=True)
        op = ops.TopP(kept=kept, choices=choices, share=float(self.share))
        return build.op(op, x, name="expert")


def adds_up(build: Builder, x: Value) -> bool:
    """Is it a distribution over the choices, perhaps with something added for the choice alone?"""
    maker = build.frame.unit.producer(x)
    match maker.op if maker is not None else None:
        case ops.Softmax() | ops.Normalize():
            return True
        case ops.Combination() | ops.Noise() | ops.Cast():
            assert maker is not None
            return adds_up(build, maker.inputs[0])
    return False


class Top(Construct):
    """The best: of a group of choices, so many of them, summed; of a sequence, so many tokens, or a share of them.

    `top(2)` is two, `top(12.5%)` is 12.5% of a sequence, rounded up.
    """

    kind = "rank"
    count = Number(
        low=0,
        exclusive_low=True,
        positional=True,
        doc="how many: a whole number, or a share of a sequence's tokens",
    )

    @property
    def share(self) -> Fraction | None:
        """Of a sequence; None where it is a number of tokens."""
        from fractions import Fraction  # not worth importing for a spec without shares

        return Fraction(repr(self.count)) if isinstance(self.count, float) else None

    def check(self, at: Any, sink: Any) -> None:
        if isinstance(self.count, float) and self.count > 1:
            sink.error(
                "E0206",
                f"{self.count:.0%} of a sequence are more than all of it",
                at.origin("count"),
                help="a whole number is a number of tokens, a share is at most 100%",
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
        if not isinstance(self.rank.setting("count").value, int):
            sink.error(
                "E0206",
                "a group of choices is ranked by a number of its best, and not by a share",
                self.rank.origin("count"),
                help="write how many are summed: `rank = top(2)`",
            )
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
