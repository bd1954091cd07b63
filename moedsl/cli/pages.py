"""The pages behind diagnostics' codes, as files of the package."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable


def codes() -> list[str]:
    return sorted(file.name.removesuffix(".md") for file in _folder().iterdir() if file.name.endswith(".md"))


def page(code: str) -> str | None:
    return (_folder() / f"{code}.md").read_text(encoding="utf-8") if code in codes() else None


def _folder() -> Traversable:
    return files("moedsl.diagnostics") / "explain"
