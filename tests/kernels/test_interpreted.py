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
# Routes by views; what moves rows is the same for all views whose picks are absent in the same way.
ROUTED = [tuple(views.ROUTES)[start::3] for start in range(3)]
# Mixtral's stands for all whose picks are all there, and for the negative controls; plain adds the biases of experts.
MOVED = {
    "mixtral": "not test_routes",
    "plain": "test_rows",
    "loose": "test_rows or test_dispatch",
    "bounded": "test_rows or test_room or test_dispatch",
}


def interpret(names: tuple[str, ...], which: str, folder: Path) -> None:
    for name in names:
        views.write(views.view(name), folder)
    # The interpreter is chosen when a kernel is decorated, so it needs its own process.
    settings = {"TRITON_INTERPRET": "1", "MOEDSL_PRINTED": str(folder)}
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-x", "-p", "no:cacheprovider"]
    command += ["-W", "ignore", "-k", which, "tests/kernels/interpreted_cases.py"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("names", ROUTED, ids=" ".join)
def test_routes_equal_their_reference(names: tuple[str, ...], tmp_path: Path) -> None:
    interpret(names, "test_routes", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", MOVED)
def test_rows_equal_their_reference(name: str, tmp_path: Path) -> None:
    interpret((name,), MOVED[name], tmp_path)
