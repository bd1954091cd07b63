"""Rotation, attention, and the values that are made once for all layers.

An `Ambient` is asked for anywhere (`build.ambient(op)`); `thread.py` makes it a node of the root and hands its value
down. Equal ambients are one. `name` is what units call it, `root_name` what the root calls it.
"""

from __future__ import annotations

from typing import Any, ClassVar

from moedsl.frozen import frozen
from moedsl.ir.graph import Dim, RecordType, TensorType
from moedsl.ir.ops_base import Op, Type, dims_of, number, rate_code
from moedsl.ir.shapes import MAIN, agree
from moedsl.ir.stretch import Stretch

TOKENS, PAST, MASK, CACHE = "tokens", "past", "mask", "cache"


@frozen(kw_only=True)
class Ambient(Op):
    """Made once at the root, for one `stream` of tokens (as the body that asks calls it). `needs`: what it is made from,
    by the names of the root's own values (above), each the stream's own. Only the main stream has a past.

    `rank` orders ambients in signatures. One without `code` is an argument of the model itself (mask, cache).
    """

    name: ClassVar[str] = ""
    root_name: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ()
    rank: ClassVar[int] = 0
    carries: ClassVar[tuple[int, ...] | None] = ()
    # How the part of some chosen tokens is made of it ({0}) and of who they are ({1}); None: there is no such part.
    part: ClassVar[str | None] = None
    by_place: ClassVar[bool] = (
        False  # is that all there is to it where tokens stay in their places?
    )
    optional: ClassVar[bool] = False  # may it be None?
    inits: ClassVar[tuple[Any, ...]] = ()  # how its weights start, if it has any
    stream: Dim = MAIN

    @property
    def place(self) -> str:
        """Where it stands in the model, if it has weights."""
        return ""

    @property
    def main(self) -> bool:
        return self.stream == MAIN

    @property
    def other_name(self) -> str:
        """What it is called where an ambient of the same kind has the name already."""
        return self.name

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (RecordType("Tensor"),)


@frozen(kw_only=True)
class MaskArgument(Ambient):
    """The model's argument `mask`, [B, T]: True for real tokens, or None."""

    name: ClassVar[str] = MASK
    rank: ClassVar[int] = 8
    part: ClassVar[str | None] = "chosen_tokens({0}, {1})"
    optional: ClassVar[bool] = True

    @property
    def other_name(self) -> str:
        return "padding"


@frozen(kw_only=True)
class CacheHandle(Ambient):
    """The model's argument `cache`: keys and values of earlier tokens, or None. Streams beside the main one are read
    anew by each call, and have none."""

    name: ClassVar[str] = CACHE
    rank: ClassVar[int] = 9
    part: ClassVar[str | None] = "{0}"
    optional: ClassVar[bool] = True

    @property
    def code(self) -> str:  # type: ignore[override]
        return "" if self.main else "None"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (RecordType("Cache"),)


@frozen(kw_only=True)
class Past(Ambient):
    """How many tokens the cache holds already."""

    name: ClassVar[str] = PAST
    part: ClassVar[str | None] = "{0}"
    needs: ClassVar[tuple[str, ...]] = (CACHE, TOKENS)
    atom: ClassVar[bool] = False
    code: ClassVar[str] = "0 if {0} is None else {0}.begin({1}.shape[1])"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (RecordType("int"),)


class Placed(Ambient):
    """What depends on where the tokens of this call stand: which they are, how many came before, which are real."""

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return (TOKENS, PAST, MASK) if self.main else (TOKENS, MASK)

    @property
    def where(self) -> str:
        return "{0}, {1}, {2}" if self.main else "{0}, 0, {1}"


@frozen(kw_only=True)
class Positions(Placed):
    """Where each token stands, padding left out: [B, T] int."""

    name: ClassVar[str] = "positions"
    part: ClassVar[str | None] = "chosen_positions({0}, {1})"
    by_place: ClassVar[bool] = True
    imports: ClassVar[tuple[str, ...]] = (".state:positions",)

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"positions({self.where})"


