"""Every construct there is, found by importing the modules of this folder and of entry points."""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

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
    if not any(map(_may_declare, sys.path)):
        return
    from importlib.metadata import entry_points

    for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda e: e.name):
        entry.load()


def _may_declare(folder: str) -> bool:
    """Whether something installed there could have entry points for us. importlib.metadata alone takes a tenth of the
    time of a check to import, so the few lines that it would read are looked at first."""
    place = Path(folder or ".")
    if place.is_file():  # an archive: only importlib.metadata reads into those
        return True
    names = os.listdir(place) if place.is_dir() else []
    found = (place / name for name in names if name.endswith((".dist-info", ".egg-info")))
    return any(_declares(metadata / "entry_points.txt") for metadata in found)


def _declares(file: Path) -> bool:
    try:
        return f"[{ENTRY_POINTS}]" in file.read_text(errors="replace")
    except OSError:  # most have no such file
        return False
