"""What lowering says to people, where saying it takes more than a line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moedsl.diagnostics.model import Label
from moedsl.ir.graph import NOWHERE, Dim, RecordType, TensorType, Value
from moedsl.ir.shapes import MAIN, Mismatch, NotATensor, is_ids, spell
from moedsl.model import terms
from moedsl.model.misfits import describe

if TYPE_CHECKING:
    from moedsl.constructs.declare import Construct
    from moedsl.ir.build import Builder
    from moedsl.source import Span

_BELONGS = {
    "loss": "a mixture declares its losses: `loss = {}`",
    "score": "it is where the `scores` of an attention begin",
    "select": "it is what a router's `select` is made of",
    "estimator": "a router names its estimator: `estimator = {}`",
    "step": 'it is a step of a checkpoint\'s entry: `path = "name" -> {}`',
    "input": "a model declares its inputs: `input tokens = {}`",
    "checkpoint": "a model declares its checkpoints: `checkpoint hub = {} {{ ... }}`",
}


def unknown_tensor(build: Builder, term: terms.Tensor) -> Value:
    build.sink.error("E0201", f"no tensor `{term.name}` is known here", term.span)
    return build.poison(_anything(build, term))


def not_a_tensor(build: Builder, term: terms.Term) -> Value:
    """A number, a word or a list where something is computed."""
    build.sink.error(
        "E0210",
        f"a tensor is wanted here, not {describe(term)}",
        term.span,
        describe(term),
        help="a tensor is an input, a `let`, or a recipe applied to one: `dense(x)`",
    )
    return build.poison(_anything(build, term))


def nothing_feeds(build: Builder, term: terms.Term) -> Value:
    """A recipe in a body that has no `x`."""
    build.sink.error(
        "E0210",
        f"a tensor is wanted here, not {describe(term)}",
        term.span,
        "nothing feeds it",
        help="say what it is applied to: `tokens -> ...`",
    )
    return build.poison(_anything(build, term))


def not_a_stage(build: Builder, construct: Construct, recipe: terms.Recipe, x: Value) -> Value:
    """A loss, or another recipe through which nothing flows."""
    where = () if recipe.name == construct.name else (Label(build.span, "computed here"),)
    build.sink.error(
        "E0211",
        f"`{recipe.name}` is of kind `{construct.kind}`, and no tensor goes through one",
        recipe.span,
        "used where a tensor is computed",
        secondary=where,
        help=_BELONGS.get(construct.kind, "").format(recipe.name),
    )
    return build.poison(x)


def ids_and_numbers(build: Builder, who: str, span: Span, x: Value) -> Value:
    """Ids where numbers are computed with, or numbers where ids are looked up."""
    ids = is_ids(x)
    build.sink.error(
        "E0315",
        f"{who} computes with numbers, and gets ids"
        if ids
        else f"{who} looks ids up, and gets numbers",
        span,
        secondary=(Label(x.span, "these"),) if x.span not in (NOWHERE, span) else (),
        help="ids are names, and not measured: `embed` makes vectors of them first"
        if ids
        else "it takes the input of a model: `tokens -> embedding(256)`",
    )
    return build.poison(x)


def not_a_decision(build: Builder, term: terms.Term, found: Value) -> Value:
    name = f"`{term.name}`" if isinstance(term, terms.Tensor) else describe(term)
    build.sink.error(
        "E0405",
        f"a mixture wants a router or its decision, and {name} is neither",
        term.span,
        "a tensor of numbers" if isinstance(found.type, TensorType) else "something else",
        help="name a router, or apply one before: `let pick = top2(x)`, then `router = pick`",
    )
    return build.poison(found)


def no_gates(build: Builder, recipe: terms.Recipe, found: Value) -> Value:
    build.sink.error(
        "E0405",
        f"`{recipe.name}` wants a decision, and gets {spell(found.type)}",
        recipe.span,
        help="apply a router before: `let pick = top2(x)`, then `gates(pick)`",
    )
    return build.poison(found)


def not_in_a_bank(build: Builder, recipe: terms.Recipe) -> None:
    build.sink.error(
        "E0306",
        f"experts side by side cannot have a `{recipe.name}`",
        recipe.span,
        "an expert gets the tokens that chose it, one by one, and no sequence",
        help="put it beside the mixture: before it, after it, or in `shared`",
    )


def no_sequence(build: Builder, recipe: terms.Recipe, x: Value) -> Value:
    build.sink.error(
        "E0316",
        f"`{recipe.name}` wants a sequence of tokens, and gets {spell(x.type)}",
        recipe.span,
        "one token by itself here",
        help="apply it outside, and read what it gives: `let h = own(x)`",
    )
    return build.poison(x)


def not_shared(build: Builder, recipe: terms.Recipe) -> Value:
    """An attention whose keys are not plain ones, in rounds that read those of the first."""
    build.sink.error(
        "E0208",
        f"keys of `{recipe.name}` cannot be read by later rounds",
        recipe.span,
        "not yet in this compiler",
        help="give each round its own: `keys = own` in the block that comes back; or let this be an attention with "
        "`scores = dot`",
    )
    return build.poison(build.scope["q"])


def no_ids(build: Builder, recipe: terms.Recipe, what: str, help: str) -> Value:
    """What counts tokens, in a stream that is there at once."""
    build.sink.error(
        "E0350",
        f"{what} counts tokens from the first one on, and this stream is not made of ids",
        recipe.span,
        "all of the stream is there at once",
        help=help,
    )
    return build.poison(_anything(build, recipe))


def misfit(build: Builder, found: Mismatch | NotATensor) -> None:
    """Two sizes that should be one, or no numbers at all."""
    if isinstance(found, NotATensor):
        help = "a mixture is what applies a decision: `moe` with `router = ...`"
        build.sink.error("E0304", str(found), build.span, "no numbers to compute with", help=help)
        return
    left, right = _size(found.left), _size(found.right)
    build.mismatch(
        "E0301",
        f"{found.what} differ in size: {left} and {right}",
        (build.span, "both meet here"),
        (found.left.origin, f"{left} comes from here"),
        (found.right.origin, f"{right} comes from here"),
        help=f"make them equal, or put a `linear({left})` after what has {right} channels"
        if found.left.size and found.right.size
        else "",
    )


def _size(dim: Dim) -> str:
    return dim.letter if dim.size is None else str(dim.size)


def differs_by_phase(build: Builder, term: terms.Phase) -> None:
    build.sink.error(
        "E0208",
        "what is computed cannot differ by phase yet",
        term.span,
        "`train`, `eval` and `decode` differ here",
        help="a number can, such as the `dropout` of a feed-forward: `dropout = phase(train = 0.1, eval = 0)`",
    )


def differs_when_decoding(build: Builder, term: terms.Phase) -> None:
    build.sink.error(
        "E0208",
        "a number that differs when decoding is part of the language, but not yet of this compiler",
        term.span,
        "`decode` is not what `eval` is",
        help="leave `decode` out: it is what `eval` is",
    )


def _anything(build: Builder, term: terms.Term) -> Value:
    """Something to go on with, in place of what is missing."""
    return Value("", TensorType((Dim("B"), MAIN, build.model_width)), term.span)


def is_decision(value: Value) -> bool:
    return isinstance(value.type, RecordType) and len(value.type.dims) == 2
