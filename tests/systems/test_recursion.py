"""Blocks that come back with the same weights, for all tokens or for ever fewer: against formulas token by token."""

from __future__ import annotations

import math
from functools import cache
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import moedsl.pipeline
from moedsl.checks.causality import causality
from moedsl.ir.cost import cost
from moedsl.source import Source
from tests.packages import compiled, imported, package
from tests.systems import plain_depth as plain
from tests.systems.test_depth import HEADS, LENGTH, compare, model_of, stepped, tokens


def spec(flow: str, more: str = "", ffn: str = "dense") -> str:
    return f"""
model m {{
  vocab   = 31
  width   = 8
  context = 64
  norm before, after, last = rms(eps = 1e-6)
  attention own {{ heads = {HEADS}
    q, k = linear -> rope(theta = 1e4) }}
  ffn dense = swiglu(12)
  router pick {{ gate = score -> softmax
    select = top_k(2) }}
  moe sparse {{ router = pick
    experts = 3 * swiglu(8)
    loss = balance(1e-2) }}
  block layer {{
    x += own(before(x))
    x += {ffn}(after(x))
  }}
  {more}
  input tokens = ids(vocab)
  output logits = tokens -> embed -> {flow} -> last -> head
}}
"""


ROUNDS = """block rounds = recur(layer) {
    keep = [top(100%), top(60%), top(30%)]
    decode = above(50%, membership = 1e-3)
  }"""
TIED = "tied one = layer\n  tied two = layer"


@cache
def built(text: str) -> ModuleType:
    result = moedsl.pipeline.compile(Source(text, "m.moe"))
    assert result.ok, "\n".join(f"{d.code} {d.message}" for d in result.diagnostics)
    return imported(result.files)


def codes(text: str) -> list[str]:
    found = moedsl.pipeline.check(Source(text, "m.moe")).diagnostics
    return [d.code for d in found if d.code != "W1010"]


def logits(w: dict[str, Tensor], rows: list[list[Tensor]]) -> Tensor:
    return torch.stack(
        [
            torch.stack([w["head.weight"] @ plain.rms(x, w["last.weight"]) for x in xs])
            for xs in rows
        ]
    )


# --- layers that come back ---------------------------------------------------------------------------


def test_tied_layers_come_back_with_their_weights():
    module = built(spec("3 * (one -> two)", TIED))
    model = model_of(module)
    assert len(model.one) == 2
    w = dict(model.named_parameters())
    ids = tokens()
    rows = []
    for one in ids.tolist():
        xs = [w["embed.weight"][i] for i in one]
        for _ in range(3):
            for at in ("one.0", "one.1"):
                xs = plain.layer(w, at, xs, range(LENGTH), HEADS)
        rows.append(xs)
    compare(model(ids).logits, logits(w, rows), model, "mor_small")
    model.eval()
    whole = model(ids).logits
    torch.testing.assert_close(stepped(model, module, ids, [4] + [1] * 5), whole)
    # Gotcha 29: a cache for each layer that runs, not for each that there is.
    memory = module.Cache()
    model(ids, cache=memory)
    assert len(memory.buffers) == 2 * 6


def test_tied_layers_among_others_and_their_cost():
    text = spec("layer -> 2 * one -> layer -> one", TIED.splitlines()[0], ffn="sparse")
    model = model_of(built(text))
    assert len(model.layer) == 3
    output = model(tokens())
    assert list(output.routing) == [f"layer.{i}.sparse" for i in range(5)]
    first, again = output.routing["layer.1.sparse"], output.routing["layer.2.sparse"]
    assert not torch.equal(first.logits_NE, again.logits_NE)
    graph = moedsl.pipeline.check(Source(text, "m.moe")).graph
    total = cost(graph).total
    assert total.total == sum(p.numel() for p in model.parameters())
    five = cost(moedsl.pipeline.check(Source(spec("5 * layer", ffn="sparse"), "m.moe")).graph).total
    assert (total.flops, total.cache_bytes) == (five.flops, five.cache_bytes)


def test_a_loss_over_layers_that_come_back_counts_each_run():
    """Gotcha 29: once after the whole forward, over all runs."""
    model = model_of(built(spec("3 * one", "tied one = layer", ffn="sparse")))
    output = model(tokens())
    wanted = 0.0
    for routing in output.routing.values():
        share = torch.bincount(routing.expert_NK.flatten(), minlength=3) / routing.expert_NK.numel()
        wanted += 1e-2 * 3 * (share * routing.logits_NE.softmax(1).mean(0)).sum()
    torch.testing.assert_close(output.losses["sparse.balance"], wanted)


