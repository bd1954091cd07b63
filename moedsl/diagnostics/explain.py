"""The page of a code: what it means, a spec that fails with it, and its mend."""

from __future__ import annotations

import re
from importlib.resources import files
from importlib.resources.abc import Traversable

from moedsl.frozen import frozen

MEANS, FAILS, MEND = "## What it means", "## A spec that fails", "## The mend"
HEADINGS = (MEANS, FAILS, MEND)


@frozen
class Example:
    """The two specs of a page: the first fails with the page's code, the second does not."""

    fails: str
    mended: str


def pages() -> list[str]:
    """The codes that have a page."""
    names = (file.name for file in _folder().iterdir())
    return sorted(name.removesuffix(".md") for name in names if name.endswith(".md"))


def page(code: str) -> str | None:
    """The text of a code's page, in Markdown; None where no page has that name."""
    return (_folder() / f"{code}.md").read_text(encoding="utf-8") if code in pages() else None


def example(text: str) -> Example:
    """The specs of a page's ```moe blocks."""
    fails, mended = (block[1] for block in re.finditer(r"```moe\n(.*?)```", text, re.DOTALL))
    return Example(fails, mended)


def _folder() -> Traversable:
    return files("moedsl.diagnostics") / "explain"
