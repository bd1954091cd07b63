"""Whole mixtures on a GPU, for gpu.py: printed experts against those of transformers, bf16, in one run.

Ours: dispatch, gather, torch's grouped_mm, SwiGLU, combine. The others: `grouped_mm` and the loop
`eager`, as transformers runs them. All share weights, rows, choices and gradients, and take turns.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

import experts as bench_experts
import routing as bench_routing
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Package whose operators serve, rows, width, expert width, experts, chosen.
SHAPES = {
    "Mixtral 8x7B": ("mixtral_8x7b", 4096, 4096, 14336, 8, 2),
    "Qwen3 30B-A3B": ("qwen3_30b_a3b", 8192, 2048, 768, 128, 8),
}
ROUNDS = 10


def ours(folder: Path, package: str, gate_up: Tensor, down: Tensor) -> Callable:
    routing = bench_routing.load(folder, package)
    linear = bench_routing.load(folder, package, "experts").grouped_linear

    def step(x: Tensor, expert: Tensor, weight: Tensor) -> Tensor:
        plan = routing.dispatch(expert, gate_up.shape[0])
        gate, up = linear(routing.gather_rows(x, plan), gate_up, plan).chunk(2, -1)
        return routing.combine(linear(F.silu(gate) * up, down, plan), weight, plan)

    return step


def milliseconds(run: Callable[[], object]) -> float:
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    stop.record()
    torch.cuda.synchronize()
    return start.elapsed_time(stop)


def compare(folder: Path, name: str) -> dict:
    package, rows, width, inner, experts, k = SHAPES[name]
    torch.manual_seed(0)
    half = {"device": "cuda", "dtype": torch.bfloat16}
    gate_up = nn.Parameter(torch.randn(experts, 2 * inner, width, **half) / width**0.5)
    down = nn.Parameter(torch.randn(experts, width, inner, **half) / inner**0.5)
    x = torch.randn(rows, width, **half, requires_grad=True)
    weight, expert = torch.randn(rows, experts, device="cuda").softmax(-1).topk(k)
    weight = (weight / weight.sum(-1, keepdim=True)).to(torch.bfloat16).requires_grad_()
    sides = {
        "ours": ours(folder, package, gate_up, down),
        "grouped_mm": bench_experts.theirs("grouped_mm", gate_up, down, k),
        "eager": bench_experts.theirs("eager", gate_up, down, k),
    }
    wanted, d = (x, weight, gate_up, down), torch.randn(rows, width, **half)

    def forward(side: str) -> Tensor:
        with torch.no_grad():
            return sides[side](x, expert, weight)

    def both(side: str) -> tuple[Tensor, ...]:
        return torch.autograd.grad(sides[side](x, expert, weight), wanted, d)

    outputs = {side: [forward(side), *both(side)] for side in sides}
    line: dict = {"rows": rows, "width": width, "inner": inner, "experts": experts, "chosen": k}
    line["difference"] = {
        side: max(
            ((a.float() - b.float()).norm() / b.float().norm()).item()
            for a, b in zip(outputs[side], outputs["eager"], strict=True)
        )
        for side in ("ours", "grouped_mm")
    }
    assert max(line["difference"].values()) < 3e-2, line["difference"]
    del outputs
    for kind, run in (("forward", forward), ("forward_backward", both)):
        times: dict[str, list[float]] = {side: [] for side in sides}
        for i in range(ROUNDS):
            for side in sides:
                # The loop takes its time; three rounds tell enough.
                if side == "eager" and i > 2:
                    continue
                times[side].append(milliseconds(lambda s=side, r=run: r(s)))
        medians = {side: statistics.median(taken[1:]) for side, taken in times.items()}
        line[f"{kind}_ms"] = medians
        line[f"{kind}_ratio"] = {s: medians[s] / medians["ours"] for s in sides if s != "ours"}
    for side in sides:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        both(side)
        line.setdefault("peak_mb", {})[side] = (torch.cuda.max_memory_allocated() - before) / 2**20
    return line
