"""One branch of `init_weights` for each way to start: weights are told by the ends of their names."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from moedsl.backend.plan_classes import BODY
from moedsl.backend.plan_lines import STEP, WIDTH, indented, statement_lines

_Way = TypeVar("_Way", bound=Hashable)


def branches(
    ways: Mapping[str, _Way], bodies: Mapping[_Way, Sequence[str]], otherwise: Sequence[str]
) -> list[str]:
    """The body of a loop over `name`. `ways`: what becomes of each; `otherwise`: of those without a body of their own."""
    lines: list[str] = []
    word = "if"
    for way, body in bodies.items():
        ends, whole = endings(ways, way)
        tests = [_condition(f"{word} name.endswith", ends)] if ends else []
        tests += [[f'{word if not ends else "elif"} name == "{name}":'] for name in whole[:1]]
        tests += [[f'elif name == "{name}":'] for name in whole[1:]]
        for test in tests:
            lines += [*indented(test), *_at(2, body)]
        word = "elif"
    if otherwise and bodies:
        lines.append(STEP + "else:")
    return [*lines, *_at(2 if bodies else 1, otherwise)]


def _at(steps: int, body: Sequence[str]) -> list[str]:
    lines = [line for statement in body for line in statement_lines(statement, BODY + steps)]
    return indented(lines, steps)


def _condition(head: str, ends: list[str]) -> list[str]:
    inner = f'"{ends[0]}"' if len(ends) == 1 else _tuple(ends)
    one = f"{head}({inner}):"
    if len(one) + len(STEP) * (BODY + 1) <= WIDTH:
        return [one]
    if len(_tuple(ends)) + len(STEP) * (BODY + 2) <= WIDTH:
        return [f"{head}(", STEP + _tuple(ends), "):"]
    items = [f'"{end}",' for end in ends]
    return [f"{head}(", STEP + "(", *indented(items, 2), STEP + ")", "):"]


def _tuple(ends: list[str]) -> str:
    return "(" + ", ".join(f'"{end}"' for end in ends) + ")"


def endings(ways: Mapping[str, Hashable], way: Hashable) -> tuple[list[str], list[str]]:
    """The shortest ends of names that all of this way have, and no other; and whole names that others end with."""
    others = [name for name, other in ways.items() if other != way]
    ends: list[str] = []
    whole: list[str] = []
    for name in (name for name, own in ways.items() if own == way):
        if any(name.endswith(end) for end in ends):
            continue
        end = _telling(name, others)
        (ends if end else whole).append(end or name)
    return ends, whole


def _telling(name: str, others: list[str]) -> str:
    parts = name.split(".")
    for length in range(1, len(parts) + 1):
        end = ".".join(parts[-length:])
        telling = length > 1 or len(parts) == 1 or "bias" in end
        if telling and not any(other.endswith(end) for other in others):
            return end
    return ""
