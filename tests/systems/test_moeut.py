"""MoEUT: layers that come back, with experts in both parts, against the published code's formulas, token by token.

RobertCsordas/moeut, moeut.py: MoEUTLayer (norms before what decides, and queries and keys; values and experts read the
stream), SwitchHeadRope (half of a head turns), SigmaMoE, and the regularisation of MoEUT.forward: for each module the
entropy of the mean softmax over time and recursions, of each sequence, coefficient 0.01 (0.001 in attention).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from moedsl.ir.cost import cost
from tests.packages import compiled, package
from tests.systems.plain_depth import Weights, turned
from tests.systems.test_depth import compare, model_of, stepped, tokens

HEADS, SIZE, CHOICES, EXPERTS, KEPT, RUNS = 2, 8, 3, 5, 2, 3
SMALL = (
    "vocab=13",
    "width=12",
    f"count={RUNS}",
    f"switched.heads={HEADS}",
    f"switched.head_dim={SIZE}",
    f"switched.read.experts={CHOICES} * linear",
    f"switched.written.experts={CHOICES} * linear",
    f"sparse.experts={EXPERTS} * mlp(3, activation = relu)",
    f"sparse.router=by_sigmoid({KEPT})",
)


def layer_norm(x: Tensor, w: Weights, at: str) -> Tensor:
    centred = x - x.mean()
    return centred / (centred.square().mean() + 1e-5).sqrt() * w[f"{at}.weight"] + w[f"{at}.bias"]


def chosen(logits: Tensor, kept: int) -> list[tuple[int, Tensor]]:
    """The largest, with the sigmoids that weigh them; nothing is divided."""
    order = sorted(range(len(logits)), key=lambda e: (-logits[e].item(), e))
    return [(e, logits[e].sigmoid()) for e in order[:kept]]


def by_head(w: Weights, at: str, h: Tensor) -> Tensor:
    return (w[f"{at}.router.score.weight"] @ h).view(HEADS, CHOICES)


def half_turned(head: Tensor, position: int) -> Tensor:
    return torch.cat([turned(head[: SIZE // 2], position), head[SIZE // 2 :]])


def attention(
    w: Weights, at: str, xs: list[Tensor], seen: dict[str, list[Tensor]], normed: bool
) -> list[Tensor]:
    hs = [layer_norm(x, w, f"{at}.before_mix") for x in xs]
    values, out = [], []
    for x, h in zip(xs, hs, strict=True):
        logits = by_head(w, f"{at}.v", h)
        seen.setdefault(f"{at}.v", []).append(logits)
        table = w[f"{at}.v.experts.linear"].view(HEADS, CHOICES, SIZE, -1)
        values.append(
            [sum(g * (table[i, e] @ (h if normed else x)) for e, g in chosen(logits[i], 2)) for i in range(HEADS)]
        )  # fmt: skip
    for t, h in enumerate(hs):
        logits = by_head(w, f"{at}.o", h)
        seen.setdefault(f"{at}.o", []).append(logits)
        table = w[f"{at}.o.experts.linear"].view(HEADS, CHOICES, -1, SIZE)
        y = torch.zeros_like(h)
        for i in range(HEADS):
            part = slice(i * SIZE, (i + 1) * SIZE)
            q = half_turned((w[f"{at}.q.weight"] @ h)[part], t)
            keys = [half_turned((w[f"{at}.k.weight"] @ hs[s])[part], s) for s in range(t + 1)]
            weight = torch.stack([q @ k / math.sqrt(SIZE) for k in keys]).softmax(0)
            mixed = sum(weight[s] * values[s][i] for s in range(t + 1))
            y = y + sum(g * (table[i, e] @ mixed) for e, g in chosen(logits[i], 2))
        out.append(y)
    return out


def feed_forward(
    w: Weights, at: str, x: Tensor, h: Tensor, seen: dict[str, list[Tensor]]
) -> Tensor:
    logits = w[f"{at}.router.score.weight"] @ h
    seen.setdefault(at, []).append(logits)
    up, down = w[f"{at}.experts.up"], w[f"{at}.experts.down"]
    return sum(g * (down[e] @ (up[e] @ x).relu()) for e, g in chosen(logits, KEPT))


def forward(
    model: Any, ids: Tensor, normed: bool = False
) -> tuple[Tensor, list[dict[str, list[Tensor]]]]:
    """Logits, and for each sequence what each module scored, over all runs. `normed`: the control."""
    w = dict(model.named_parameters())
    rows, histories = [], []
    for one in ids.tolist():
        xs, seen = [w["embed.weight"][i] for i in one], {}
        for _ in range(RUNS):
            for at in ("one.0", "one.1"):
                mixed = attention(w, f"{at}.switched", xs, seen, normed)
                xs = [x + y for x, y in zip(xs, mixed, strict=True)]
                hs = [layer_norm(x, w, f"{at}.before_ffn") for x in xs]
                given = hs if normed else xs
                xs = [
                    x + feed_forward(w, f"{at}.sparse", g, h, seen)
                    for x, g, h in zip(xs, given, hs, strict=True)
                ]
        rows.append(
            torch.stack([w["head.weight"] @ layer_norm(x, w, "last") + w["head.bias"] for x in xs])
        )
        histories.append(seen)
    return torch.stack(rows), histories


def regularised(histories: list[dict[str, list[Tensor]]], part: str) -> Tensor:
    """Minus the entropy of the mean softmax over time and runs: the mean over sequences (and heads), summed over
    modules."""
    total = torch.zeros((), dtype=torch.float64)
    for name in [name for name in histories[0] if name.endswith(part)]:
        found = []
        for seen in histories:
            mean = torch.stack([logits.softmax(-1) for logits in seen[name]]).mean(0)
            found.append((mean * mean.log()).sum(-1).mean())
        total = total + torch.stack(found).mean()
    return total


def test_logits_and_gradients():
    model = model_of(package("moeut_small", SMALL))
    ids = tokens(2, 5, vocab=13)
    wanted, _ = forward(model, ids)
    compare(model(ids).logits, wanted, model, "moeut_small")
    # Gotcha 29: values and experts read the stream as it is.
    assert (wanted - forward(model, ids, normed=True)[0]).abs().max() > 1e-3


def test_entropy_over_time_and_runs():
    model = model_of(package("moeut_small", SMALL))
    ids = tokens(2, 5, vocab=13)
    losses = model(ids).losses
    _, histories = forward(model, ids)
    torch.testing.assert_close(losses["sparse.entropy"], 1e-2 * regularised(histories, ".sparse"))
    # Heads are one distribution here: the same gradient, and log(heads) more entropy of each of the two modules.
    shift = 1e-3 * 2 * math.log(HEADS)
    for name, part in (("read", ".v"), ("written", ".o")):
        wanted = 1e-3 * regularised(histories, part)
        torch.testing.assert_close(losses[f"{name}.entropy"], wanted - shift)
        (mine,) = torch.autograd.grad(
            losses[f"{name}.entropy"], model.embed.weight, retain_graph=True
        )
        (theirs,) = torch.autograd.grad(wanted, model.embed.weight, retain_graph=True)
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-9)
    # Gotcha 29: not of each run by itself.
    alone = package(
        "moeut_small", (*SMALL, "sparse.loss=entropy(1e-2, of = score, per = sequence, aim = high)")
    )
    other = model_of(alone)(ids).losses["sparse.entropy"]
    assert (other / RUNS - losses["sparse.entropy"]).abs() > 1e-5


def test_padding_and_steps_with_a_cache():
    module = package("moeut_small", SMALL)
    model = model_of(module).eval()
    ids = tokens(2, 6, vocab=13)
    whole = model(ids).logits
    torch.testing.assert_close(stepped(model, module, ids, [3, 1, 1, 1]), whole)
    memory = module.Cache()
    model(ids, cache=memory)
    assert len(memory.buffers) == 2 * 2 * RUNS
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[0, :2] = False
    padded, alone = model(ids, mask=mask), model(ids[:1, 2:])
    torch.testing.assert_close(padded.logits[:1, 2:], alone.logits, rtol=1e-6, atol=1e-6)
    both = (alone.losses["sparse.entropy"] + model(ids[1:]).losses["sparse.entropy"]) / 2
    torch.testing.assert_close(padded.losses["sparse.entropy"], both, rtol=1e-6, atol=1e-6)


def test_parameters_are_those_of_the_published_size():
    """profiles.py calls it 244M: with 8,000 pieces of text and an output layer of its own."""
    graph = compiled("moeut_small").graph
    attention = 2 * 1024 * 512 + 2 * (40 * 1024 * 128 + 40 * 1024)
    feed_forward = 387 * 2 * 1024 * 128 + 387 * 1024
    norms = 2 * 2 * 1024
    total = 2 * (attention + feed_forward + norms) + 2 * 8000 * 1024 + 8000 + 2 * 1024
    found = cost(graph).total
    assert found.total == total
    assert round(total / 1e6) == 243
    assert found.cache_bytes == 18 * 2 * 512 * 2
