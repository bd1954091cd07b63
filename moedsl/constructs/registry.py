"""Every construct there is, found by importing the modules of this folder and of entry points."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from functools import cache

from moedsl.constructs.declare import Construct
from moedsl.model import terms

ENTRY_POINTS = "moedsl.constructs"


def _subclasses(root: type[Construct]) -> Iterator[type[Construct]]:
    for cls in root.__subclasses__():
        if not cls.__dict__.get("abstract", False):
            yield cls
        yield from _subclasses(cls)


@cache
def constructs() -> dict[str, type[Construct]]:
    """name -> declaration, sorted by name. Two declarations of one name are a programmer's error."""
    import moedsl.constructs as package

    for module in sorted(m.name for m in pkgutil.iter_modules(package.__path__)):
        importlib.import_module(f"moedsl.constructs.{module}")
    _load_entry_points()
    found: dict[str, type[Construct]] = {}
    for cls in _subclasses(Construct):
        assert cls.name not in found or found[cls.name] is cls, f"two constructs named {cls.name}"
        found[cls.name] = cls
    return dict(sorted(found.items()))


def construct_of(recipe: terms.Recipe) -> Construct:
    """The declaration at work: a resolved recipe with its settings as attributes."""
    return constructs()[recipe.construct](recipe)


def _load_entry_points() -> None:
    from importlib.metadata import entry_points

    for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda e: e.name):
        entry.load()
