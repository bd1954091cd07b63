"""Declarations as plain values, for tables and JSON."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from moedsl.constructs import declare
from moedsl.constructs.declare import Construct


@dataclass(frozen=True)
class SettingEntry:
    name: str
    type: str
    default: str | None
    doc: str
    bounds: str = ""
    unit: str = ""
    positional: bool = False


@dataclass(frozen=True)
class Entry:
    """One construct. `traits` are those that differ from what a construct is by default."""

    name: str
    kind: str
    title: str
    body: str
    source: str
    traits: tuple[str, ...]
    settings: tuple[SettingEntry, ...]


def entries() -> list[Entry]:
    from moedsl.constructs.registry import constructs

    return sorted(map(entry, constructs().values()), key=lambda e: (e.kind, e.name))


def entry(declaration: type[Construct]) -> Entry:
    title, body = _documentation(inspect.cleandoc(declaration.__doc__ or ""))
    return Entry(
        name=declaration.name,
        kind=declaration.kind,
        title=title,
        body=body,
        source=declaration.source,
        traits=_traits(declaration),
        settings=tuple(_setting(name, s) for name, s in declaration.settings.items()),
    )


def _documentation(text: str) -> tuple[str, str]:
    """The first sentence, wherever its lines break, and the rest."""
    first, blank, rest = text.partition("\n\n")
    title, _, more = " ".join(first.split()).partition(". ")
    return title.rstrip(".") + ".", (more + blank + rest).strip()


def _traits(declaration: type[Construct]) -> tuple[str, ...]:
    found = []
    if declaration.causality != Construct.causality:
        found.append({"decodes": "causal when decoding"}.get(declaration.causality, "not causal"))
    if declaration.linear_in_input:
        found.append("linear in its input")
    if declaration.mixes_tokens:
        found.append("mixes tokens")
    return tuple(found)


def _setting(name: str, setting: declare.Setting) -> SettingEntry:
    return SettingEntry(
        name=name,
        type=_type(setting),
        default=setting.default,
        doc=setting.doc,
        bounds=_bounds(setting) if isinstance(setting, declare.Number) else "",
        unit=setting.unit if isinstance(setting, declare.Number) else "",
        positional=setting.positional,
    )


def _type(setting: declare.Setting) -> str:
    """What may be written there, in words."""
    match setting:
        case declare.Words(choices=choices):
            return " | ".join(choices)
        case declare.Flag():
            return "true | false"
        case declare.Number(whole=whole, words=words):
            return " | ".join(("whole number" if whole else "number", *words))
        case declare.Expression(bare=bare, words=words, sees=sees):
            shown = f"expression of {', '.join(sees)}" + (", or a recipe" if bare else "")
            return " | ".join((shown, *words))
        case declare.RecipeOf(kinds=kinds, words=words, number=number):
            plain = ("number",) if number is not None else ()
            return " | ".join((*plain, " or ".join(kinds) or "recipe", *words))
        case declare.Bank(kinds=kinds, words=words):
            return " | ".join((f"{' or '.join(kinds) or 'recipes'} side by side", *words))
        case declare.Listed(kinds=kinds, texts=texts, words=words):
            return " | ".join(
                (f"list of {'texts' if texts else ' or '.join(kinds) or 'recipes'}", *words)
            )
    return setting.type


def _bounds(number: declare.Number) -> str:
    low = "" if number.low is None else f"{'>' if number.exclusive_low else '>='} {number.low:g}"
    high = "" if number.high is None else f"<= {number.high:g}"
    return ", ".join(filter(None, (low, high)))
