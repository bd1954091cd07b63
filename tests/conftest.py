"""Goldens: what a test expects, as real files to review in a diff.

`--update-golden` writes them, and is refused where CI is set. A file that is missing or left over fails.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests import agree

# One worker a core: threads of torch's own would only take turns. Set before torch is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

TESTS = Path(__file__).parent
HINT = "run pytest with --update-golden and review the change"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write goldens instead of comparing"
    )
    parser.addoption("--errors", metavar="FILE", help="note how far systems are from their oracles")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--errors"):
        agree.FILE[:] = [Path(config.getoption("--errors")).absolute()]
    if config.getoption("--update-golden") and os.environ.get("CI"):
        raise pytest.UsageError(
            "--update-golden is refused in CI: goldens are reviewed where they change"
        )


@pytest.fixture
def updates_golden(request: pytest.FixtureRequest) -> bool:
    return request.config.getoption("--update-golden")


@pytest.fixture
def golden(updates_golden: bool) -> Callable[[str, str], None]:
    """`golden("diagnostics/snapshots/E0101.txt", text)`: the file below tests/ holds exactly this text."""

    def compare(path_name: str, text: str) -> None:
        compare_file(TESTS / path_name, text, updates_golden)

    return compare


@pytest.fixture
def golden_dir(updates_golden: bool) -> Callable[[str, Mapping[str, str]], None]:
    """`golden_dir("tiny", {"model.py": text})`: the folder tests/golden/tiny/ holds these files and no others."""

    def compare(name: str, files: Mapping[str, str]) -> None:
        compare_folder(TESTS / "golden" / name, files, updates_golden)

    return compare


def compare_file(path: Path, text: str, update: bool) -> None:
    if update:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    assert path.is_file(), f"{path.relative_to(TESTS)} is missing: {HINT}"
    assert text == path.read_bytes().decode(), f"{path.relative_to(TESTS)} differs: {HINT}"


def compare_folder(folder: Path, files: Mapping[str, str], update: bool) -> None:
    extra = sorted(present(folder) - files.keys())
    if update:
        for name in extra:
            (folder / name).unlink()
        extra = []
    for name in sorted(files):
        compare_file(folder / name, files[name], update)
    assert not extra, f"left over in {folder.relative_to(TESTS)}: {', '.join(extra)}: {HINT}"


def present(folder: Path) -> set[str]:
    """The files below a folder, by path; what running them leaves behind does not count."""
    files = (
        path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    )
    return {path.relative_to(folder).as_posix() for path in files}
