"""What the documents show is run.

A fence's language says how: `sh` commands run and succeed; `python` runs; `moe` compiles without findings. A word after
the language says more: `moe tiny.moe` keeps the spec under that name for later fences of the page; `python
tiny/model.py` must be part of that printed file, line by line; `console` shows what a command prints.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import moedsl
from moedsl import Source

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)[ ]?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"}


class Block(NamedTuple):
    page: str
    language: str
    word: str
    text: str


BLOCKS = [
    Block(page.name, *match.groups())
    for page in PAGES
    if page.name != "architecture.md"
    for match in FENCE.finditer(page.read_text())
]


def named(*languages):
    chosen = [b for b in BLOCKS if b.language in languages]
    return pytest.mark.parametrize(
        "block", chosen, ids=[f"{b.page}-{i}" for i, b in enumerate(chosen)]
    )


def specs_of(page: str) -> dict[str, str]:
    return {b.word: b.text for b in BLOCKS if b.page == page and b.language == "moe" and b.word}


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder in which the documents' relative paths are right and nothing they write stays."""
    shutil.copytree(ROOT / "specs", tmp_path / "specs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_fence_is_of_a_known_language():
    assert BLOCKS
    assert {b.language for b in BLOCKS} <= {"sh", "python", "moe", "console"}


@named("moe")
def test_specs_compile(block):
    files = specs_of(block.page)
    result = moedsl.compile(Source(block.text, block.word or "spec.moe", files))
    assert not result.diagnostics, [f"{d.code}: {d.message}" for d in result.diagnostics]


@named("python")
def test_python(block, desk):
    if block.word:
        name, file = block.word.split("/")
        spec = specs_of(block.page)[f"{name}.moe"]
        printed = moedsl.compile(Source(spec, f"{name}.moe")).files
        text = next(text for path, text in printed.items() if path.endswith(file))
        for part in block.text.split("\n...\n"):
            assert part.strip("\n") in text, part
        return
    pytest.importorskip("torch")
    for name, spec in specs_of(block.page).items():
        (desk / name).write_text(spec)
    done = subprocess.run(
        [sys.executable, "-c", block.text], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@named("sh", "console")
def test_commands(block, desk):
    for name, spec in specs_of(block.page).items():
        (desk / name).write_text(spec)
    for line in commands(block):
        run(line, expected=output_of(block) if block.language == "console" else None)


def commands(block: Block) -> list[str]:
    """The lines of a shell block, continued ones joined; those after `$` where output is shown too."""
    text = block.text.replace("\\\n", "")
    lines = [line.strip() for line in text.splitlines()]
    if block.language == "console":
        return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [line.partition("#")[0].strip() for line in lines if line and not line.startswith("#")]


def output_of(block: Block) -> str:
    return "".join(
        line for line in block.text.splitlines(keepends=True) if not line.startswith("$ ")
    )


def run(line: str, expected: str | None) -> None:
    words = shlex.split(line)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
        return
    assert words[0] == "moedsl", f"what is {words[0]}?"
    done = subprocess.run(
        [sys.executable, "-m", *words], env=ENVIRONMENT, capture_output=True, text=True
    )
    if expected is None:
        assert done.returncode == 0, done.stdout + done.stderr
        return
    said = [row.rstrip() for row in (done.stdout + done.stderr).strip().splitlines()]
    assert said == [row.rstrip() for row in expected.strip().splitlines()]


def test_files_that_pages_name_are_there():
    """Links and paths in code marks."""
    for page in PAGES:
        text = page.read_text()
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_traps_are_held_by_tests_that_are_there():
    """Each line of docs/traps.md names tests."""
    text = (ROOT / "docs" / "traps.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and "::" in line]
    assert len(rows) >= 39
    for row in rows:
        for name in row.rsplit("|", 2)[1].split(","):
            file, _, test = name.strip().partition("::")
            path = ROOT / file.replace("S/", "tests/systems/").replace("P/", "tests/parity/")
            assert f"def {test}(" in path.read_text(), name
