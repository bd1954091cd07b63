"""What a rotary position's `scaling` may be: angles for contexts longer than those of training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from moedsl.constructs.declare import Construct, Flag, Number, Words
from moedsl.diagnostics.model import Label
from moedsl.ir import stretch

if TYPE_CHECKING:
    from moedsl.diagnostics.model import Sink

_FACTOR = Number(
    low=1, positional=True, doc="how many times slower the angles of stretched channels grow"
)
_ORIGINAL = Number(low=1, whole=True, unit="tokens", doc="the context before it was made longer")


class Scaling(Construct):
    """What all kinds share: the angles of some channels grow more slowly with the position."""

    abstract: ClassVar[bool] = True
    kind = "scaling"
    factor: Any

    def stretch(self) -> stretch.Stretch:
        raise NotImplementedError(self.name)

    @property
    def sharpening(self) -> float:
        """What queries and keys are multiplied by as wholes."""
        return 1.0


class Interpolate(Scaling):
    """Every channel's angles grow `factor` times slower: positions of the long context fall into the short one's."""

    source = "Chen et al., 2023"
    factor = _FACTOR

    def stretch(self) -> stretch.Stretch:
        return stretch.Interpolation(factor=float(self.factor))


class Yarn(Scaling):
    """Slow channels are stretched, fast ones kept, and scores are sharpened a little.

    Channels that turn more than `fast` times over the original context keep their angles, those that turn less than
    `slow` times are stretched `factor` times, with a ramp between whose ends are whole channels where `truncate`.

    Queries and keys are multiplied by 0.1 * strength * log(factor) + 1: the turned channels alone (`sharpen =
    turned`, as in the paper's code), or all channels of the head (`sharpen = all`, the DeepSeek family).
    """

    source = "Peng et al., 2023, section 3; DeepSeek-V2, 2024, section 3.1.4"
    factor = _FACTOR
    original = _ORIGINAL
    fast = Number("32", low=0, exclusive_low=True, unit="turns", doc="from here on angles are kept")
    slow = Number("1", low=0, exclusive_low=True, unit="turns", doc="below, angles are stretched")
    truncate = Flag("true", doc="the ramp's ends are rounded to whole channels")
    strength = Number("1", low=0, doc="how much scores are sharpened; 0 leaves them as they are")
    sharpen = Words(
        "turned", choices=("turned", "all"), doc="which channels of queries and keys grow"
    )

    def check(self, at: Any, sink: Sink) -> None:
        _ordered(self, at, sink, "slow", "fast")

    @property
    def _by(self) -> float:
        return 0.1 * float(self.strength) * math.log(float(self.factor)) + 1

    def stretch(self) -> stretch.Stretch:
        return stretch.Ramp(
            factor=float(self.factor),
            original=int(self.original),
            fast=float(self.fast),
            slow=float(self.slow),
            truncate=self.truncate,
            by=self._by if self.sharpen == "turned" else 1.0,
        )

    @property
    def sharpening(self) -> float:
        return self._by if self.sharpen == "all" else 1.0


class Bands(Scaling):
    """Channels that turn less than `low` times over the original context are stretched, those above `high` kept.

    Between them the share that is kept grows with the number of turns; where they are equal, there is nothing between.
    Scores are not sharpened.
    """

    source = "Llama 3.1, 2024; transformers modeling_rope_utils, `llama3`"
    factor = _FACTOR
    original = _ORIGINAL
    low = Number("1", low=0, exclusive_low=True, unit="turns", doc="below, angles are stretched")
    high = Number("4", low=0, exclusive_low=True, unit="turns", doc="from here on angles are kept")

    def check(self, at: Any, sink: Sink) -> None:
        _ordered(self, at, sink, "low", "high")

    def stretch(self) -> stretch.Stretch:
        return stretch.Bands(
            factor=float(self.factor),
            original=int(self.original),
            low=float(self.low),
            high=float(self.high),
        )


def _ordered(scaling: Scaling, at: Any, sink: Sink, less: str, more: str) -> None:
    low, high = getattr(scaling, less), getattr(scaling, more)
    if not (isinstance(low, int | float) and isinstance(high, int | float)):
        return
    if low > high:
        sink.error(
            "E0321",
            f"`{less}` is {low}, and `{more}` must be no less",
            at.origin(more),
            f"{high} turns",
            secondary=(Label(at.origin(less), f"{low} turns"),),
            help="channels below the one are stretched, those above the other kept",
        )
