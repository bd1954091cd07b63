"""What state.py, losses.py, generation.py and checkpoint.py of a printed package need to know, and their rendering.

Views hold plain values; whoever plans the package makes one `RuntimeView`, imports the functions that it names, and
prints calls by the `call` and `signature` of each. A file whose view is None is not printed.

What model.py does with them, in the order of its forward:

    past = 0 if cache is None else cache.begin(tokens_BT.shape[1])
    rotary = rotary_table(positions(tokens_BT, past, mask))          # RotaryView.table
    attention_mask = causal_mask(tokens_BT, past, mask)              # MaskView.call
    real_N = None if mask is None else mask[:, past:].flatten()
    ...
    q_BTHC = rotate(q_BTHC, rotary)                                  # RotaryView.rotate
    mixed_BTHC = attend(q_BTHC, k_BTGC, v_BTGC, attention_mask, cache)
    ...
    losses = {"sparse.balance": sparse_balance(routing)}             # BalanceView.name; routing: list[Routing]
"""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from moedsl.backend.plan_lines import call_lines

if TYPE_CHECKING:
    from jinja2 import Environment


def number(value: float) -> str:
    """As Python code, in the shortest form that reads back equal: 1e6, 0.02, 4096."""
    if float(value).is_integer():
        plain = str(int(value))
        zeros = len(plain) - len(plain.rstrip("0"))
        return f"{plain[:-zeros]}e{zeros}" if zeros >= 4 and len(plain) - zeros == 1 else plain
    return repr(float(value))


def folded(sentence: str) -> str:
    """A docstring's first sentence, on as many lines of a function's body as it takes."""
    return "\n    ".join(textwrap.wrap(sentence, 78, break_on_hyphens=False))


@dataclass(frozen=True, slots=True, kw_only=True)
class YarnView:
    """YaRN (Peng et al., 2023): slow channels stretched by `factor`, fast ones kept, a ramp between.

    `attention`: what cosines and sines are multiplied by; None is 0.1 log(factor) + 1.
    """

    factor: float
    original: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention: float | None = None

    def ramp(self, theta: float, size: int) -> tuple[float, float]:
        """The channels between which interpolation grows from none to full."""

        def channel(turns: float) -> float:
            return size * math.log(self.original / (turns * 2 * math.pi)) / (2 * math.log(theta))

        low, high = channel(self.beta_fast), channel(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, size - 1)
        return low, high if high != low else high + 0.001

    @property
    def magnitude(self) -> float:
        if self.attention is not None:
            return self.attention
        return 0.1 * math.log(self.factor) + 1 if self.factor > 1 else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearView:
    """Positions divided by `factor`."""

    factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RotaryView:
    """One kind of rotary embedding: the first `size` of a head's `head` channels turn.

    `table` makes the angles once per forward, `rotate` applies them. Kinds that pair and split alike share `rotate`;
    different tables need different names.
    """

    theta: float
    size: int
    head: int
    pairs: Literal["halves", "adjacent"] = "halves"
    scaling: YarnView | LinearView | None = None
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
        scaled = ", stretched" if self.scaling else ""
        return f"Angles for {some} channels, theta {self.theta_text}{scaled}."

    @property
    def rotate_text(self) -> str:
        which = f"the first {self.size} channels" if self.rest else "channels"
        return f"Turn pairs of {which} ({self.pairs}) by their angles."

    @property
    def yarn(self) -> dict[str, str] | None:
        """The numbers of YaRN as they print."""
        if not isinstance(self.scaling, YarnView):
            return None
        low, high = self.scaling.ramp(self.theta, self.size)
        return {
            "factor": number(self.scaling.factor),
            "low": number(low),
            "span": number(high - low),
        }

    @property
    def linear(self) -> str:
        return number(self.scaling.factor) if isinstance(self.scaling, LinearView) else ""

    @property
    def magnitude(self) -> str:
        wanted = isinstance(self.scaling, YarnView) and self.scaling.magnitude != 1
        return number(self.scaling.magnitude) if wanted else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskView:
    """Which keys a query sees. `window` counts the query itself: with 1 a query sees only itself.

    `tensor`: never None, because the attention that reads it has no causal flag (soft caps, sinks, biases).
    """

    name: str = "causal_mask"
    causal: bool = True
    window: int | None = None
    tensor: bool = False

    def __post_init__(self) -> None:
        assert self.causal or self.window is None

    @property
    def signature(self) -> str:
        result = "Tensor" if self.tensor else "Tensor | None"
        items = ("tokens_BT: Tensor", "past: int", "mask_BS: Tensor | None")
        return "\n".join(call_lines(f"def {self.name}", items, f" -> {result}:"))

    @property
    def call(self) -> str:
        """How model.py makes it, from its tokens, the number of past ones and its padding mask."""
        return f"{self.name}(tokens_BT, past, mask)" if self.causal else f"{self.name}(mask)"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttendView:
    """One kind of attention core: attend(q_BTHC, k_BTGC, v_BTGC, mask[, cache]) -> mixed_BTHC.

    - `causal`: its mask is causal, so None means "all before", else None means "all".
    - `grouped`: some attention has fewer key/value heads than query heads.
    - `cached`: takes the cache, and extends it; attention over another sequence does not.
    - `scale`: takes `scale=`, a number; else it is 1 / sqrt(C).
    - `soft_cap`: scores become cap * tanh(score / cap). `sinks`: takes `sinks_H=`, logits that take weight and give
      nothing. `bias`: takes `bias_HTS=`, added to the scores. These three need a mask view with `tensor` where causal.
    """

    name: str = "attend"
    causal: bool = True
    grouped: bool = True
    cached: bool = True
    scale: bool = False
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
        return self.grouped and not self.bias

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


