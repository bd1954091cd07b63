"""Tokens that choose how many rounds they take: against formulas token by token, with negative controls."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import moedsl.pipeline
from moedsl.checks.causality import causality
from moedsl.ir.cost import cost
from moedsl.source import Source
from tests.packages import compiled, package
from tests.systems import plain_depth as plain
from tests.systems import test_recursion as recursion
from tests.systems.test_depth import HEADS, LENGTH, compare, model_of, stepped, tokens
from tests.systems.test_recursion import built, codes, logits

DEPTHS = """router depths {
    gate = score -> softmax
    select = top_k(1)
    loss = balance(0.1)
  }
  block rounds = recur(layer) {
    rounds = 3
    router = depths
    adds = result
  }"""


def spec(more: str = DEPTHS, flow: str = "rounds", ffn: str = "dense") -> str:
    return recursion.spec(flow, more, ffn)


def one_sequence(
    w: dict[str, Tensor],
    xs: list[Tensor],
    positions: list[int],
    *,
    change: bool = False,
    everyone: bool = False,
    each: bool = False,
    bias: Tensor | None = None,
) -> tuple[list[Tensor], list[int]]:
    """mixture_of_recursions/model/mor_model/token_choice_router.py without a shared cache: a token's router picks how
    many rounds it takes; those that take part in a round see each other; after a token's last round what came out,
    times the probability of the pick, is added to what the token was. `everyone`, `each` are mistakes: keys of tokens
    that are done are still seen; every round is weighed."""
    shares = [(w["rounds.0.router.score.weight"] @ x).softmax(0) for x in xs]
    asked = shares if bias is None else [share + bias for share in shares]
    picks = [int(share.argmax()) for share in asked]
    state, out = list(xs), list(xs)
    for number in range(3):
        active = [t for t in range(len(xs)) if picks[t] >= number]
        seen = list(range(len(xs))) if everyone else active
        given = plain.layer(
            w, "rounds.0.layer", [state[t] for t in seen], [positions[t] for t in seen], HEADS
        )
        for t, y in zip(seen, given, strict=True):
            if t in active:
                state[t] = shares[t][picks[t]] * y if each else y
    for t, x in enumerate(xs):
        last = state[t] - x if change else state[t]
        out[t] = x + (last if each else shares[t][picks[t]] * last)
    return out, [pick + 1 for pick in picks]


def formula(model: Any, ids: Tensor, **more: Any) -> tuple[Tensor, list[list[int]]]:
    w = dict(model.named_parameters())
    rows, taken = [], []
    for one in ids.tolist():
        found, rounds = one_sequence(
            w, [w["embed.weight"][i] for i in one], list(range(len(one))), **more
        )
        rows.append(found)
        taken.append(rounds)
    return logits(w, rows), taken


def test_a_token_decides_once_how_many_rounds_it_takes():
    model = model_of(built(spec()))
    ids = tokens(2, 7)
    output = model(ids)
    wanted, taken = formula(model, ids)
    assert {n for row in taken for n in row} == {1, 2, 3}
    picked = output.routing["rounds.0.depths"].expert_NK
    assert (picked.view(2, 7) + 1).tolist() == taken
    compare(output.logits, wanted, model, "mor_token")
    for mistake in ({"everyone": True}, {"each": True}, {"change": True}):
        assert (output.logits - formula(model, ids, **mistake)[0]).abs().max() > 1e-3, mistake


def test_the_change_alone_may_be_weighed():
    model = model_of(built(spec(DEPTHS.replace("adds = result", ""))))
    ids = tokens(1, 6)
    compare(model(ids).logits, formula(model, ids, change=True)[0], model, "mor_token")


def test_balance_of_the_depths():
    model = model_of(built(spec()))
    ids = tokens(2, 7)
    output = model(ids)
    routing = output.routing["rounds.0.depths"]
    share = torch.bincount(routing.expert_NK.flatten(), minlength=3) / 14
    wanted = 0.1 * 3 * (share * routing.logits_NE.softmax(1).mean(0)).sum()
    torch.testing.assert_close(output.losses["depths.balance"], wanted)


def test_a_bias_moves_the_choice_and_never_the_weight():
    free = DEPTHS.replace("select", "choose = gate + balancing(rate = 1e-3)\n    select")
    model = model_of(built(spec(free.replace("loss = balance(0.1)", ""))))
    bias = torch.tensor([0.3, -0.2, 0.0], dtype=torch.float64)
    (name,) = (n for n, _ in model.named_buffers() if "rounds.0.router" in n)
    model.get_buffer(name).copy_(bias)
    ids = tokens(1, 7)
    output = model(ids)
    wanted, taken = formula(model, ids, bias=bias)
    assert taken != formula(model, ids)[1]
    compare(output.logits, wanted, model, "mor_token")


def test_the_future_changes_nothing():
    module = built(spec())
    text = spec()
    assert str(causality(moedsl.pipeline.check(Source(text, "m.moe")).graph)) == "causal"
    model = model_of(module).train()
    ids = tokens()
    changed = ids.clone()
    changed[:, 6:] = (changed[:, 6:] + 7) % 31
    before, after = model(ids).logits, model(changed).logits
    torch.testing.assert_close(before[:, :6], after[:, :6], rtol=1e-12, atol=1e-12)
    assert (before[:, 6:] - after[:, 6:]).abs().max() > 1e-3


def test_steps_with_a_cache_are_the_whole():
    module = built(spec())
    model = model_of(module).eval()
    ids = tokens(3)
    whole = model(ids).logits
    for sizes in ([1] * LENGTH, [4, 1, 3, 1]):
        torch.testing.assert_close(stepped(model, module, ids, sizes), whole)
    said = module.generate(model, ids[:, :4], 3)
    assert torch.equal(model(said[:, :6]).logits[:, -1].argmax(-1), said[:, 6])
    # A cache for each round that a layer runs in, and one of who took part in it.
    memory = module.Cache()
    model(ids, cache=memory)
    assert len(memory.buffers) == 2 * 3 + 2


def test_padding_takes_part_in_no_round():
    module = built(spec())
    model = model_of(module).eval()
    ids = tokens(2, 8)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, :3] = False
    found = model(ids, mask=mask)
    alone = model(ids[1:, 3:])
    torch.testing.assert_close(found.logits[1, 3:], alone.logits[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(stepped(model, module, ids, [5, 1, 2], mask)[1, 3:], alone.logits[0],
                               rtol=1e-6, atol=1e-6)  # fmt: skip
    both = torch.cat([model(ids[:1]).routing["rounds.0.depths"].expert_NK,
                      alone.routing["rounds.0.depths"].expert_NK])  # fmt: skip
    share = torch.bincount(both.flatten(), minlength=3)
    assert found.routing["rounds.0.depths"].choices_SE.sum(0).tolist() == share.tolist()


def test_a_token_without_room_takes_no_round():
    limited = DEPTHS.replace(
        "top_k(1)", "top_k(1)\n    capacity = phase(train = 0.6, decode = none)"
    )
    model = model_of(built(spec(limited))).train()
    ids = tokens(1, 9)
    output = model(ids)
    picked = output.routing["rounds.0.depths"].expert_NK.flatten()
    assert 0 < (picked == 3).sum() < 9
    w = dict(model.named_parameters())
    plain_logits = logits(w, [[w["embed.weight"][i] for i in ids[0].tolist()]])
    left = picked == 3
    torch.testing.assert_close(output.logits[0, left], plain_logits[0, left])
    assert not torch.allclose(output.logits[0, ~left], plain_logits[0, ~left])


FIRST = DEPTHS.replace("adds = result", "keys = first")
PAIR = FIRST.replace("recur(layer)", "recur(pair)").replace(
    "block rounds", "block pair { x = x -> 2 * layer }\n  block rounds"
)


def sees_first(w: dict[str, Tensor], ids: Tensor, layers: tuple[str, ...]) -> Tensor:
    """kv_sharing in token_choice_router.py: keys and values of every layer are those of the first round, of all tokens."""
    rows = []
    for one in ids.tolist():
        xs = [w["embed.weight"][i] for i in one]
        shares = [(w["rounds.0.router.score.weight"] @ x).softmax(0) for x in xs]
        picks = [int(share.argmax()) for share in shares]
        state, kept = list(xs), {}
        for number in range(3):
            h = list(state)
            for at in layers:
                normed = [plain.rms(x, w[f"{at}.before.weight"]) for x in h]
                kept.setdefault(at, normed)
                mixed = [asks(w, f"{at}.own", x, t, kept[at]) for t, x in enumerate(normed)]
                h = [x + y for x, y in zip(h, mixed, strict=True)]
                h = [
                    x + plain.swiglu(w, f"{at}.dense", plain.rms(x, w[f"{at}.after.weight"]))
                    for x in h
                ]
            state = [y if pick >= number else x for x, y, pick in zip(state, h, picks, strict=True)]
        rows.append(
            [
                x + share[pick] * (y - x)
                for x, y, share, pick in zip(xs, state, shares, picks, strict=True)
            ]
        )
    return logits(w, rows)


def asks(w: dict[str, Tensor], at: str, x: Tensor, t: int, sources: list[Tensor]) -> Tensor:
    """What one token reads of those that are not after it."""
    size, mixed = x.shape[0] // HEADS, []
    for h in range(HEADS):
        part = slice(h * size, (h + 1) * size)
        q = plain.turned((w[f"{at}.q.weight"] @ x)[part], t)
        keys = [
            plain.turned((w[f"{at}.k.weight"] @ y)[part], s) for s, y in enumerate(sources[: t + 1])
        ]
        weight = torch.stack([q @ k / size**0.5 for k in keys]).softmax(0)
        mixed.append(
            weight @ torch.stack([(w[f"{at}.v.weight"] @ y)[part] for y in sources[: t + 1]])
        )
    return w[f"{at}.o.weight"] @ torch.cat(mixed)


LAYERS = {
    FIRST: ("rounds.0.layer",),
    PAIR: ("rounds.0.pair.layer.0", "rounds.0.pair.layer.1"),
}


@pytest.mark.parametrize("text", LAYERS, ids=("one layer", "two layers"))
def test_all_rounds_may_read_the_keys_of_the_first(text):
    module = built(spec(text))
    model = model_of(module)
    ids = tokens(2, 7)
    output = model(ids)
    assert set(output.routing["rounds.0.depths"].expert_NK.flatten().tolist()) == {0, 1, 2}
    w = dict(model.named_parameters())
    compare(output.logits, sees_first(w, ids, LAYERS[text]), model, "mor_token")
    # A cache keeps them once, and who took part in the two rounds after.
    model.eval()
    memory = module.Cache()
    model(ids, cache=memory)
    assert len(memory.buffers) == 2 * len(LAYERS[text]) + 2
    for sizes in ([1] * 7, [3, 1, 3]):
        torch.testing.assert_close(stepped(model, module, ids, sizes), output.logits)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, :3] = False
    alone = model(ids[1:, 3:]).logits[0]
    torch.testing.assert_close(model(ids, mask=mask).logits[1, 3:], alone, rtol=1e-6, atol=1e-6)


def test_keys_of_their_own_are_another_function():
    model = model_of(built(spec(FIRST)))
    own = model_of(built(spec(FIRST.replace("keys = first", ""))))
    ids = tokens(2, 7)
    assert (model(ids).logits - own(ids).logits).abs().max() > 1e-3
    graphs = [moedsl.pipeline.check(Source(spec(t), "m.moe")).graph
              for t in (FIRST, FIRST.replace("keys = first", ""))]  # fmt: skip
    shared, apart = (cost(graph).total for graph in graphs)
    assert 3 * shared.cache_bytes == apart.cache_bytes and shared.flops == apart.flops


def test_rounds_with_mixtures_inside_compile():
    model = model_of(built(spec(flow="2 * rounds", ffn="sparse")))
    ids = tokens()
    output = model(ids)
    assert len(output.routing) == len(set(output.routing)) == 8
    fast = torch.compile(model, fullgraph=True, backend="eager", dynamic=False)
    torch.testing.assert_close(fast(ids).logits, output.logits)
    # Those that are done are no rows of a mixture: its losses count those that take part.
    taken = output.routing["rounds.0.depths"].expert_NK
    for number in range(3):
        inside = output.routing[f"rounds.0.layer.sparse.run_{number}"]
        assert inside.choices_SE.sum() == 2 * (taken >= number).sum()
    sum(output.losses.values(), output.logits.sum()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_round_has_no_decision_before_it():
    """A router inside that goes by the one before it finds none for such a part, in the first round as in the others."""
    text = spec(flow="layer -> rounds -> layer", ffn="sparse").replace(
        "router pick {", "router pick {\n    score = linear + (previous(score) -> linear)\n   "
    )
    model = model_of(built(text))
    output = model(tokens())
    assert len(output.routing) == 6
    assert not [n for n, _ in model.named_parameters() if "layer.1" in n and "previous" in n]


def test_who_decides_is_said_once():
    assert codes(spec(DEPTHS.replace("rounds = 3\n", ""))) == ["E0426"]
    assert codes(spec(DEPTHS.replace("router = depths\n", ""))) == ["E0426"]
    assert codes(spec(DEPTHS.replace("adds", "keep = [top(50%)]\n    adds"))) == ["E0426"]
    assert codes(spec(DEPTHS.replace("adds", "decode = above(50%)\n    adds"))) == ["E0426"]
    assert codes(spec(DEPTHS.replace("adds", "score = linear(4) -> linear\n    adds"))) == ["E0426"]
    assert codes(spec("block rounds = recur(layer) {}")) == ["E0426"]
    assert codes(spec("block rounds = recur(layer) { keep = [top(100%)]\n    keys = first }")) == [
        "E0426"
    ]
    latent = spec(FIRST).replace(
        "attention own {", "attention own = latent {\n    kv_rank = 4\n   "
    )
    latent = latent.replace("q, k = linear -> rope(theta = 1e4)", "head_dim = 4\n    rope_dim = 2")
    assert codes(latent) == ["E0208"]
    assert codes(spec(DEPTHS.replace("top_k(1)", "top_k(2)"))) == ["E0427"]
    assert codes(spec(DEPTHS.replace("top_k(1)", "positive"))) == ["E0427"]
    assert codes(spec(DEPTHS.replace("gate =", "score = linear(4)\n    gate ="))) == ["E0403"]
    inside = spec(DEPTHS, ffn="sparse").replace(
        "select = top_k(2)", "choose = gate + balancing(rate = 1e-3)\n    select = top_k(2)"
    )
    assert codes(inside) == ["E0208"]


def test_cost_of_rounds_that_tokens_choose():
    graph = moedsl.pipeline.check(Source(spec(), "m.moe")).graph
    found = cost(graph, 64)
    one = 2 * (4 * 64 + 3 * 8 * 12) + 64 * 4 * 8
    (line,) = (line for line in found.layers if line.unit == "rounds")
    assert line.sum.flops == 3 * one + 2 * 3 * 8
    assert found.total.total == sum(p.size for _, _, p, _ in graph.parameters())


def test_mor_token():
    graph = compiled("mor_token").graph
    layer = 2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536 + 2 * 576
    assert cost(graph).total.total == 49152 * 576 + 576 + 11 * layer + 3 * 576
    module = package(
        "mor_token",
        ("vocab=40", "width=12", "count=1", "gqa.heads=2", "gqa.kv_heads=1", "dense.width=8"),
    )
    model = model_of(module)
    output = model(tokens(2, 12, vocab=40))
    sum(output.losses.values(), output.logits.sum()).backward()
    assert all(p.grad is not None for p in model.parameters())
