"""What state.py of a printed package needs to know: its rotary embeddings, masks and attention cores."""

from __future__ import annotations

from typing import Literal

from moedsl.backend.plan_lines import call_lines
from moedsl.backend.view_text import folded, number
from moedsl.frozen import frozen
from moedsl.ir.stretch import Stretch


@frozen(kw_only=True)
class RotaryView:
    """One kind of rotary embedding: the first `size` of a head's `head` channels turn.

    `table` makes the angles once per forward, `rotate` applies them. Kinds that pair and split alike share `rotate`;
    different tables need different names.
    """

    theta: float
    size: int
    head: int
    pairs: Literal["halves", "adjacent"] = "halves"
    stretch: Stretch | None = None
    table: str = "rotary_table"
    rotate: str = "rotate"

    def __post_init__(self) -> None:
        assert self.size % 2 == 0 and 0 < self.size <= self.head

    @property
    def rest(self) -> int:
        return self.head - self.size

    @property
    def theta_text(self) -> str:
        return number(self.theta)

    @property
    def summary(self) -> str:
        some = f"{self.size} of a head's {self.head}" if self.rest else f"a head's {self.size}"
        scaled = ", stretched" if self.stretch else ""
        return f"Angles for {some} channels, theta {self.theta_text}{scaled}."

    @property
    def rotate_text(self) -> str:
        which = f"the first {self.size} channels" if self.rest else "channels"
        return f"Turn pairs of {which} ({self.pairs}) by their angles."

    @property
    def stretch_lines(self) -> tuple[str, ...]:
        return self.stretch.lines(self.theta, self.size) if self.stretch else ()

    @property
    def magnitude(self) -> str:
        """What cosines and sines are multiplied by; "" for 1."""
        by = self.stretch.magnitude if self.stretch else 1.0
        return "" if by == 1 else number(by)


@frozen(kw_only=True)
class MaskView:
    """Which keys a query sees. `window` counts the query itself: with 1 a query sees only itself.

    `tensor`: never None, because the attention that reads it has no causal flag (soft caps, sinks, biases).
    """

    name: str = "causal_mask"
    causal: bool = True
    window: int | None = None
    chunk: int | None = None
    tensor: bool = False

    def __post_init__(self) -> None:
        assert self.causal or (self.window is None and self.chunk is None)

    @property
    def limit(self) -> int | None:
        """Within so many tokens the mask is plainly causal."""
        return min((n for n in (self.window, self.chunk) if n is not None), default=None)

    @property
    def signature(self) -> str:
        result = "Tensor" if self.tensor else "Tensor | None"
        items = ("tokens_BT: Tensor", "past: int", "mask_BS: Tensor | None")
        return "\n".join(call_lines(f"def {self.name}", items, f" -> {result}:"))

    @property
    def call(self) -> str:
        """How model.py makes it, from its tokens, the number of past ones and its padding mask."""
        return f"{self.name}(tokens_BT, past, mask)" if self.causal else f"{self.name}(mask)"


