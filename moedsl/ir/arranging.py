"""How rows reach the experts of a mixture, and how what they give is put together.

As a rule a row goes whole to each of its experts, and what they give is summed by weight. `inputs = stack` hands pick j
the j-th part of the row; `mix = stack` leaves what the picks gave side by side, unweighted; `per = head` keeps experts
and decisions for each head: where heads come in, each head goes to its own experts, where none do, all heads read the
whole row; where the place asks for heads, each gets what its own experts gave, where it does not, heads are summed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from moedsl.diagnostics.model import Label
from moedsl.frozen import frozen
from moedsl.ir import ops
from moedsl.ir.graph import Dim, Value
from moedsl.ir.ops_arranging import HEAD_ROWS, ROWS
from moedsl.model import terms

if TYPE_CHECKING:
    from moedsl.constructs.moe import Moe
    from moedsl.ir.build import Builder


@frozen
class Arrangement:
    """`asked`: the last axis that the place wants. `heads`: those that have experts of their own; `heads_in` and
    `heads_out` say whether they come in and go out. `width`: what one expert is asked for."""

    asked: Dim
    kept: Dim
    width: Dim
    heads: Dim | None = None
    heads_in: bool = False
    heads_out: bool = False

    @property
    def picks(self) -> int:
        return self.kept.size or 1


# --- heads ----------------------------------------------------------------------------------------


def heads_of(build: Builder, moe: Moe, x: Value) -> Dim | None:
    """Those of a mixture `per = head`: of what comes in, or of what its place asks for."""
    found = [dim.split[0] for dim in (build.last(x), _asked(build, x)) if len(dim.split) == 2]
    if not found:
        build.sink.error(
            "E0307",
            "`per = head` needs heads, and there are none here",
            moe.recipe.origin("per"),
            help="heads are in an attention: `v = moe(per = head, ...)`, or an `o` that reads `mixed`",
        )
        return None
    first, last = found[0], found[-1]
    if first.size != last.size:
        build.mismatch(
            "E0301",
            f"{first.size} heads come in and {last.size} are wanted",
            (moe.recipe.origin("per"), "one decision for each head"),
            (first.origin, f"{first.size} come from here"),
            (last.origin, f"{last.size} are wanted here"),
            help="a mixture `per = head` gives as many heads as it gets",
        )
        return None
    return first


def _asked(build: Builder, x: Value) -> Dim:
    return build.width or build.last(x)


# --- what experts get and give --------------------------------------------------------------------


def arrangement(
    build: Builder, moe: Moe, x: Value, kept: Dim, heads: Dim | None
) -> Arrangement | None:
    """None where parts do not come out even; that is reported."""
    asked = width = _asked(build, x)
    comes = build.last(x)
    heads_in = heads is not None and len(comes.split) == 2
    heads_out = heads is not None and len(asked.split) == 2
    if heads_out:
        width = asked.split[1]
    if moe.inputs == "stack" and not _even(build, moe, "inputs", comes, kept):
        return None
    if moe.mix == "stack":
        if build.width is not None and not _even(build, moe, "mix", width, kept):
            return None
        width = _part(width, kept) if build.width is not None else build.last(x)
    return Arrangement(asked, kept, width, heads, heads_in, heads_out)


def _part(whole: Dim, kept: Dim) -> Dim:
    return Dim("Q", (whole.size or 0) // (kept.size or 1), origin=whole.origin)


def _even(build: Builder, moe: Moe, setting: str, whole: Dim, kept: Dim) -> bool:
    if not kept.size or not whole.size or whole.size % kept.size == 0:
        return True
    build.mismatch(
        "E0430",
        f"{whole.size} channels are not {kept.size} equal parts, one for each pick",
        (moe.recipe.origin(setting), "parts side by side"),
        (whole.origin, f"{whole.size} comes from here"),
        (kept.origin, f"{kept.size} picks"),
        help="choose a width that the number of picks divides",
    )
    return False


def spread(build: Builder, moe: Moe, how: Arrangement, x: Value, rows: Value, kept: Dim) -> Value:
    """Rows as experts get them, sorted by expert."""
    routed = Dim("R", None, (HEAD_ROWS if how.heads else ROWS, kept), loose=kept.loose)
    if moe.inputs == "stack":
        part = _part(build.last(x), kept)
        return build.op(ops.SortRows(routed=routed, kept=kept, part=part), x, rows)
    if how.heads is None:
        return build.op(ops.GatherRows(routed=routed, kept=kept), x, rows)
    if how.heads_in:
        part = build.last(x).split[1]
        x = build.op(ops.HeadRows(heads=how.heads, part=part), x, name="x")
        return build.op(ops.GatherRows(routed=routed, kept=kept), x, rows)
    merged = build.op(ops.MergePlan(heads=how.heads), rows)
    return build.op(ops.GatherRows(routed=routed, kept=_times(how.heads, kept)), x, merged)


def gather(
    build: Builder, moe: Moe, how: Arrangement, y: Value, weight: Value, rows: Value, kept: Dim
) -> Value:
    """What experts gave, as rows again."""
    y = build.named(y, "y")
    made = build.last(y)
    if moe.mix == "stack":
        total = _total(build, moe, how, made, kept, y)
        return build.op(ops.StackRows(rows=ROWS, kept=kept, total=total), y, rows)
    if how.heads is None:
        return build.op(ops.Combine(kept=kept), y, weight, rows)
    if how.heads_out:
        total = _total(build, moe, how, made, how.heads, y)
        y = build.op(ops.Combine(kept=kept), y, weight, rows)
        return build.op(ops.MergeHeadRows(rows=ROWS, heads=how.heads, total=total), y)
    all_picks = _times(how.heads, kept)
    merged = build.op(ops.MergePlan(heads=how.heads), rows)
    weight = build.op(ops.MergeHeadRows(rows=ROWS, heads=how.heads, total=all_picks), weight)
    return build.op(ops.Combine(kept=all_picks), y, weight, merged)


def _total(build: Builder, moe: Moe, how: Arrangement, made: Dim, parts: Dim, y: Value) -> Dim:
    """The axis that parts make side by side: the one that the place asks for, where it fits."""
    size = (made.size or 0) * (parts.size or 1)
    if build.width is None or size == how.asked.size:
        return how.asked if size == how.asked.size else build.dim(size, made.origin)
    if not {y} & build.bad:
        build.mismatch(
            "E0301",
            f"{parts.size} parts of {made.size} channels side by side are {size}, and the place takes {how.asked.size}",
            (moe.recipe.span, f"gives {size}"),
            (made.origin, f"{made.size} comes from here"),
            (how.asked.origin, f"{how.asked.size} are wanted here"),
            help="leave out the width of the expert's `linear`: it takes the one that its place needs",
        )
        build.bad.add(y)
    return how.asked


# --- decisions of heads ---------------------------------------------------------------------------


def _times(heads: Dim, each: Dim) -> Dim:
    return replace(each, size=(heads.size or 1) * (each.size or 1))


def logits_by_head(build: Builder, logits: Value, heads: Dim, choices: Dim) -> Value:
    """The scores of all heads, [N, H * E], as rows of their own, [M, E]."""
    return build.op(ops.HeadRows(heads=heads, part=choices), logits)


def numbered(build: Builder, expert: Value, heads: Dim, choices: Dim) -> Value:
    kept = build.last(expert)
    op = ops.NumberByHead(
        rows=ROWS, heads=heads, choices=choices.size or 0, total=_times(heads, kept)
    )
    return build.op(op, expert, name="expert")


def counted_through(build: Builder, expert: Value, heads: Dim, choices: Dim) -> Value:
    """Picks of each head, [M, K], by their numbers among the choices of all heads."""
    op = ops.CountThrough(heads=heads, choices=choices.size or 0)
    return build.op(op, expert, name="line")


def own(build: Builder, expert: Value, heads: Dim, choices: Dim) -> Value:
    """And back: by their numbers among those of the head."""
    return build.op(ops.OwnChoices(heads=heads, choices=choices.size or 0), expert, name="own")


def merged_rows(
    build: Builder, value: Value, heads: Dim, name: str, last: Dim | None = None
) -> Value:
    """[M, X] as [N, H * X]."""
    op = ops.MergeHeadRows(rows=ROWS, heads=heads, total=_times(heads, last or build.last(value)))
    return build.op(op, value, name=name)


def rows_of_heads(build: Builder, value: Value, heads: Dim, kept: Dim, name: str) -> Value:
    """[N, H * K] as [M, K]."""
    return build.op(ops.HeadRows(heads=heads, part=kept), value, name=name)


def check_by_head(build: Builder, router: terms.Recipe, routing: Value) -> None:
    """A decision for each head is made head by head: no weight or row stands between heads after the score."""
    unit = next(
        u for u in reversed(build.units.done) if routing.type in [v.type for v in u.outputs]
    )
    opened = next(i for i, node in enumerate(unit.nodes) if isinstance(node.op, ops.HeadRows))
    for node in unit.nodes[opened:]:
        if getattr(node.op, "by_head", False):
            continue
        if node.op.parameters() or node.op.sees != "row":
            build.sink.error(
                "E0431",
                "a decision for each head is made by its own scores alone",
                node.span,
                "reads other rows"
                if node.op.sees != "row"
                else "has weights that heads would share",
                secondary=(Label(router.span, "decides for each head"),),
                help="put it into the `score`, or take `per = head` out",
            )
            build.poison(routing)
            return
