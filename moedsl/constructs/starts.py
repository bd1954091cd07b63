"""How weights start: numbers that are the same for all, draws, and what is done to a draw.

init = truncated(scale = 0.1)                     of every matrix and table below
init = [router = zeros, down = by_depth]          of some, by name
init = normal(0.02) -> equal_rows                 a draw, and what follows
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from moedsl.constructs.declare import Construct, Flag, Number, Words
from moedsl.diagnostics.model import Label

_STD = Number("none", low=0, words=("none",), positional=True, doc="standard deviation")
_SCALE = Number(
    "none", low=0, words=("none",), doc="in place of a size: the variance is scale / fan"
)
_FAN = Words(
    "in",
    choices=("in", "out", "average"),
    doc="what `scale` is divided by: how many numbers one result is made of, how many one number is part of, or the "
    "mean of both; of each expert by itself",
)


class Start(Construct):
    """What all starts share. `draws`: a start; else a change of one."""

    abstract: ClassVar[bool] = True
    kind = "init"
    draws: ClassVar[bool] = True
    wants: ClassVar[str] = "any"  # matrix: of rows and columns | bank: of experts


class Zeros(Start):
    """Every number starts at 0: scores that begin equal, branches that begin as nothing."""


class Fill(Start):
    """Every number starts at the same value."""

    level = Number(positional=True, doc="the value")


class Eye(Start):
    """Ones where row and column have the same number, zeros elsewhere: what comes in goes out."""

    wants = "matrix"
    gain = Number("1", positional=True, doc="in place of the ones")


class Orthogonal(Start):
    """Rows of equal length at right angles to each other; columns, where there are fewer of those."""

    wants = "matrix"
    source = "Saxe et al., 2013; torch.nn.init.orthogonal_"
    gain = Number("1", low=0, positional=True, doc="the length of a row")


class Sized(Start):
    """What all draws have that say their size by a number or by a fan."""

    abstract: ClassVar[bool] = True
    size: ClassVar[str] = "std"
    scale: Any
    fan: Any

    @property
    def given(self) -> float | None:
        """The size as a plain number; None where a fan gives it."""
        number = getattr(self, self.size)
        return None if number == "none" else float(number)

    def check(self, at: Any, sink: Any) -> None:
        both = self.given is not None and self.scale != "none"
        neither = self.given is None and self.scale == "none"
        idle = self.fan != "in" and self.scale == "none"
        if not (both or neither or idle):
            return
        mend = f"`{self.name}(0.02)`, or `{self.name}(scale = 1, fan = in)`"
        if idle and not neither:
            what, where, said = "says a fan, and nothing that is divided by it", "fan", "of no use"
        elif both:
            what, where, said = "has two sizes", "scale", "one"
        else:
            what, where, said = "has no size", "", "how large?"
        more = (Label(at.origin(self.size), "the other"),) if both else ()
        sink.error(
            "E0235", f"`{self.name}` {what}", at.origin(where), said, secondary=more, help=mend
        )


class Normal(Sized):
    """Normal numbers around 0. Its size is a standard deviation, or a `scale` that is divided by a fan.

    `normal(scale = 2)` is He's, `normal(scale = 1)` LeCun's, `normal(scale = 1, fan = average)` Glorot's.
    """

    source = "Glorot and Bengio, 2010; He et al., 2015"
    std = _STD
    scale = _SCALE
    fan = _FAN


class Truncated(Sized):
    """Normal numbers around 0, drawn again where they are further off than `cut` standard deviations.

    What is left varies less than what was cut: 0.88 times as much at a `cut` of 2. JAX and TensorFlow divide by that, so
    that the variance is scale / fan after all: `corrected = true`. `cut` counts deviations; torch's `trunc_normal_`
    has bounds that do not grow with `std`.
    """

    source = "jax.nn.initializers.variance_scaling; Fedus et al., 2021, section 2.4"
    std = _STD
    scale = _SCALE
    fan = _FAN
    cut = Number("2", low=0, exclusive_low=True, unit="deviations", doc="what is further off")
    corrected = Flag("false", doc="the deviation is that of what is left after the cut")

    @property
    def shrinks(self) -> float:
        """The standard deviation of what is left of a standard normal number."""
        density = math.exp(-(self.cut**2) / 2) / math.sqrt(2 * math.pi)
        inside = math.erf(self.cut / math.sqrt(2))
        return math.sqrt(1 - 2 * self.cut * density / inside)


class Uniform(Sized):
    """Even between -bound and bound. With a `scale` that is divided by a fan, the bound follows from the variance.

    `uniform(scale = 1, fan = average)` is Glorot's ("Xavier"); `uniform(scale = 1 / 3)` is what torch's linear maps
    start with.
    """

    source = "Glorot and Bengio, 2010"
    size = "bound"
    bound = Number("none", low=0, words=("none",), positional=True, doc="largest magnitude")
    scale = _SCALE
    fan = _FAN


# --- what is done to a draw -----------------------------------------------------------------------


class Alike(Start):
    """All experts of a bank start with the same numbers: routing alone tells them apart.

    Alone, `experts = alike`, it is about the start that they have anyway.
    """

    source = "Riquelme et al., 2021 (V-MoE); google-research/vmoe, `split_rngs = False`"
    draws = False
    wants = "bank"


class EqualRows(Start):
    """Rows are made equally long; the standard deviation of all numbers together stays what it was."""

    source = "Csordas et al., 2023 (sigma-MoE), section 5; RobertCsordas/moeut `renorm_keep_std`"
    draws = False
    wants = "matrix"


class ByDepth(Start):
    """Times the number of branches that are added to the stream, raised to `power`: one over its root, as in GPT-2.

    A branch is a line `x += ...` of a block, counted once for every layer that the stream passes; two for each layer of
    a plain transformer. It is meant for the last matrix of a branch: `init = [o = by_depth, down = by_depth]`.
    """

    source = "Radford et al., 2019, section 2.3"
    draws = False
    power = Number("-0.5", doc="what the number of branches is raised to")
    branches = Number(
        "counted", low=1, whole=True, words=("counted",), doc="how many there are; `counted`"
    )
