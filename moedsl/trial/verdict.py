"""Which model is better, and how sure one can be."""

from __future__ import annotations

import math

from moedsl.frozen import frozen
from moedsl.trial.record import ContestantRecord

Z95 = 1.96


@frozen
class Difference:
    """Mean of paired differences, with the half-width of its 95 % interval."""

    mean: float
    margin: float
    pairs: int

    @property
    def clear(self) -> bool:
        return abs(self.mean) > self.margin


def paired(one: list[float], other: list[float]) -> Difference:
    """`one - other`, window by window: what makes a window hard for both cancels."""
    differences = [a - b for a, b in zip(one, other, strict=True)]
    n = len(differences)
    mean = sum(differences) / n
    variance = sum((d - mean) ** 2 for d in differences) / max(1, n - 1)
    return Difference(mean, Z95 * math.sqrt(variance / n), n)


def verdict(contestants: list[ContestantRecord], unit: str = "byte") -> tuple[str, str]:
    """What came out, and how sure that is: a sentence each, for the page and the terminal."""
    ranked = sorted(contestants, key=bits)
    best = ranked[0]
    if len(ranked) == 1:
        return f"{best.name} needs {bits(best):.3f} bits per {unit} that it has not seen.", ""
    second = ranked[1]
    found = paired(second.window_bits, best.window_bits)
    scores = f"{bits(best):.3f} against {bits(second):.3f} bits per {unit} that neither has seen"
    noise = (
        f"The difference is {found.mean:.3f} ± {found.margin:.3f} (95 %, paired over {found.pairs} held-out examples); "
        "one seed was trained, so the luck of a start is not in that interval."
    )
    if found.clear:
        return f"{best.name} beats {second.name}: {scores}.", noise
    return f"{best.name} and {second.name} cannot be told apart: {scores}.", noise


def bits(contestant: ContestantRecord) -> float:
    """Final held-out bits per unit."""
    return sum(contestant.window_bits) / len(contestant.window_bits)
