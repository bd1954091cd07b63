"""The fixture itself: missing, changed and left-over files fail; updating mends them; CI refuses to update."""

from __future__ import annotations

import pytest

from tests import conftest
from tests.conftest import compare_file, compare_folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(conftest, "TESTS", tmp_path)
    compare_folder(tmp_path / "tiny", {"a.py": "a\n", "b/c.py": "c\r\n"}, update=True)
    return tmp_path / "tiny"


def test_equal_folders_pass(folder):
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "a.pyc").touch()
    compare_folder(folder, {"a.py": "a\n", "b/c.py": "c\r\n"}, update=False)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"a.py": "a\n"}, "left over"),
        ({"a.py": "a\n", "b/c.py": "c\n"}, "differs"),
        ({"a.py": "a\n", "b/c.py": "c\r\n", "d.py": ""}, "missing"),
    ],
)
def test_unequal_folders_fail_until_updated(folder, files, says):
    with pytest.raises(AssertionError, match=says):
        compare_folder(folder, files, update=False)
    compare_folder(folder, files, update=True)
    compare_folder(folder, files, update=False)


def test_missing_file_fails(folder):
    with pytest.raises(AssertionError, match="--update-golden"):
        compare_file(folder / "none.txt", "", update=False)


def test_ci_refuses_to_update(monkeypatch, pytestconfig):
    class Updating:
        def getoption(self, name: str) -> bool:
            return name == "--update-golden"

    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.UsageError):
        conftest.pytest_configure(Updating())
    monkeypatch.delenv("CI")
    conftest.pytest_configure(Updating())