def test_what_cannot_come_back():
    assert codes(spec("one -> before -> one", "tied one = layer")) == ["E0208"]
    inside = "tied one = layer\n  block pair { x = x -> one }"
    assert codes(spec("2 * pair", inside)) == ["E0208"]
    assert codes(
        spec("some", "tied one = layer\n  block some = routed(one) { select = above(50%) }")
    ) == ["E0208"]
    balanced = spec("2 * one", "tied one = layer", ffn="sparse").replace(
        "select = top_k(2)", "choose = gate + balancing(rate = 1e-3)\n    select = top_k(2)"
    )
    assert codes(balanced) == ["E0208"]


# --- rounds with ever fewer tokens -------------------------------------------------------------------


def rounds(
    w: dict[str, Tensor],
    at: str,
    xs: list[Tensor],
    shares: tuple[float, ...],
    chosen: list[list[int]] | None = None,
    compact: bool = False,
    anyone: bool = False,
    result: bool = False,
) -> tuple[list[Tensor], list[list[int]]]:
    """H += sigmoid(score) f(H) for those that a round serves, of those that the round before served."""
    among = list(range(len(xs)))
    found = []
    for number, share in enumerate(shares):
        scores = [w[f"{at}.score_{number}.weight"][0] @ x for x in xs]
        if anyone:
            among = list(range(len(xs)))
        if chosen is None:
            served = plain.best(scores, math.ceil(share * len(xs)), among)
        else:
            served = chosen[number]
        where = {t: i if compact else t for i, t in enumerate(served)}
        before = xs
        xs = plain.mixture_of_depths(
            xs,
            scores,
            served,
            [where.get(t, t) for t in range(len(xs))],
            lambda own, p: plain.layer(w, f"{at}.layer", own, p, HEADS),
            torch.sigmoid,
        )
        if result:  # f(H) is all that comes out of the block, the stream inside it too
            xs = [
                x + scores[t].sigmoid() * before[t] if t in served else x for t, x in enumerate(xs)
            ]
        found.append(served)
        among = served
    return xs, found


def formula(model: Any, ids: Tensor, shares: tuple[float, ...], **more: Any) -> Tensor:
    w = dict(model.named_parameters())
    decided = more.pop("decided", None)
    rows = []
    for b, one in enumerate(ids.tolist()):
        xs = [w["embed.weight"][i] for i in one]
        own = None if decided is None else decided[b]
        rows.append(rounds(w, "rounds.0", xs, shares, own, **more)[0])
    return logits(w, rows)


def test_rounds_serve_ever_fewer():
    model = model_of(built(spec("rounds", ROUNDS)))
    ids = tokens(3, 10)
    output = model(ids)
    compare(output.logits, formula(model, ids, (1, 0.6, 0.3)), model, "mor_small")
    first, second = (output.depth[f"rounds.0.round_{n}"].served_BT for n in (1, 2))
    assert first.sum(1).tolist() == [6] * 3 and second.sum(1).tolist() == [3] * 3
    assert not (second & ~first).any()
    for mistake in ({"compact": True}, {"anyone": True}):
        wrong = formula(model, ids, (1, 0.6, 0.3), **mistake)
        assert (output.logits - wrong).abs().max() > 1e-3, mistake


def test_all_that_comes_out_of_a_round_may_be_added():
    """expert_choice_router.py: the output of the block, times its weight, is added to what went in."""
    result = ROUNDS.replace("decode", "adds = result\n    decode")
    model = model_of(built(spec("rounds", result)))
    ids = tokens(1, 8)
    wanted = formula(model, ids, (1, 0.6, 0.3), result=True)
    compare(model(ids).logits, wanted, model, "mor_small")
    assert (formula(model, ids, (1, 0.6, 0.3)) - wanted).abs().max() > 1e-3


def test_padding_takes_part_in_no_round():
    model = model_of(built(spec("rounds", ROUNDS)))
    ids = tokens(2, 10)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, :3] = False
    found = model(ids, mask=mask)
    alone = model(ids[1:, 3:])
    torch.testing.assert_close(found.logits[1, 3:], alone.logits[0], rtol=1e-6, atol=1e-6)
    assert found.depth["rounds.0.round_2"].served_BT.sum(1).tolist() == [3, 3]
    assert found.depth["rounds.0.round_1"].served_BT.sum(1).tolist() == [6, 5]


