"""Counts against published numbers, against the modules of transformers, and against torch's own counter."""

from __future__ import annotations

from fractions import Fraction

import pytest

from moedsl.ir.cost import Cost, cost
from moedsl.ir.graph import Dim
from tests.checks import hand
from tests.checks.hand import Sizes

# The published configurations, as far as they decide sizes (name of transformers' class, then its settings).
CONFIGS: dict[str, tuple[str, dict, Sizes]] = {
    "mixtral_8x7b": (
        "Mixtral",
        {
            "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "num_local_experts": 8,
            "num_experts_per_tok": 2, "tie_word_embeddings": False,
        },
        Sizes(
            vocab=32000, width=4096, layers=32, heads=4096, kv=1024, hidden=14336, experts=8, picks=2
        ),
    ),
    "qwen3_30b_a3b": (
        "Qwen3Moe",
        {
            "vocab_size": 151936, "hidden_size": 2048, "moe_intermediate_size": 768, "num_hidden_layers": 48,
            "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128,
            "num_experts_per_tok": 8, "decoder_sparse_step": 1, "mlp_only_layers": [],
            "tie_word_embeddings": False,
        },
        Sizes(
            vocab=151936, width=2048, layers=48, heads=4096, kv=512, hidden=768, experts=128,
            picks=8, head_norm=128,
        ),
    ),
    "olmoe_1b_7b": (
        "Olmoe",
        {
            "vocab_size": 50304, "hidden_size": 2048, "intermediate_size": 1024, "num_hidden_layers": 16,
            "num_attention_heads": 16, "num_key_value_heads": 16, "num_experts": 64, "num_experts_per_tok": 8,
            "tie_word_embeddings": False,
        },
        Sizes(
            vocab=50304, width=2048, layers=16, heads=2048, kv=2048, hidden=1024, experts=64,
            picks=8, wide_norm=True,
        ),
    ),
}  # fmt: skip

# Billions, total and active, as published. Exact active counts: Qwen's 3.353 is printed as 3.3.
PUBLISHED = {
    "mixtral_8x7b": (46_702_792_704, 12_879_925_248, 46.7, 12.9),
    "qwen3_30b_a3b": (30_532_122_624, 3_353_032_704, 30.5, 3.3),
    "olmoe_1b_7b": (6_919_161_856, 1_282_017_280, 6.9, 1.3),
}


def counted(sizes: Sizes, tokens: int = 1) -> Cost:
    return cost(hand.decoder(sizes), tokens)


@pytest.mark.parametrize("name", CONFIGS)
def test_published_counts(name: str) -> None:
    total, active, total_billions, active_billions = PUBLISHED[name]
    found = counted(CONFIGS[name][2]).total
    assert (found.total, found.active, found.trainable) == (total, active, total)
    assert abs(found.total / 1e9 - total_billions) < 0.05
    assert abs(found.active / 1e9 - active_billions) < 0.055


def dense(hidden: int, layers: int, width: int, vocab: int) -> Cost:
    sizes = Sizes(vocab=vocab, width=width, heads=width, kv=width, hidden=hidden)
    d = Dim("D", width)
    block = hand.layer(sizes, d, hand.attention(sizes, d), hand.swiglu(sizes, d))
    return cost(hand.decoder(sizes, (block, layers)))


def test_a_dense_model_is_all_active() -> None:
    found = dense(hidden=11008, layers=32, width=4096, vocab=32000)  # Llama-2-7B
    assert found.total.total == found.total.active == 6_738_415_616
    assert found.layers[1].experts == 0


@pytest.mark.parametrize("name", CONFIGS)
def test_totals_are_those_of_transformers(name: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    family, settings, sizes = CONFIGS[name]
    config = getattr(transformers, f"{family}Config")(**settings)
    with torch.device("meta"):
        module = getattr(transformers, f"{family}ForCausalLM")(config)
    theirs = sum(p.numel() for p in module.parameters())
    assert counted(sizes).total.total == theirs


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
    assert found.layers[-1].sum.active == bank // 32 + 64 * 4
    assert found.layers[-1].picks == Fraction(1, 8)
