"""What resolving says to people: one function per problem, so that a message is worded once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from moedsl.constructs.declare import Setting
from moedsl.diagnostics.model import Edit, Label, Sink
from moedsl.diagnostics.suggest import did_you_mean
from moedsl.source import Span

if TYPE_CHECKING:
    from moedsl.model.scope import Entry, Frame


def suggestion(name: str, options: Iterable[str]) -> str | None:
    """The name that was probably meant."""
    found = did_you_mean(name, options)
    return found[0] if found else None


def meant(name: str, span: Span, options: Iterable[str]) -> dict:
    meant = suggestion(name, options)
    if meant is None:
        return {}
    return {"help": f"did you mean `{meant}`?", "edits": (Edit(span, meant),)}


def quoted(words: Iterable[str], limit: int = 12) -> str:
    words = list(words)
    shown = ", ".join(f"`{word}`" for word in words[:limit])
    return shown + (", ..." if len(words) > limit else "")


# --- names -------------------------------------------------------------------------------------


def unknown_name(
    sink: Sink, name: str, span: Span, options: Iterable[str], inside: bool = False
) -> None:
    """`inside`: within the declaration of that very name."""
    more = meant(name, span, options)
    if inside:
        more = {"help": f"this is part of what `{name}` is made of, and `{name}` cannot be that"}
    sink.error(
        "E0201", f"nothing here is called `{name}`", span, "not declared in this scope", **more
    )


def unknown_setting(sink: Sink, name: str, span: Span, frame: Frame) -> None:
    assert frame.form is not None
    options = list(frame.form.settings)
    what = frame.form.name
    more = meant(name, span, options)
    if not more:
        settings = f"its settings: {quoted(options)}" if options else "it has no settings"
        more = {
            "help": f"{settings}; a recipe of one's own is declared with its kind, `norm {name} = ...`"
        }
    sink.error("E0202", f"`{what}` has no setting `{name}`", span, **more)


def unread_setting(sink: Sink, name: str, span: Span, options: Iterable[str]) -> None:
    more = meant(name, span, options)
    if more:
        sink.error("E0202", f"a model has no setting `{name}`, and nothing reads it", span, **more)
    else:
        unused(sink, "setting", name, span)


def missing_setting(sink: Sink, name: str, setting: Setting, what: str, span: Span) -> None:
    doc = f": {setting.doc}" if setting.doc else ""
    help = f"write `{name} = ...`{doc}"
    sink.error("E0203", f"`{what}` needs `{name}`", span, f"`{name}` is not given", help=help)


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
    help = f"in order: {quoted(takes)}" if takes else "its settings are given by name"
    sink.error(
        "E0205", f"`{what}` takes {len(takes)} values by position", span, "one too many", help=help
    )


def unknown_argument(sink: Sink, name: str, what: str, options: Iterable[str], span: Span) -> None:
    options = list(options)
    more = meant(name, span, options) or {"help": f"its parameters: {quoted(options)}"}
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
    written = next((i for i, (_, span) in enumerate(names) if span.file), 0)
    names = names[written:] + names[:written]  # what stands there by default is nowhere in the text
    way = " -> ".join(f"`{name}`" for name, _ in [*names, names[0]])
    others = tuple(Label(span, f"then through `{name}`") for name, span in names[1:4] if span.file)
    sink.error(
        "E0227",
        f"`{names[0][0]}` is made of itself: {way}",
        names[0][1],
        "starts here",
        secondary=others,
    )


def twice(sink: Sink, kind: str, name: str, span: Span, first: Span) -> None:
    sink.error(
        "E0209",
        f"`{name}` stands at two places of one body, and no path can tell them apart",
        span,
        "a second place",
        secondary=(Label(first, "the first place"),),
        help=f"give the two places two names, `{kind} {name}, {name}_again = ...`, or declare it `tied` "
        "for one module at both",
    )


# --- changes ----------------------------------------------------------------------------------


def nothing_to_edit(sink: Sink, name: str, span: Span, frame: Frame) -> None:
    names = [*frame.names, *(frame.form.settings if frame.form else ())]
    more = meant(name, span, names)
    if not more:
        more = {"help": f"what can be changed: {quoted(n for n in names)}"}
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


def outside_of_a_body(sink: Sink, kind: str, span: Span) -> None:
    message = f"`{kind}` names a tensor, and there are none between declarations"
    sink.error("E0218", message, span, help="move it into the model that it belongs to")


def unknown_kind(sink: Sink, kind: str, span: Span, kinds: Iterable[str]) -> None:
    kinds = sorted(kinds)
    more = meant(kind, span, kinds) or {"help": f"kinds: {quoted(kinds, 40)}"}
    more.pop("edits", None)  # the span is the name's
    sink.error("E0211", f"there is no kind `{kind}`", span, **more)


def not_a_stream(sink: Sink, name: str, span: Span, names: list[str]) -> None:
    more = meant(name, span, names) or {"help": f"a tensor is named with `let {name} = ...`"}
    sink.error("E0201", f"no tensor of this block is called `{name}`", span, **more)


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


def long_name(sink: Sink, name: str, span: Span, most: int) -> None:
    message = f"a name of {len(name):,} characters is longer than the {most} that are read"
    sink.error("E0230", message, span, help="a name becomes a class, an attribute and a file")
