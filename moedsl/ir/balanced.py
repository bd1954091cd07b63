"""What losses over a decision need of it: something to even out, a first choice, experts that compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from moedsl.diagnostics.model import Label
from moedsl.ir.walk import walk
from moedsl.model import terms
from moedsl.model.terms import Term

if TYPE_CHECKING:
    from moedsl.ir.build import Builder

Recipes = Sequence[terms.Recipe]
COSTS = ("linear", "ffn", "embedding", "attention", "moe")  # what makes an expert cost something
BUCKETS = ("average", "light", "together")  # what a balance says of kinds


def check(build: Builder, router: terms.Recipe, mixtures: Recipes, losses: Recipes) -> None:
    _warn_evened_out(build, router, losses)
    _check_first(build, router, losses)
    for moe in mixtures:
        _warn_free_kinds(build, moe, losses)


def evening_out(router: terms.Recipe) -> terms.Recipe | None:
    """The stage of a router's selection that gives every choice as much as every other."""
    return _stage_that(router, "evens_out", True)


def _stage_that(router: terms.Recipe, trait: str, value: bool) -> terms.Recipe | None:
    """A stage of what it selects in training, where losses pull, whose construct says so."""
    from moedsl.constructs.registry import constructs

    known, select = constructs(), router.setting("select")
    select = select.train if isinstance(select, terms.Phase) else select
    stages = [s for s in terms.stages_of(select) if isinstance(s, terms.Recipe)]
    return next((s for s in stages if getattr(known[s.construct], trait, None) is value), None)


def _warn_evened_out(build: Builder, router: terms.Recipe, losses: Recipes) -> None:
    stage = evening_out(router)
    for loss in losses:
        if stage is not None and loss.construct in ("balance", "load") and not _counts_first(loss):
            build.sink.warn(
                "W1005",
                f"`{loss.construct}` has nothing to do: with `{stage.construct}` all choices get as much",
                loss.span,
                "pulls towards what is so anyway",
                secondary=(Label(stage.span, "every choice gets as many tokens"),),
                help="take the loss out",
            )


def _counts_first(loss: terms.Recipe) -> bool:
    count = dict(loss.settings).get("count")
    return isinstance(count, terms.Word) and count.text == "first"


def _check_first(build: Builder, router: terms.Recipe, losses: Recipes) -> None:
    """A loss that counts first choices needs a selection with a first."""
    stage = _stage_that(router, "ranks", False)
    for loss in losses:
        if stage is not None and _counts_first(loss):
            build.sink.error(
                "E0505",
                f"`count = first` counts the first choice of a token, and with `{stage.construct}` none is",
                loss.origin("count"),
                "none comes before the others",
                secondary=(Label(stage.span, "keeps all that it keeps at once"),),
                help="count them all, `count = share`, or keep the best: `select = top_k(2)`",
            )


def _warn_free_kinds(build: Builder, moe: terms.Recipe, losses: Recipes) -> None:
    """Experts that cost nothing, balanced as if they were to get as many tokens each as those that do."""
    from moedsl.constructs.registry import construct_of

    bank = getattr(construct_of(moe), "experts", ())
    free = [(label, body) for label, _, body in bank if _is_free(body)]
    if not free or len(free) == len(bank):
        return
    for loss in losses:
        if loss.construct != "balance":
            continue
        balance = construct_of(loss)
        said = {label for name in BUCKETS for label in getattr(balance, name)}
        if not said <= {label for label, _, _ in bank}:
            continue  # a name that no kind has: an error of its own
        for label, body in free:
            if label in said:
                continue
            name = label or getattr(body, "construct", "these")
            help_ = f"say what they are to it: `average = {name}`, `light = {name}` with an `eta`, or `together = {name}`"
            if not label:
                help_ = "name the kinds, `experts = [full = 6 * swiglu(64), skip = 2 * zero]`, and say what they are to it"
            build.sink.warn(
                "W1006",
                f"`balance` wants each `{name}`, which costs nothing, to get as many tokens as each expert that does",
                loss.span,
                "one bucket for all",
                secondary=(Label(body.span, "costs nothing"),),
                help=help_,
            )


def _is_free(body: Term) -> bool:
    from moedsl.constructs.registry import constructs

    known = constructs()
    made = [each for each in walk(body) if isinstance(each, terms.Recipe)]
    return not any(known[each.construct].kind in COSTS for each in made)
