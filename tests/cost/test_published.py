"""The gallery's counts against published numbers, and against the modules of transformers on the meta device."""

from __future__ import annotations

import pytest

from moedsl.ir.cost import Sum, cost
from moedsl.pipeline import check
from tests.packages import source

# What decides sizes in the published config.json files, by the class that reads them.
CONFIGS = {
    "llama2_7b": (
        "Llama",
        {
            "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
            "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
            "tie_word_embeddings": False,
        },
    ),
    "mixtral_8x7b": (
        "Mixtral",
        {
            "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336,
            "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
            "num_local_experts": 8, "num_experts_per_tok": 2, "tie_word_embeddings": False,
        },
    ),
    "qwen3_30b_a3b": (
        "Qwen3Moe",
        {
            "vocab_size": 151936, "hidden_size": 2048, "moe_intermediate_size": 768,
            "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4,
            "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8,
            "decoder_sparse_step": 1, "mlp_only_layers": [], "tie_word_embeddings": False,
        },
    ),
    "olmoe_1b_7b": (
        "Olmoe",
        {
            "vocab_size": 50304, "hidden_size": 2048, "intermediate_size": 1024,
            "num_hidden_layers": 16, "num_attention_heads": 16, "num_key_value_heads": 16,
            "num_experts": 64, "num_experts_per_tok": 8, "tie_word_embeddings": False,
        },
    ),
}  # fmt: skip

# Exact counts, and billions as published. Qwen's 3.353 active is printed there as 3.3, cut rather than rounded.
PUBLISHED = {
    "llama2_7b": (6_738_415_616, 6_738_415_616, "6.74", "6.74"),
    "mixtral_8x7b": (46_702_792_704, 12_879_925_248, "46.7", "12.9"),
    "qwen3_30b_a3b": (30_532_122_624, 3_353_032_704, "30.5", "3.3"),
    "olmoe_1b_7b": (6_919_161_856, 1_282_017_280, "6.9", "1.3"),
}


def counted(name: str) -> Sum:
    return cost(check(source(name)).graph).total


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts(name: str) -> None:
    total, active, total_billions, active_billions = PUBLISHED[name]
    found = counted(name)
    assert (found.total, found.active, found.trainable) == (total, active, total)
    assert _reads_as(found.total, total_billions)
    assert _reads_as(found.active, active_billions)


def _reads_as(number: int, billions: str) -> bool:
    """Rounded to the digits that were published, or cut there."""
    digits = 10 ** len(billions.partition(".")[2])
    scaled = number * digits / 10**9
    return round(float(billions) * digits) in (round(scaled), int(scaled))


@pytest.mark.parametrize("name", CONFIGS)
def test_totals_are_those_of_transformers(name: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    family, settings = CONFIGS[name]
    config = getattr(transformers, f"{family}Config")(**settings)
    with torch.device("meta"):
        module = getattr(transformers, f"{family}ForCausalLM")(config)
    assert counted(name).total == sum(p.numel() for p in module.parameters())