def test_steps_with_a_cache_are_the_whole_under_the_rule():
    module = built(spec("rounds", ROUNDS))
    model = model_of(module, seed=5).eval()
    ids = tokens(3)
    whole = model(ids, cache=module.Cache())
    first, second = (whole.depth[f"rounds.0.round_{n}"] for n in (1, 2))
    assert torch.equal(first.served_BT, first.logit_BT > 0)
    assert torch.equal(second.served_BT, (second.logit_BT > 0) & first.served_BT)
    assert 0 < second.served_BT.sum() < first.served_BT.sum() < ids.numel()
    everyone = list(range(LENGTH))
    decided = [
        [everyone, *(d.served_BT[b].nonzero()[:, 0].tolist() for d in (first, second))]
        for b in range(3)
    ]
    wanted = formula(model, ids, (1, 0.6, 0.3), decided=decided)
    torch.testing.assert_close(whole.logits, wanted, rtol=1e-6, atol=1e-6)
    for sizes in ([1] * LENGTH, [4, 1, 3, 1]):
        torch.testing.assert_close(stepped(model, module, ids, sizes), whole.logits)
    said = module.generate(model, ids[:, :4], 3)
    again = model(said[:, :6], cache=module.Cache()).logits
    assert torch.equal(again[:, -1].argmax(-1), said[:, 6])


def test_each_round_learns_of_those_that_it_could_serve():
    model = model_of(built(spec("rounds", ROUNDS)))
    output = model(tokens())
    wanted = 0.0
    for depth in output.depth.values():
        among = torch.ones_like(depth.served_BT) if depth.among_BT is None else depth.among_BT
        p = depth.logit_BT.sigmoid()
        each = -torch.where(depth.served_BT, p.log(), (1 - p).log())
        wanted += 1e-3 * each[among].mean()
    torch.testing.assert_close(output.losses["rounds.membership"], wanted)


def test_rounds_with_mixtures_inside_compile():
    model = model_of(built(spec("2 * rounds", ROUNDS, ffn="sparse")))
    ids = tokens()
    output = model(ids)
    assert [r.expert_NK.shape[0] for r in output.routing.values()] == [18, 18, 12, 12, 6, 6]
    assert len(output.routing) == len(set(output.routing)) == 6
    fast = torch.compile(model, fullgraph=True, backend="eager", dynamic=False)
    torch.testing.assert_close(fast(ids).logits, output.logits)
    sum(output.losses.values(), output.logits.sum()).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("decode", ("predicted(mlp(4))", "above(40%, membership = 1e-2)"))
def test_verdict(decode):
    text = spec("rounds", ROUNDS.replace("above(50%, membership = 1e-3)", decode))
    verdict = causality(moedsl.pipeline.check(Source(text, "m.moe")).graph)
    assert str(verdict) == f"causal when decoding with decode = {decode.partition('(')[0]}"


def test_mistakes():
    assert codes(spec("rounds", ROUNDS.replace("decode = above(50%, membership = 1e-3)", ""))) == [
        "E0410"
    ]
    assert codes(spec("rounds", ROUNDS.replace(", membership = 1e-3", ""))) == ["E0425"]
    assert codes(spec("rounds", ROUNDS.replace("60%", "160%"))) == ["E0206"]


def test_cost_of_rounds():
    text = spec("rounds", ROUNDS.replace("60%", "50%").replace("30%", "25%"))
    graph = moedsl.pipeline.check(Source(text, "m.moe")).graph
    found = cost(graph, 64)
    one = 2 * (4 * 64 + 3 * 8 * 12)
    context = 64 * 4 * 8
    (line,) = (line for line in found.layers if line.unit == "rounds")
    rounds = [(one + context), one // 2 + context // 4, one // 4 + context // 16]
    assert line.sum.flops == sum(rounds) + 3 * 2 * 8
    assert found.total.total == sum(p.size for _, _, p, _ in graph.parameters())


def test_mor_small():
    graph = compiled("mor_small").graph
    layer = 2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536 + 2 * 576
    assert cost(graph).total.total == 49152 * 576 + 576 + 11 * layer + 3 * 576
    module = package(
        "mor_small",
        ("vocab=40", "width=12", "count=1", "gqa.heads=2", "gqa.kv_heads=1", "dense.width=8"),
    )
    model = model_of(module)
    output = model(tokens(2, 12, vocab=40))
    assert output.depth["layer.1.round_2"].served_BT.sum(1).tolist() == [4, 4]
    sum(output.losses.values(), output.logits.sum()).backward()
    assert all(p.grad is not None for p in model.parameters())
