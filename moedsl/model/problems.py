"""What resolving says to people: one function per problem, so that a message is worded once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from moedsl.constructs.declare import Setting
from moedsl.diagnostics.model import Diagnostic, Edit, Label, Sink
from moedsl.model import terms
from moedsl.source import Span

if TYPE_CHECKING:
    from moedsl.model.scope import Entry, Frame


def suggestion(name: str, options: Iterable[str]) -> str | None:
    """The name that was probably meant."""
    try:
        from moedsl.diagnostics.suggest import did_you_mean
    except ImportError:
        return None
    found = did_you_mean(name, list(options))
    return (found[0] if found else None) if isinstance(found, list | tuple) else found


def _meant(name: str, span: Span, options: Iterable[str]) -> dict:
    meant = suggestion(name, options)
    if meant is None:
        return {}
    return {"help": f"did you mean `{meant}`?", "edits": (Edit(span, meant),)}


def _list(words: Iterable[str], limit: int = 12) -> str:
    words = list(words)
    shown = ", ".join(f"`{word}`" for word in words[:limit])
    return shown + (", ..." if len(words) > limit else "")


# --- names -------------------------------------------------------------------------------------


def unknown_name(sink: Sink, name: str, span: Span, options: Iterable[str]) -> None:
    more = _meant(name, span, options)
    sink.error(
        "E0201", f"nothing here is called `{name}`", span, "not declared in this scope", **more
    )


def unknown_setting(sink: Sink, name: str, span: Span, frame: Frame) -> None:
    assert frame.form is not None
    options = list(frame.form.settings)
    what = frame.form.name
    more = _meant(name, span, options)
    if not more:
        settings = f"its settings: {_list(options)}" if options else "it has no settings"
        more = {
            "help": f"{settings}; a recipe of one's own is declared with its kind, `norm {name} = ...`"
        }
    sink.error("E0202", f"`{what}` has no setting `{name}`", span, **more)


def unread_setting(sink: Sink, name: str, span: Span, options: Iterable[str]) -> None:
    more = _meant(name, span, options)
    if more:
        sink.error("E0202", f"a model has no setting `{name}`, and nothing reads it", span, **more)
    else:
        unused(sink, "setting", name, span)


def missing_setting(sink: Sink, name: str, setting: Setting, what: str, span: Span) -> None:
    doc = f": {setting.doc}" if setting.doc else ""
    sink.error(
        "E0203", f"`{what}` needs `{name}`", span, f"`{name}` is not given", help=f"`{name}`{doc}"
    )


def missing_argument(sink: Sink, name: str, what: str, span: Span, declared: Span) -> None:
    sink.error(
        "E0204",
        f"`{what}` needs a value for its parameter `{name}`",
        span,
        secondary=(Label(declared, f"`{name}` is declared here, without a default"),),
        help=f"write `{what}(...)` with a value for `{name}`",
    )


def too_many(sink: Sink, what: str, takes: Iterable[str], span: Span) -> None:
    takes = list(takes)
    help = f"in order: {_list(takes)}" if takes else "its settings are given by name"
    sink.error(
        "E0205", f"`{what}` takes {len(takes)} values by position", span, "one too many", help=help
    )


def unknown_argument(sink: Sink, name: str, what: str, options: Iterable[str], span: Span) -> None:
    options = list(options)
    more = _meant(name, span, options) or {"help": f"its parameters: {_list(options)}"}
    sink.error("E0202", f"`{what}` has no parameter `{name}`", span, **more)


def duplicate(sink: Sink, name: str, span: Span, first: Span) -> None:
    sink.error(
        "E0213",
        f"`{name}` is given twice",
        span,
        "a second time",
        secondary=(Label(first, "first here"),),
        help="keep one of the two, or give them two names",
    )


def reserved(sink: Sink, name: str, span: Span) -> None:
    sink.error(
        "E0219",
        f"`{name}` has a meaning of its own and cannot be declared",
        span,
        help=f"choose another name, such as `my_{name}`",
    )


def circular(sink: Sink, names: list[tuple[str, Span]]) -> None:
    way = " -> ".join(f"`{name}`" for name, _ in [*names, names[0]])
    others = tuple(Label(span, f"then through `{name}`") for name, span in names[1:4])
    sink.error(
        "E0227",
        f"`{names[0][0]}` is made of itself: {way}",
        names[0][1],
        "starts here",
        secondary=others,
    )


def twice(sink: Sink, name: str, span: Span, first: Span) -> None:
    sink.error(
        "E0209",
        f"`{name}` stands at two places of one body, and no path can tell them apart",
        span,
        "a second place",
        secondary=(Label(first, "the first place"),),
        help=f"give the two places two names, `kind {name}, {name}_again = ...`, or declare it `tied` "
        "for one module at both",
    )


# --- values ------------------------------------------------------------------------------------


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


def not_a_word(sink: Sink, what: str, name: str, choices: Iterable[str], span: Span) -> None:
    choices = list(choices)
    more = _meant(name, span, choices)
    listed = f"one of {_list(choices)}"
    more["help"] = f"{more['help']} ({listed})" if more else listed
    sink.error("E0212", f"{what} does not know `{name}`", span, **more)


def out_of_bounds(sink: Sink, what: str, needs: str, value: int | float, span: Span) -> None:
    sink.error("E0206", f"{what} is {shown(value)} but must be {needs}", span, f"must be {needs}")


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


def nothing_to_edit(sink: Sink, name: str, span: Span, frame: Frame) -> None:
    names = [*frame.names, *(frame.form.settings if frame.form else ())]
    more = _meant(name, span, names)
    if not more:
        more = {"help": f"what can be changed: {_list(n for n in names)}"}
    owner = f"`{frame.owner}`" if frame.owner else "this body"
    sink.error("E0217", f"{owner} has nothing called `{name}` to change", span, **more)


def no_settings(sink: Sink, name: str, span: Span, entry: Entry) -> None:
    sink.error(
        "E0217",
        f"`{name}` has no settings to change",
        span,
        secondary=(Label(entry.span, "declared here"),),
        help=f"replace it as a whole: `{name} = ...`",
    )


def cannot_edit(sink: Sink, term: str, span: Span) -> None:
    sink.error(
        "E0217",
        f"{term} has no settings of its own to change",
        span,
        help="name the recipe that has them",
    )


def cannot_edit_place(sink: Sink, span: Span) -> None:
    sink.error(
        "E0217",
        "an edit changes a definition, not one of its places",
        span,
        help="use `index` or `by_layer(...)` for what differs by layer",
    )


def misplaced_import(sink: Sink, span: Span) -> None:
    sink.error("E0218", "an import stands at the top of a file, outside of every body", span)


def unknown_kind(sink: Sink, kind: str, span: Span, kinds: Iterable[str]) -> None:
    kinds = sorted(kinds)
    more = _meant(kind, span, kinds) or {"help": f"kinds: {_list(kinds, 40)}"}
    more.pop("edits", None)  # the span is the name's
    sink.error("E0211", f"there is no kind `{kind}`", span, **more)


def not_a_stream(sink: Sink, name: str, span: Span, names: list[str]) -> None:
    more = _meant(name, span, names) or {"help": f"a tensor is named with `let {name} = ...`"}
    sink.error("E0201", f"no tensor of this block is called `{name}`", span, **more)


def wants_a_tensor(sink: Sink, name: str, operator: str, term: terms.Term, span: Span) -> None:
    help = f"a `let` names a tensor; a recipe is declared with its kind, `norm {name} = ...`"
    if operator == "+=":
        help = f"apply it: `{name} += recipe({name})`"
    elif name == "x":
        help = "apply it: `x = recipe(x)`, or `x = x -> recipe`"
    if terms.type_of(term) == "number":
        help = "numbers are settings of the model"
    wrong_type(sink, f"`{name} {operator}`", "a tensor", term, span, help=help)


def not_yet(sink: Sink, what: str, span: Span) -> None:
    sink.error("E0208", f"{what} is part of the language, but not yet of this compiler", span)


def unused(sink: Sink, kind: str, name: str, span: Span) -> None:
    sink.warn(
        "W1010",
        f"nothing reads `{kind} {name}`",
        span,
        "declared here",
        help="use it, or remove it",
    )
