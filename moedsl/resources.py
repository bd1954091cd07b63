"""The data files that travel with moedsl: the grammar and the templates."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent
_FOLDERS = (_PACKAGE / "_data", _PACKAGE.parent)


def read_text(kind: str, name: str) -> str:
    """The text of `name` in the folder `kind`: "grammar" or "templates"."""
    return find(kind, name).read_text(encoding="utf-8")


def find(kind: str, name: str) -> Path:
    """Where it lies: in the wheel, else in the repository."""
    for folder in _FOLDERS:
        file = folder / kind / name
        if file.is_file():
            return file
    raise FileNotFoundError(f"{kind}/{name} is missing from this installation of moedsl")


def exists(kind: str, name: str) -> bool:
    return any((folder / kind / name).is_file() for folder in _FOLDERS)
