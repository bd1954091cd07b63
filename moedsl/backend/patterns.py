"""Names of weights in few words: patterns that fit some of a model's weights and no others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def patterns_of(own: set[str], every: list[str]) -> list[str]:
    """The shortest patterns that fit these names and no others, `*` for any text."""
    if own == set(every):
        return ["*"]
    found: list[str] = []
    for name in every:
        if name in own and not any(fnmatchcase(name, pattern) for pattern in found):
            found.append(next(p for p in _candidates(name) if _fits(p, own, every)))
    return found


def _candidates(name: str) -> Iterator[str]:
    for general in (_NUMBER.sub("*", name), name):
        parts = general.split(".")
        for length in range(1, len(parts)):
            yield ".".join(parts[:length]) + ".*"
        pieces = general.split("_")
        for length in range(1, len(pieces)):
            yield "_".join(pieces[:length]) + "_*"
        yield general


def _fits(pattern: str, own: set[str], every: list[str]) -> bool:
    """Part of a word is worth a pattern where it says several names."""
    found = [name for name in every if fnmatchcase(name, pattern)]
    several = len({_NUMBER.sub("*", name) for name in found}) > 1
    return own.issuperset(found) and (several or not pattern.endswith("_*"))
