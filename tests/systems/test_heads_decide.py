"""Decisions of heads: losses over them, room for their experts, numbers that balance them; against loops head by head.

A head of a token is a row and an expert of a head a choice of its own, so nothing is pooled over heads: with H heads of
E experts, equal use is 1 / (H * E) of all picks for each, and a loss of two heads is the mean of the two. (The published
code of SwitchHead and MoEUT treats heads so too: RobertCsordas/moe_attention, entropies of each head's selector.)
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import moedsl.pipeline
from moedsl.ir.routers import routers
from moedsl.rewrites import rewrite
from moedsl.source import Source
from tests.agree import agree
from tests.systems.small import built, codes, model_of, tokens

H, E, K, SIZE = 2, 4, 2, 8
ROUTER = "gate = score -> softmax\n    select = top_k(2)"


def spec(router: str = ROUTER, moe: str = "", score: str = "linear") -> str:
    return f"""model m {{
  vocab = 32
  width = 16
  norm before, last = rms
  router of_heads {{
    score = {score}
    {router}
  }}
  attention own {{
    heads = {H}
    moe read {{
      router  = of_heads
      experts = {E} * linear
      per     = head
      {moe}
    }}
    q, k = linear -> rope
    v    = read
  }}
  block layer {{ x += own(before(x)) }}
  input  tokens = ids(vocab)
  output logits = tokens -> embed -> 2 * layer -> last -> head
}}
"""


def heads_of(record: Any, real: Tensor | None = None) -> Tensor:
    """What each head scored, [rows, H, E]; `real`: of the rows that are no padding."""
    logits = record.logits_NE.unflatten(1, (H, E))
    return logits if real is None else logits[real]


def largest(logits_E: Tensor, k: int = K) -> list[int]:
    return sorted(range(E), key=lambda e: (-logits_E[e].item(), e))[:k]


def shares(z: Tensor) -> Tensor:
    """Picks of each expert of each head over all rows, [H, E]."""
    count = torch.zeros(H, E, dtype=torch.float64)
    for row in z:
        for h in range(H):
            count[h, largest(row[h])] += 1
    return count


def balance(z: Tensor) -> Tensor:
    """Of each head by itself, E * sum(share * mean probability); the mean of heads."""
    share, mean = shares(z) / (K * len(z)), z.softmax(-1).mean(0)
    return (E * (share * mean).sum(1)).mean()


def first(z: Tensor) -> Tensor:
    count = torch.nn.functional.one_hot(z.argmax(-1), E).double().mean(0)
    return (E * (count * z.softmax(-1).mean(0)).sum(1)).mean()


def varied(x: Tensor) -> Tensor:
    return x.flatten().var(correction=0) / x.mean().square()


def importance(z: Tensor) -> Tensor:
    got = torch.zeros(H, E, dtype=torch.float64)
    for row in z:
        for h in range(H):
            kept = largest(row[h])
            got[h] = got[h].index_add(0, torch.tensor(kept), row[h].softmax(-1)[kept])
    return varied(got)


def l1(z: Tensor) -> Tensor:
    """ReMoE's, of each head: E * sum(share of picks wanted * mean gate)."""
    return (E * (shares(z) / (2 * len(z)) * z.relu().mean(0)).sum(1)).mean()


def entropy(p: Tensor) -> Tensor:
    return -(p * p.log()).sum(-1)


