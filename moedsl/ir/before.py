"""Decisions before this one: `previous(score)` in a router.

Which decision that is follows from the order of computation, so bodies are lowered knowing who decided before them.
A first layer, before which nobody did, is another body than the rest: it has no map of what is not there. What is handed
from layer to layer is the whole record of a decision, which layers hand up anyway; `ir/thread.py` does that.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from moedsl.ir import hiding, ops
from moedsl.ir.graph import Dim, RecordType, TensorType, Unit, Value
from moedsl.ir.ops_before import Before
from moedsl.ir.shapes import MAIN, Axes, stream_of
from moedsl.ir.walk import fits_width, sets_width, walk
from moedsl.model import terms
from moedsl.model.terms import Term

if TYPE_CHECKING:
    from moedsl.ir.build import Builder
    from moedsl.ir.units import Inputs, Units

PLACE = ("previous",)
Known = dict[tuple[str, Dim], Before]  # by the router's name and the stream that it decided about


def reads(term: Term) -> bool:
    """Does a router in or below the term read what was decided before?"""
    return any(is_previous(found) for found in walk(term))


def is_previous(term: Term) -> bool:
    """Is it `previous(...)` itself?"""
    return isinstance(term, terms.Recipe) and term.construct == "previous"


def decided(build: Builder, router: terms.Recipe, x: Value, routing: Value) -> None:
    """Remember a decision for the routers of this name that come after it."""
    stream = stream_of(x) or stream_of(build.scope.get("x", x))
    if stream is None or routing in build.bad or not reads(router):
        return
    decider = _decider(build, routing)
    score = None if decider is None else _score_of(decider)
    if decider is None or score is None or not isinstance(routing.type, RecordType):
        keeps_no_score(build, router, routing)
        return
    if (node := hiding.hidden_in(decider, decider.nodes[-1].inputs[2])) is not None:
        hiding.refuse(build, f"`{router.name}`, by its score before,", _spoken(router).span, node)
        build.units.met.add(router.name)
        return
    op = Before(router=router.name, stream=stream, record=routing.type, score=score)
    _keep(build, op)
    build.frame.unit.decided[op] = routing


def keeps_no_score(build: Builder, router: terms.Recipe, x: Value) -> Value:
    """Soft slots, product keys: what is kept of them is no number for each choice."""
    build.units.met.add(router.name)
    build.sink.error(
        "E0208",
        f"`{router.name}` reads what it decided before, and keeps no score of each choice",
        _spoken(router).span,
        "not yet in this compiler",
        help="a router that picks among experts, `select = top_k(2)`, keeps it",
    )
    return build.poison(x)


def _decider(build: Builder, routing: Value) -> Unit | None:
    """The router whose last step makes a record."""
    call = build.frame.unit.producer(routing)
    unit = call.op.unit if call is not None and isinstance(call.op, ops.Call) else None
    return unit if unit is not None and isinstance(unit.nodes[-1].op, ops.Routed) else None


def _score_of(router: Unit) -> TensorType | None:
    """The type of the logits in the record, where they are one number for each choice."""
    made = router.nodes[-1]
    assert isinstance(made.op, ops.Routed)
    score = made.inputs[2].type
    if not isinstance(score, TensorType) or score.dims[-1].size != made.op.choices.size:
        return None
    return score


def _keep(build: Builder, op: Before) -> None:
    build.frame.before[op.router, op.stream] = op
    build.frame.unit.decides[op.router, op.stream] = op


# --- in and out of bodies -----------------------------------------------------------------------


def inside(build: Builder, axes: Axes, body: Term) -> Known:
    """What was decided before a body that is called now and asks for it, as the body calls its streams."""
    known = build.frame.before
    if not known or not reads(body):
        return {}
    return {
        (router, own): _about(known[router, around], own)
        for own, around in axes
        for router, stream in known
        if stream == around
    }


def outside(build: Builder, decides: Known, axes: Axes) -> None:
    """What a body decided that was called now."""
    for (_, own), op in decides.items():
        for mine, around in axes:
            if mine == own:
                _keep(build, _about(op, around))


def told(known: Known) -> tuple[Any, ...]:
    """What a body is lowered by, of decisions before it."""
    return tuple((*key, op.record, op.score) for key, op in known.items())


def layers(
    units: Units, runs: list[tuple[Term, int]], x: Inputs, bound: Inputs, around: Inputs, axes: Axes
) -> Iterator[tuple[Term, int, Unit]]:
    """Runs of equal layers with their units. The first of a run may be another than the rest, where it reads what was
    decided before and finds nothing. `bound`: of the first run."""
    for term, count in runs:
        inputs = [*x, *(bound if term is runs[0][0] else units.bound(term)), *around]
        while count:
            unit = units.unit(term, inputs, None, None, axes)
            outside(units.build, unit.decides, axes)
            more = count > 1 and unit.decides and units.unit(term, inputs, None, None, axes)
            new = 1 if more and more is not unit else count
            yield term, new, unit
            count -= new


def check_alike(build: Builder, unit: Unit, term: Term, first: Unit) -> None:
    """What comes back is what it was at first."""
    if unit is first or unit.decides.keys() != first.decides.keys() or not reads(term):
        return
    build.sink.error(
        "E0208",
        f"`{unit.name}` comes back, and at first there was no decision before it",
        term.span,
        "reads `previous(score)` from its second run on",
        help="let a layer of its own decide first: `first -> 3 * (one -> two)`",
    )


@contextmanager
def apart(build: Builder) -> Iterator[None]:
    """Inside a block that serves some of the tokens, perhaps round after round: it is one body for all of them, so it
    neither reads what was decided before nor leaves anything for those after it."""
    frame = build.frame
    before, decides = frame.before, dict(frame.unit.decides)
    frame.before = {}
    yield
    frame.before, frame.unit.decides = before, decides


def _about(op: Before, stream: Dim) -> Before:
    return Before(router=op.router, stream=stream, record=op.record, score=op.score)


# --- the expression -------------------------------------------------------------------------------


def there(build: Builder, term: terms.Arithmetic) -> Term | None:
    """The side of a sum whose other side is not there."""
    if term.operator in ("+", "-") and is_absent(build, term.right):
        return term.left
    return term.right if term.operator == "+" and is_absent(build, term.left) else None


def is_absent(build: Builder, term: Term) -> bool:
    """Is it made of a decision before the first one, where there is nothing?"""
    match term:
        case terms.Recipe() if is_previous(term):
            absent = _in_router(build) and _known(build) is None
            if absent:
                build.units.missed.setdefault(_router(build).name, term)
            return absent
        case terms.Flow(stages):
            return is_absent(build, stages[0])
        case terms.Apply(recipe):
            return is_absent(build, recipe)
        case terms.Arithmetic("+" | "-", left, right):
            return is_absent(build, left) and is_absent(build, right)
    return False


def _in_router(build: Builder) -> bool:
    return build.frame.unit.kind == "router"


def _known(build: Builder) -> Before | None:
    return build.frame.before.get((_router(build).name, MAIN))


def _router(build: Builder) -> terms.Recipe:
    assert isinstance(build.frame.unit.recipe, terms.Recipe)
    return build.frame.unit.recipe


def at_place(build: Builder) -> AbstractContextManager[None]:
    """What follows the score before stands at the router's own `previous`, so that its `score` is called alike in all
    layers."""
    inside = build.outermost()
    build.frame.prefix = PLACE
    return inside


def lower_previous(build: Builder, recipe: terms.Recipe, x: Value) -> Value:
    if not _in_router(build):
        build.sink.error(
            "E0417",
            "`previous` is what the same router decided before, and this is no router",
            recipe.span,
            help="it stands in a router: `score = linear + (previous(score) -> linear)`",
        )
        return build.poison(x)
    op = _known(build)
    if op is None:
        build.sink.error(
            "E0417",
            f"`{_router(build).name}` has nothing to go by where it decides first",
            recipe.span,
            "there is no decision before the first, and this is not added to anything",
            help="add it to what is always there: `score = linear + (previous(score) -> linear)`",
        )
        return build.poison(x)
    build.units.met.add(op.router)
    record = build.ambient(op)
    return build.op(ops.Field(field="logits_NE", type=op.score), record)


def check_choices(build: Builder, term: Term, choices: Dim) -> bool:
    """Added as it is, the score before needs as many choices."""
    op = _known(build)
    size = op.score.dims[-1] if op is not None else choices
    if size.size == choices.size:
        return True
    bare = next(_bare(term), None)
    if bare is None:
        return True
    build.units.met.add(_router(build).name)
    build.mismatch(
        "E0418",
        f"the score before has {size.size} choices, and here are {choices.size}",
        (bare.span, f"{size.size} numbers, added to {choices.size}"),
        (size.origin, f"{size.size} choices before"),
        (choices.origin, f"{choices.size} choices here"),
        help="map it: `previous(score) -> linear`, or give both as many experts",
    )
    return False


def _bare(term: Term) -> Iterator[Term]:
    """Terms of a sum that are the score before in its own width."""
    match term:
        case terms.Arithmetic(left=left, right=right):
            yield from _bare(left)
            yield from _bare(right)
        case terms.Flow(stages) if is_previous(stages[0]):
            if not (fits_width(term) or sets_width(term)):
                yield term
        case terms.Recipe() if is_previous(term):
            yield term


def _spoken(router: terms.Recipe) -> Term:
    return next(found for found in walk(router) if is_previous(found))


def check_met(build: Builder) -> None:
    """Routers that read what was decided before, and find nothing anywhere."""
    for name, term in build.units.missed.items():
        if name not in build.units.met:
            build.sink.warn(
                "W1011",
                f"nothing is ever decided before `{name}`",
                term.span,
                "falls out: no router of this name stands before it",
                help="give the model a second layer with this router, or leave `previous` out",
            )
