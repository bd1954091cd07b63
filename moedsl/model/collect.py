"""Diagnostics of one resolution: told once, not too many, and none that another stage's error explains."""

from __future__ import annotations

from dataclasses import field

from moedsl.diagnostics.model import Diagnostic, Sink
from moedsl.frozen import record
from moedsl.model.limits import MAX_ERRORS, Stopped

# What is missing may stand in a statement that could not be read.
_ABSENCE = frozenset({"E0201", "E0203", "E0217", "E0223", "E0224", "E0226", "W1010"})


@record
class Collected(Sink):
    """A sink that stops the run when enough is said."""

    _seen: set[tuple] = field(default_factory=set)

    def add(self, diagnostic: Diagnostic) -> None:
        key = (diagnostic.code, diagnostic.primary.span)
        if key in self._seen:
            return
        self._seen.add(key)
        self.found.append(diagnostic)
        if len(self.found) >= MAX_ERRORS:
            raise Stopped

    def hand_over(self, sink: Sink) -> None:
        """To the sink of the whole compilation."""
        torn = any(d.code.startswith("E01") for d in (*sink.found, *self.found))
        for diagnostic in self.found:
            if not (torn and diagnostic.code in _ABSENCE):
                sink.add(diagnostic)
