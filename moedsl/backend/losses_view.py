"""What losses.py of a printed package needs to know: one view for each declared loss."""

from __future__ import annotations

import textwrap
from typing import Literal

from moedsl.backend.plan_lines import call_lines
from moedsl.backend.view_text import folded, number
from moedsl.frozen import frozen


@frozen(kw_only=True)
class BalanceView:
    """A balance loss over `routing: list[Routing]`, the decisions of one mixture from bottom to top.

    E * sum over experts of (share of choices * mean probability), where the share counts each choice (`share`: of all
    choices, worth 1 at balance), the first ones (`first`, worth 1), or all of them per token (`all`, worth K).
    `over`: the product is taken for each site, for each sequence of each site, or once over the pooled statistics of
    a layer's sites or of the whole model. `layers`: how products of different sites or layers combine.
    `groups`: for `layer`, the number of sites of each layer; a layer's stand side by side in the list.
    `batch` and `step` take shares from all ranks, and from all forwards of a step. `average`, `light`: ranges of
    experts that count with their mean, or times `eta`; `buckets`: how many experts in a row are balanced as one.
    `visits` counts a token once on each device, over `limit` devices that it may be sent to (None: over all visits).
    `num_experts`: None where sites differ in it; then nothing can be pooled. `of`: what it is over, in words.
    """

    name: str
    coefficient: float
    num_experts: int | None
    of: str
    count: Literal["share", "first", "all", "visits"] = "share"
    over: Literal["site", "layer", "model", "sequence", "batch", "step"] = "site"
    layers: Literal["sum", "mean"] = "sum"
    groups: tuple[int, ...] = ()
    average: tuple[int, int] | None = None
    light: tuple[int, int] | None = None
    eta: float = 1.0
    buckets: tuple[int, ...] = ()
    top_k: int | None = None
    limit: int | None = None
    kind: str = "balance"

    def __post_init__(self) -> None:
        assert self.num_experts or self.over in ("site", "sequence")

    @property
    def sites(self) -> int | None:
        """Sites of a layer, where all layers have as many and that is not one."""
        alike = self.over == "layer" and len(set(self.groups)) == 1
        return self.groups[0] if alike and self.groups[0] > 1 else None

    @property
    def uneven(self) -> str:
        """Sites of each layer, where layers differ in that."""
        differs = self.over == "layer" and len(set(self.groups)) > 1
        return (
            "\n    ".join(call_lines("sites = ", [*map(str, self.groups)], depth=1))
            if differs
            else ""
        )

    @property
    def factor_of_buckets(self) -> int | None:
        """What the product is worth at balance, over that: the number of what is balanced."""
        return len(self.buckets) or self.num_experts

    @property
    def even_buckets(self) -> bool:
        return len(set(self.buckets)) == 1

    @property
    def bucket_sizes(self) -> str:
        return "\n    ".join(call_lines("sizes = ", [*map(str, self.buckets)], depth=1))

    @property
    def mean_range(self) -> str:
        return _range(self.average, self.num_experts)

    @property
    def light_range(self) -> str:
        return _range(self.light, self.num_experts)

    @property
    def light_factor(self) -> str:
        return number(self.eta)

    @property
    def counts(self) -> str:
        """The field of Routing that holds the counts."""
        return self.count if self.count in ("first", "visits") else "choices"

    @property
    def letter(self) -> str:
        """The axis of the counts."""
        return "D" if self.count == "visits" else "E"

    @property
    def statistics(self) -> tuple[str, ...]:
        return (self.counts, "probability")

    @property
    def factor(self) -> str:
        return f"{number(self.coefficient)} * " if self.coefficient != 1 else ""

    @property
    def summary(self) -> str:
        share = {
            "share": "share of choices",
            "first": "share of first choices",
            "all": "choices per token",
            "visits": f"visits / {self.limit}" if self.limit else "share of visits",
        }[self.count]
        pooled = {
            "site": f"each mixture by itself, then their {self.layers}",
            "layer": f"each layer by itself, then their {self.layers}",
            "sequence": f"the mean over sequences, then the {self.layers} over layers",
            "model": "pooled over the layers",
            "batch": f"each mixture by itself, shares over all ranks, then their {self.layers}",
            "step": f"each mixture by itself, shares over the step so far, then their {self.layers}",
        }[self.over]
        worth = "the number of choices per token" if self.count == "all" else "1"
        whom = "E * sum over experts"
        if self.buckets:
            whom = "D * sum over devices" if self.count == "visits" else "G * sum over groups"
        formula = f"{whom} of ({share} * mean probability): {pooled}."
        lines = textwrap.wrap(f"{formula} Perfect balance is worth {worth}.", 84)
        body = "\n    ".join(lines)
        return f"""Balance of {self.of}, times {number(self.coefficient)}.

    {body}
    """


def _range(found: tuple[int, int] | None, total: int | None) -> str:
    """As a slice: `4:`, `2:4`."""
    if found is None:
        return ""
    first, stop = found
    return f"{first or ''}:{'' if stop == total else stop}"


@frozen(kw_only=True)
class ZView:
    """A router z-loss: the mean over real tokens of the squared log-sum-exp of the logits."""

    name: str
    coefficient: float
    of: str
    layers: Literal["sum", "mean"] = "sum"
    over: str = "site"
    kind: str = "z"

    @property
    def statistics(self) -> tuple[str, ...]:
        return ("z",)

    @property
    def factor(self) -> str:
        return f"{number(self.coefficient)} * " if self.coefficient != 1 else ""

    @property
    def summary(self) -> str:
        square = f"Mean square of the log-sum-exp of {self.of}'s logits"
        return folded(f"{square}, times {number(self.coefficient)}.")


LossView = BalanceView | ZView
