"""Compiles a spec of the gallery and imports the package it becomes, once per (spec, settings) in a test process."""

from __future__ import annotations

import hashlib
import importlib
import re
import sys
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType

import moedsl.pipeline
from moedsl.source import Source

ROOT = Path(__file__).resolve().parent.parent
SPECS = ROOT / "specs"


def source(name: str) -> Source:
    """A spec of the gallery with every other one importable."""
    files = {path.name: path.read_text() for path in sorted(SPECS.glob("*.moe"))}
    return Source(files[f"{name}.moe"], f"{name}.moe", files)


def compiled(name: str, settings: tuple[str, ...] = ()) -> moedsl.pipeline.Result:
    result = moedsl.pipeline.compile(source(name), settings)
    assert result.ok, "\n".join(f"{d.code} {d.message}" for d in result.diagnostics)
    return result


@cache
def package(name: str, settings: tuple[str, ...] = ()) -> ModuleType:
    """The generated package, imported under a name of its own."""
    return imported(compiled(name, settings).files)


def imported(files: dict[str, str]) -> ModuleType:
    """Write `files` (paths may start with a package folder of their own) and import them."""
    digest = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:12]
    unique = f"generated_{digest}"
    if unique in sys.modules:
        return sys.modules[unique]
    root = Path(tempfile.mkdtemp())
    for path, text in files.items():
        target = root / unique / path
        target.parent.mkdir(parents=True, exist_ok=True)
        # Operators are global to a process: a second package of one name would take over the first one's.
        target.write_text(re.sub(r'custom_op\("\w+::', f'custom_op("{unique}::', text))
    sys.path.insert(0, str(root))
    try:
        return importlib.import_module(unique)
    finally:
        sys.path.remove(str(root))


def model_class(module: ModuleType) -> type:
    """The package's model: the one name of `__all__` that is a module with `init_weights`."""
    import torch

    found = [
        value
        for name in module.__all__
        if isinstance(value := getattr(module, name), type)
        and issubclass(value, torch.nn.Module)
        and hasattr(value, "init_weights")
    ]
    assert len(found) == 1, found
    return found[0]
