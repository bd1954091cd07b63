"""Room for routed rows in plain loops, token by token: what the printed functions must equal.

Written from the published rules, with nothing vectorised: Lepikhin et al. 2020 (algorithm 1), Fedus et al. 2021
(appendix B), Riquelme et al. 2021 (section 4.1), Zhou et al. 2022 (section 3.2). No choice is a None.
"""

from __future__ import annotations

import math
from fractions import Fraction

Picks = list[list[int | None]]


def slots(factor, rows, picks, experts, per="pick", rounding="up", times=1, least=1, multiple=1):
    exact = Fraction(str(factor)) * rows
    exact *= {"pick": Fraction(picks, experts), "token": Fraction(1, experts), "group": 1}[per]
    rounded = {"up": math.ceil, "down": math.floor, "nearest": round}[rounding](exact)
    found = max(least, times * rounded)
    while found % multiple:
        found += 1
    return found


def queue(priority: str, rows: list[int], picks: Picks, gates) -> list[tuple[int, int]]:
    """(row, rank) in the order in which they ask for room."""
    pairs = [(n, j) for n in rows for j in range(len(picks[n]))]
    match priority:
        case "first_come":
            return pairs
        case "by_rank":
            return sorted(pairs, key=lambda p: p[1])
        case "best":
            return sorted(pairs, key=lambda p: (p[1], -max(gates[p[0]]), p[0]))
        case "strongest":
            return sorted(pairs, key=lambda p: (-gates[p[0]][p[1]], p[0], p[1]))
    raise ValueError(priority)


def serve(priority, picks: Picks, gates, size: int, room: int | list[int], real=None) -> Picks:
    """What is left of the picks; `room` of every expert, or of each."""
    left: Picks = [[None] * len(row) for row in picks]
    for start in range(0, len(picks), size):
        taken: dict[int, int] = {}
        rows = list(range(start, min(start + size, len(picks))))
        rows = [n for n in rows if real is None or real[n]]
        for n, j in queue(priority, rows, picks, gates):
            expert = picks[n][j]
            if expert is not None and taken.get(expert, 0) < _room(room, expert):
                taken[expert] = taken.get(expert, 0) + 1
                left[n][j] = expert
    return left


def _room(room: int | list[int], expert: int) -> int:
    return room if isinstance(room, int) else room[expert]


def serve_next(left: Picks, picks: Picks, ranking, size: int, room: int, rounds: int, real=None):
    """Rows that got less than they picked ask for the choices that follow, one a round, in the order of rows."""
    held = [[e for e in row if e is not None] for row in left]
    for start in range(0, len(picks), size):
        rows = list(range(start, min(start + size, len(picks))))
        rows = [n for n in rows if real is None or real[n]]
        taken: dict[int, int] = {}
        for n in rows:
            for expert in held[n]:
                taken[expert] = taken.get(expert, 0) + 1
        for turn in range(rounds):
            for n in rows:
                rank = len(picks[n]) + turn
                if len(held[n]) == len(picks[n]) or rank >= len(ranking[n]):
                    continue
                expert = ranking[n][rank]
                if taken.get(expert, 0) < room:
                    taken[expert] = taken.get(expert, 0) + 1
                    held[n].append(expert)
    return held


def take(keys, size: int, room: int, real=None) -> list[set[int]]:
    """The experts that take each row: the rows of highest keys, ties to the earlier row."""
    chosen: list[set[int]] = [set() for _ in keys]
    for start in range(0, len(keys), size):
        rows = list(range(start, min(start + size, len(keys))))
        rows = [n for n in rows if real is None or real[n]]
        for expert in range(len(keys[0])):
            for n in sorted(rows, key=lambda n: (-keys[n][expert], n))[:room]:
                chosen[n].add(expert)
    return chosen