@frozen(kw_only=True)
class RotaryTable(Placed):
    """Cosines and sines for a `theta`: the first `size` of a head's `head` channels turn.

    `table` and `rotate` are the functions of state.py: what makes it and what applies it. Tables with other numbers
    have other names; kinds that pair and split alike share `rotate`.
    """

    theta: float
    size: int
    head: int
    pairs: str = "halves"
    stretch: Stretch | None = None
    table: str = "rotary_table"
    rotate: str = "rotate"
    name: ClassVar[str] = "rotary"
    rank: ClassVar[int] = 1
    part: ClassVar[str | None] = "chosen_rotary({0}, {1})"
    by_place: ClassVar[bool] = True

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"{self.table}(positions({self.where}))"

    @property
    def other_name(self) -> str:
        return self.table.replace("rotary_table", self.name)

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        return (f".state:{self.table}", ".state:positions")

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (RecordType("Rotary"),)


@frozen(kw_only=True)
class Temperature(Placed):
    """What queries at each position are multiplied by, [B, T, 1, 1]."""

    every: int
    by: float
    first: int
    name: ClassVar[str] = "temperature"
    rank: ClassVar[int] = 1
    part: ClassVar[str | None] = "chosen_factors({0}, {1})"
    by_place: ClassVar[bool] = True
    imports: ClassVar[tuple[str, ...]] = (".temperature:temperature", ".state:positions")

    @property
    def code(self) -> str:  # type: ignore[override]
        place = f"positions({self.where})"
        return f"temperature({place}, {self.every}, {number(self.by)}, {self.first})"

    @property
    def other_name(self) -> str:
        return f"{self.name}_{self.every}"


@frozen(kw_only=True)
class AttentionMask(Placed):
    """Which keys a query sees: what came before (`causal`), the latest `window` of it, what stands in the same
    `chunk`, and never padding.

    None where an attention needs no mask beyond its causal flag, unless `tensor` (explicit scores). Not `padded`: all
    is seen, so that there is no mask at all. `first`: keys are those of a first round, where nobody is hidden
    yet.
    """

    causal: bool = True
    padded: bool = True
    window: int | None = None
    chunk: int | None = None
    tensor: bool = False
    first: bool = False
    function: str = "causal_mask"
    name: ClassVar[str] = MASK
    root_name: ClassVar[str] = "attention_mask"
    rank: ClassVar[int] = 2

    @property
    def part(self) -> str:  # type: ignore[override]
        return "chosen_mask({0}, {1})" if self.causal else "chosen_padding({1})"

    @property
    def optional(self) -> bool:  # type: ignore[override]
        return not (self.tensor and self.causal)

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"{self.function}({self.where if self.causal else '{0}'})"

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return super().needs if self.causal else (MASK,)

    @property
    def other_name(self) -> str:
        kind = f"{self.window}" if self.window else "full" if self.causal else "padding"
        kind = f"chunks_{self.chunk}" if self.chunk else kind
        return f"mask_{kind}" + ("_tensor" if self.tensor else "")

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        return (f".state:{self.function}",)


@frozen(kw_only=True)
class RealRows(Ambient):
    """Which rows are real tokens, [N] bool, or None where all are: padding is routed but not counted."""

    rows: Dim
    name: ClassVar[str] = "real"
    rank: ClassVar[int] = 3
    atom: ClassVar[bool] = False
    part: ClassVar[str | None] = "chosen_real({1})"
    optional: ClassVar[bool] = True

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return (MASK, PAST) if self.main else (MASK,)

    @property
    def code(self) -> str:  # type: ignore[override]
        past = "[:, {1}:]" if self.main else ""
        return f"None if {{0}} is None else {{0}}{past}.flatten()"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (TensorType((self.rows,), "bool"),)