@dataclass(frozen=True, slots=True, kw_only=True)
class StateView:
    """state.py. `cache` False where nothing is cached (encoders): then no `Cache` is printed."""

    rotaries: tuple[RotaryView, ...] = ()
    masks: tuple[MaskView, ...] = (MaskView(),)
    attends: tuple[AttendView, ...] = (AttendView(),)
    cache: bool = True
    positions: bool = False  # printed without rotaries too (learned positions)

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
        return any(not a.explicit for a in self.attends)

    @property
    def summary(self) -> str:
        """What the file holds, for its docstring."""
        parts = ["positions"] if self.rotaries or self.positions else []
        parts += ["rotary angles"] if self.rotaries else []
        parts += ["masks"] if self.masks else []
        parts += ["attention"] if self.attends else []
        parts += ["the cache"] if self.cache else []
        return f"What layers share: {', '.join(parts)}."

    @property
    def rotations(self) -> tuple[RotaryView, ...]:
        """One view for each distinct `rotate`."""
        return tuple({r.rotate: r for r in reversed(self.rotaries)}.values())[::-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceView:
    """A balance loss over `routing: list[Routing]`, the decisions of one mixture from bottom to top.

    E * sum over experts of (share of choices * mean probability), where the share counts each choice (`share`: of all
    choices, worth 1 at balance), the first ones (`first`, worth 1), or all of them per token (`all`, worth K).
    `over`: the product is taken for each site, for each sequence of each site, or once over the pooled statistics of
    a layer's sites or of the whole model. `groups`: for `layer`, how many sites each layer has, bottom to top.
    `layers`: how the products of different sites or layers combine.
    `num_experts`: None where sites differ in it.
    """

    name: str
    coefficient: float
    num_experts: int | None
    count: Literal["share", "first", "all"] = "share"
    over: Literal["site", "layer", "model", "sequence"] = "site"
    layers: Literal["sum", "mean"] = "sum"
    groups: tuple[int, ...] = ()
    doc: str = ""

    @property
    def statistics(self) -> tuple[str, ...]:
        return ("first" if self.count == "first" else "choices", "probability")


@dataclass(frozen=True, slots=True, kw_only=True)
class ZView:
    """A router z-loss: the mean over real tokens of the squared log-sum-exp of the logits."""

    name: str
    coefficient: float
    layers: Literal["sum", "mean"] = "sum"
    doc: str = ""

    @property
    def statistics(self) -> tuple[str, ...]:
        return ("z",)


LossView = BalanceView | ZView


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationView:
    """generation.py. `noisy`: the model acts differently in training, so generating then is refused."""

    noisy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeView:
    """The runtime files of one package. `header` is the provenance comment, one line with its `#`."""

    header: str
    state: StateView | None = None
    losses: tuple[LossView, ...] = ()
    generation: GenerationView | None = None


def render_runtime_files(view: RuntimeView, environment: Environment) -> dict[str, str]:
    """The texts of the runtime files that the view asks for, by file name."""
    parts = {"state.py": view.state}
    return {
        file: environment.get_template(f"package/{file}.j2").render(header=view.header, view=part)
        for file, part in parts.items()
        if part is not None
    }
