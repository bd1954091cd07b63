"""How rotary angles change for contexts longer than those of training: what each kind does to the frequencies.

A stretch gives the lines that print it, on `frequency_C` and `channel_C` (0, 2, 4, ... below `size`), and a factor for
cosines and sines.
"""

from __future__ import annotations

import math

from moedsl.frozen import frozen
from moedsl.ir.ops_base import number


@frozen(kw_only=True)
class Stretch:
    """What all kinds share: the angles of some channels grow `factor` times slower."""

    factor: float

    def lines(self, theta: float, size: int) -> tuple[str, ...]:
        raise NotImplementedError

    @property
    def magnitude(self) -> float:
        """What cosines and sines are multiplied by."""
        return 1.0


@frozen(kw_only=True)
class Interpolation(Stretch):
    """All channels alike."""

    def lines(self, theta: float, size: int) -> tuple[str, ...]:
        return (f"frequency_C = frequency_C / {number(self.factor)}",)


@frozen(kw_only=True)
class Ramp(Stretch):
    """By channel (YaRN): slow ones stretched, fast ones kept, a ramp over channels between."""

    original: int
    fast: float = 32.0
    slow: float = 1.0
    truncate: bool = True
    by: float = 1.0  # of cosines and sines

    def ramp(self, theta: float, size: int) -> tuple[float, float]:
        """The channels between which interpolation grows from none to full."""

        def channel(turns: float) -> float:
            return size * math.log(self.original / (turns * 2 * math.pi)) / (2 * math.log(theta))

        low, high = channel(self.fast), channel(self.slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, size - 1)
        return low, high if high != low else high + 0.001

    def lines(self, theta: float, size: int) -> tuple[str, ...]:
        low, high = self.ramp(theta, size)
        factor = number(self.factor)
        first = f"channel_C / 2 - {number(low)}" if low else "channel_C / 2"
        return (
            f"# Slow channels are stretched {factor} times, fast ones kept, a ramp between.",
            f"ramp_C = (({first}) / {number(high - low)}).clamp(0, 1)",
            f"frequency_C = frequency_C / {factor} * ramp_C + frequency_C * (1 - ramp_C)",
        )

    @property
    def magnitude(self) -> float:
        return self.by


@frozen(kw_only=True)
class Bands(Stretch):
    """By turns over the original context: few turns stretched, many kept, a ramp between."""

    original: int
    low: float
    high: float

    def lines(self, theta: float, size: int) -> tuple[str, ...]:
        factor, low = number(self.factor), number(self.low)
        if self.low == self.high:
            return (
                f"# Channels that turn less than {low} times in {self.original} tokens are",
                f"# stretched {factor} times.",
                f"turns_C = {self.original} * frequency_C / {2 * math.pi!r}",
                f"frequency_C = frequency_C.where(turns_C >= {low}, frequency_C / {factor})",
            )
        return (
            f"# Channels that turn less than {low} times in {self.original} tokens are",
            f"# stretched {factor} times, those above {number(self.high)} kept, a ramp between.",
            f"turns_C = {self.original} * frequency_C / {2 * math.pi!r}",
            f"kept_C = ((turns_C - {low}) / {number(self.high - self.low)}).clamp(0, 1)",
            f"frequency_C = frequency_C / {factor} * (1 - kept_C) + frequency_C * kept_C",
        )
