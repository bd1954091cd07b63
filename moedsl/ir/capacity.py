"""Where experts take a limited number of rows: from a router's picks to those that find room."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moedsl.constructs.capacity import Next, Room, Slots, Tokens
from moedsl.constructs.registry import construct_of
from moedsl.frozen import frozen
from moedsl.ir import arranging, ops, shared_room
from moedsl.ir.graph import Dim, Value
from moedsl.ir.kinds import span_of_kinds
from moedsl.ir.ops_capacity import Rule
from moedsl.model import terms

if TYPE_CHECKING:
    from fractions import Fraction

    from moedsl.constructs.router import Router
    from moedsl.ir.build import Builder

UNLIMITED = Rule()
ROWS = Dim("N")


@frozen
class Served:
    """`asked`: the picks that weights are made of; `expert`: those of them that found room."""

    asked: Value
    expert: Value


def is_limited(router: Router) -> bool:
    return router.capacity != "none"


def phases(term: object) -> tuple[object, object, object]:
    """What holds in training, in evaluation, and with a cache."""
    if isinstance(term, terms.Phase):
        return term.train, term.eval, term.decode
    return term, term, term


def is_by_kind(router: Router) -> bool:
    return any(isinstance(term, terms.Items) for term in phases(router.capacity))


def by_kind(router: Router) -> dict[str, terms.Phase]:
    """What each kind that is named has in each phase; a plain capacity is that of all of them."""
    found = phases(router.capacity)
    named = [dict(term.items) for term in found if isinstance(term, terms.Items)]
    labels = dict.fromkeys(label or "" for items in named for label in items)
    kinds: dict[str, terms.Phase] = {}
    for label in labels:
        train, eval_, decode = (_of_kind(term, label, i) for i, term in enumerate(found))
        kinds[label] = terms.Phase(train, eval_, decode)
    return kinds


def _of_kind(term: object, label: str, phase: int) -> terms.Term:
    """What one phase says of a kind."""
    if isinstance(term, terms.Items):
        term = dict(term.items).get(label, terms.Word("none"))
    if not isinstance(term, terms.Number | terms.Recipe | terms.Phase):
        return terms.Word("none")
    return phases(term)[phase] if isinstance(term, terms.Phase) else term  # type: ignore[return-value]


def rules(capacity: object, picks: int, choices: int) -> tuple[Rule, Rule, Rule]:
    train, eval_, decode = (rule(term, picks, choices) for term in phases(capacity))
    return train, eval_, decode


def rule(term: object, picks: int, choices: int) -> Rule:
    match term:
        case terms.Number(value):
            return Rule(_share(value, "pick", picks, choices))
        case terms.Recipe():
            construct = construct_of(term)
            if isinstance(construct, Slots):
                return Rule(fixed=construct.count)
            if isinstance(construct, Room):
                places = choices if construct.devices == "none" else construct.devices
                return Rule(
                    _share(construct.factor, construct.per, picks, places),
                    round=construct.round,
                    times=construct.times,
                    least=construct.least,
                    multiple=construct.multiple,
                )
    return UNLIMITED


def _share(factor: float, per: str, picks: int, choices: int) -> Fraction:
    """The share of a group's rows that one expert takes, without a rounding error."""
    from fractions import Fraction  # not worth importing for a spec without capacities

    exact = Fraction(repr(factor))
    return {"pick": exact * picks / choices, "token": exact / choices, "group": exact}[per]


def has_room_for_all(router: Router, picks: int, choices: int) -> bool:
    """Is there a slot for every row in each expert, whatever is picked?"""
    return _roomy(rules(router.capacity, picks, choices))


def _roomy(found: tuple[Rule, ...]) -> bool:
    return all(rule.unlimited or (rule.share is not None and rule.share >= 1) for rule in found)


def may_fall_short(router: Router) -> bool:
    """May there be less room than picks? Then a bound on the rows saves memory."""
    if is_by_kind(router) or shared_room.spares(router):
        return False  # kinds that are not named, and sequences that are spared, have room for all
    for term in phases(router.capacity):
        match term:
            case terms.Number(value):
                enough = value >= 1
            case terms.Recipe():
                construct = construct_of(term)
                enough = isinstance(construct, Room) and _is_enough(construct)
            case _:
                enough = True
        if not enough:
            return True
    return False


def _is_enough(room: Room) -> bool:
    return room.per == "pick" and room.factor >= 1 and room.round == "up"


# --- the nodes ------------------------------------------------------------------------------------


