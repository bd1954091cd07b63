"""Our experts against those of transformers on a CPU, in one run, interleaved: `python bench/experts.py`.

Two shapes of SwiGLU experts at 512 rows, float32: few wide experts (Mixtral's kind) and many narrow
ones. All sides share weights, rows, choices and gradients. Medians in milliseconds; a ratio above 1
says that ours takes less time than the better of the other two.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import routing as bench_routing
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Width, expert width, experts, chosen.
SHAPES = {"few wide": (1024, 3584, 8, 2), "many narrow": (1024, 512, 64, 8)}
ROWS = 512
ROUNDS = 7


def weights(width: int, inner: int, experts: int) -> tuple[nn.Parameter, nn.Parameter]:
    gate_up = torch.randn(experts, 2 * inner, width) / width**0.5
    return nn.Parameter(gate_up), nn.Parameter(torch.randn(experts, width, inner) / inner**0.5)


def ours(folder: Path, gate_up: Tensor, down: Tensor) -> Callable:
    routing = bench_routing.load(folder, "mixtral_8x7b")
    linear = bench_routing.load(folder, "mixtral_8x7b", "experts").grouped_linear

    def step(x: Tensor, expert: Tensor, weight: Tensor) -> Tensor:
        plan = routing.dispatch(expert, gate_up.shape[0])
        gate, up = linear(routing.gather_rows(x, plan), gate_up, plan).chunk(2, -1)
        return routing.combine(linear(F.silu(gate) * up, down, plan), weight, plan)

    return step


def theirs(implementation: str, gate_up: nn.Parameter, down: nn.Parameter, k: int) -> nn.Module:
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralExperts

    config = MixtralConfig(
        hidden_size=gate_up.shape[2],
        intermediate_size=down.shape[2],
        num_local_experts=gate_up.shape[0],
        num_experts_per_tok=k,
    )
    config._experts_implementation = implementation
    with torch.device("meta"):
        experts = MixtralExperts(config)
    experts.gate_up_proj, experts.down_proj = gate_up, down
    return experts


def seconds(step: Callable, backward: bool, inputs: tuple, wanted: tuple, d: Tensor) -> float:
    start = time.perf_counter()
    with torch.set_grad_enabled(backward):
        y = step(*inputs)
    if backward:
        torch.autograd.grad(y, wanted, d)
    return time.perf_counter() - start


def compare(folder: Path, shape: tuple[int, int, int, int]) -> dict[bool, dict[str, float]]:
    """Medians by side, for the forward alone and with the backward."""
    torch.manual_seed(0)
    width, inner, experts, k = shape
    gate_up, down = weights(width, inner, experts)
    x = torch.randn(ROWS, width, requires_grad=True)
    weight, expert = torch.randn(ROWS, experts).softmax(-1).topk(k)
    inputs = (x, expert, weight.requires_grad_())
    sides = {
        "ours": ours(folder, gate_up, down),
        "grouped_mm": theirs("grouped_mm", gate_up, down, k),
        "eager": theirs("eager", gate_up, down, k),
    }
    outputs = [step(*inputs) for step in sides.values()]
    for y in outputs:
        torch.testing.assert_close(y, outputs[-1], rtol=1e-4, atol=1e-4)
    d = torch.randn_like(x)
    return {
        backward: interleaved(sides, backward, inputs, (x, weight, gate_up, down), d)
        for backward in (False, True)
    }


def interleaved(
    sides: dict, backward: bool, inputs: tuple, wanted: tuple, d: Tensor
) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(ROUNDS):
        for name, step in sides.items():
            # The eager backward takes many seconds with many experts: two rounds tell enough.
            if not (name == "eager" and backward and i > 1):
                times[name].append(seconds(step, backward, inputs, wanted, d))
    return {name: 1e3 * statistics.median(taken) for name, taken in times.items()}


def main() -> None:
    print(f"{'shape':12} {'pass':17} {'ours':>7} {'grouped_mm':>11} {'eager':>8} {'ratio':>6}   ms")
    with tempfile.TemporaryDirectory() as folder:
        bench_routing.print_packages(Path(folder))
        for name, shape in SHAPES.items():
            for backward, ms in compare(Path(folder), shape).items():
                ratio = min(ms["grouped_mm"], ms["eager"]) / ms["ours"]
                kind = "forward, backward" if backward else "forward"
                print(
                    f"{name:12} {kind:17} {ms['ours']:7.0f} {ms['grouped_mm']:11.0f} {ms['eager']:8.0f} {ratio:6.2f}"
                )


if __name__ == "__main__":
    main()
