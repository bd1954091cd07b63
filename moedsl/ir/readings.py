"""What losses read of a decision: statistics of its picks, its probabilities, its scores."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, get_args

from moedsl.frozen import frozen
from moedsl.ir import arranging, keyed, ops
from moedsl.ir.graph import Dim, Node, TensorType, Value
from moedsl.ir.kinds import Choices
from moedsl.ir.shapes import is_ids
from moedsl.model import terms

if TYPE_CHECKING:
    from moedsl.ir.build import Builder

# In the order in which printed records have them.
Statistic = Literal[
    "choices",
    "first",
    "probability",
    "z",
    "entropy",
    "weight",
    "gate",
    "clean",
    "load",
    "rebuilt",
    "visits",
]
ORDER: tuple[Statistic, ...] = get_args(Statistic)


@frozen
class Wanted:
    """What losses read of a decision."""

    statistics: tuple[str, ...] = ()
    per_sequence: bool = False
    of: str = "gate"
    kinds: tuple[Choices, ...] = ()  # of the bank that is chosen from
    bar: str = ""  # what a noisy score has to pass, where a loss over the load reads this decision
    devices: int = 1  # those whose visits a loss counts
    by: str = ""  # the label of a loss over what autoencoders rebuild
    heads: Dim | None = None  # of a decision that is made for each by itself


@frozen
class Picks:
    """What was decided for each token."""

    expert: Value
    weight: Value
    logits: Value
    choices: Dim


def wanted_of(router: terms.Recipe, losses: Iterable[terms.Recipe]) -> Wanted:
    """What the losses over the decisions of a router read, and the numbers that follow their load."""
    from moedsl.constructs.losses import Loss
    from moedsl.constructs.registry import construct_of
    from moedsl.ir.adapting import follows_load

    made = [loss for loss in map(construct_of, losses) if isinstance(loss, Loss)]
    found = {s for loss in made for s in loss.reads()}
    if follows_load(router) or any(loss.follows_load for loss in made):
        found.add("choices")
    per_sequence = any(
        "sequence" in (getattr(loss, "over", ""), getattr(loss, "per", "")) for loss in made
    )
    return Wanted(tuple(s for s in ORDER if s in found), per_sequence)


def statistics(
    build: Builder,
    wanted: Wanted,
    picks: Picks,
    counted: Value,
    own: Value,
    logits: Value,
    gate: Value,
) -> list[Value]:
    """`counted`: the picks that losses count. Of decisions for each head every head of a token counts as a row, and
    every choice of a head as one of its own; `own`, `logits` and `gate` have a row for each."""
    if not wanted.statistics or {picks.expert, picks.weight, logits, gate} & build.bad:
        return []
    many, heads, expert = wanted.per_sequence, wanted.heads, counted
    real = ops.real_rows(build, logits)
    more = [build.ambient(ops.Sequences())] if many else []
    by_token = ends = [real, *more]
    if heads is not None:
        ends = [build.op(ops.RealHeadRows(heads=heads), real, name="real"), *more]
    found = []
    for which in ORDER:
        if which not in wanted.statistics:
            continue
        if which in ("probability", "entropy"):
            form, value = _probability(build, wanted, gate)
            if heads is not None:
                form, value = "given", _probability_of_heads(build, form, value, heads)
            op = ops.Statistic(which=which, form=form, per_sequence=many)
            found.append(build.op(op, value, *by_token))
        elif which == "weight":
            size = picks.choices.size or 0
            op = ops.Statistic(which=which, per_sequence=many, choices=size)
            found.append(build.op(op, picks.weight, picks.expert, *by_token))
        elif which == "visits":
            size, devices = picks.choices.size or 0, wanted.devices
            op = ops.Statistic(which=which, per_sequence=many, choices=size, devices=devices)
            found.append(build.op(op, counted, *by_token))
        elif which == "rebuilt":
            op, values = _rebuilt(build, wanted, logits)
            found.append(build.op(op, *values, *by_token))
        elif which == "load":
            op, values = _load(build, wanted, own)
            found.append(build.op(op, *values, *by_token))
        elif which in ("gate", "clean"):
            form, value = "given", gate if which == "gate" else _noise(build)[0]
            if heads is not None:
                form = "softmax" if which == "clean" else form
                form, value = "made", _probability_of_heads(build, form, value, heads)
            op = ops.Statistic(which=which, form=form, per_sequence=many)
            found.append(build.op(op, value, *by_token))
        elif which == "z":
            found.append(
                build.op(ops.Statistic(which=which, per_sequence=many), build.scope["score"], *ends)
            )
        else:
            every = 0 if heads is None else (build.last(expert).size or 0) // (heads.size or 1)
            op = ops.Statistic(
                which=which,
                per_sequence=many,
                loose=build.last(expert).loose,
                every=every if which == "first" else 0,
            )
            found.append(build.op(op, expert, picks.logits, *by_token))
    return [*found, build.op(ops.Statistic(which="tokens", per_sequence=many), logits, *ends)]


def _probability_of_heads(build: Builder, form: str, value: Value, heads: Dim) -> Value:
    """The probability among the choices of each head, for all heads of a token."""
    over = build.last(value)
    if form == "softmax":
        value = build.op(ops.Softmax(over=over), value)
    elif form == "normalize":
        value = build.op(ops.Normalize(over=over), value, name="probability")
    return arranging.merged_rows(build, value, heads, "probability")


def _noise(build: Builder) -> tuple[Value, Node | None]:
    """The score before its last noise, and that noise if there is one."""
    score = value = build.scope["score"]
    while (maker := build.frame.unit.producer(value)) is not None:
        if isinstance(maker.op, ops.Noise) and maker.op.form == "gaussian":
            return _of_heads(build, wide(build, maker.inputs[0])), maker
        if not isinstance(maker.op, ops.Cast | ops.HeadRows):
            break
        value = maker.inputs[0]
    return score, None


def _of_heads(build: Builder, value: Value) -> Value:
    """What there is for each choice of a token, for each head that decides."""
    heads = build.frame.heads
    if heads is None:
        return value
    return arranging.logits_by_head(build, value, heads, build.last(build.scope["score"]))


def _rebuilt(
    build: Builder, wanted: Wanted, logits: Value
) -> tuple[ops.Statistic, tuple[Value, ...]]:
    """How badly the autoencoder that a label names rebuilds each row; nothing, where no loss wants to know."""
    many = wanted.per_sequence
    nothing = ops.Statistic(which="rebuilt", form="none", per_sequence=many), (logits,)
    if not wanted.by:
        return nothing
    made = next((n for n in build.frame.unit.nodes if isinstance(n.op, ops.RebuildError)), None)
    label = build.scope[wanted.by]
    row = keyed.of_rows(build, label, logits) if is_ids(label) else None
    if made is None or row is None:
        what = "has no autoencoders" if made is None else "goes by other rows"
        build.sink.error(
            "E0506",
            f"`reconstruction` reads what autoencoders rebuild, and this decision {what}",
            build.frame.unit.span,
            help="`score = autoencoder(bottleneck = 100) -> scale(-1)`, and a `label` for each sequence",
        )
        return nothing
    keyed.name_choices(build, label.span, label, build.last(logits))
    return ops.Statistic(which="rebuilt", per_sequence=many), (*made.inputs, row)


def _load(build: Builder, wanted: Wanted, expert: Value) -> tuple[ops.Statistic, tuple[Value, ...]]:
    """How likely each choice is kept, were the noise drawn again; how often, where nothing wants to know it smooth."""
    clean, noise = _noise(build)
    picked = build.frame.unit.producer(expert)
    is_top = picked is not None and isinstance(picked.op, ops.TopK)
    kept = build.last(expert).size or 0
    many, heads = wanted.per_sequence, wanted.heads
    merged = 0 if heads is None else (heads.size or 1) * (build.last(clean).size or 0)
    if wanted.bar and (noise is None or not is_top):
        what = "noise in the score" if noise is None else "the largest k of the score kept"
        build.sink.error(
            "E0503",
            f"`load` needs {what}, and there is none here",
            build.frame.unit.span,
            "decides without",
            help="`score = linear -> gaussian(1 / choices)`, and `select = top_k(2)`",
        )
    if not wanted.bar or noise is None:
        op = ops.Statistic(which="load", per_sequence=many, kept=kept, merged=merged)
        return op, (build.scope["score"],)
    assert isinstance(noise.op, ops.Noise)
    std = None if noise.op.learned else noise.op.amount
    op = ops.Statistic(
        which="load", per_sequence=many, kept=kept, bar=wanted.bar, std=std, merged=merged
    )
    given = [_of_heads(build, value) for value in noise.inputs[1:]]
    return op, (clean, build.scope["score"], *given)


def _probability(build: Builder, wanted: Wanted, gate: Value) -> tuple[str, Value]:
    """`gate / sum(gate)`; softmax(score) where no gate is given."""
    score = build.scope["score"]
    if wanted.of == "score" or gate is score:
        return "softmax", score
    maker = next((n for n in build.frame.unit.nodes if gate in n.outputs), None)
    return ("given" if _sums_to_one(maker) else "normalize"), gate


def _sums_to_one(node: Node | None) -> bool:
    return node is not None and isinstance(node.op, ops.Softmax | ops.Normalize)


def wide(build: Builder, value: Value) -> Value:
    if isinstance(value.type, TensorType) and value.type.dtype == "float32":
        return value
    return build.op(ops.Cast(dtype="float32"), value, name="score")
