"""Correctness, then speed, of printed routing and experts on this machine's GPU: `python bench/gpu.py build/gpu`.

Where moedsl can be imported its packages are printed first (`--print` stops there), so that the GPU
machine itself needs torch, Triton and the folder, and no network. Parts run with the worst risks
first, each within its minutes; every finding is a JSON line, written as it comes.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import gpu_experts
import models as bench_models
import routing as bench_routing
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.kernels import agree  # noqa: E402

MINUTES = 9
DTYPES = (torch.bfloat16, torch.float32, torch.float16)
ROWS = (16, 64, 256, 1024, 4096, 8192, 16384, 32768)


def print_packages(folder: Path) -> None:
    from tests.kernels import views

    for name in views.ROUTES:
        views.write(views.view(name), folder)
    bench_routing.print_packages(folder)
    (folder / "commit.txt").write_text(commit())


def commit() -> str:
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def machine(folder: Path, device: str) -> dict:
    import triton

    stamp = folder / "commit.txt"
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu, interpreted",
        "torch": torch.__version__,
        "triton": triton.__version__,
        "commit": stamp.read_text() if stamp.exists() else commit(),
    }


class Results:
    """JSON lines in a file and on the screen; remembers whether anything failed."""

    def __init__(self, file: Path, common: dict) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self.file, self.common, self.failures = file, common, 0

    def add(self, part: str, **line: object) -> None:
        self.failures += line["ok"] is False
        text = json.dumps({"part": part, **line, **self.common})
        with self.file.open("a") as out:
            out.write(text + "\n")
        print(text, flush=True)


def attempt(case: str, run: Callable[[], dict | None]) -> dict:
    """One case; a failure is a line like any other, and the next case still runs."""
    start = time.perf_counter()
    try:
        found = run() or {}
        return {"case": case, "ok": True, "seconds": round(time.perf_counter() - start, 2), **found}
    except Exception as error:
        tail = traceback.format_exc(limit=-3)[-1500:]
        return {
            "case": case,
            "ok": False,
            "error": f"{type(error).__name__}: {error}"[:1500],
            "trace": tail,
        }


def attempt_at(part: str, folder: Path, device: str, index: int) -> dict:
    """A case by its place, in a process of its own."""
    return attempt(*list(PARTS[part](folder, device))[index])


def lines(part: str, folder: Path, device: str) -> Iterator[dict]:
    """What becomes of the cases of a part; those that only compile and compare run side by side."""
    cases = list(PARTS[part](folder, device))
    if part != "correctness" or device == "cpu":
        for case, run in cases:
            yield attempt(case, run)
        return
    workers = min(12, os.cpu_count() or 1)
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        work = functools.partial(attempt_at, part, folder, device)
        yield from pool.imap(work, range(len(cases)))


def packages(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("*/view.json"))


def correctness(folder: Path, device: str) -> Iterator[tuple[str, Callable]]:
    """Real sizes and whole layers first; then every kernel against its reference, bf16 first."""
    for name in bench_routing.MODELS:
        yield f"{name} layer", lambda n=name: layer(folder, n, device)
        yield f"{name} large", lambda n=name: large(folder, n, device)
    for package in agree.kinds_of_picks(packages(folder)):
        yield f"{package.name} dispatch", lambda p=package: agree.check_dispatch(p, device)
    for dtype in DTYPES:
        for package in packages(folder):
            yield f"{package.name} {dtype}", lambda p=package, t=dtype: agree.check(p, t, device)


def large(folder: Path, name: str, device: str, rows: int = 16384) -> dict:
    """Choices and order at full size, twice, bit for bit."""
    rows = rows if device == "cuda" else 40
    torch.manual_seed(0)
    logits = torch.randn(rows, bench_routing.MODELS[name][0], device=device)
    step = bench_routing.ours(folder, name, logits)
    (routed, plan), (again, plan_again) = step(), step()
    for a, b in zip((*routed, *plan), (*again, *plan_again), strict=True):
        assert torch.equal(a, b), "two runs differ"
    reference = bench_routing.load(folder, name, "reference")
    expected = reference.dispatch(routed.expert_NK, logits.shape[1])
    for a, b in zip(plan, expected, strict=True):
        assert torch.equal(a, b), "dispatch differs from its reference"
    bias = (
        (torch.zeros(logits.shape[1], device=device),)
        if bench_routing.MODELS[name][2] == "sigmoid"
        else ()
    )
    weight, expert, choices, probability = reference.route_sparse(logits, *bias, None, 1)
    # Sigmoids that differ in their last bit may trade places.
    same = (expert == routed.expert_NK).float().mean().item()
    assert same > 0.9999, f"only {same} of choices agree"
    counted = routed.choices_SE - choices
    assert counted.abs().sum() <= 2 * (expert != routed.expert_NK).sum(), "choices are miscounted"
    errors = {
        "weight_error": relative(routed.weight_NK, weight),
        "probability_error": relative(routed.probability_SE, probability),
    }
    assert max(errors.values()) < 1e-5, errors
    return {"rows": rows, "same_choices": same, **errors}


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-30)).item()


def layer(folder: Path, name: str, device: str) -> dict:
    """A whole layer forward and backward against float64 on the CPU, without a host sync."""
    experts, _, score, _ = bench_routing.MODELS[name]
    routing, linear = (
        bench_routing.load(folder, name),
        bench_routing.load(folder, name, "experts").grouped_linear,
    )
    rows, width, inner = (512, 256, 128) if device == "cuda" else (24, 32, 16)
    torch.manual_seed(0)
    shapes = ((rows, width), (rows, experts), (experts, 2 * inner, width), (experts, width, inner))
    values = [torch.randn(shape) / (shape[-1] ** 0.5 if len(shape) == 3 else 1) for shape in shapes]

    def leaves(where: str, dtype: torch.dtype) -> list[torch.Tensor]:
        return [v.to(torch.bfloat16).to(where, dtype).requires_grad_() for v in values]

    def run(x: torch.Tensor, z: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor) -> list:
        bias = (torch.zeros(experts, device=z.device),) if score == "sigmoid" else ()
        routed = routing.route_sparse(z, *bias)
        plan = routing.dispatch(routed.expert_NK, experts)
        gate, up = linear(routing.gather_rows(x, plan), gate_up, plan).chunk(2, -1)
        y = routing.combine(linear(F.silu(gate) * up, down, plan), routed.weight_NK, plan)
        loss = (y * y).sum() + routed.probability_SE.square().sum()
        return [y, *torch.autograd.grad(loss, (x, z, gate_up, down))]

    expected = run(*leaves("cpu", torch.float64))
    # To copy from the CPU waits for it: only what the package does may not.
    inputs = leaves(device, torch.bfloat16 if device == "cuda" else torch.float32)
    if device == "cuda":
        run(*inputs)
        torch.cuda.set_sync_debug_mode("error")
    try:
        found = run(*inputs)
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    labels = ("y", "dx", "dz", "dgate_up", "ddown")
    errors = {n: relative(a.cpu(), b) for n, a, b in zip(labels, found, expected, strict=True)}
    assert max(errors.values()) < 2e-2, errors
    return {"errors": errors}


def speed(folder: Path, device: str) -> Iterator[tuple[str, Callable]]:
    for rows in ROWS if device == "cuda" else (16,):
        for name in bench_routing.MODELS:
            yield (
                f"{name} {rows}",
                lambda n=name, r=rows: bench_routing.compare(folder, n, r, device, 0.25),
            )


def models(folder: Path, device: str) -> Iterator[tuple[str, Callable]]:
    """Whole models: see bench/models.py."""
    return bench_models.cases(folder.parent / "models", device)


def whole_layers(folder: Path, device: str) -> Iterator[tuple[str, Callable]]:
    """Whole mixtures: see bench/gpu_experts.py."""
    for name in gpu_experts.SHAPES if device == "cuda" else ():
        yield name, lambda n=name: gpu_experts.compare(folder, n)


PARTS = {
    "correctness": correctness,
    "models": models,
    "routing": speed,
    "experts": whole_layers,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where packages are printed")
    parser.add_argument("--print", action="store_true", help="only print the packages")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part")
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    options = parser.parse_args()
    folder = options.folder / "kernels"
    try:
        import small
    except ImportError:
        print(f"moedsl is not here; using what {folder} holds")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        print_packages(folder)
        small.print_packages(folder.parent / "models")
    if options.print:
        return 0
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and bench_routing.load(folder, "mixtral_8x7b").FUSED is None:
        print("No GPU here. TRITON_INTERPRET=1 runs the same checks, small, under the interpreter.")
        return 0
    common = machine(folder, device)
    results = Results(options.results / f"gpu-{common['commit'] or 'unknown'}.jsonl", common)
    # An interpreter takes too long for whole models, unless they are asked for.
    for part in options.part or (PARTS if device == "cuda" else ("correctness", "routing")):
        stop = time.monotonic() + 60 * MINUTES
        for line in lines(part, folder, device):
            results.add(part, **line)
            if time.monotonic() > stop:
                results.add(part, case="the rest", ok=None, error="the part's minutes are over")
                break
    print(f"{results.failures} failures; {results.file}")
    return 1 if results.failures else 0


if __name__ == "__main__":
    sys.exit(main())
