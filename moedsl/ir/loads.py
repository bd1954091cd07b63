"""How many picks find no room, expected: known before a token is seen, from how choices are used on the whole.

A group has T tokens, each with k picks of E choices, and an expert has C slots. If tokens pick independently and expert
e is among the k picks of a token with probability p_e (the p_e sum to k), then its load is binomial, B(T, p_e), and

    dropped = 1 - sum over e of E[min(load_e, C)] / (k * T)

Two ways to use the choices: `uniform`, p_e = k / E; and `zipf`, where the choice of rank r is 1 / r as popular as the
first (p_e in proportion, none above 1). What really drops is between: a balance loss pulls towards the first.
"""

from __future__ import annotations

from math import exp, lgamma, log, sqrt

TOKENS = 4096  # of a group, where the spec does not say how many there are


def dropped(tokens: int, picks: float, slots: int, chances: list[float]) -> float:
    """The share of picks that find no room."""
    alike: dict[float, int] = {}
    for chance in chances:
        alike[chance] = alike.get(chance, 0) + 1
    served = sum(count * _served(tokens, chance, slots) for chance, count in alike.items())
    return max(0.0, 1 - served / (picks * tokens))


def uniform(picks: int, choices: int) -> list[float]:
    return [min(1.0, picks / choices)] * choices


def zipf(picks: int, choices: int) -> list[float]:
    """In proportion to 1 / rank; what would be above 1 is 1, and the others share the rest."""
    certain = 0
    while certain < picks:
        rest = sum(1 / rank for rank in range(certain + 1, choices + 1))
        if (picks - certain) / (certain + 1) / rest <= 1:
            break
        certain += 1
    rest = sum(1 / rank for rank in range(certain + 1, choices + 1)) or 1.0
    shares = [(picks - certain) / rank / rest for rank in range(certain + 1, choices + 1)]
    return [1.0] * certain + shares


def _served(tokens: int, chance: float, slots: int) -> float:
    """E[min(load, slots)] of a binomial load: the mean less what is expected above the slots."""
    mean = tokens * chance
    if chance <= 0 or slots >= tokens:
        return mean
    if chance >= 1:
        return float(min(tokens, slots))
    reach = 12 * sqrt(mean * (1 - chance)) + 12  # beyond it there is less than a rounding error
    first, last = max(0, int(mean - reach)), min(tokens, int(mean + reach) + 1)
    if slots >= last:
        return mean
    if slots <= first:
        return float(slots)
    odds = log(chance) - log(1 - chance)
    term = lgamma(tokens + 1) - lgamma(slots + 2) - lgamma(tokens - slots)
    term += (slots + 1) * log(chance) + (tokens - slots - 1) * log(1 - chance)
    above = 0.0
    for load in range(slots + 1, last + 1):
        above += (load - slots) * exp(term)
        if load < tokens:
            term += odds + log(tokens - load) - log(load + 1)
    return mean - above
