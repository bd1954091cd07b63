"""Every kernel compiles for the GPUs we name, without a spill and within their shared memory."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
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


def usage(name: str, target: str, folder: Path) -> list[dict]:
    """What the kernels of a view use on a target; remembered by content and Triton version."""
    package = views.write(views.view(name), folder)
    content = [file.read_text() for file in (package / "kernels.py", *SCRIPTS)]
    key = hashlib.sha256(repr((content, triton.__version__)).encode()).hexdigest()[:16]
    file = CACHE / f"{name}-{target}-{key}.jsonl"
    if not file.exists():
        command = [sys.executable, "-m", "tests.kernels.compile_cases", target, str(package)]
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


def check(name: str, target: str, folder: Path) -> None:
    kernels = usage(name, target, folder)
    assert len(kernels) >= 6
    for kernel in kernels:
        assert kernel["spilled"] == 0, kernel
        assert kernel["shared"] <= SHARED[target], kernel


@pytest.mark.parametrize("target", SHARED)
def test_compiles(target: str, tmp_path: Path) -> None:
    check("deepseek", target, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("target", SHARED)
@pytest.mark.parametrize("name", [name for name in views.ROUTES if name != "deepseek"])
def test_every_view_compiles(name: str, target: str, tmp_path: Path) -> None:
    check(name, target, tmp_path)
