"""What the compiler owes to any text: a located diagnostic, or a package whose files parse; never an exception."""

from __future__ import annotations

import ast
import time

import moedsl.pipeline
from moedsl.source import Source

SECONDS = 2.0


def answered(
    text: str, edits: tuple[str, ...] = (), files: dict[str, str] | None = None
) -> moedsl.pipeline.Result:
    """The answer, held to what it promises."""
    started = time.process_time()
    source = Source(text, "spec.moe", {"spec.moe": text} | (files or {}))
    result = moedsl.pipeline.compile(source, edits)
    assert time.process_time() - started < SECONDS
    lengths = {name: len(each) for name, each in source.files.items()}
    lengths |= {f"--set {number}": len(each) for number, each in enumerate(edits, 1)}
    for diagnostic in result.diagnostics:
        span = diagnostic.primary.span
        assert 0 <= span.start <= span.end <= lengths[span.file] + 1, f"{diagnostic} is nowhere"
        assert diagnostic.message
    assert result.ok == bool(result.files), "neither a diagnostic nor a package"
    for path, code in result.files.items():
        if path.endswith(".py"):
            ast.parse(code, path)
    return result
