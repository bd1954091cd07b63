"""FLOPs against torch's own counter, on a plain module with batched experts and attention written as products."""

from __future__ import annotations

import pytest

from moedsl.ir.cost import cost
from moedsl.ir.graph import Dim
from tests.checks import hand
from tests.checks.hand import Sizes

torch = pytest.importorskip("torch")
F = torch.nn.functional


def attention(x, s: Sizes):
    """[T, D] in one head: what is masked is computed all the same."""
    q, k, v = (x @ torch.ones(s.width, n) for n in (s.heads, s.kv, s.kv))
    repeat = s.heads // s.kv
    scores = q @ k.repeat(1, repeat).T
    mixed = scores.softmax(-1) @ v.repeat(1, repeat)
    return mixed @ torch.ones(s.heads, s.width)


def experts(x, s: Sizes):
    """k rows for each token, shared evenly by the experts so that one batched product serves them all."""
    x @ torch.ones(s.width, s.experts)  # the router's scores
    rows = x.repeat_interleave(s.picks, 0).view(s.experts, -1, s.width)
    weights = torch.ones(s.experts, s.width, s.hidden)
    hidden = F.silu(torch.bmm(rows, weights)) * torch.bmm(rows, weights)
    y = torch.bmm(hidden, weights.transpose(1, 2))
    return y.view(len(x), s.picks, s.width).sum(1)


def forward(x, s: Sizes):
    for _ in range(s.layers):
        x = x + attention(x, s)
        x = x + experts(x, s)
    return x @ torch.ones(s.width, s.vocab)


def measured(s: Sizes, tokens: int) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    x = torch.ones(tokens, s.width)
    with FlopCounterMode(display=False) as counter:
        forward(x, s)
    return counter.get_total_flops()


@pytest.mark.parametrize("tokens", [16, 128])
@pytest.mark.parametrize(
    "sizes",
    [
        Sizes(),
        Sizes(layers=3, experts=8, picks=1, hidden=32),
        Sizes(vocab=100, width=48, heads=96, kv=32, experts=4, picks=4, hidden=40),
    ],
)
def test_forward_is_what_torch_counts(sizes: Sizes, tokens: int) -> None:
    found = cost(hand.decoder(sizes), tokens).total
    assert found.flops * tokens == measured(sizes, tokens)


def test_backward_is_twice_forward() -> None:
    """Each product has two of its own size in backward: one for the weight, one for what came in."""
    from torch.utils.flop_counter import FlopCounterMode

    weight = torch.ones(64, 96, requires_grad=True)
    x = torch.ones(8, 64, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        (x @ weight).sum().backward()
    assert counter.get_total_flops() == 3 * (2 * 8 * 64 * 96)


def test_only_attention_depends_on_the_context() -> None:
    sizes, d = Sizes(), Dim("D", 64)
    body = hand.body("alone", "model", hand.stream(d))
    body.unit.outputs = [
        body.add(hand.Call(unit=hand.mixture(sizes, d)), body.unit.inputs[0], place="sparse")
    ]
    graph = hand.graph(body.unit)
    assert cost(graph, 1).total == cost(graph, 4096).total
    longer = [cost(hand.decoder(sizes), tokens).total.flops for tokens in (1, 2, 3)]
    assert longer[2] - longer[1] == longer[1] - longer[0] == sizes.layers * 4 * sizes.heads