def group_size(build: Builder, router: Router, of: Value) -> Value:
    match router.within:
        case "sequence":
            op, more = ops.GroupSize(sequences=True), [build.ambient(ops.Sequences())]
        case terms.Recipe() as recipe:
            tokens = construct_of(recipe)
            assert isinstance(tokens, Tokens)
            op, more = ops.GroupSize(rows=tokens.count), []
        case _:
            op, more = ops.GroupSize(), []
    return build.op(op, of, *more, name="size")


def slots(build: Builder, capacity: object, size: Value, picks: int, choices: int) -> Value:
    train, eval_, decode = rules(capacity, picks, choices)
    more = [] if decode == eval_ else [build.ambient(ops.CacheHandle())]
    op = ops.Slots(train=train, eval=eval_, decode=decode)
    return build.op(op, size, *more, name="slots")


def take(build: Builder, router: Router, key: Value, op: ops.ExpertChoice) -> Value:
    """Experts choose among the rows of each group."""
    if shared_room.refused(build, router, "experts that choose take rows each for itself"):
        return build.poison(key)
    choices = op.choices.size or 1
    size = group_size(build, router, key)
    room = slots(build, router.capacity, size, 1, choices)
    limit = ops.SlotRows(choices=choices)
    build.bind("rows", build.op(limit, key, size, room, name="rows"))
    real = ops.real_rows(build, key)
    return build.op(op, key, size, room, real, name="expert")


def lookahead(router: Router) -> str:
    """What the spec says to looking ahead: that it may, or what takes its place when decoding."""
    if router.lookahead == "allowed":
        return "allowed"
    decode = phases(router.capacity)[2]
    limits = (
        [decode] if not is_by_kind(router) else [one.decode for one in by_kind(router).values()]
    )
    return "capacity = none" if all(isinstance(one, terms.Word) for one in limits) else ""


def in_phase(build: Builder, router: Router, served: Value, picked: Value) -> Value:
    """What is served; where room is limited in training alone, all that is picked else, and nothing is sorted."""
    _, eval_, decode = (rule(term, 1, 1) for term in phases(router.capacity))
    if not (eval_.unlimited and decode.unlimited) or served in build.bad:
        return build.named(served, "served")
    picked = build.named(picked, "expert")
    return build.op(ops.ByPhase(kept=build.last(served)), served, picked, name="served")


def serve(build: Builder, router: Router, picked: Value, choices: Dim, rows: Value) -> Served:
    """The picks that find room. Where heads decide, each head of a token is a row, room is that of a head's own
    experts in so many tokens, and what is served is counted through all heads. `rows`: those of tokens."""
    kept, heads = build.last(picked), build.frame.heads
    picks, among = kept.size or 1, choices.size or 1
    if is_by_kind(router):
        return _serve_kinds(build, router, picked, among)
    if heads is not None and shared_room.refused(build, router, "heads have experts of their own"):
        return Served(picked, build.poison(picked))
    if shared_room.is_shared(router):
        return shared_room.serve(build, router, picked, choices)
    group = size = group_size(build, router, picked if heads is None else rows)
    room = slots(build, router.capacity, size, picks, among)
    real, line, total = ops.real_rows(build, rows), picked, among
    if heads is not None:
        line = arranging.counted_through(build, picked, heads, choices)
        real = build.op(ops.RealHeadRows(heads=heads), real, name="real")
        group = build.op(ops.HeadGroup(heads=heads), size)
        total = among * (heads.size or 1)
    op = ops.Serve(
        priority=router.priority,
        choices=total,
        picks=picks,
        heads=0 if heads is None else heads.size or 1,
        mean=_mean(router, kept, among),
        lookahead=lookahead(router),
        roomy=has_room_for_all(router, picks, among),
    )
    gate = []
    if op.gated:
        fill = "0" if kept.loose else None
        gate = [build.op(ops.Gather(fill=fill), build.scope["gate"], picked, name="gate")]
    build.spans.append(router.recipe.origin("capacity"))
    served = build.op(op, line, group, room, real, *gate)
    served = in_phase(build, router, served, line)
    build.spans.pop()
    if may_fall_short(router):
        limit = ops.SlotRows(choices=total)
        build.bind("rows", build.op(limit, line, group, room, name="rows"))
    if isinstance(router.overflow, terms.Recipe):
        return _next(build, router, picked, line, served, (group, room, real), choices)
    return Served(picked, served)


