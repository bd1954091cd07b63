"""What was probably meant."""

from __future__ import annotations

from collections.abc import Iterable

LIMIT = 4


def did_you_mean(name: str, options: Iterable[str]) -> list[str]:
    """The options that a slip of the fingers could have made into `name`, nearest first: `top_p` -> `["top_k"]`.

    Equal but for case wins alone; else a third of the letters, and at least one, may differ.
    """
    folded = name.casefold()
    known = sorted({option for option in options if option != name})
    if same := [option for option in known if option.casefold() == folded]:
        return same[:LIMIT]
    most = max(len(name) // 3, 1)
    near = [
        (distance, option)
        for option in known
        if abs(len(option) - len(name)) <= most
        and (distance := _distance(folded, option.casefold())) <= most
        and distance < max(len(name), len(option))
    ]
    return [option for _, option in sorted(near)][:LIMIT]


def _distance(left: str, right: str) -> int:
    """Restricted Damerau-Levenshtein: letters put in, left out, changed, or two neighbours swapped."""
    before: list[int] = []
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        before, last, row = row, before, [i]
        for j, b in enumerate(right, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
    return row[-1]
