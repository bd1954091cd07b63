"""The published families that a spec must equal: a small configuration on both sides."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Family:
    """`spec` with `settings` is the same function as the transformers class `cls` with `config`."""

    spec: str
    settings: tuple[str, ...]
    cls: str
    config_cls: str
    config: dict[str, Any] = field(hash=False)
    loss: str | None = None
    counts_padding: bool = (
        False  # transformers counts padding as positions, which changes its results
    )
    experts: bool = True  # whether its experts may be asked to run one by one

    @property
    def implementation(self) -> dict[str, str]:
        return {"experts_implementation": "eager"} if self.experts else {}

    def coefficient(self, model) -> float:
        return model.router_aux_loss_coef

    def reference(self):
        """A transformers model with every parameter and buffer randomised (norms too), on unit-scale activations."""
        import torch
        import transformers

        config = getattr(transformers, self.config_cls)(
            **self.config, attn_implementation="eager", **self.implementation
        )
        torch.manual_seed(0)
        model = getattr(transformers, self.cls)(config).eval()
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if "bias" in name:
                    buffer.normal_(std=0.3)
            for name, parameter in model.named_parameters():
                if parameter.ndim == 1:
                    parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
                elif "embed" in name:
                    parameter.normal_()
                else:
                    parameter.normal_(std=parameter.shape[-1] ** -0.5)
        return model


COMMON = dict(
    vocab_size=97,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    max_position_embeddings=128,
    tie_word_embeddings=False,
    bos_token_id=1,
    eos_token_id=None,
    pad_token_id=0,
)

YARN_DEEPSEEK = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 40.0,
    "original_max_position_embeddings": 4096,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
}

MIXTRAL = Family(
    spec="mixtral_8x7b",
    settings=(
        "vocab=97",
        "width=32",
        "depth=3",
        "context=128",
        "gqa.heads=4",
        "gqa.kv_heads=2",
        "sparse.experts=5 * swiglu(48)",
    ),
    cls="MixtralForCausalLM",
    config_cls="MixtralConfig",
    config=COMMON
    | dict(
        intermediate_size=48,
        num_key_value_heads=2,
        num_local_experts=5,
        num_experts_per_tok=2,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        router_aux_loss_coef=0.02,
        output_router_logits=True,
    ),
    loss="balance",
)

QWEN3 = Family(
    spec="qwen3_30b_a3b",
    settings=(
        "vocab=97",
        "width=32",
        "depth=3",
        "context=128",
        "gqa.heads=4",
        "gqa.kv_heads=2",
        "gqa.head_dim=12",
        "sparse.experts=9 * swiglu(20)",
        "top8.select=top_k(3)",
    ),
    cls="Qwen3MoeForCausalLM",
    config_cls="Qwen3MoeConfig",
    config=COMMON
    | dict(
        intermediate_size=48,
        moe_intermediate_size=20,
        num_key_value_heads=2,
        head_dim=12,
        num_experts=9,
        num_experts_per_tok=3,
        norm_topk_prob=True,
        decoder_sparse_step=1,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        router_aux_loss_coef=0.001,
        output_router_logits=True,
    ),
    loss="balance",
)

OLMOE = Family(
    spec="olmoe_1b_7b",
    settings=(
        "vocab=97",
        "width=32",
        "depth=3",
        "context=128",
        "own.heads=4",
        "sparse.experts=7 * swiglu(24)",
        "top8.select=top_k(3)",
    ),
    cls="OlmoeForCausalLM",
    config_cls="OlmoeConfig",
    config=COMMON
    | dict(
        intermediate_size=24,
        num_key_value_heads=4,
        num_experts=7,
        num_experts_per_tok=3,
        norm_topk_prob=False,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        router_aux_loss_coef=0.01,
        output_router_logits=True,
    ),
    loss="balance",
)

LLAMA = Family(
    spec="llama2_7b",
    settings=("vocab=97", "width=32", "depth=3", "context=128", "own.heads=4", "dense=swiglu(56)"),
    cls="LlamaForCausalLM",
    config_cls="LlamaConfig",
    config=COMMON
    | dict(
        intermediate_size=56,
        num_key_value_heads=4,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    ),
)

DEEPSEEK_V2 = Family(
    spec="deepseek_v2_lite",
    settings=(
        "vocab=97",
        "width=32",
        "depth=2",
        "context=128",
        "dense=swiglu(56)",
        "mla.heads=4",
        "mla.kv_rank=24",
        "mla.head_dim=12",
        "mla.rope_dim=8",
        "mla.value_dim=10",
        "sparse.experts=9 * swiglu(20)",
        "sparse.shared=swiglu(40)",
        "top6.select=top_k(3)",
    ),
    cls="DeepseekV2ForCausalLM",
    config_cls="DeepseekV2Config",
    config=COMMON
    | dict(
        intermediate_size=56,
        moe_intermediate_size=20,
        first_k_dense_replace=1,
        kv_lora_rank=24,
        q_lora_rank=None,
        qk_nope_head_dim=12,
        qk_rope_head_dim=8,
        v_head_dim=10,
        n_routed_experts=9,
        n_shared_experts=2,
        num_experts_per_tok=3,
        topk_method="greedy",
        rms_norm_eps=1e-6,
        rope_parameters=YARN_DEEPSEEK | {"mscale": 0.707, "mscale_all_dim": 0.707},
    ),
)

GPT_OSS = Family(
    spec="gpt_oss_20b",
    settings=(
        "vocab=97",
        "width=32",
        "pairs=2",
        "context=128",
        "full.heads=4",
        "full.kv_heads=2",
        "full.head_dim=12",
        "local.window=5",
        "sparse.experts=6 * swiglu(20, alpha = 1.702, limit = 1.5, up_shift = 1, bias = true)",
        "top4.select=top_k(3)",
    ),
    cls="GptOssForCausalLM",
    config_cls="GptOssConfig",
    config=COMMON
    | dict(
        num_hidden_layers=4,
        intermediate_size=20,
        num_key_value_heads=2,
        head_dim=12,
        sliding_window=5,
        num_local_experts=6,
        num_experts_per_tok=3,
        swiglu_limit=1.5,
        rms_norm_eps=1e-5,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 150000.0,
            "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
        },
        router_aux_loss_coef=0.9,
        output_router_logits=True,
    ),
    loss="balance",
)

QWEN2 = Family(
    spec="qwen2_57b_a14b",
    settings=(
        "vocab=97",
        "width=32",
        "depth=3",
        "context=128",
        "gqa.heads=4",
        "gqa.kv_heads=2",
        "sparse.experts=9 * swiglu(20)",
        "sparse.shared=swiglu(40) * (linear(1) -> sigmoid)",
        "top8.select=top_k(3)",
    ),
    cls="Qwen2MoeForCausalLM",
    config_cls="Qwen2MoeConfig",
    config=COMMON
    | dict(
        intermediate_size=48,
        moe_intermediate_size=20,
        shared_expert_intermediate_size=40,
        num_key_value_heads=2,
        num_experts=9,
        num_experts_per_tok=3,
        norm_topk_prob=False,
        decoder_sparse_step=1,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        router_aux_loss_coef=0.001,
        output_router_logits=True,
    ),
    loss="balance",
)

LLAMA4 = Family(
    spec="llama4_scout",
    settings=(
        "vocab=97",
        "width=32",
        "periods=1",
        "context=128",
        "local.heads=4",
        "local.kv_heads=2",
        "local.head_dim=12",
        "local.chunk=6",
        "local.q=linear -> rope(theta = 5e5, pairs = adjacent, "
        "scaling = bands(16, original = 8, low = 1, high = 4)) "
        "-> rms(eps = 1e-5, per = head, weight = false)",
        "local.k=linear -> rope(theta = 5e5, pairs = adjacent, "
        "scaling = bands(16, original = 8, low = 1, high = 4)) "
        "-> rms(eps = 1e-5, per = head, weight = false)",
        "full.heads=4",
        "full.kv_heads=2",
        "full.head_dim=12",
        "full.q=linear -> log_scale(4, by = 0.1)",
        "sparse.experts=5 * swiglu(20)",
        "sparse.shared=swiglu(20)",
    ),
    cls="Llama4ForCausalLM",
    config_cls="Llama4TextConfig",
    config=COMMON
    | dict(
        num_hidden_layers=4,
        intermediate_size=20,
        num_key_value_heads=2,
        head_dim=12,
        num_local_experts=5,
        num_experts_per_tok=1,
        interleave_moe_layer_step=1,
        attention_chunk_size=6,
        attn_temperature_tuning=True,
        floor_scale=4,
        attn_scale=0.1,
        use_qk_norm=True,
        rms_norm_eps=1e-5,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 5e5,
            "factor": 16.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8,
        },
    ),
    experts=False,
    counts_padding=True,
)

PHI = Family(
    spec="phi3_5_moe",
    settings=(
        "vocab=97",
        "width=32",
        "depth=3",
        "context=128",
        "gqa.heads=4",
        "gqa.kv_heads=2",
        "sparse.experts=6 * swiglu(20)",
        "mixer.select=in_turn(2, near_ties(80%) -> gumbel)",
        "mixer.weigh=score -> near_ties(80%)",
    ),
    cls="PhimoeForCausalLM",
    config_cls="PhimoeConfig",
    config=COMMON
    | dict(
        intermediate_size=20,
        num_key_value_heads=2,
        num_local_experts=6,
        num_experts_per_tok=2,
        router_jitter_noise=0.4,
        attention_bias=True,
        lm_head_bias=True,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        router_aux_loss_coef=0.001,
        output_router_logits=True,
    ),
    loss="balance",
)

GRANITE = Family(
    spec="granite_3_1b_a400m",
    settings=(
        "vocab=97",
        "width=32",
        "depth=3",
        "context=128",
        "gqa.heads=4",
        "gqa.kv_heads=2",
        "gqa.scores=dot(scale = 0.2)",
        "sparse.experts=9 * swiglu(20)",
        "top8.select=top_k(3)",
    ),
    cls="GraniteMoeForCausalLM",
    config_cls="GraniteMoeConfig",
    config=COMMON
    | dict(
        tie_word_embeddings=True,
        intermediate_size=20,
        num_key_value_heads=2,
        num_local_experts=9,
        num_experts_per_tok=3,
        attention_multiplier=0.2,
        embedding_multiplier=12.0,
        residual_multiplier=0.22,
        logits_scaling=6.0,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        router_aux_loss_coef=0.01,
        output_router_logits=True,
    ),
    loss="balance",
)

DBRX = Family(
    spec="dbrx",
    settings=(
        "vocab=97",
        "width=32",
        "depth=3",
        "context=128",
        "gqa.heads=4",
        "gqa.kv_heads=2",
        "gqa.q=linear -> clip(1.5) -> rope(theta = 5e5)",
        "gqa.k=linear -> clip(1.5) -> rope(theta = 5e5)",
        "gqa.v=linear -> clip(1.5)",
        "sparse.experts=16 * swiglu(20)",
    ),
    cls="DbrxForCausalLM",
    config_cls="DbrxConfig",
    config=dict(
        vocab_size=97,
        d_model=32,
        n_layers=3,
        n_heads=4,
        max_seq_len=128,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=0,
        attn_config=dict(clip_qkv=1.5, kv_n_heads=2, rope_theta=5e5),
        ffn_config=dict(
            hidden_size=32,
            ffn_hidden_size=20,
            moe_num_experts=16,
            moe_top_k=4,
            moe_loss_weight=0.05,
        ),
        rope_parameters={"rope_type": "default", "rope_theta": 5e5},
        output_router_logits=True,
    ),
    loss="balance",
    experts=False,
)

LATENT = (
    "mla.heads=4",
    "mla.q_rank=20",
    "mla.kv_rank=24",
    "mla.head_dim=12",
    "mla.rope_dim=8",
    "mla.value_dim=10",
)
LATENT_CONFIG = dict(
    num_key_value_heads=4,
    kv_lora_rank=24,
    q_lora_rank=20,
    qk_nope_head_dim=12,
    qk_rope_head_dim=8,
    v_head_dim=10,
    rms_norm_eps=1e-6,
)

DEEPSEEK_V2_GROUPS = Family(
    spec="deepseek_v2",
    settings=(
        "vocab=97",
        "width=32",
        "depth=2",
        "context=128",
        "dense=swiglu(56)",
        *LATENT,
        "sparse.experts=9 * swiglu(20)",
        "sparse.shared=swiglu(40)",
        "devices=3",
        "visited=2",
        "top6.select=groups(devices, keep = visited) -> top_k(3)",
    ),
    cls="DeepseekV2ForCausalLM",
    config_cls="DeepseekV2Config",
    config=COMMON
    | LATENT_CONFIG
    | dict(
        intermediate_size=56,
        moe_intermediate_size=20,
        first_k_dense_replace=1,
        n_routed_experts=9,
        n_shared_experts=2,
        num_experts_per_tok=3,
        topk_method="group_limited_greedy",
        n_group=3,
        topk_group=2,
        routed_scaling_factor=16.0,
        rope_parameters=YARN_DEEPSEEK | {"mscale": 0.707, "mscale_all_dim": 0.707},
    ),
)

DEEPSEEK_V3 = Family(
    spec="deepseek_v3",
    settings=(
        "vocab=97",
        "width=32",
        "depth=1",
        "context=128",
        "dense=swiglu(56)",
        *LATENT,
        "sparse.experts=12 * swiglu(20)",
        "sparse.shared=swiglu(20)",
        "limited.select=groups(4, keep = 2, rank = top(2)) -> top_k(3)",
    ),
    cls="DeepseekV3ForCausalLM",
    config_cls="DeepseekV3Config",
    config=COMMON
    | LATENT_CONFIG
    | dict(
        num_hidden_layers=4,
        intermediate_size=56,
        moe_intermediate_size=20,
        first_k_dense_replace=3,
        n_routed_experts=12,
        n_shared_experts=1,
        num_experts_per_tok=3,
        n_group=4,
        topk_group=2,
        norm_topk_prob=True,
        routed_scaling_factor=2.5,
        rope_parameters=YARN_DEEPSEEK | {"mscale": 1.0, "mscale_all_dim": 1.0},
    ),
)

KIMI = Family(
    spec="kimi_k2",
    settings=(
        "vocab=97",
        "width=32",
        "depth=2",
        "context=128",
        "dense=swiglu(56)",
        *LATENT,
        "sparse.experts=12 * swiglu(20)",
        "sparse.shared=swiglu(20)",
        "limited.select=top_k(3)",
    ),
    cls="DeepseekV3ForCausalLM",
    config_cls="DeepseekV3Config",
    config=COMMON
    | LATENT_CONFIG
    | dict(
        intermediate_size=56,
        moe_intermediate_size=20,
        first_k_dense_replace=1,
        n_routed_experts=12,
        n_shared_experts=1,
        num_experts_per_tok=3,
        n_group=1,
        topk_group=1,
        norm_topk_prob=True,
        routed_scaling_factor=2.827,
        rope_parameters=YARN_DEEPSEEK
        | {"mscale": 1.0, "mscale_all_dim": 1.0, "factor": 32.0, "rope_theta": 5e4}
        | {"beta_fast": 1.0, "beta_slow": 1.0},
    ),
)

GLM = Family(
    spec="glm_4_5_air",
    settings=(
        "vocab=97",
        "width=32",
        "depth=2",
        "context=128",
        "dense=swiglu(56)",
        "gqa.heads=4",
        "gqa.kv_heads=2",
        "gqa.head_dim=12",
        "sparse.experts=9 * swiglu(20)",
        "sparse.shared=swiglu(20)",
        "balanced.select=top_k(3)",
    ),
    cls="Glm4MoeForCausalLM",
    config_cls="Glm4MoeConfig",
    config=COMMON
    | dict(
        intermediate_size=56,
        moe_intermediate_size=20,
        first_k_dense_replace=1,
        num_key_value_heads=2,
        head_dim=12,
        attention_bias=True,
        n_routed_experts=9,
        n_shared_experts=1,
        num_experts_per_tok=3,
        n_group=1,
        topk_group=1,
        norm_topk_prob=True,
        routed_scaling_factor=1.0,
        rms_norm_eps=1e-5,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 1e6,
            "partial_rotary_factor": 0.5,
        },
    ),
)

MINIMAX = Family(
    spec="minimax_m2",
    settings=(
        "vocab=97",
        "width=32",
        "depth=3",
        "context=128",
        "gqa.heads=4",
        "gqa.kv_heads=2",
        "gqa.head_dim=12",
        "sparse.experts=9 * swiglu(20)",
        "balanced.select=top_k(3)",
    ),
    cls="MiniMaxM2ForCausalLM",
    config_cls="MiniMaxM2Config",
    config=COMMON
    | dict(
        intermediate_size=20,
        num_key_value_heads=2,
        head_dim=12,
        num_local_experts=9,
        num_experts_per_tok=3,
        rms_norm_eps=1e-6,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 5e6,
            "partial_rotary_factor": 0.5,
        },
    ),
)

# Its balance loss is compared in tests/systems/test_jetmoe.py: transformers counts each attention router twice.
JETMOE = Family(
    spec="jetmoe_8b",
    settings=(
        "vocab=97",
        "width=32",
        "depth=3",
        "context=128",
        "mixed_heads.heads=8",
        "mixed_heads.kv_heads=4",
        "mixed_heads.head_dim=8",
        "mixed_heads.asking.experts=5 * linear",
        "mixed_heads.telling.experts=5 * linear",
        "sparse.experts=5 * swiglu(48)",
    ),
    cls="JetMoeForCausalLM",
    config_cls="JetMoeConfig",
    config={k: v for k, v in COMMON.items() if k != "num_attention_heads"}
    | dict(
        tie_word_embeddings=True,
        num_key_value_heads=4,
        kv_channels=8,
        intermediate_size=48,
        num_local_experts=5,
        num_experts_per_tok=2,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        output_router_logits=True,
    ),
)

FAMILIES = (
    MIXTRAL,
    QWEN3,
    OLMOE,
    LLAMA,
    DEEPSEEK_V2,
    GPT_OSS,
    QWEN2,
    LLAMA4,
    PHI,
    GRANITE,
    DBRX,
    DEEPSEEK_V2_GROUPS,
    DEEPSEEK_V3,
    KIMI,
    GLM,
    MINIMAX,
    JETMOE,
)
