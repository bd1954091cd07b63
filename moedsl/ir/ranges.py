"""Paths of equal places, as people read them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby, pairwise

_INDEX = re.compile(r"\[(\d+)\]")


def ranges(paths: Iterable[str]) -> list[str]:
    """Paths with their runs of numbers closed up: `layer[0..31].sparse`. Only the first number of a path counts."""
    found: dict[tuple[str, str], list[int]] = {}
    for path in paths:
        match = _INDEX.search(path)
        head, tail = (path[: match.start()], path[match.end() :]) if match else (path, "")
        found.setdefault((head, tail), []).extend([int(match[1])] if match else [])
    return [
        f"{head}[{run}]{tail}" if run else head
        for (head, tail), numbers in found.items()
        for run in (_runs(numbers) or [""])
    ]


def _runs(numbers: list[int]) -> list[str]:
    """`0..3` for numbers that follow each other, `1..9 by 2` for a stride, `5` for one alone."""
    ordered = sorted(set(numbers))
    steps = {after - before for before, after in pairwise(ordered)}
    if len(ordered) > 2 and len(steps) == 1 and steps != {1}:
        return [f"{ordered[0]}..{ordered[-1]} by {steps.pop()}"]
    found = []
    for _, run in groupby(enumerate(ordered), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        found.append(f"{members[0]}..{members[-1]}" if len(members) > 1 else f"{members[0]}")
    return found
