"""What is counted, and how, on hand-made models."""

from __future__ import annotations

from fractions import Fraction

from moedsl.ir.cost import Cost, cost
from moedsl.ir.graph import Dim
from tests.checks import hand
from tests.checks.hand import Sizes


def counted(sizes: Sizes, tokens: int = 1) -> Cost:
    return cost(hand.decoder(sizes), tokens)


def dense(hidden: int, layers: int, width: int, vocab: int) -> Cost:
    sizes = Sizes(vocab=vocab, width=width, heads=width, kv=width, hidden=hidden)
    d = Dim("D", width)
    block = hand.layer(sizes, d, hand.attention(sizes, d), hand.swiglu(sizes, d))
    return cost(hand.decoder(sizes, (block, layers)))


def test_a_dense_model_is_all_active() -> None:
    found = dense(hidden=11008, layers=32, width=4096, vocab=32000)  # Llama-2-7B
    assert found.total.total == found.total.active == 6_738_415_616
    assert found.layers[1].experts == 0


def test_lines_follow_the_layers() -> None:
    found = counted(Sizes(layers=3))
    assert [line.path for line in found.layers] == [
        "embed", "layer[0]", "layer[1]", "layer[2]", "last", "head",
    ]  # fmt: skip
    layer = found.layers[1]
    assert (layer.unit, layer.kind, layer.experts, layer.picks) == ("layer", "block", 4, 2)
    assert found.total.total == sum(line.sum.total for line in found.layers)


def test_cache_and_weight_bytes() -> None:
    found = counted(Sizes(layers=3, kv=32)).total
    assert found.cache_bytes == 3 * (32 + 32) * 2
    assert found.weight_bytes == 2 * found.total
    assert found.training_flops == 3 * found.flops


def test_a_place_called_twice_weighs_once_and_works_twice() -> None:
    sizes, d = Sizes(), Dim("D", 64)
    once = hand.body("once", "block", hand.stream(d))
    twice = hand.body("twice", "block", hand.stream(d))
    inner = hand.swiglu(sizes, d)
    for body, times in ((once, 1), (twice, 2)):
        x = body.unit.inputs[0]
        for _ in range(times):
            x = body.add(hand.Call(unit=inner), x, place="shared")
        body.unit.outputs = [x]
    one, two = (cost(hand.graph(b.unit)).total for b in (once, twice))
    assert (two.total, two.flops) == (one.total, 2 * one.flops)


def test_rows_on_average_count_as_fractions() -> None:
    """A mixture inside a block that serves an eighth of the tokens."""
    sizes, d = Sizes(experts=4, picks=1, hidden=64), Dim("D", 64)
    b = hand.body("some", "block", hand.stream(d))
    x = b.add(hand.Send(spread=Fraction(1, 8)), b.unit.inputs[0])
    b.unit.outputs = [b.add(hand.Call(unit=hand.mixture(sizes, d)), x, place="sparse")]
    found = cost(hand.graph(b.unit))
    bank = 3 * 64 * 64 * 4
    assert found.layers[-1].sum.active == (bank // 4 + 64 * 4) // 8
    assert found.layers[-1].picks == Fraction(1, 8)
