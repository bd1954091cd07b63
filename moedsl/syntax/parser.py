"""Text to tree. Many mistakes come out of one reading, each once and at its place, and with them a tree of all the
statements that are healthy: after a mistake the parser goes back to where the statement began and on to the next one."""

from __future__ import annotations

from typing import Any

from moedsl.collector import paused
from moedsl.diagnostics.model import Diagnostic, Sink
from moedsl.source import Source, Span
from moedsl.syntax import ast
from moedsl.syntax.lalr import END, Mark, Parser, pattern
from moedsl.syntax.layout import lay_out
from moedsl.syntax.lexer import BAD, MAX_COMPLAINTS, Lexeme, scan

_WORDS = {"on": "_ON", "with": "_WITH", "from": "FROM"}


@paused()
def parse(source: Source, sink: Sink) -> ast.File:
    """The tree of a whole text. Never raises: what cannot be read is in the sink and not in the tree.

    "heads = 32"  ->  File(Assign(targets=(Path("heads"),), operator="=", value=Number(32)))
    """
    from moedsl.syntax.readings import check_readings

    lexemes, doc = lay_out(source, scan(source, pattern(), sink), sink)
    statements = _read(Parser("start"), lexemes, source, sink)
    file = ast.File(statements or (), doc, Span(0, len(source.text), source.path))
    check_readings(file.statements, source, sink)
    return file


def parse_expression(text: str, file_name: str, sink: Sink) -> ast.Expr | None:
    """An expression by itself, as in `--set path=expression`; None where it cannot be read."""
    from moedsl.syntax.readings import check_expression

    source = Source(text, file_name)
    lexemes, _ = lay_out(source, scan(source, pattern(), sink), sink)
    while lexemes and lexemes[-1].type == "_NL":
        lexemes.pop()
    expression = _read(Parser("expression"), lexemes, source, sink)
    if expression is not None:
        check_expression(expression, source, sink)
    return expression


# --- reading -----------------------------------------------------------------------------------


class _Reading:
    """`marks`: per open body, where its present statement began: a place to return to, and an index. `near`: the same
    for the last brace or line end, from where nothing has gone wrong. `skipped`: line ends that were read over."""

    def __init__(self, parser: Parser, lexemes: list[Lexeme], source: Source, sink: Sink) -> None:
        self.parser, self.lexemes, self.source, self.sink = parser, lexemes, source, sink
        self.at = 0
        self.near: tuple[Mark, int] = (parser.mark(), 0)
        self.marks = [self.near]
        self.skipped: set[int] = set()


def _read(parser: Parser, lexemes: list[Lexeme], source: Source, sink: Sink) -> Any:
    reading = _Reading(parser, lexemes, source, sink)
    while reading.at < len(lexemes) and len(sink.found) < MAX_COMPLAINTS:
        lexeme = _worded(parser, lexemes, reading.at)
        if parser.feed(lexeme):
            _advance(reading, lexeme.type)
        else:
            _recover(reading)
    return _finish(reading)


def _worded(parser: Parser, lexemes: list[Lexeme], at: int) -> Lexeme:
    """`on`, `with` and `from` are words only where no name can stand, `import` only where a statement starts with it
    and a name follows."""
    lexeme = lexemes[at]
    if lexeme.type != "NAME":
        return lexeme
    if lexeme.text == "import" and parser.takes("IMPORT"):
        follows = lexemes[at + 1].type if at + 1 < len(lexemes) else ""
        return lexeme._replace(type="IMPORT") if follows in ("NAME", "STRING") else lexeme
    word = _WORDS.get(lexeme.text)
    if word and not parser.takes("NAME") and parser.takes(word):
        return lexeme._replace(type=word)
    return lexeme


def _advance(reading: _Reading, kind: str) -> None:
    reading.at += 1
    if kind not in ("_NL", "LBRACE", "RBRACE"):
        return
    reading.near = (reading.parser.mark(), reading.at)
    if kind == "_NL":
        reading.marks[-1] = reading.near
    elif kind == "LBRACE":
        reading.marks.append(reading.near)
    else:
        reading.marks.pop()


def _recover(reading: _Reading) -> None:
    """Report the lexeme that does not fit, and go to the next statement as if this one did not stand there."""
    from moedsl.syntax.slips import goes_on_below

    bad = reading.lexemes[reading.at]
    mark, began = reading.marks[-1]
    if goes_on_below(reading.lexemes, reading.at):
        # Nothing was reduced for this line end, so the statement can be read on.
        reading.sink.add(_explain(reading, began, set()))
        reading.skipped.add(reading.at)
        reading.at += 1
        return
    expected = _expected(reading) if bad.type != BAD else set()
    if _is_second_statement(reading, expected):
        _split(reading)
        return
    reading.parser.return_to(mark)
    if bad.type != BAD:
        reading.sink.add(_explain(reading, began, expected))
    reading.at = _end_of_statement(reading.lexemes, reading.at)
    reading.marks[-1] = reading.near = (reading.parser.mark(), reading.at)


def _expected(reading: _Reading) -> set[str]:
    """What could have stood there. All before the bad lexeme is put together already, so a part is read again."""
    mark, since = reading.near
    reading.parser.return_to(mark)
    for at in sorted(set(range(since, reading.at)) - reading.skipped):
        reading.parser.feed(_worded(reading.parser, reading.lexemes, at))
    return reading.parser.accepts()


def _explain(reading: _Reading, began: int, expected: set[str]) -> Diagnostic:
    from moedsl.syntax.slips import explain

    return explain(reading.source, reading.lexemes, began, reading.at, expected)


def _is_second_statement(reading: _Reading, expected: set[str]) -> bool:
    """Whether the lexeme starts a statement right behind the body of another."""
    at = reading.at
    before, bad = reading.lexemes[at - 1], reading.lexemes[at]
    return "_NL" in expected and before.type == "RBRACE" and bad.type == "NAME"


def _split(reading: _Reading) -> None:
    """Read on as if the line ended there, so that both statements are kept."""
    from moedsl.syntax.slips import two_statements

    bad = reading.lexemes[reading.at]
    reading.sink.add(two_statements(reading.lexemes, reading.at))
    reading.parser.feed(Lexeme("_NL", "", bad.span))
    reading.marks[-1] = reading.near = (reading.parser.mark(), reading.at)


def _end_of_statement(lexemes: list[Lexeme], at: int) -> int:
    """The index behind the `_NL` that ends the statement which the lexeme at `at` is part of."""
    depth = 0
    while at < len(lexemes):
        kind = lexemes[at].type
        if kind == "LBRACE":
            depth += 1
        elif kind == "RBRACE":
            depth -= 1
        at += 1
        if kind == "_NL" and depth == 0:
            return at
    return at


def _finish(reading: _Reading) -> Any:
    end = len(reading.source.text)
    last = Lexeme(END, "", Span(end, end, reading.source.path))
    if len(reading.marks) > 1:
        reading.parser.return_to(reading.marks[0][0])
    if reading.parser.feed(last):
        return reading.parser.result
    return _unfinished(reading, last)


def _unfinished(reading: _Reading, last: Lexeme) -> Any:
    """The end comes too early. Only an expression by itself can end so: each statement has its terminator."""
    mark, began = reading.marks[0]
    if reading.parser.start == "start":
        reading.parser.return_to(mark)
        reading.parser.feed(last)
        return reading.parser.result
    if not reading.sink.has_errors:
        reading.lexemes.append(last)
        reading.at = len(reading.lexemes) - 1
        reading.sink.add(_explain(reading, began, _expected(reading)))
    return None
