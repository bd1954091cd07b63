"""Numbers and sentences as they stand in printed code."""

from __future__ import annotations

import textwrap


def number(value: float) -> str:
    """As Python code, in the shortest form that reads back equal: 1e6, 0.02, 4096."""
    if float(value).is_integer():
        plain = str(int(value))
        zeros = len(plain) - len(plain.rstrip("0"))
        return f"{plain[:-zeros]}e{zeros}" if zeros >= 4 and len(plain) - zeros == 1 else plain
    return repr(float(value))


def folded(sentence: str) -> str:
    """A docstring's first sentence, on as many lines of a function's body as it takes."""
    return "\n    ".join(textwrap.wrap(sentence, 78, break_on_hyphens=False))