def _serve_kinds(build: Builder, router: Router, picked: Value, choices: int) -> Served:
    """Each kind by itself: the room of an expert is nothing to the picks of another."""
    if shared_room.refused(build, router, "kinds have room of their own"):
        return Served(picked, build.poison(picked))
    if isinstance(router.overflow, terms.Recipe):
        build.mismatch(
            "E0420",
            "the next best choice may be of another kind, whose room is its own",
            (router.overflow.span, "asks for the next best"),
            (router.recipe.origin("capacity"), "room by kind"),
            help="let picks drop, `overflow = drop`, or give all kinds one capacity",
        )
        return Served(picked, build.poison(picked))
    kept = build.last(picked)
    picks = kept.size or 1
    size, real = group_size(build, router, picked), ops.real_rows(build, picked)
    gate = []
    if router.priority in ("best", "strongest"):
        fill = "0" if kept.loose else None
        gate = [build.op(ops.Gather(fill=fill), build.scope["gate"], picked, name="gate")]
    parts, limited = [], []
    for label, term in by_kind(router).items():
        where = router.recipe.origin("capacity")
        found = span_of_kinds(build.sink, build.frame.kinds, (label,), where)
        if found is None:
            return Served(picked, build.poison(picked))
        limited.append(found)
        first, count = found
        of_kind = ops.OfKind(label=label, first=first, count=count, choices=choices)
        own = build.op(of_kind, picked, name=label)
        op = ops.Serve(
            priority=router.priority,
            choices=choices,
            picks=picks,
            lookahead=lookahead(router),
            roomy=_roomy(rules(term, picks, choices)),
        )
        build.spans.append(where)
        room = slots(build, term, size, picks, choices)
        parts.append(build.op(op, own, size, room, real, *gate, name=label))
        build.spans.pop()
    for first, stop in _between(limited, choices):
        op_rest = ops.OfKind(label="", first=first, count=stop - first, choices=choices)
        parts.append(build.op(op_rest, picked, name="rest"))
    total = parts[0]
    for part in parts[1:]:
        total = build.op(ops.OfEither(), total, part, name="served")
    return Served(picked, total)


def _between(ranges: list[tuple[int, int]], choices: int) -> list[tuple[int, int]]:
    """The runs of choices that are in none of the ranges (first, count)."""
    starts = [*sorted(ranges), (choices, 0)]
    ends = [0, *(first + count for first, count in sorted(ranges))]
    return [(end, first) for end, (first, _) in zip(ends, starts, strict=True) if end < first]


def _mean(router: Router, kept: Dim, choices: int) -> Fraction | None:
    """How many picks are served where there is less room than picks even at perfect balance."""
    train, _, _ = rules(router.capacity, kept.size or 1, choices)
    if train.share is None or train.share * choices >= kept.picks:
        return None
    return train.share * choices


def _next(
    build: Builder,
    router: Router,
    picked: Value,
    line: Value,
    served: Value,
    room: tuple[Value, Value, Value],
    choices: Dim,
) -> Served:
    overflow, heads = router.overflow, build.frame.heads
    assert isinstance(overflow, terms.Recipe)
    construct = construct_of(overflow)
    maker = next((n for n in build.frame.unit.nodes if picked in n.outputs), None)
    if maker is None or not isinstance(maker.op, ops.TopK):
        build.mismatch(
            "E0420",
            "only a selection that ranks all choices knows a next best one",
            (overflow.span, "asks for the next best"),
            (router.select.span, "does not rank what it leaves"),
            help="end the selection with `top_k`, or let picks drop: `overflow = drop`",
        )
        return Served(picked, build.poison(served))
    kept = maker.op.kept.size or 1
    rounds = construct.rounds if isinstance(construct, Next) else 1
    more = min(rounds, (choices.size or 1) - kept)
    if more < 1:
        return Served(picked, served)
    further = build.op(ops.Further(kept=kept, more=more), maker.inputs[0], name="further")
    count = heads.size or 1 if heads is not None else 0
    if heads is not None:
        further = arranging.counted_through(build, further, heads, choices)
    op = ops.NextBest(
        choices=(choices.size or 1) * max(1, count), heads=count, lookahead=lookahead(router)
    )
    build.spans.append(overflow.span)
    names = ("asked", "served")
    asked, expert = build.many(op, served, line, further, *room, names=names)
    build.spans.pop()
    if heads is not None:
        asked = arranging.own(build, asked, heads, choices)
    return Served(asked, expert)
