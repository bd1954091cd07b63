"""The kernels on this machine's GPU, from packages that were printed before: needs torch, Triton and pytest alone.

python bench/gpu.py build/gpu --print                                            # where moedsl is
python -m pytest -m gpu --noconftest -o addopts= tests/kernels/test_gpu.py       # where the GPU is
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from tests.kernels import agree  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("MOEDSL_PRINTED", ROOT / "build" / "gpu" / "kernels"))
PACKAGES = sorted(path.parent for path in FOLDER.glob("*/view.json"))
# The interpreter stands in for a GPU where one asks for it.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = (torch.bfloat16, torch.float32, torch.float16)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not (INTERPRETED or torch.cuda.is_available()), reason="no GPU"),
]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_agrees(package: Path, dtype: torch.dtype) -> None:
    agree.check(package, dtype, DEVICE)


@pytest.mark.parametrize("package", agree.kinds_of_picks(PACKAGES), ids=lambda path: path.name)
def test_dispatch(package: Path) -> None:
    agree.check_dispatch(package, DEVICE)