@frozen(kw_only=True)
class Sequences(Ambient):
    """How many sequences the rows are made of, for statistics per sequence."""

    name: ClassVar[str] = "num_sequences"
    needs: ClassVar[tuple[str, ...]] = (TOKENS,)
    rank: ClassVar[int] = 4
    part: ClassVar[str | None] = "{0}"
    code: ClassVar[str] = "{0}.shape[0]"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (RecordType("int"),)


# --- in the layers ------------------------------------------------------------------------------


@frozen(kw_only=True)
class Rotate(Op):
    """Queries or keys turned by their positions: (x [.., H, C], rotary)."""

    table: RotaryTable
    carries: ClassVar[tuple[int, ...] | None] = (0,)

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"{self.table.rotate}({{0}}, {{1}})"

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        return (f".state:{self.table.rotate}",)


@frozen(kw_only=True)
class Temper(Op):
    """(x [.., H, C], temperature) -> their product, in the precision of x."""

    code: ClassVar[str] = "({0} * {1}).type_as({0})"
    carries: ClassVar[tuple[int, ...] | None] = (0,)


@frozen(kw_only=True)
class Attend(Op):
    """The weighted mean of values: (q [B, T, H, C], k [B, S, G, C], v [B, S, G, C], mask[, cache][, sinks [H]])
    -> [B, T, H, C].

    Prints as attend(q, k, v, mask, cache, sinks[, scale=..][, dropout=..]). `function` names one kind of core in state.py:
    kinds differ in causal, grouped, cached, soft_cap, and in whether they take sinks, a scale or dropout. `scale` None is
    1 / sqrt(C).
    """

    mask: AttentionMask
    grouped: bool = False
    cached_keys: bool = True
    scale: float | None = None
    soft_cap: float | None = None
    sinks: bool = False
    dropout: float = 0.0
    eval_dropout: float = 0.0
    function: str = "attend"
    looks: ClassVar[tuple[int, ...]] = (1, 2)

    @property
    def carries(self) -> tuple[int, ...]:  # type: ignore[override]
        return (0, 1, 2, 4 + self.cached_keys) if self.sinks else (0, 1, 2)

    @property
    def causal(self) -> bool:
        return self.mask.causal

    @property
    def drops(self) -> bool:
        return bool(self.dropout or self.eval_dropout)

    @property
    def sees(self) -> str:  # type: ignore[override]
        return "past" if self.causal else "all"

    @property
    def causal_form(self) -> str:
        return "" if self.causal else "mask = causal"

    @property
    def code(self) -> str:  # type: ignore[override]
        scale = "" if self.scale is None else f", scale={number(self.scale)}"
        rate = f", dropout={rate_code(self.dropout, self.eval_dropout)}" if self.drops else ""
        return f"{self.function}({{args}}{scale}{rate})"

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        return (f".state:{self.function}",)

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        q, k, v = (dims_of(i) for i in inputs[:3])
        agree(q.dims[-1], k.dims[-1], "the head sizes of queries and keys")
        agree(k.dims[-2], v.dims[-2], "the heads of keys and values")
        return (TensorType((*q.dims[:-1], v.dims[-1]), q.dtype),)

    def flops_per_position(self, *inputs: Type) -> int:
        """Scores and mixing, for each position of the context."""
        q, v = dims_of(inputs[0]), dims_of(inputs[2])
        heads = q.dims[-2].size or 0
        return 2 * heads * ((q.dims[-1].size or 0) + (v.dims[-1].size or 0))

    def cached(self, *inputs: Type) -> int:
        """Numbers that a cache keeps of one token."""
        if not self.cached_keys and self.mask.main:
            return 0
        k, v = dims_of(inputs[1]), dims_of(inputs[2])
        return sum((t.dims[-2].size or 0) * (t.dims[-1].size or 0) for t in (k, v))
