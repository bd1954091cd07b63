"""The imports of a printed file, collected from what its statements use and printed in the order that ruff keeps."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import field

from moedsl.backend.plan_lines import call_lines
from moedsl.frozen import record

# Short spellings that an op may ask for.
_KNOWN = {
    "F": ("torch.nn.functional", "F"),
    "torch": ("torch", ""),
    "math": ("math", ""),
    "Tensor": ("torch", "Tensor"),
    "nn": ("torch", "nn"),
}


@record
class ImportSet:
    """`module("torch")` -> `import torch`; `name("torch", "nn")` -> `from torch import nn`; `.routing` is local."""

    _modules: dict[str, str] = field(default_factory=dict)
    _names: dict[str, set[str]] = field(default_factory=dict)

    def module(self, module: str, alias: str = "") -> None:
        self._modules[module] = alias

    def name(self, module: str, *names: str) -> None:
        self._names.setdefault(module, set()).update(names)

    def ask(self, wanted: Iterable[str]) -> None:
        """What an op's `imports` say: a known short name ("F"), or "module:name" (".state:rotate")."""
        for want in wanted:
            module, name = _KNOWN[want] if want in _KNOWN else tuple(want.split(":", 1))
            if name == "F":
                self.module(module, "F")
            elif name:
                self.name(module, name)
            else:
                self.module(module)

    def blocks(self) -> tuple[tuple[str, ...], ...]:
        """Lines in groups: the standard library, torch and others, this package."""
        groups: tuple[list[str], ...] = ([], [], [])
        for module in sorted(self._modules, key=str.lower):
            alias = self._modules[module]
            groups[_group(module)].append(f"import {module}" + (f" as {alias}" if alias else ""))
        for module in sorted(self._names, key=str.lower):
            names = sorted(self._names[module], key=_member_order)
            groups[_group(module)].extend(
                call_lines(f"from {module} import ", names, brackets=False)
            )
        return tuple(tuple(group) for group in groups if group)

    @property
    def local_names(self) -> frozenset[str]:
        """Every name that these imports bind."""
        bound = {alias or module.split(".")[0] for module, alias in self._modules.items()}
        return frozenset(bound.union(*self._names.values()) if self._names else bound)


def _group(module: str) -> int:
    if module.startswith("."):
        return 2
    return 0 if module.split(".")[0] in sys.stdlib_module_names else 1


def _member_order(name: str) -> tuple[int, list[tuple[str, int]]]:
    """ruff's order of imported members: CONSTANTS, Classes, then functions; numbers by value."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2
    parts = re.findall(r"(\D*)(\d*)", name)
    return kind, [(text, int(digits or -1)) for text, digits in parts]
