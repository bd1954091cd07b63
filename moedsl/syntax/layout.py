"""Brackets and line ends: from the lexemes of a text to those that the grammar reads.

A statement ends at the end of its line or at a `}`, written as an `_NL` lexeme; open ( and [ suspend that, and a line that
starts with `->` continues the one above. What comes out is balanced in { }, whatever came in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field

from moedsl.diagnostics.model import Diagnostic, Edit, Label, Sink
from moedsl.frozen import record
from moedsl.source import Source, Span
from moedsl.syntax.lexer import BAD, MAX_COMPLAINTS, Lexeme

MAX_DEPTH = 64

_CLOSERS = {"LPAR": "RPAR", "LSQB": "RSQB", "LBRACE": "RBRACE"}
_OPENERS = {closer: opener for opener, closer in _CLOSERS.items()}
_SHOWN = {"RPAR": ")", "RSQB": "]", "RBRACE": "}"}
_DEEPENING = frozenset({"PLUS", "MINUS", "STAR", "SLASH", "DOT"})


@record
class _Brackets:
    """What is found out about the brackets of one text, by index into its lexemes."""

    source: Source
    sink: Sink
    lexemes: list[Lexeme]
    open: list[int] = field(default_factory=list)
    bad: set[int] = field(default_factory=set)
    too_deep: set[int] = field(default_factory=set)
    closed_before: dict[int, int] = field(
        default_factory=dict
    )  # index -> number of `}` missing there


def lay_out(source: Source, lexemes: list[Lexeme], sink: Sink) -> tuple[list[Lexeme], str]:
    """The lexemes for the parser, and the documentation of the whole file."""
    brackets = _Brackets(source, sink, lexemes)
    _match(brackets)
    _limit_depth(brackets)
    return list(_terminated(brackets)), _file_doc(lexemes)


# --- brackets ----------------------------------------------------------------------------------


def _match(brackets: _Brackets) -> None:
    kinds = [lexeme.type for lexeme in brackets.lexemes]
    unbalanced = kinds.count("LBRACE") > kinds.count("RBRACE")
    for index, kind in enumerate(kinds):
        if kind in _CLOSERS:
            brackets.open.append(index)
        elif kind == "RBRACE":
            _close_body(brackets, index, unbalanced)
        elif kind in _OPENERS:
            _close(brackets, index)
    while brackets.open:
        _unclosed(brackets, len(kinds))


def _close(brackets: _Brackets, index: int) -> None:
    """A `)` or `]` closes the nearest of its kind; what was opened since then never closes."""
    opener = _OPENERS[brackets.lexemes[index].type]
    for depth in range(len(brackets.open) - 1, -1, -1):
        kind = brackets.lexemes[brackets.open[depth]].type
        if kind == opener:
            while len(brackets.open) > depth + 1:
                _unclosed(brackets, index)
            brackets.open.pop()
            return
        if kind == "LBRACE":
            break
    if brackets.open and brackets.lexemes[brackets.open[-1]].type != "LBRACE":
        _mismatched(brackets, index)
    else:
        _extra(brackets, index)


def _mismatched(brackets: _Brackets, index: int) -> None:
    at = brackets.open.pop()
    opener, closer = brackets.lexemes[at], brackets.lexemes[index]
    brackets.bad |= {at, index}
    if len(brackets.sink.found) < MAX_COMPLAINTS:
        better = _SHOWN[_CLOSERS[opener.type]]
        message = f"`{opener.text}` is closed by `{closer.text}`"
        label = Label(closer.span, f"write `{better}`")
        edits = (Edit(closer.span, better),)
        secondary = (Label(opener.span, "opened here"),)
        brackets.sink.add(Diagnostic("E0104", message, label, secondary, edits=edits))


def _close_body(brackets: _Brackets, index: int, unbalanced: bool) -> None:
    lexemes = brackets.lexemes
    if not any(lexemes[at].type == "LBRACE" for at in brackets.open):
        _extra(brackets, index)
        return
    while lexemes[brackets.open[-1]].type != "LBRACE" or (
        unbalanced and _belongs_further_out(brackets, index)
    ):
        _unclosed(brackets, index)
    brackets.open.pop()


def _belongs_further_out(brackets: _Brackets, index: int) -> bool:
    """Whether the `}` stands under the start of an outer block: then the inner block is the one without its end."""
    before = brackets.lexemes[index - 1].type if index else "NEWLINE"
    bodies = [at for at in brackets.open if brackets.lexemes[at].type == "LBRACE"]
    if before != "NEWLINE" or len(bodies) < 2:
        return False
    own = _indent(brackets, index)
    return own < _indent(brackets, bodies[-1]) and own in {
        _indent(brackets, at) for at in bodies[:-1]
    }


def _indent(brackets: _Brackets, index: int) -> int:
    number, _ = brackets.source.line_column(brackets.lexemes[index].span.start)
    line = brackets.source.line(number)
    return len(line) - len(line.lstrip(" \t"))


def _unclosed(brackets: _Brackets, found_at: int) -> None:
    """Report the innermost open bracket; `found_at` is the index of what shows that it never closes."""
    index = brackets.open.pop()
    opener = brackets.lexemes[index]
    if opener.type == "LBRACE":
        brackets.closed_before[found_at] = brackets.closed_before.get(found_at, 0) + 1
    else:
        brackets.bad.add(index)
    if len(brackets.sink.found) >= MAX_COMPLAINTS:
        return
    closer = _SHOWN[_CLOSERS[opener.type]]
    secondary: tuple[Label, ...] = ()
    if found_at < len(brackets.lexemes):
        secondary = (Label(brackets.lexemes[found_at].span, f"comes before its `{closer}`"),)
    label = Label(opener.span, f"no `{closer}` closes it")
    edits = _closing_edit(brackets, index, closer) if opener.type != "LBRACE" else ()
    message = f"this `{opener.text}` is never closed"
    brackets.sink.add(Diagnostic("E0104", message, label, secondary, edits=edits))


def _closing_edit(brackets: _Brackets, index: int, closer: str) -> tuple[Edit, ...]:
    """Most brackets that stay open are meant to close where their line ends."""
    last = brackets.lexemes[index]
    for lexeme in brackets.lexemes[index + 1 :]:
        if lexeme.type in ("NEWLINE", "COMMENT", "RBRACE", "LBRACE"):
            break
        last = lexeme
    return (Edit(Span(last.span.end, last.span.end, last.span.file), closer),)


def _extra(brackets: _Brackets, index: int) -> None:
    closer = brackets.lexemes[index]
    brackets.bad.add(index)
    if len(brackets.sink.found) < MAX_COMPLAINTS:
        edit = Edit(closer.span, "")
        label = "nothing is open that it could close"
        brackets.sink.error(
            "E0104", f"a `{closer.text}` too many", closer.span, label, edits=(edit,)
        )


def _limit_depth(brackets: _Brackets) -> None:
    """Trees are walked by recursion, so brackets and chains of operators together have a limit."""
    chains = [("LBRACE", 0)]  # per open bracket: its kind, and what its present expression nests
    depth = 0
    for index, lexeme in enumerate(brackets.lexemes):
        kind = lexeme.type
        if index in brackets.bad:
            continue
        bracket, chain = chains[-1]
        if kind in _CLOSERS:
            chains.append((kind, 0))
            depth += 1
        elif kind in _OPENERS and len(chains) > 1:
            # What closed nests under what may follow, as in f(a)(b)(c): the depth of its bracket stays.
            chains.pop()
            chains[-1] = (chains[-1][0], chains[-1][1] + 1)
            depth -= chain
        elif kind in _DEEPENING:
            chains[-1] = (bracket, chain + 1)
            depth += 1
        elif kind in ("COMMA", "ARROW") or (kind == "NEWLINE" and bracket == "LBRACE"):
            chains[-1] = (bracket, 0)
            depth -= chain
        if depth > MAX_DEPTH:
            brackets.too_deep.add(index)
    if brackets.too_deep:
        first = brackets.lexemes[min(brackets.too_deep)].span
        message = f"this is nested more than {MAX_DEPTH} deep"
        brackets.sink.error("E0107", message, first, "give parts of it names of their own")


# --- statements --------------------------------------------------------------------------------


def _terminated(brackets: _Brackets) -> Iterator[Lexeme]:
    """The lexemes without comments, with `_NL` where a statement ends and each missing `}` in its place."""
    open_kinds: list[str] = []
    last = Lexeme("LBRACE", "", Span(0, 0, brackets.source.path))  # a file starts as a body does
    pending = False
    for lexeme in _with_docs(brackets):
        kind = lexeme.type
        if kind == "NEWLINE":
            pending = pending or not open_kinds or open_kinds[-1] == "LBRACE"
            continue
        ends = kind == "RBRACE" or (pending and kind != "ARROW")
        pending = False
        if ends and last.type not in ("_NL", "LBRACE"):
            yield _terminator(last)
            last = _terminator(last)
        if kind in _CLOSERS:
            open_kinds.append(kind)
        elif kind in _OPENERS:
            open_kinds.pop()
        yield lexeme
        last = lexeme
    if last.type not in ("_NL", "LBRACE"):
        yield _terminator(last)


def _terminator(after: Lexeme) -> Lexeme:
    return Lexeme("_NL", "", Span(after.span.end, after.span.end, after.span.file))


def _with_docs(brackets: _Brackets) -> Iterator[Lexeme]:
    """Lexemes without comments: a comment block right above a line goes to that line's first lexeme."""
    block: list[str] = []
    line_ends = 2
    for index, lexeme in enumerate(brackets.lexemes):
        yield from _missing_closers(brackets, index)
        if index in brackets.too_deep and lexeme.type not in ("NEWLINE", "COMMENT"):
            yield Lexeme(BAD, "", Span(lexeme.span.start, lexeme.span.start, lexeme.span.file))
        if lexeme.type == "NEWLINE":
            line_ends += 1
            block = block if line_ends < 2 else []
            yield lexeme
        elif lexeme.type == "COMMENT":
            if line_ends:
                block.append(lexeme.text)
                line_ends = 0
        else:
            kind = BAD if index in brackets.bad else lexeme.type
            doc = doc_text(block) if block and line_ends else ""
            yield Lexeme(kind, lexeme.text, lexeme.span, doc) if doc or kind == BAD else lexeme
            block, line_ends = [], 0
    yield from _missing_closers(brackets, len(brackets.lexemes))


def _missing_closers(brackets: _Brackets, index: int) -> Iterator[Lexeme]:
    for _ in range(brackets.closed_before.get(index, 0)):
        before = brackets.lexemes[index - 1].span.end
        yield Lexeme("RBRACE", "}", Span(before, before, brackets.source.path))


def _file_doc(lexemes: list[Lexeme]) -> str:
    """The first comment block, where nothing but empty lines and other blocks could stand before it."""
    block: list[str] = []
    line_ends = 0
    for lexeme in lexemes:
        if lexeme.type == "NEWLINE":
            line_ends += 1
            if block and line_ends > 1:
                break
        elif lexeme.type == "COMMENT":
            block.append(lexeme.text)
            line_ends = 0
        else:
            break
    return doc_text(block)


def doc_text(comments: list[str]) -> str:
    """What comment lines say, without their `# `."""
    return "\n".join(comment[1:].removeprefix(" ").rstrip() for comment in comments)
