"""The expected share of picks that find no room, against sums over all loads."""

from __future__ import annotations

from math import comb

import pytest

from moedsl.ir.loads import dropped, uniform, zipf
from tests.packages import compiled


def exact(tokens: int, picks: int, slots: int, chances: list[float]) -> float:
    served = sum(
        min(load, slots) * comb(tokens, load) * p**load * (1 - p) ** (tokens - load)
        for p in chances
        for load in range(tokens + 1)
    )
    return 1 - served / (picks * tokens)


@pytest.mark.parametrize("use", (uniform, zipf))
@pytest.mark.parametrize(
    ("tokens", "picks", "choices"), ((64, 2, 8), (90, 1, 3), (40, 4, 6), (20, 3, 3))
)
def test_expected_drops(use, tokens: int, picks: int, choices: int) -> None:
    chances = use(picks, choices)
    assert sum(chances) == pytest.approx(picks) and max(chances) <= 1
    for slots in (1, 5, tokens * picks // choices, tokens - 1, tokens):
        assert dropped(tokens, picks, slots, chances) == pytest.approx(
            exact(tokens, picks, slots, chances), abs=1e-9
        )


def test_large_groups() -> None:
    assert dropped(10**6, 8, 31250, uniform(8, 256)) == pytest.approx(0.0022, abs=1e-4)
    assert dropped(4096, 2, 320, uniform(2, 32)) < 1e-5


def test_cards_say_it() -> None:
    card = next(
        text for path, text in compiled("gshard_lm").files.items() if path.endswith("README.md")
    )
    assert "4 of 1,024 tokens to an expert, drops 19.5% of picks (uniform)" in card
