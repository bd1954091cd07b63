"""Printed runtime files look hand-written: clean for ruff, in its format, without what was not asked for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.maps import MAPS
from tests.runtime.views import PACKAGES, STATES, printed

CONFIG = Path(__file__).resolve().parent.parent / "golden_ruff.toml"
ALL = PACKAGES | {f"checkpoint {name}": {"checkpoint": view} for name, view in MAPS.items()}


def test_ruff_has_nothing_to_say(tmp_path: Path) -> None:
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent)) or shutil.which("ruff")
    if ruff is None:
        pytest.skip("ruff is not installed")
    for number, parts in enumerate(ALL.values()):
        folder = tmp_path / f"package_{number}"
        folder.mkdir()
        for name, text in printed(**parts).items():
            (folder / name).write_text(text)
    for command in (["check"], ["format", "--check", "--diff"]):
        run = subprocess.run(
            [ruff, *command, "--config", str(CONFIG), "--no-cache", str(tmp_path)],
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("name", ALL)
def test_lines_fit(name: str) -> None:
    for text in printed(**ALL[name]).values():
        assert max(map(len, text.splitlines())) <= 88
        assert text.isascii()
        assert text.endswith("\n") and not text.endswith("\n\n")


def test_what_a_spec_does_not_use_leaves_no_trace() -> None:
    plain = printed(state=STATES["mixtral"])["state.py"]
    for word in ("scale=", "dropout", "tanh", "sinks", "bias", "window", "ramp", "einsum"):
        assert word not in plain
    assert "Cache" not in printed(state=STATES["encoder"])["state.py"]
    assert "repeat_interleave" not in printed(state=STATES["multi-head"])["state.py"]
    assert set(printed(state=STATES["mixtral"])) == {"state.py"}
