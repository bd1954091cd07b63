"""Every kernel compiles for the GPUs we name, without a spill and within their shared memory."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.kernels import views

triton = pytest.importorskip("triton")
pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "kernels"
# Bytes a block may hold: 8.6 and 8.9 class cards have the least among NVIDIA's.
SHARED = {"sm_80": 101376, "sm_90": 101376, "sm_100": 101376, "gfx942": 65536}
SCRIPTS = [Path(__file__).with_name(name) for name in ("compile_cases.py", "agree.py")]


def usage(target: str, folder: Path) -> list[dict]:
    """What the kernels of all views use on a target; remembered by content and Triton version."""
    packages = [views.write(views.view(name), folder) for name in views.ROUTES]
    content = [file.read_text() for file in (*(p / "kernels.py" for p in packages), *SCRIPTS)]
    key = hashlib.sha256(repr((content, triton.__version__)).encode()).hexdigest()[:16]
    file = CACHE / f"{target}-{key}.jsonl"
    if not file.exists():
        command = [sys.executable, "-m", "tests.kernels.compile_cases", target, *map(str, packages)]
        settings = {"TRITON_CACHE_DIR": str(folder / "triton"), "TRITON_INTERPRET": "0"}
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | settings,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        CACHE.mkdir(parents=True, exist_ok=True)
        file.with_suffix(".part").write_text(done.stdout)
        file.with_suffix(".part").rename(file)
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("target", SHARED)
def test_every_kernel_compiles(target: str, tmp_path: Path) -> None:
    kernels = usage(target, tmp_path)
    found = Counter(kernel["package"] for kernel in kernels)
    assert found.keys() == {views.view(name).package for name in views.ROUTES}
    assert min(found.values()) >= 6
    for kernel in kernels:
        assert kernel["spilled"] == 0, kernel
        assert kernel["shared"] <= SHARED[target], kernel
