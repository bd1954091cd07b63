"""Small stages of a flow: they keep the shape of what they get."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moedsl.constructs.declare import INIT, Construct, Flag, Labels, Number, Words
from moedsl.ir import estimating, ops
from moedsl.ir.kinds import span_of_kinds

if TYPE_CHECKING:
    from moedsl.ir.build import Builder
    from moedsl.ir.graph import Value


class Identity(Construct):
    """Gives what it got. As an expert: the token itself, times its weight."""

    linear_in_input = True
    takes = "any"

    def lower(self, build: Builder, x: Value) -> Value:
        return x


class Zero(Construct):
    """Gives nothing. As an expert: the token skips the mixture for that choice, at no cost."""

    linear_in_input = True

    def lower(self, build: Builder, x: Value) -> Value:
        return build.op(ops.Zeros(), x)


class Clip(Construct):
    """Every element is kept between -limit and limit."""

    limit = Number(low=0, exclusive_low=True, positional=True, doc="largest magnitude that passes")

    def lower(self, build: Builder, x: Value) -> Value:
        return build.op(ops.Clip(limit=float(self.limit)), x)


class SoftCap(Construct):
    """limit * tanh(x / limit): large values flatten out smoothly."""

    limit = Number(
        low=0,
        exclusive_low=True,
        positional=True,
        doc="magnitude that is approached, never reached",
    )

    def lower(self, build: Builder, x: Value) -> Value:
        return build.op(ops.SoftCap(limit=float(self.limit)), x)


class Scale(Construct):
    """Multiply by a number, or by a learned one. In a bank each expert learns its own."""

    linear_in_input = True
    factor = Number(
        positional=True,
        words=("learned",),
        doc="the number; `learned` is a weight that starts at one",
    )
    per = Words(
        "none",
        choices=("none", "channel", "expert"),
        doc="a learned factor for all, for each channel, or (in `weigh`) for each expert",
    )
    power = Number(
        "1", doc="the number is raised to it: `scale(width, power = -0.5)` divides by the root"
    )
    init = INIT

    def lower(self, build: Builder, x: Value) -> Value:
        if self.factor != "learned":
            return build.op(ops.Scale(factor=self.raised), x)
        if self.per == "expert":
            return self._per_expert(build, x)
        over = build.last(x) if self.per == "channel" else None
        return build.placed(ops.LearnedScale(over=over), self.recipe, x)

    @property
    def raised(self) -> float:
        """The number itself, after `power`."""
        factor: float = self.factor if self.power == 1 else float(self.factor) ** self.power
        return factor

    def _per_expert(self, build: Builder, x: Value) -> Value:
        expert, logits = build.scope.get("expert"), build.scope.get("logits")
        if expert is None or logits is None:
            build.sink.error(
                "E0408",
                "`per = expert` needs chosen experts, and there are none here",
                self.recipe.origin("per"),
                help="it stands in a router's `weigh`: `weigh = gate -> scale(learned, per = expert)`",
            )
            return build.poison(x)
        loose = build.last(expert).loose
        op = ops.LearnedScale(over=build.last(logits), per_choice=True, loose=loose)
        return build.placed(op, self.recipe, x, expert)


class Shift(Construct):
    """Add a learned vector, which starts at zero: one number for each channel."""

    init = INIT

    def lower(self, build: Builder, x: Value) -> Value:
        x = build.merged(x)
        learned = build.placed(ops.Learned(over=build.last(x)), self.recipe)
        return build.op(ops.Combination(operator="+"), x, learned)


class NearTies(Construct):
    """Who nearly ties with the best, m: those whose score s has (m - s) / max(|s|, m) of at most `within`.

    In a router's `weigh`, `score -> near_ties(2%)`, a pick's share of the softmax over them; the best and its near ties
    are those of the choices that earlier picks left. So a clear winner weighs 1, and weights do not sum to 1. Before a
    choice, `select = in_turn(2, near_ties(2%) -> gumbel)`, all others are out of it.
    """

    source = "Liu et al., 2024, GRIN (SparseMixer-v2); transformers phimoe `sparsemixer`"
    within = Number(low=0, positional=True, doc="largest relative distance of a tie")

    def lower(self, build: Builder, x: Value) -> Value:
        return estimating.lower_near_ties(build, self.recipe, float(self.within), x)


class Dropout(Construct):
    """In training each element is zeroed with this probability and the others are scaled up; else nothing happens.

    `dropout(phase(train = 0.2, eval = 0.1))` drops in evaluation too.
    """

    rate = Number(low=0, high=1, positional=True, phases=True, doc="probability to be zeroed")
    per = Words(
        "element", choices=("element", "token"), doc="what is zeroed: single numbers, or whole rows"
    )

    def lower(self, build: Builder, x: Value) -> Value:
        train, eval_ = build.rates(self.rate)
        if self.per == "token" and (train or eval_):
            return build.op(ops.Noise(form="drop_tokens", amount=train, eval_amount=eval_), x)
        return build.op(ops.Dropout(rate=train, eval_rate=eval_), x) if train or eval_ else x


class Float32(Construct):
    """From here on compute in 32-bit floating point, whatever the model's precision."""

    linear_in_input = True

    def lower(self, build: Builder, x: Value) -> Value:
        return build.op(ops.Cast(dtype="float32"), x)


class Softmax(Construct):
    """exp(x / temperature), divided by its sum along the last axis; computed in float32 or wider."""

    temperature = Number("1", low=0, exclusive_low=True, doc="higher is flatter")

    def lower(self, build: Builder, x: Value) -> Value:
        return build.op(ops.Softmax(over=build.last(x), temperature=float(self.temperature)), x)


class Normalize(Construct):
    """Divide by the sum along the last axis, so that the result sums to 1.

    In a router's `weigh`, `normalize(kinds = full)` sums the picks of these kinds of experts alone, so that a null
    expert beside them takes nothing away; where a token picked none of them, nothing is divided.
    """

    eps = Number("0", low=0, doc="added to the sum")
    detach = Flag("false", doc="the sum counts as a constant: no gradient goes through it")
    kinds = Labels("all", doc="the kinds of experts whose weights are summed")

    def lower(self, build: Builder, x: Value) -> Value:
        if self.kinds:
            return self._among_kinds(build, x)
        op = ops.Normalize(over=build.last(x), eps=float(self.eps), detach=self.detach)
        return build.op(op, x)

    def _among_kinds(self, build: Builder, x: Value) -> Value:
        expert = build.scope.get("expert")
        where = self.recipe.origin("kinds")
        if expert is None:
            build.sink.error(
                "E0408",
                "`kinds` needs chosen experts, and there are none here",
                where,
                help="it stands in a router's `weigh`: `weigh = gate -> normalize(kinds = full)`",
            )
            return build.poison(x)
        found = span_of_kinds(build.sink, build.frame.kinds, self.kinds, where)
        if found is None:
            return build.poison(x)
        op = ops.NormalizeAmong(
            first=found[0], stop=sum(found), eps=float(self.eps), detach=self.detach
        )
        return build.op(op, x, expert)
