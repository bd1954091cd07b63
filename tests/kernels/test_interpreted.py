"""The Triton kernels equal their reference under the interpreter, values and gradients."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels import views

pytest.importorskip("triton")
ROOT = Path(__file__).resolve().parents[2]
FEW = ("mixtral", "deepseek", "grouped_unevenly", "loose")


def interpret(names: tuple[str, ...], folder: Path) -> None:
    for name in names:
        views.write(views.view(name), folder)
    # The interpreter is chosen when a kernel is decorated, so it needs its own process.
    settings = {"TRITON_INTERPRET": "1", "MOEDSL_PRINTED": str(folder)}
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-x", "-p", "no:cacheprovider"]
    command += ["-W", "ignore", "tests/kernels/interpreted_cases.py"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_kernels_equal_their_reference(tmp_path: Path) -> None:
    interpret(FEW, tmp_path)


@pytest.mark.slow
def test_all_kernels_equal_their_reference(tmp_path: Path) -> None:
    interpret(
        tuple(name for name in views.ROUTES if name not in FEW or name == "mixtral"), tmp_path
    )
