"""What resolving says about values: what was wanted, what came, and the mend."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from moedsl.diagnostics.model import Diagnostic, Edit, Label, Sink
from moedsl.model import terms
from moedsl.model.problems import meant, quoted
from moedsl.source import Span

if TYPE_CHECKING:
    from moedsl.model.scope import Entry


def a(kind: str) -> str:
    """`a recipe`, `an attention`."""
    return f"{'an' if kind[:1] in 'aeiou' else 'a'} {kind}"


def describe(term: terms.Term) -> str:
    """What a term is, in words."""
    match term:
        case terms.Number(value):
            return f"the number {shown(value)}"
        case terms.Word(text):
            return f"the word `{text}`"
        case terms.Text():
            return "a text"
        case terms.Items():
            return "a list"
        case terms.Tensor(name):
            return f"the tensor `{name}`"
        case terms.Recipe(name=name):
            return f"the recipe `{name}`"
        case terms.Flow():
            return "a flow of recipes"
        case terms.Copies(count):
            return f"{count} copies of a recipe"
        case terms.Phase():
            return "a choice by phase"
    return a(terms.type_of(term))


def shown(value: int | float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def wrong_type(sink: Sink, what: str, wanted: str, term: terms.Term, span: Span, **more) -> None:
    if isinstance(term, terms.Text) and "number" in wanted:
        more.setdefault("help", "a number stands without quotes")
    sink.error(
        "E0210", f"{what} wants {wanted}, not {describe(term)}", span, f"{describe(term)}", **more
    )


def wrong_kind(
    sink: Sink, what: str, wanted: Iterable[str], recipe: terms.Recipe, kind: str, span: Span
) -> None:
    choices = " or ".join(a(k) for k in wanted)
    secondary = (
        ()
        if recipe.span == span or recipe.span.end == 0
        else (Label(recipe.span, f"{a(kind)}, from here"),)
    )
    sink.error(
        "E0211",
        f"{what} wants {choices}, but `{recipe.name}` is {a(kind)}",
        span,
        a(kind),
        secondary=secondary,
    )


def wrong_declaration(sink: Sink, entry: Entry, recipe: terms.Recipe, kind: str) -> None:
    """Said once for all names of a declaration: at the value that they share."""
    sink.error(
        "E0211",
        f"`{entry.kind} {entry.name}` wants {a(entry.kind)}, but `{recipe.name}` is {a(kind)}",
        entry.value.span if entry.value is not None else entry.span,
        a(kind),
        secondary=(Label(entry.span, f"declared as {a(entry.kind)}"),),
        help=f"declare it with its own kind: `{kind} {entry.name} = ...`",
    )


def not_a_word(sink: Sink, what: str, name: str, choices: Iterable[str], span: Span) -> None:
    choices = list(choices)
    more = meant(name, span, choices)
    listed = f"one of {quoted(choices)}"
    more["help"] = f"{more['help']} ({listed})" if more else listed
    sink.error("E0212", f"{what} does not know `{name}`", span, **more)


def out_of_bounds(
    sink: Sink, what: str, needs: str, value: int | float, span: Span, derived: str = ""
) -> None:
    """`derived`: the default that led to the value, where the spec did not give it."""
    help = (
        f"it is `{derived}` unless it is given: give it, or change one of these" if derived else ""
    )
    message = f"{what} is {shown(value)} but must be {needs}"
    sink.error("E0206", message, span, f"must be {needs}", help=help)


def number_times(sink: Sink, value: int | float, what: str, span: Span) -> None:
    text = shown(value)
    sink.error(
        "E0214",
        f"a number times {a(what)} is not an operation",
        span,
        help=f"to multiply what comes out by {text}, follow it with `-> scale({text})`",
    )


def copies_after(sink: Sink, span: Span, edits: tuple[Edit, ...]) -> None:
    sink.error(
        "E0214",
        "a count stands before what it counts",
        span,
        help="write `count * recipe`",
        edits=edits,
    )


def cannot_combine(
    sink: Sink, operator: str, left: terms.Term, right: terms.Term, span: Span
) -> None:
    sink.error("E0215", f"`{operator}` cannot join {describe(left)} and {describe(right)}", span)


def cannot_follow(sink: Sink, term: terms.Term, span: Span, first: Span) -> None:
    kind = terms.type_of(term)
    help = {
        "number": "a number acts on a tensor with `-> scale(...)`",
        "tensor": "a tensor starts a flow; after an arrow stands a recipe that takes what comes in",
    }.get(kind, "on both sides of an arrow stand recipes; a tensor may come first")
    sink.error(
        "E0215",
        f"`->` cannot feed {describe(term)}"
        if span != first
        else f"{describe(term)} cannot be fed on",
        span,
        describe(term),
        help=help,
    )


def two_readings(
    sink: Sink, span: Span, count: str, rest: str, edits: tuple[Edit, ...], other: str
) -> None:
    sink.add(
        Diagnostic(
            "E0216",
            "in a bank this count can be read in two ways",
            Label(span, "does it count all of this, or its first part"),
            help=f"write `{count} * ({rest})` for {count} of the whole\n   or `{other}` for one whose part is repeated",
            edits=edits,
        )
    )


def bad_count(sink: Sink, value: int | float, span: Span) -> None:
    sink.error("E0206", f"a count is a whole number of at least 1, not {shown(value)}", span)


def wants_a_tensor(sink: Sink, name: str, operator: str, term: terms.Term, span: Span) -> None:
    help = f"a `let` names a tensor; a recipe is declared with its kind, `norm {name} = ...`"
    if operator == "+=":
        help = f"apply it: `{name} += recipe({name})`, or `{name} += {name} -> recipe`"
    elif name == "x":
        help = "apply it: `x = recipe(x)`, or `x = x -> recipe`"
    if terms.type_of(term) == "number":
        help = "numbers are settings of the model"
    wrong_type(sink, f"`{name} {operator}`", "a tensor", term, span, help=help)
