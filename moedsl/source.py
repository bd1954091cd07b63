"""Text with a name, and places in it."""

from __future__ import annotations

import bisect
from dataclasses import field
from functools import cached_property

from moedsl.frozen import frozen


@frozen
class Span:
    """Half-open range of code points in one file; `file` is the Source's path as the user gave it."""

    start: int
    end: int
    file: str = ""

    def to(self, other: Span) -> Span:
        return Span(self.start, max(self.end, other.end), self.file)


@frozen
class Source:
    """One `.moe` text. `path` is only a name here: the core never opens it.

    `files` holds every importable text by path relative to the root folder, read beforehand by a shell (CLI, test,
    playground), so that the compiler itself touches no disk.
    """

    text: str
    path: str = "spec.moe"
    files: dict[str, str] = field(default_factory=dict, compare=False)

    @cached_property
    def line_starts(self) -> list[int]:
        starts = [0]
        for offset, char in enumerate(self.text):
            if char == "\n":
                starts.append(offset + 1)
        return starts

    def line_column(self, offset: int) -> tuple[int, int]:
        """1-based line and column, in code points."""
        line = bisect.bisect_right(self.line_starts, offset) - 1
        return line + 1, offset - self.line_starts[line] + 1

    def line(self, number: int) -> str:
        """The text of 1-based line `number`, without its end."""
        start = self.line_starts[number - 1]
        end = self.text.find("\n", start)
        return self.text[start : len(self.text) if end < 0 else end]
