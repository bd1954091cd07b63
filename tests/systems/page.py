"""docs/systems.md, made from docs/systems/*.toml and the specs: `page()` is its text."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

import moedsl.pipeline
from moedsl.ir.walk import recipes
from tests.packages import ROOT, source

TABLES, PAGE = ROOT / "docs" / "systems", ROOT / "docs" / "systems.md"
KINDS = (
    "router",
    "select",
    "loss",
    "noise",
    "correction",
    "capacity",
    "moe",
    "attention",
    "input",
    "block",
    "rule",
)
HEAD = """# Systems

Published mixture-of-experts systems as specs, each held against an implementation that is not ours, or against its
formula written out in a test. Made from [systems/](systems) and `specs/` by `make golden`. The largest error is what the
tests saw, of values and of gradients: |ours - theirs| / |theirs| by the Euclidean norm, the largest of all tensors that
were compared; some 1e-7 is float32, some 1e-16 float64. `make errors` measures anew.

| system | spec | what it is made of | held against | largest error seen |
|---|---|---|---|---|
"""


def systems() -> list[dict[str, Any]]:
    """One file for each system, called like its spec; in the order of their titles."""
    found = [
        {"spec": file.stem, **tomllib.loads(file.read_text())}
        for file in sorted(TABLES.glob("*.toml"))
    ]
    return sorted(found, key=lambda each: each["title"].lower())


def constructs(name: str) -> list[str]:
    """The constructs that the spec uses beyond what every model has, in order of name."""
    from moedsl.constructs.registry import constructs as registry

    model = moedsl.pipeline.check(source(name)).model
    known = registry()
    found = {recipe.construct for recipe in recipes(model)} - {"block"}
    return sorted(each for each in found if known[each].kind in KINDS and each not in PLAIN)


PLAIN = ("router", "ids")


def page() -> str:
    return HEAD + "".join(rows()) + "".join(sections())


def rows() -> Iterator[str]:
    for each in systems():
        spec, made = each["spec"], ", ".join(f"`{name}`" for name in constructs(each["spec"]))
        yield (
            f"| [{each['title']}](#{spec}) | [{spec}](../specs/{spec}.moe) | {made} | {each['oracle']} "
            f"| {each['largest_error']} |\n"
        )


def sections() -> Iterator[str]:
    for each in systems():
        yield (
            f"\n## {each['spec']}\n\n{each['title']}. Compared: {each['compared']}, with {each['oracle']} "
            f"([{each['test']}](../{each['test']})).\n"
        )
        if each.get("notes"):
            yield f"\n{each['notes']}\n"
