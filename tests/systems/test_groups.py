"""Choices limited to the best groups (DeepSeek-V2, 2024, section 2.2.2; DeepSeek-V3, 2024, section 2.1.2): the printed
steps against a loop over tokens in float64, and the traps of the naive forms."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor

import moedsl.pipeline
from moedsl.source import Source
from tests import packages

E, GROUPS, KEEP, K = 16, 4, 2, 3


def text(select: str, gate: str = "score -> sigmoid", choose: str = "gate") -> str:
    tiny = packages.source("tiny").text
    return tiny.replace("experts = 4 *", f"experts = {E} *").replace(
        "    score  = linear\n    select = top_k(2)\n    weigh  = score -> softmax\n",
        f"    score  = linear\n    gate   = {gate}\n    choose = {choose}\n    select = {select}\n"
        "    weigh  = gate -> normalize -> scale(2.5)\n",
    )


def codes(spec: str) -> list[str]:
    return [d.code for d in moedsl.pipeline.check(Source(spec, "t.moe")).diagnostics]


def routed(logits: Tensor, bias: Tensor, best: int) -> tuple[Tensor, Tensor]:
    """Token by token: the two best groups by the sum of their `best` highest scores, then the three best in them."""
    chosen, weights = [], []
    for z in logits.detach().double():
        gate = z.sigmoid()
        corrected = gate + bias
        size = E // GROUPS
        ranks = [
            sum(sorted(corrected[g * size : (g + 1) * size].tolist(), reverse=True)[:best])
            for g in range(GROUPS)
        ]
        groups = sorted(range(GROUPS), key=lambda g: -ranks[g])[:KEEP]
        keys = [float(corrected[e]) if e // size in groups else float("-inf") for e in range(E)]
        picks = sorted(range(E), key=lambda e: -keys[e])[:K]
        kept = gate[picks]
        chosen.append(torch.tensor(picks))
        weights.append(2.5 * kept / kept.sum())
    return torch.stack(chosen), torch.stack(weights)


@pytest.mark.parametrize("best", [1, 2])
@pytest.mark.parametrize("choose", ["gate", "gate + balancing(rate = 1e-3)"])
def test_agrees_with_a_loop(best: int, choose: str) -> None:
    select = f"groups({GROUPS}, keep = {KEEP}, rank = top({best})) -> top_k({K})"
    spec = text(select, choose=choose)
    result = moedsl.pipeline.compile(Source(spec, "t.moe"))
    assert result.ok, [d.message for d in result.diagnostics]
    model = packages.model_class(packages.imported(result.files))()
    router = model.layer[0].sparse.router.double()
    assert "route_" in inspect.getsource(type(router)), "one step, that a kernel knows"
    torch.manual_seed(0)
    bias = torch.zeros(E)
    for value in router.buffers():
        bias = value.normal_(std=0.2)
    torch.nn.init.normal_(router.score.weight)
    x = torch.randn(200, 64, dtype=torch.float64) / 4
    routing = router(x, None)
    expert, weight = routed(router.score(x), bias, best)
    assert torch.equal(routing.expert_NK, expert)
    torch.testing.assert_close(routing.weight_NK, weight)
    assert not torch.equal(routing.expert_NK, router.score(x).topk(K).indices), "the limit matters"


def test_masked_with_zero_a_lost_expert_can_win() -> None:
    """Gotcha 16: filled with 0 instead of -inf, choices of other groups beat those whose corrected score is negative."""
    torch.manual_seed(0)
    logits = torch.randn(300, E)
    bias = -torch.rand(E) - 0.5
    from_zero = from_lowest = 0
    for z in logits:
        key = z.sigmoid() + bias
        ranks = key.view(GROUPS, -1).topk(2).values.sum(1)
        groups = ranks.topk(KEEP).indices
        inside = torch.isin(torch.arange(E) // (E // GROUPS), groups)
        from_zero += int((~inside[key.where(inside, torch.tensor(0.0)).topk(K).indices]).any())
        from_lowest += int(
            (~inside[key.where(inside, torch.tensor(-torch.inf)).topk(K).indices]).any()
        )
    assert from_zero > 50 and from_lowest == 0


@pytest.mark.parametrize(
    "select",
    [
        "groups(3, keep = 2) -> top_k(2)",
        "groups(4, keep = 5) -> top_k(2)",
        "groups(4, keep = 2, rank = top(5)) -> top_k(2)",
        "groups(8, keep = 1) -> top_k(3)",
    ],
)
def test_groups_that_do_not_come_out(select: str) -> None:
    assert "E0411" in codes(text(select))


def test_groups_alone_pick_nothing() -> None:
    assert "E0409" in codes(text("groups(4, keep = 2)"))


def test_one_group_limits_nothing() -> None:
    """Kimi K2 and GLM-4.5 have one group: the same choice as without."""
    assert not codes(text("groups(1, keep = 1) -> top_k(8)"))
