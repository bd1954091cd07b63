"""What a text holds and its tree does not: comments and empty lines, by offset, for what prints the text again."""

from __future__ import annotations

import bisect
from dataclasses import field
from itertools import pairwise

from moedsl.diagnostics.model import Sink
from moedsl.frozen import frozen
from moedsl.source import Source, Span
from moedsl.syntax.lexer import scan
from moedsl.syntax.parser import pattern


@frozen
class Comment:
    """`text` with its `#`; `alone` where nothing stands before it on its line."""

    text: str
    alone: bool
    span: Span


@frozen
class Trivia:
    """Both in the order of the text. An empty line is known by the offset at which it starts."""

    comments: tuple[Comment, ...]
    empty_lines: tuple[int, ...]
    _starts: tuple[int, ...] = field(default=(), repr=False, compare=False)

    def comments_between(self, start: int, end: int) -> tuple[Comment, ...]:
        first = bisect.bisect_left(self._starts, start)
        return self.comments[first : bisect.bisect_left(self._starts, end)]

    def has_empty_line_between(self, start: int, end: int) -> bool:
        first = bisect.bisect_left(self.empty_lines, start)
        return first < len(self.empty_lines) and self.empty_lines[first] < end


def trivia(source: Source) -> Trivia:
    """The side table of a text: `trivia(Source("a = 1  # one")).comments[0].text == "# one"`."""
    comments = []
    before = "NEWLINE"
    for lexeme in scan(source, pattern(), Sink()):
        if lexeme.type == "COMMENT":
            comments.append(Comment(lexeme.text.rstrip(), before == "NEWLINE", lexeme.span))
        before = lexeme.type
    starts = source.line_starts
    # The text behind the last line end is a line only where something stands in it.
    empty = tuple(start for start, end in pairwise(starts) if not source.text[start:end].strip())
    return Trivia(tuple(comments), empty, tuple(comment.span.start for comment in comments))
