"""How long the command takes to start, whole processes from cold caches of their own: `python bench/cli.py`.

Prints the best and the median of several runs beside the target, and exits 1 where a best misses it.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = 7
SPEC = str(Path(__file__).resolve().parent.parent / "specs" / "mixtral_8x7b.moe")


def seconds(arguments: list[str]) -> list[float]:
    found = []
    for _ in range(RUNS):
        with tempfile.TemporaryDirectory() as folder:
            command = [
                sys.executable,
                "-m",
                "moedsl",
                *(a.replace("{folder}", folder) for a in arguments),
            ]
            started = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            found.append(time.perf_counter() - started)
    return found


def main() -> int:
    missed = 0
    print(f"{'command':<34} {'best':>7} {'median':>7} {'target':>7}")
    for name, arguments, target in (
        ("moedsl --help", ["--help"], 0.2),
        ("moedsl check mixtral_8x7b.moe", ["check", SPEC], 0.5),
        ("moedsl compile mixtral_8x7b.moe", ["compile", SPEC, "-o", "{folder}"], 1.0),
    ):
        times = seconds(arguments)
        missed += min(times) > target
        print(f"{name:<34} {min(times):6.3f}s {statistics.median(times):6.3f}s {target:6.1f}s")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
