"""What people write out of habit from elsewhere and no terminal fits: what it is called, and what to write instead."""

from __future__ import annotations

import re
import unicodedata

from moedsl.diagnostics.model import Diagnostic, Edit, Label, Sink
from moedsl.source import Span

# Tried before the terminals: slips that would otherwise be read as several of them.
BEFORE = (
    ("OTHER_COMMENT", r"//[^\r\n]*|/\*.*?(?:\*/|[\r\n]|\Z)"),
    ("OTHER_EQUAL", r"==+|:="),
    ("POINT_NUMBER", r"(?<![\w\])])\.[0-9][\w.%]*"),
    ("OTHER_ARROW", r"=>|\|>|-->"),
)
# Tried after them: what is left.
AFTER = (
    ("BAD_NUMBER", r"[0-9][\w.%]*"),
    ("BAD_ESCAPE", r'"[^"\\\r\n]*(?:\\[^\r\n][^"\\\r\n]*)*"'),
    ("OPEN_STRING", r'"[^\r\n]*'),
    ("SINGLE_QUOTED", r"'[^'\r\n]*'?"),
    (
        "CURLY_QUOTED",
        '[\u201c-\u201f\u00ab\u2018][^\u201c-\u201f\u00bb\u2019"\r\n]*[\u201c-\u201f\u00bb\u2019"]',
    ),
    ("FOREIGN_NAME", r"\w+"),
    ("COLON", r":"),
    ("SEMICOLON", r";"),
    ("STRAY", r"."),
)
KINDS = frozenset(name for name, _ in BEFORE + AFTER)

