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

from typing import TYPE_CHECKING

from moedsl.backend.checkpoint_view import CheckpointView
from moedsl.backend.losses_view import BalanceView, LossView, ZView
from moedsl.backend.plan_lines import call_lines, indented
from moedsl.backend.state_view import (
    AttendView,
    MaskView,
    RotaryView,
    StateView,
)
from moedsl.frozen import frozen

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = [
    "AttendView",
    "BalanceView",
    "CheckpointView",
    "GenerationView",
    "GivenView",
    "LossView",
    "MaskView",
    "RotaryView",
    "RuntimeView",
    "StateView",
    "ZView",
    "render_runtime_files",
]


@frozen(kw_only=True)
class GivenView:
    """One argument of `generate`: the tokens that are continued (`main`), or what else the model takes. `mask`: the
    argument that tells real tokens of it from padding, where the model reads one, of axes `axes`."""

    name: str = "tokens_BT"
    main: bool = True
    mask: str = ""
    axes: str = ""


@frozen(kw_only=True)
class GenerationView:
    """generation.py. `noisy`: the model acts differently in training, so generating then is refused; `inputs`: what the
    model takes, in order."""

    noisy: bool = False
    inputs: tuple[GivenView, ...] = (GivenView(),)

    @property
    def tokens(self) -> str:
        return next(one.name for one in self.inputs if one.main)

    @property
    def others(self) -> tuple[GivenView, ...]:
        return tuple(one for one in self.inputs if not one.main)

    @property
    def masked(self) -> tuple[GivenView, ...]:
        return tuple(one for one in self.others if one.mask)

    @property
    def legend(self) -> str:
        axes = {one.axes[-1]: one.name.rpartition("_")[0] for one in self.masked}
        return "".join(f", {letter} tokens of `{name}`" for letter, name in axes.items())

    @property
    def call(self) -> str:
        """The model on the latest tokens."""
        given = ["said[-1]" if one.main else one.name for one in self.inputs]
        masks = [f"{one.mask}={one.mask}" for one in self.masked]
        items = [*given, *masks, "mask=seen_BS", "cache=cache"]
        return "\n".join(indented(call_lines("output = model", items, depth=2), 2))


@frozen(kw_only=True)
class RuntimeView:
    """The runtime files of one package. `header` is the provenance comment, one line with its `#`."""

    header: str
    state: StateView | None = None
    losses: tuple[LossView, ...] = ()
    generation: GenerationView | None = None
    checkpoint: CheckpointView | None = None


def render_runtime_files(view: RuntimeView, environment: Environment) -> dict[str, str]:
    """The texts of the runtime files that the view asks for, by file name."""
    parts = {
        "state.py": view.state,
        "losses.py": view.losses,
        "generation.py": view.generation,
        "checkpoint.py": view.checkpoint,
    }
    return {
        file: environment.get_template(f"package/{file}.j2").render(header=view.header, view=part)
        for file, part in parts.items()
        if part
    }
