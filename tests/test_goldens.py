"""What each spec becomes, as folders of real files to review: the package, and the graph it was printed from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from moedsl.ir.dump import dump_graph
from tests.packages import SPECS, compiled

GOLDEN = Path(__file__).parent / "golden"
NAMES = sorted(path.stem for path in SPECS.glob("*.moe"))


@pytest.mark.parametrize("name", NAMES)
def test_golden(name, golden_dir):
    result = compiled(name)
    golden_dir(name, result.files | {"graph.txt": dump_graph(result.graph)})


def test_every_golden_has_a_spec():
    assert sorted(p.name for p in GOLDEN.iterdir()) == NAMES


@pytest.mark.parametrize("command", (["check"], ["format", "--check"]), ids=("check", "format"))
def test_goldens_are_clean(command):
    """Formatted by construction: the compiler itself runs no formatter."""
    config = GOLDEN.parent / "golden_ruff.toml"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "ruff",
            *command,
            "--no-cache",
            "--config",
            str(config),
            str(GOLDEN),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
