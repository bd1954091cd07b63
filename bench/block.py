"""A printed mixture, router to sum, against transformers' Mixtral block on a CPU: `python bench/block.py`.

512 tokens in float32, equal weights, taking turns in one process. Medians in milliseconds; a ratio above 1 says that
ours takes less time than the better of transformers' `grouped_mm` and `eager`.
"""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor, nn

import moedsl

# Width, expert width, experts, chosen.
SHAPES = {"few wide": (1024, 3584, 8, 2), "many narrow": (1024, 512, 64, 8)}
TOKENS = 512
ROUNDS = 5


def ours(width: int, inner: int, experts: int, k: int) -> nn.Module:
    model = moedsl.load(
        "specs/mixtral_8x7b.moe",
        vocab=8,
        depth=1,
        width=width,
        **{
            "gqa.kv_heads": 32,
            "sparse.experts": f"{experts} * swiglu({inner})",
            "top2.select": f"top_k({k})",
        },
    )()
    model.init_weights(seed=0)
    return model.layer[0].sparse


def theirs(block: nn.Module, implementation: str, k: int) -> nn.Module:
    """transformers' block on the very weights of ours."""
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    experts = block.experts
    config = MixtralConfig(
        hidden_size=experts.gate_up.shape[2],
        intermediate_size=experts.down.shape[2],
        num_local_experts=experts.down.shape[0],
        num_experts_per_tok=k,
    )
    config._experts_implementation = implementation
    with torch.device("meta"):
        other = MixtralSparseMoeBlock(config)
    other.gate.weight = block.router.score.weight
    other.experts.gate_up_proj, other.experts.down_proj = experts.gate_up, experts.down
    return other


def run(block: nn.Module, x: Tensor, d: Tensor | None) -> float:
    started = time.perf_counter()
    with torch.set_grad_enabled(d is not None):
        y = block(x, None) if hasattr(block, "router") else block(x)
        y = y[0] if isinstance(y, tuple) else y
    if d is not None:
        torch.autograd.grad(y, [x, *block.parameters()], d)
    return 1e3 * (time.perf_counter() - started)


def compare(shape: tuple[int, int, int, int]) -> None:
    torch.manual_seed(0)
    block = ours(*shape)
    sides = {"ours": block} | {n: theirs(block, n, shape[-1]) for n in ("grouped_mm", "eager")}
    x = torch.randn(1, TOKENS, shape[0], requires_grad=True)
    for gradient in (None, torch.randn_like(x)):
        times: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(ROUNDS + 1):
            for name, side in sides.items():
                # The eager backward takes many seconds with many experts: one tells enough.
                if not (name == "eager" and gradient is not None and turn > 1):
                    times[name].append(run(side, x, gradient))
        ms = {name: statistics.median(taken[1:]) for name, taken in times.items()}
        ratio = min(ms["grouped_mm"], ms["eager"]) / ms["ours"]
        kind = "forward" if gradient is None else "forward, backward"
        cells = " ".join(f"{name} {value:7.0f}" for name, value in ms.items())
        print(f"{shape!s:22} {kind:17} {cells}   ratio {ratio:.2f}", flush=True)


def main() -> None:
    for shape in SHAPES.values():
        compare(shape)


if __name__ == "__main__":
    main()
