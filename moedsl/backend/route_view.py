"""One fused route: what it does, and every decision that follows from that for its operators and kernels."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Literal

from moedsl.backend.records_view import FIELDS, FUSED, Parts, Statistic, part_of
from moedsl.frozen import frozen


@frozen(kw_only=True)
class RouteView:
    """One fused route: which `top_k` of `num_experts` a row takes, and with what weight.

    - `order`: `score_then_choose` scores all experts and keeps the chosen scores;
      `choose_then_score` chooses by the logits and scores the kept ones alone.
    - `normalize` divides the kept scores by their sum plus `eps`; `scale` multiplies at the end.
    - `bias` adds a correction to what is chosen by (the score, or the logit under
      `choose_then_score`), never to the weight.
    - `groups`: experts stand in that many groups of neighbours, and a row takes only those of the `keep` groups
      whose `best` highest numbers have the largest sums.
    - `statistics`: what the losses and controllers of the spec read of it, in the order of `FIELDS`.
    - `devices`: on how many devices its experts stand, where a loss reads visits of them.
    - `heads`: how many heads of a row decide so, each among experts of its own; 0 where the row does.
    - `record`: the named tuple that it gives.
    - `distribution`: the routing probability behind the statistics `probability` and `entropy`:
      the softmax of the logits, or their sigmoids divided by the sum of these.
    """

    name: str
    num_experts: int
    top_k: int
    score: Literal["softmax", "sigmoid", "identity"] = "softmax"
    order: Literal["score_then_choose", "choose_then_score"] = "choose_then_score"
    normalize: bool = False
    eps: float = 0.0
    scale: float = 1.0
    bias: bool = False
    groups: int = 1
    keep: int = 1
    best: int = 1
    statistics: tuple[Statistic, ...] = ()
    devices: int = 0
    distribution: Literal["softmax", "sigmoid"] = "softmax"
    heads: int = 0
    record: str = "Routing"

    def __post_init__(self) -> None:
        assert self.name.isidentifier()
        assert 1 <= self.top_k <= self.num_experts
        assert self.statistics == tuple(name for name in FUSED if name in self.statistics)
        size, rest = divmod(self.num_experts, self.groups)
        assert not rest
        assert self.best <= size
        # Every row finds its experts in the groups that it keeps.
        assert self.top_k <= self.keep * size


@frozen(kw_only=True)
class PrintedRoute(Parts):
    """A route with every decision made: what the templates print.

    `kept_softmax`: the weights are the softmax over the kept logits, without a score of the
    others. `rank_scores`: experts are ranked by score and not by logit. `distributed`: some
    statistic reads the routing probability. `group`: how many experts stand in one. The forward
    kernel gives `group_lanes` to each of `group_blocks` groups, powers of two that make up `lanes`.
    """

    name: str
    record: str
    E: int
    K: int
    score: str
    kept_softmax: bool
    divide: bool
    eps: str
    scale: str
    bias: bool
    rank_scores: bool
    distribution: str
    distributed: bool
    uses_softmax: bool
    uses_sigmoid: bool
    groups: int
    keep: int
    best: int
    group: int
    group_lanes: int
    group_blocks: int
    lanes: int
    choice_lanes: int
    block_rows: int
    warps: int
    backward_rows: int
    backward_warps: int
    summary: str
    devices: int
    heads: int
    inputs: tuple[str, ...]
    public_inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    output_gradients: tuple[str, ...]
    backward_inputs: tuple[str, ...]
    forward_arguments: tuple[str, ...]
    sum_arguments: tuple[str, ...]
    backward_arguments: tuple[str, ...]

    @property
    def limits(self) -> bool:
        """Whether a row chooses in some groups alone."""
        return self.groups > 1

    @property
    def spread(self) -> bool:
        """Whether groups do not fill their lanes, so that a lane is not its expert."""
        return self.limits and self.group_lanes != self.group

    @property
    def padded(self) -> bool:
        return self.lanes != self.E

    @property
    def scores_all(self) -> bool:
        """Whether the forward needs the score of every expert."""
        return self.score != "identity" and (self.rank_scores or not self.kept_softmax)

    @property
    def chains_softmax(self) -> bool:
        """Whether the backward goes through the softmax over all experts, or the like of it."""
        return (self.score == "softmax" and not self.kept_softmax) or self.distributed

    @property
    def nones(self) -> str:
        """The gradients of all inputs but the logits, as printed."""
        return ", ".join(["None"] * (len(self.inputs) - 1))


def print_route(route: RouteView) -> PrintedRoute:
    statistics = route.statistics
    # Softmax over all divided by its kept sum: what was not chosen cancels.
    kept_softmax = route.score == "softmax" and (
        route.order == "choose_then_score" or (route.normalize and route.eps == 0)
    )
    # Scores rank as their logits do, and logits saturate later; not so with a bias, or in sums.
    by_scores = route.order == "score_then_choose" and route.score != "identity"
    rank_scores = by_scores and (route.bias or (route.groups > 1 and route.best > 1))
    distributed = not {"probability", "entropy"}.isdisjoint(statistics)
    group = route.num_experts // route.groups
    group_lanes = power_of_two(group)
    group_blocks = power_of_two(route.groups)
    lanes = group_blocks * group_lanes
    return PrintedRoute(
        name=route.name,
        record=route.record,
        wants=statistics,
        E=route.num_experts,
        K=route.top_k,
        score=route.score,
        kept_softmax=kept_softmax,
        divide=route.normalize and not kept_softmax,
        eps=repr(route.eps) if route.eps else "",
        scale="" if route.scale == 1 else repr(route.scale),
        bias=route.bias,
        rank_scores=rank_scores,
        distribution=route.distribution,
        distributed=distributed,
        uses_softmax=(route.score == "softmax" and not kept_softmax)
        or (distributed and route.distribution == "softmax")
        or "z" in statistics,
        uses_sigmoid=route.score == "sigmoid" or (distributed and route.distribution == "sigmoid"),
        groups=route.groups,
        keep=route.keep,
        best=route.best,
        group=group,
        group_lanes=group_lanes,
        group_blocks=group_blocks,
        lanes=lanes,
        choice_lanes=power_of_two(route.top_k),
        # One warp with 16 values to a thread at most: rows meet no barrier, and nothing spills.
        block_rows=max(1, min(32 if route.groups == 1 else 8, 512 // lanes)),
        warps=max(1, min(8, lanes // 512)),
        # Fewer values to a thread: the backward remembers more of each.
        backward_rows=max(1, min(64, 512 // lanes)),
        backward_warps=4 if lanes < 32 else 2 if lanes < 256 else max(1, min(8, lanes // 512)),
        summary=summary(route, kept_softmax, rank_scores),
        devices=route.devices,
        heads=route.heads,
        **parameters(route),
    )


def power_of_two(size: int) -> int:
    """The least that is no smaller."""
    return 1 << (size - 1).bit_length()


def parameters(route: RouteView) -> dict[str, tuple[str, ...]]:
    """Inputs and outputs of the operators of a route, and the arguments of its kernels."""
    fields = [FIELDS[name] for name in route.statistics]
    smooth = [field for field, has_gradient in fields if has_gradient]
    logits = ("logits_NE: Tensor", *(["bias_E: Tensor"] if route.bias else []))
    segments = ("real_N: Tensor | None", "num_sequences: int")
    defaults = ("real_N: Tensor | None = None", "num_sequences: int = 1")
    gradients = ["d_weight_NK", *(f"d_{field}" for field in smooth)]
    parts = [part_of(field) for field, _ in fields]
    given = (*names(logits), *(["real_N"] if fields else []), "weight_NK", "expert_NK")
    counted = ("T", "span") if fields else ("N",)
    reads_logits = bool(route.score != "identity" or route.normalize or smooth)
    return {
        "inputs": (*logits, *(segments if fields else ())),
        "public_inputs": (*logits, *(defaults if fields else ())),
        "outputs": ("weight_NK", "expert_NK", *(field for field, _ in fields)),
        "output_gradients": (
            "d_weight_NK: Tensor",
            "_d_expert_NK: Tensor",
            *(f"{'' if field in smooth else '_'}d_{field}: Tensor" for field, _ in fields),
        ),
        "backward_inputs": (
            *(f"{gradient}: Tensor" for gradient in gradients),
            "logits_NE: Tensor",
            "expert_NK: Tensor",
            *(segments if smooth else ()),
        ),
        "forward_arguments": (*given, *parts, *counted),
        "sum_arguments": (*given, *(field for field, _ in fields), *counted),
        "backward_arguments": (
            *gradients,
            *(["logits_NE"] if reads_logits else []),
            *("expert_NK", *(["real_N"] if smooth else [])),
            "d_logits_NE",
            "T" if smooth else "N",
        ),
    }


def summary(route: RouteView, kept_softmax: bool, rank_scores: bool) -> str:
    """The route in a sentence, broken into lines that fit a printed docstring."""
    scores = {"softmax": "probabilities", "sigmoid": "sigmoids", "identity": "logits"}[route.score]
    ranked = scores if rank_scores else "logits"
    most = f"{route.top_k} largest" if route.top_k > 1 else "largest"
    head = f"Of each of {route.heads} heads the" if route.heads else "The"
    sentence = f"{head} {most} of {route.num_experts} {ranked}"
    sentence += ", corrected by a bias" if route.bias else ""
    if route.groups > 1:
        best = f"{route.best} best" if route.best > 1 else "best"
        sentence += f", in the {route.keep} of {route.groups} groups with the highest {best}"
    weights = "the softmax over the kept logits" if kept_softmax else f"the {scores} of the chosen"
    if route.normalize and not kept_softmax:
        weights += " divided by their sum"
        weights += f" plus {route.eps!r}" if route.eps else ""
    weights += f", times {route.scale!r}" if route.scale != 1 else ""
    sentence += f"; weights are {weights}."
    alone = len(sentence) <= 81  # with quotes on both sides
    return "\n    ".join(textwrap.wrap(sentence, width=78 if alone else 81))


def names(declared: Iterable[str]) -> tuple[str, ...]:
    """The names of parameters: `x: Tensor` is `x`."""
    return tuple(parameter.split(":")[0] for parameter in declared)