@frozen(kw_only=True)
class AttendView:
    """One kind of attention core: attend(q_BTHC, k_BTGC, v_BTGC, mask[, cache]) -> mixed_BTHC.

    - `causal`: its mask is causal, so None means "all before", else None means "all".
    - `masked`: takes a mask; else every query sees every key.
    - `grouped`: some attention has fewer key/value heads than query heads.
    - `cached`: takes the cache, and extends it; attention over another sequence does not.
    - `scale`: takes `scale=`, a number; else it is 1 / sqrt(C). `dropout`: takes `dropout=`, of the weights, a number.
    - `soft_cap`: scores become cap * tanh(score / cap). `sinks`: takes `sinks_H=`, logits that take weight and give
      nothing. `bias`: takes `bias_HTS=`, added to the scores. These three need a mask view with `tensor` where causal.
    """

    name: str = "attend"
    causal: bool = True
    masked: bool = True
    grouped: bool = True
    cached: bool = True
    scale: bool = False
    dropout: bool = False
    soft_cap: float | None = None
    sinks: bool = False
    bias: bool = False

    @property
    def explicit(self) -> bool:
        """Scores are written out, since no fused kernel has them."""
        return self.soft_cap is not None or self.sinks

    @property
    def always_masked(self) -> bool:
        return self.causal and (self.explicit or self.bias)

    @property
    def flagged(self) -> bool:
        """The kernel's causal flag stands in for a mask."""
        return self.causal and not self.always_masked

    @property
    def packs(self) -> bool:
        return self.grouped and self.masked and not self.bias

    @property
    def score(self) -> str:
        return "score_BGQTS" if self.grouped else "score_BHTS"

    @property
    def weight(self) -> str:
        return "weight_BGQTS" if self.grouped else "weight_BHTS"

    @property
    def summary(self) -> str:
        """The docstring."""
        score = (
            "q k" + (" scale" if self.scale else " / sqrt(C)") + (" + bias" if self.bias else "")
        )
        if self.soft_cap is not None:
            score = f"{number(self.soft_cap)} tanh(({score}) / {number(self.soft_cap)})"
        score += ", sinks" if self.sinks else ""
        first = folded(f"softmax({score}) v over what a query sees, [B, T, H, C].")
        if not self.flagged:
            return first
        return f"""{first}

    Without a mask, several queries are the start of a sequence, and each sees those
    before it; a lone query sees all.
    """


@frozen(kw_only=True)
class MixView:
    """mix(score_BHTS, v_BSGC, mask) -> mixed_BTHC; `dropout`: takes `dropout=`, of the weights."""

    name: str = "mix"
    causal: bool = True
    dropout: bool = False

    @property
    def signature(self) -> str:
        items = ["score_BHTS: Tensor", "v_BSGC: Tensor"]
        items += ["mask: Tensor" if self.causal else "mask: Tensor | None"]
        items += ["dropout: float"] if self.dropout else []
        return "\n".join(call_lines(f"def {self.name}", items, " -> Tensor:"))


@frozen(kw_only=True)
class ScoresView:
    """Attention written out: dot(q, k, scale), anything on its result, mix."""

    grouped: bool = False
    mixes: tuple[MixView, ...] = (MixView(),)


@frozen(kw_only=True)
class StateView:
    """state.py. `cache` False where nothing is cached (encoders): then no `Cache` is printed."""

    rotaries: tuple[RotaryView, ...] = ()
    masks: tuple[MaskView, ...] = (MaskView(),)
    attends: tuple[AttendView, ...] = (AttendView(),)
    cache: bool = True
    scores: ScoresView | None = None
    positions: bool = False  # printed without rotaries too (learned positions)
    once: bool = False  # the cache keeps what other streams are read as
    remember: bool = False  # what extends the cache apart from an attention core

    def __post_init__(self) -> None:
        names = [r.table for r in self.rotaries] + [m.name for m in self.masks]
        names += [a.name for a in self.attends]
        assert len(names) == len(set(names))
        alike: dict[str, tuple] = {}
        for r in self.rotaries:
            way = (r.pairs, r.size, r.head)
            assert alike.setdefault(r.rotate, way) == way

    @property
    def fused(self) -> bool:
        dropping = self.scores is not None and any(m.dropout for m in self.scores.mixes)
        return dropping or any(a.dropout or not a.explicit for a in self.attends)

    @property
    def torch(self) -> bool:
        """Whether the file needs more of torch than its tensors and functions."""
        made = self.rotaries or self.positions or any(m.causal for m in self.masks)
        return bool(made or self.scores) or any(a.explicit or a.bias for a in self.attends)

    @property
    def summary(self) -> str:
        """What the file holds, for its docstring."""
        parts = ["positions"] if self.rotaries or self.positions else []
        parts += ["rotary angles"] if self.rotaries else []
        parts += ["masks"] if self.masks else []
        parts += ["attention"] if self.attends or self.scores else []
        parts += ["the cache"] if self.cache else []
        return f"What layers share: {', '.join(parts)}."

    @property
    def rotations(self) -> tuple[RotaryView, ...]:
        """One view for each distinct `rotate`."""
        return tuple({r.rotate: r for r in reversed(self.rotaries)}.values())[::-1]
