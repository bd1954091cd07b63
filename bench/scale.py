"""Does the compiler's time grow linearly? `python bench/scale.py` prints seconds of processor time for growing depth
and length."""

from __future__ import annotations

import time
from pathlib import Path

import moedsl.pipeline
from moedsl.source import Source

SPEC = (Path(__file__).parent.parent / "specs" / "tiny.moe").read_text()


def deep(layers: int) -> str:
    return SPEC.replace("2 * layer", f"{layers} * layer")


def varied(layers: int) -> str:
    """Every layer with an expert count of its own."""
    text = SPEC.replace("experts = 4 * swiglu(96)", "experts = (index + 4) * swiglu(96)")
    return text.replace("2 * layer", f"{layers} * layer")


def long(lines: int) -> str:
    """Recipes of five lines each, every one of them used in turn."""
    count = lines // 5
    norms = "\n".join(
        f"  ffn f{i} = swiglu({32 + i % 7})\n  block b{i} {{\n    x += f{i}(before_ffn(x))\n  }}\n"
        for i in range(count)
    )
    flow = "\n                  ".join(f"-> b{i}" for i in range(count))
    text = SPEC.replace("  input  tokens", f"{norms}\n  input  tokens")
    return text.replace("-> 2 * layer", f"-> 2 * layer {flow}")


def seconds(text: str, stage) -> float:
    started = time.process_time()
    result = stage(Source(text, "scale.moe"))
    assert result.ok, [d.message for d in result.diagnostics][:3]
    return time.process_time() - started


def main() -> None:
    seconds(SPEC, moedsl.pipeline.compile)  # imports
    for name, make, sizes in (
        ("equal layers", deep, (50, 200, 800)),
        ("layers that differ", varied, (50, 200, 800)),
        ("lines", long, (2_500, 5_000, 10_000)),
    ):
        for size in sizes:
            text = make(size)
            check = seconds(text, moedsl.pipeline.check)
            print(
                f"{name:20} {size:6}  {text.count(chr(10)):6} lines  check {check:6.2f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
