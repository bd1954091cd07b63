"""Text to lexemes. The terminals are those of grammar/moe.lark; what fits none of them is reported here, exactly once,
and passed on as a BAD lexeme, at which the parser skips the statement without another word."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from moedsl.diagnostics.model import Sink
from moedsl.source import Source, Span
from moedsl.syntax import strays

BAD = "BAD"

BYTE_ORDER_MARK = "\ufeff"

MAX_TEXT = 1 << 20
MAX_LEXEMES = 100_000
MAX_COMPLAINTS = 100


class Lexeme(NamedTuple):
    """`doc` is the comment block right above, on the first lexeme of a line."""

    type: str
    text: str
    span: Span
    doc: str = ""


def scanner(terminals: Mapping[str, str]) -> re.Pattern[str]:
    """One pattern for everything a text may hold: slips first, then the terminals, then any single character."""
    # Longer operators stand before their prefixes; the other terminals differ in their first character.
    names = sorted(terminals, key=lambda name: (-_fixed_length(terminals[name]), name))
    rows = [*strays.BEFORE, *((name, terminals[name]) for name in names), *strays.AFTER]
    return re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in rows), re.DOTALL)


def _fixed_length(pattern: str) -> int:
    return len(pattern) if re.fullmatch(r"(\\?[^\w\s\[(])+", pattern) else 0


def scan(source: Source, pattern: re.Pattern[str], sink: Sink) -> list[Lexeme]:
    """Every lexeme of the text but spaces, comments and line ends among them."""
    text, file = source.text, source.path
    if len(text) > MAX_TEXT:
        message = (
            f"a text of {len(text):,} characters is longer than the {MAX_TEXT:,} that are read"
        )
        sink.error("E0107", message, Span(0, 0, file), "split it, and `import` the parts")
        return []
    lexemes: list[Lexeme] = []
    for match in pattern.finditer(text):
        kind = match.lastgroup or BAD
        if kind == "SPACE":
            continue
        word, start = match.group(), match.start()
        if word == BYTE_ORDER_MARK and start == 0:
            continue
        span = Span(start, match.end(), file)
        if kind in strays.KINDS:
            _report(kind, word, span, lexemes, sink)
            kind = BAD
        elif kind == "NUMBER":
            kind = _checked_number(word, span, sink)
        lexemes.append(Lexeme(kind, word, span))
        if len(lexemes) > MAX_LEXEMES:
            message = f"this text has more than the {MAX_LEXEMES:,} words and signs that are read"
            sink.error("E0107", message, span, "split it, and `import` the parts")
            return []
    if not text.isascii():
        strays.report_hidden(text, file, sink)
    return lexemes


def _report(kind: str, text: str, span: Span, before: list[Lexeme], sink: Sink) -> None:
    """A run of strays without a space between them is one mistake."""
    follows = before and before[-1].type == BAD and before[-1].span.end == span.start
    if not follows and len(sink.found) < MAX_COMPLAINTS:
        sink.add(strays.explain(kind, text, span))


def _checked_number(text: str, span: Span, sink: Sink) -> str:
    if number_value(text) is not None:
        return "NUMBER"
    shown = text if len(text) <= 24 else f"{text[:10]}...{text[-6:]}"
    message = f"the number `{shown}` cannot be held"
    sink.error("E0106", message, span, "integers go to 2^63 - 1, others from 1e-300 to 1e300")
    return BAD


def number_value(text: str) -> int | float | None:
    """The value of a NUMBER lexeme; None where no number of ours holds it."""
    digits = text.replace("_", "").rstrip("%").lower()
    if digits.isdecimal() and not text.endswith("%"):
        fits = len(digits.lstrip("0")) <= 19 and int(digits) < 1 << 63
        return int(digits) if fits else None
    if text.endswith("%"):
        # Shifted in decimal: 1.1% is the float nearest to 0.011, not 1.1 / 100.
        mantissa, _, exponent = digits.partition("e")
        digits = f"{mantissa}e{int(exponent[:6] or 0) - 2}"
    value = float(digits)
    is_zero = not re.search("[1-9]", digits.partition("e")[0])
    return value if is_zero or 1e-300 <= value <= 1e300 else None