LOSSES = {
    "balance(1)": balance,
    "balance(1, count = first)": first,
    "balance(1, over = layer)": balance,
    "z(1)": lambda z: z.logsumexp(-1).square().mean(),
    "importance(1)": importance,
    "importance(1, of = gate)": lambda z: varied(z.softmax(-1).sum(0)),
    "importance(1, of = clean)": lambda z: varied(z.softmax(-1).sum(0)),
    "entropy(1)": lambda z: entropy(z.softmax(-1)).mean(),
    "entropy(1, per = mean, aim = high)": lambda z: (
        -(math.log(H) + entropy(z.softmax(-1).mean(0)).mean())
    ),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_those_of_each_head(loss: str) -> None:
    name = loss.partition("(")[0]
    model = model_of(built(spec(moe=f"loss = {loss}")))
    mask = torch.ones(3, 7, dtype=torch.bool)
    mask[0, :3] = False
    output = model(tokens(), mask=mask)
    found = output.losses[f"read.{name}"]
    zs = [heads_of(record, mask.flatten()) for record in output.routing.values()]
    wanted = sum(LOSSES[loss](z) for z in zs)
    agree(found, wanted, 1e-9)  # a variation is over its mean squared plus 1e-10
    weights = [layer.own.v.router.score.weight for layer in model.layer]
    mine, theirs = (torch.autograd.grad(one, weights, retain_graph=True) for one in (found, wanted))
    agree(mine, theirs, 1e-9, of="gradients")
    # The control: heads pooled, as if their experts were the same.
    if name in ("balance", "importance", "l1"):
        pooled = sum(LOSSES[loss](z.flatten(0, 1)[:, None].expand(-1, H, -1)) for z in zs)
        assert abs(pooled - wanted) > 1e-3


def test_l1_and_balance_of_gates_that_are_positive() -> None:
    router = "gate = score -> relu\n    select = positive\n    overflow = zero"
    text = spec(router, "loss = l1(1, picks = 2)")
    model = model_of(built(text))
    output = model(tokens())
    wanted = torch.zeros((), dtype=torch.float64)
    for record in output.routing.values():
        z = heads_of(record)
        share = (z > 0).double().mean(0) / 2
        wanted = wanted + (E * (share * z.relu().mean(0)).sum(1)).mean()
    torch.testing.assert_close(output.losses["read.l1"], wanted)


@pytest.mark.parametrize("bar", ["others", "last"])
def test_load_is_expected_of_each_head(bar: str) -> None:
    text = spec(moe=f"loss = load(1, bar = {bar})", score="linear -> gaussian(1 / choices)")
    model = model_of(built(text))
    torch.manual_seed(0)
    seen: list[Tensor] = []
    for layer in model.layer:
        layer.own.v.router.score.register_forward_hook(lambda _, __, y: seen.append(y))
    output = model(tokens())
    wanted = torch.zeros((), dtype=torch.float64)
    for clean, record in zip(seen, output.routing.values(), strict=True):
        load = torch.zeros(H, E, dtype=torch.float64)
        noisy, clean = heads_of(record), clean.unflatten(1, (H, E))
        for n in range(len(noisy)):
            for h in range(H):
                for e in range(E):
                    rest = noisy[n, h] if bar == "last" else noisy[n, h, torch.arange(E) != e]
                    line = rest.sort(descending=True).values[K - 1]
                    load[h, e] = load[h, e] + torch.special.ndtr((clean[n, h, e] - line) * E)
        wanted = wanted + varied(load)
    torch.testing.assert_close(output.losses["read.load"], wanted, rtol=1e-9, atol=1e-9)


def test_heads_decide_in_one_kernel_where_tokens_do() -> None:
    def kernels(*parts: str) -> list[bool]:
        result = moedsl.pipeline.check(Source(spec(*parts), "m.moe"))
        return [note.kernel for note in routers(rewrite(result.graph))]

    assert kernels(ROUTER, "loss = [balance(1, over = sequence), z(1), entropy(1)]") == [True]
    assert kernels("gate = score -> sigmoid\n    select = top_k(2)") == [True]
    assert kernels(ROUTER, "loss = importance(1)") == [False]
    assert kernels(ROOM + "1") == [False]


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_the_kernel_of_heads_is_its_steps(score: str) -> None:
    """Of each sequence; the same record as that of steps, which another statistic asks for."""
    router = f"gate = score -> {score}\n    select = top_k(2)\n    weigh = gate -> normalize -> scale(2.5)"
    losses = "balance(1, over = sequence), balance(0.5, count = first), z(1), entropy(1)"
    fused = model_of(built(spec(router, f"loss = [{losses}]")))
    steps = model_of(built(spec(router, f"loss = [{losses}, importance(0)]")))
    mask = torch.ones(3, 7, dtype=torch.bool)
    mask[1, 4:] = False
    one, two = (model(tokens(), mask=mask) for model in (fused, steps))
    agree(one.logits, two.logits, 1e-12)
    for name, value in one.losses.items():
        torch.testing.assert_close(value, two.losses[name])
    for place, record in one.routing.items():
        for field in record._fields:
            torch.testing.assert_close(getattr(record, field), getattr(two.routing[place], field))
    grads = []
    for output, model in ((one, fused), (two, steps)):
        total = output.logits.square().mean() + sum(output.losses.values())
        grads.append(torch.autograd.grad(total, model.layer[0].own.v.router.score.weight)[0])
    agree(*grads, 1e-10, of="gradients")


# --- room ------------------------------------------------------------------------------------------


def served(z: Tensor, slots: int, priority: str = "first_come", group: int = 10**9) -> Tensor:
    """Which picks find room, [N, H, K], a head at a time."""
    found = torch.zeros(len(z), H, K, dtype=torch.bool)
    for start in range(0, len(z), group):
        rows = range(start, min(start + group, len(z)))
        for h in range(H):
            line = [(n, j) for n in rows for j in range(K)]
            if priority == "by_rank":
                line.sort(key=lambda at: at[1])
            if priority == "best":
                line.sort(key=lambda at, h=h: (at[1], -z[at[0], h].softmax(-1).max().item(), at[0]))
            if priority == "strongest":
                line.sort(
                    key=lambda at, h=h: -z[at[0], h].softmax(-1).sort(descending=True).values[at[1]]
                )
            taken = [0] * E
            for n, j in line:
                e = largest(z[n, h])[j]
                found[n, h, j] = taken[e] < slots
                taken[e] += 1
    return found


def mixed(mixture: Any, x: Tensor, z: Tensor, kept: Tensor, before: bool = True) -> Tensor:
    """What each head's experts gave, [N, H * SIZE]; `before`: weights are divided before drops."""
    table = mixture.experts.linear.unflatten(0, (H, E))
    rows = []
    for n in range(len(x)):
        for h in range(H):
            picks = largest(z[n, h])
            weight = z[n, h].softmax(-1)[picks]
            weight = weight if before else weight * kept[n, h]
            weight = weight / weight.sum().clamp_min(1e-30)
            y = sum(
                (weight[j] * (table[h, e] @ x[n]) for j, e in enumerate(picks) if kept[n, h, j]),
                torch.zeros(SIZE, dtype=torch.float64),
            )
            rows.append(y)
    return torch.stack(rows).view(len(x), -1)


ROOM = f"{ROUTER}\n    weigh = gate -> normalize\n    overflow = zero\n    capacity = "
ROOMS = {
    "0.8": ("first_come", 10**9, True),
    "0.8\n    weighed = served": ("first_come", 10**9, False),
    "0.8\n    within = tokens(5)": ("first_come", 5, True),
    "0.8\n    priority = by_rank\n    lookahead = allowed": ("by_rank", 10**9, True),
    "0.8\n    priority = best\n    lookahead = allowed": ("best", 10**9, True),
    "0.8\n    priority = strongest\n    lookahead = allowed": ("strongest", 10**9, True),
}


@pytest.mark.parametrize("room", ROOMS)
def test_experts_of_a_head_have_room_of_their_own(room: str) -> None:
    priority, group, before = ROOMS[room]
    model = model_of(built(spec(ROOM + room, "loss = balance(1)")))
    mixture, x = model.layer[0].own.v, torch.randn(1, 13, 16, dtype=torch.float64)
    y, record = mixture(x, None)
    z = heads_of(record)
    slots = math.ceil(0.8 * K * min(13, group) / E)
    kept = served(z, slots, priority, group)
    assert not kept.all()
    found = record.expert_NK.view(-1, H, K)
    assert torch.equal(found < H * E, kept)
    for h in range(H):
        wanted = torch.tensor([largest(row[h]) for row in z]) + h * E
        assert torch.equal(found[:, h][kept[:, h]], wanted[kept[:, h]])
    agree(y[0], mixed(mixture, x[0], z, kept, before), 1e-12)
    # Losses count what was picked, found room or not.
    assert record.choices_SE.sum() == H * K * 13
    # The control: room that heads share.
    together = served(z.flatten(0, 1)[:, None].expand(-1, H, -1), 2 * slots, priority)
    assert not torch.equal(together[:, 0].view(-1, H, K), kept)


def test_the_next_best_is_one_of_the_same_head() -> None:
    text = spec(ROOM.replace("overflow = zero", "overflow = next") + "1\n    lookahead = allowed")
    assert "E0421" in codes(text)  # after a round some may still have nothing
    text = text.replace("v    = read", "v    = linear + read")
    model = model_of(built(text))
    record = model(tokens(1, 13)).routing["layer.0.own.v_read"]
    expert = record.expert_NK.view(-1, H, K)
    for h in range(H):
        there = expert[:, h][expert[:, h] < H * E]
        assert ((there >= h * E) & (there < (h + 1) * E)).all()
        assert (
            torch.bincount(there, minlength=H * E)[h * E : (h + 1) * E] <= math.ceil(K * 13 / E)
        ).all()
    assert (expert < H * E).sum() > served(heads_of(record), math.ceil(K * 13 / E)).sum()


def test_padding_takes_no_room_and_later_tokens_none_of_earlier_ones() -> None:
    model = model_of(built(spec(ROOM + "0.8\n    within = sequence"))).eval()
    ids = tokens(2, 8)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[0, 5:] = False
    changed = ids.clone()
    changed[0, 5:] = 0
    a, b = model(ids, mask=mask), model(changed, mask=mask)
    torch.testing.assert_close(a.logits[0, :5], b.logits[0, :5])
    other = ids.clone()
    other[:, 6:] = (other[:, 6:] + 1) % 32
    torch.testing.assert_close(model(other).logits[:, :6], model(ids).logits[:, :6])


def test_steps_with_a_cache_where_nothing_drops_when_decoding() -> None:
    room = "phase(train = 0.8, eval = none)\n    lookahead = allowed"
    module = built(spec(ROOM + room, "loss = [balance(1), l1(1e-2)]"))
    model = model_of(module).eval()
    ids, cache = tokens(2, 6), module.Cache()
    parts = [model(part, cache=cache).logits for part in ids.split([3, 1, 2], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), model(ids).logits)
    whole = torch.compile(model.train().float(), fullgraph=True, backend="eager")
    torch.testing.assert_close(whole(ids).logits, model(ids).logits)


# --- numbers that balance --------------------------------------------------------------------------


def test_balancing_has_a_number_for_each_expert_of_each_head() -> None:
    router = "gate = score -> sigmoid\n    choose = gate + balancing(0.25)\n    select = top_k(2)"
    module = built(spec(router))
    model = model_of(module)
    loads = [module.tally(model(ids).routing) for ids in (tokens(), tokens(seed=2))]
    bias = model.layer[0].own.v.router.bias.value_E
    assert bias.shape == (H * E,)
    model.adapt(*loads)
    load = sum(one["layer.0.own.v"].choices_E for one in loads)
    each = load.view(H, E).double()
    assert torch.equal(each.sum(1), torch.full((H,), 2 * K * 21.0).double())
    wanted = 0.25 * (each.mean(1, keepdim=True) - each).sign().flatten()
    torch.testing.assert_close(bias, wanted)
    pooled = each.sum(0)
    assert not torch.equal(0.25 * (pooled.mean() - pooled).sign().repeat(H), wanted)
    output = model(tokens())
    record = output.routing["layer.0.own.v"]
    ranked = heads_of(record).sigmoid() + bias.view(H, E)
    wanted_NK = ranked.sort(dim=-1, descending=True, stable=True).indices[..., :K]
    first_H1 = E * torch.arange(H)[:, None]
    assert torch.equal(record.expert_NK.view(-1, H, K), wanted_NK + first_H1)
    weight = heads_of(record).sigmoid().gather(-1, wanted_NK)  # numbers move choices and no weight
    torch.testing.assert_close(record.weight_NK.view(-1, H, K), weight)


def test_what_stays_refused() -> None:
    choose = "gate = score -> softmax\n    select = expert_choice\n    capacity = 1\n    overflow = zero\n    lookahead = allowed"
    assert codes(spec(choose)) == ["E0420"]
    assert codes(spec(ROOM + "room(1, devices = 2)")) == ["E0420"]
    positive = "gate = score -> relu\n    select = positive\n    overflow = zero"
    assert codes(spec(positive, "loss = l1(ramp(0, 1, 9))")) == []
    assert codes(spec(positive, "loss = l1(sparsity(0.5))")) == ["E0208"]
