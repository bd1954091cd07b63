"""The wheel, installed where nothing else is: the compiler works without torch, from any folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow


def run(*command, cwd=None):
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # The build backend is there already (extra `dev`): isolation would only fetch it again.
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        folder,
        ROOT,
    )
    (found,) = folder.glob("moedsl-*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The scripts folder of an environment with moedsl and what it asks for."""
    home = tmp_path_factory.mktemp("home") / "venv"
    run(sys.executable, "-m", "venv", home)
    run(home / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check", wheel)
    return home / "bin"


def test_the_wheel_holds_grammar_templates_and_pages(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("grammar", "templates"):
        files = {
            p.relative_to(ROOT).as_posix()
            for p in (ROOT / folder).rglob("*")
            if p.is_file() and p.parent.name != "__pycache__"
        }
        assert files and files <= {n.removeprefix("moedsl/_data/") for n in names}
    assert any(n.startswith("moedsl/diagnostics/explain/E") for n in names)


def test_it_compiles_from_another_folder_without_torch(installed, tmp_path):
    assert "torch" not in run(installed / "python", "-m", "pip", "list")
    (tmp_path / "mine.moe").write_text((ROOT / "specs" / "tiny.moe").read_text())
    run(installed / "moedsl", "compile", "mine.moe", "-o", "out", cwd=tmp_path)
    printed = {
        p.relative_to(tmp_path / "out").as_posix()
        for p in (tmp_path / "out").rglob("*")
        if p.is_file()
    }
    assert {"tiny/__init__.py", "tiny/model.py", "tiny/routing.py"} <= printed
    assert (
        run(installed / "moedsl", "compile", "mine.moe", "-o", "out", "--check", cwd=tmp_path) == ""
    )


def test_every_command_works_there(installed, tmp_path):
    spec = ROOT / "specs" / "tiny.moe"
    assert (
        json.loads(run(installed / "moedsl", "info", spec, "--json", cwd=tmp_path))["parameters"][
            "total"
        ]
        > 0
    )
    assert run(installed / "moedsl", "check", spec, cwd=tmp_path) == ""
    assert "swiglu" in run(installed / "moedsl", "kinds", cwd=tmp_path)
    for stage in ("ast", "model", "graph", "plan"):
        assert run(installed / "moedsl", "emit", spec, "--stage", stage, cwd=tmp_path)


def test_a_trial_without_torch_says_what_to_install(installed, tmp_path):
    done = subprocess.run(
        [installed / "moedsl", "try", ROOT / "specs" / "tiny.moe"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "moedsl[torch]" in done.stderr