_SIGNS = {
    **dict.fromkeys("\u2192\u27f6\u21d2\u279c", "->"),
    **dict.fromkeys("\u2212\u2013\u2014\u2010\u2011", "-"),
    **dict.fromkeys("\u201c\u201d\u201e\u00ab\u00bb", '"'),
    **dict.fromkeys("\u00d7\u2217\u22c5\u00b7\u2022", "*"),
    **dict.fromkeys("\u00a0\u2003\u2002\u2009\u202f\u3000\u200b\ufeff", " "),
    "\u00f7": "/",
}
_LETTERS = dict(
    zip(
        # Cyrillic, then Greek, each beside the letter it looks like.
        "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u0501\u043a\u0410\u0412\u0415\u041a"
        "\u041c\u041d\u041e\u0420\u0421\u0422\u0425\u03b1\u03bf\u03c1\u03bd\u0391\u0392\u0395\u0396\u0397"
        "\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7\u0131",
        "aeopcyxijsdkABEKMHOPCTXaopvABEZHIKMNOPTYXi",
        strict=True,
    )
)
_HIDDEN = re.compile("[\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def explain(kind: str, text: str, span: Span) -> Diagnostic:
    """The one diagnostic for a piece of text that is no terminal."""
    match kind:
        case "OTHER_COMMENT":
            return _other_comment(text, span)
        case "OTHER_EQUAL" | "COLON":
            return _other_equal(text, span)
        case "OTHER_ARROW":
            return _swap("E0102", f"`{text}` is no arrow of this language", "->", span)
        case "BAD_NUMBER" | "POINT_NUMBER":
            return _bad_number(text, span)
        case "BAD_ESCAPE" | "OPEN_STRING" | "SINGLE_QUOTED" | "CURLY_QUOTED":
            return _bad_string(kind, text, span)
        case "FOREIGN_NAME":
            return _foreign_name(text, span)
        case "SEMICOLON":
            return _semicolon(span)
        case _:
            return _stray(text, span)


def report_hidden(text: str, file: str, sink: Sink) -> None:
    """Characters that turn the direction of writing make a text read as what it is not, in comments too; halves of
    characters make it one that no file can hold."""
    if found := _HIDDEN.search(text):
        half = "\ud800" <= found.group() <= "\udfff"
        does = "is half of one" if half else "changes how this text is shown"
        message = f"a hidden character, {_called(found.group())}, {does}"
        edit = Edit(Span(found.start(), found.end(), file), "")
        sink.error("E0102", message, edit.span, "remove it", edits=(edit,))


def _swap(code: str, message: str, better: str, span: Span) -> Diagnostic:
    label = Label(span, f"write `{better}`" if better.strip() else "write a space")
    return Diagnostic(code, message, label, edits=(Edit(span, better),))


def _other_comment(text: str, span: Span) -> Diagnostic:
    start = Span(span.start, span.start + 2, span.file)
    message = f"`{text[:2]}` starts no comment here"
    single = not text.startswith("/*") or "\n" not in text
    words = text[2:].removesuffix("*/").rstrip()
    edits = (Edit(span, f"#{words}"),) if single else ()
    return Diagnostic("E0113", message, Label(start, "a comment starts with `#`"), edits=edits)


def _other_equal(text: str, span: Span) -> Diagnostic:
    help = "a setting is `heads = 32`, a body is `block layer { ... }`" if text == ":" else ""
    message = f"`{text}` sets nothing"
    return Diagnostic(
        "E0110",
        message,
        Label(span, "write `=`"),
        help=help,
        edits=(Edit(span, " =" if text == ":" else "="),),
    )


def _semicolon(span: Span) -> Diagnostic:
    label = Label(span, "the end of the line ends a statement")
    help = "write one statement a line, without `;`"
    return Diagnostic("E0112", "`;` ends no statement here", label, help=help)


def _bad_number(text: str, span: Span) -> Diagnostic:
    shown = text if len(text) <= 24 else f"{text[:20]}..."
    better = _better_number(text)
    label = Label(
        span, f"write `{better}`" if better else "numbers are `8`, `1_000`, `0.5`, `1e-2`, `12.5%`"
    )
    edits = (Edit(span, better),) if better else ()
    return Diagnostic("E0105", f"`{shown}` is not a number", label, edits=edits)


def _better_number(text: str) -> str:
    if re.fullmatch(r"\.[0-9]+%?", text):
        return f"0{text}"
    if re.fullmatch(r"[0-9]+\.", text):
        return f"{text}0"
    if found := re.fullmatch(r"([0-9]{1,6})([kKmM])", text):
        return found[1] + ("_000" if found[2] in "kK" else "_000_000")
    if re.fullmatch(r"[0-9]+(_*[0-9]+)*_*", text):
        return re.sub("_+", "_", text).strip("_")
    return ""


def _bad_string(kind: str, text: str, span: Span) -> Diagnostic:
    if kind in ("SINGLE_QUOTED", "CURLY_QUOTED"):
        closed = len(text) > 1 and not text[-1].isalnum() and not re.search(r'["\\]', text[1:-1])
        edits = (Edit(span, f'"{text[1:-1]}"'),) if closed else ()
        label = Label(span, 'a text stands in `"`')
        return Diagnostic("E0103", f"{_called(text[0])} opens no text here", label, edits=edits)
    if kind == "OPEN_STRING":
        quote = Span(span.start, span.start + 1, span.file)
        help = 'a text ends on its line, as in "model.norm.weight"'
        return Diagnostic(
            "E0103", "this text is never closed", Label(quote, "opened here"), help=help
        )
    found = re.search(r'\\[^"\\nt]', text)
    assert found is not None
    escape = Span(span.start + found.start(), span.start + found.end(), span.file)
    edit = Edit(Span(escape.start, escape.start + 1, span.file), "\\\\")
    help = r"inside a text stand `\"`, `\\`, `\n` and `\t`"
    message = f"`{_shown(found.group())}` means nothing inside a text"
    return Diagnostic(
        "E0103", message, Label(escape, r"a backslash itself is `\\`"), help=help, edits=(edit,)
    )


def _foreign_name(text: str, span: Span) -> Diagnostic:
    ascii_name = _in_ascii(text)
    at = next(i for i, char in enumerate(text) if not char.isascii())
    place = Span(span.start + at, span.start + at + 1, span.file)
    message = f"names have letters from a to z, digits and `_`; this one has {_called(text[at])}"
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", ascii_name):
        return Diagnostic("E0102", message, Label(place))
    label = Label(place, f"looks like `{_in_ascii(text[at])}`")
    return Diagnostic("E0102", message, label, edits=(Edit(span, ascii_name),))


def _in_ascii(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text)
    return "".join(_LETTERS.get(char, char) for char in plain if not unicodedata.combining(char))


def _stray(text: str, span: Span) -> Diagnostic:
    message = f"{_called(text)} means nothing here"
    better = _SIGNS.get(text)
    if better is None:
        folded = unicodedata.normalize("NFKC", text)
        better = folded if folded != text and re.fullmatch(r"[-=+*/,.(){}\[\]#]", folded) else None
    return (
        Diagnostic("E0102", message, Label(span))
        if better is None
        else _swap("E0102", message, better, span)
    )


def _called(char: str) -> str:
    """A character as people can look it up: itself where it shows, its number and its name."""
    name = unicodedata.name(char, "")
    if char.isascii() and char.isprintable():
        return f"`{char}`"
    number = f"U+{ord(char):04X}"
    title = f"{number} ({name})" if name else number
    return f"`{char}` {title}" if char.isprintable() and not char.isspace() else title


def _shown(text: str) -> str:
    return "".join(char if char.isprintable() else f"<U+{ord(char):04X}>" for char in text)
