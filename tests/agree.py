"""How far two computations of the same are apart: |found - wanted| / |wanted|, by the Euclidean norm.

`agree(found, wanted, 1e-6, "mixtral_8x7b")` holds them to a tolerance and notes what it saw for that system. With
`pytest --errors FILE` all notes go there, a line each; `python -m tests.agree FILE` writes the largest into
docs/systems/*.toml (see `make errors`).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

TABLES = Path(__file__).parents[1] / "docs" / "systems"
FILE: list[Path] = []  # where notes go; conftest.py sets it
ORDER = ("values", "gradients")


def agree(found: Any, wanted: Any, tolerance: float, *systems: str, of: str = "values") -> float:
    """The largest relative error of a tensor, or of several; where one of a pair is None it is zero."""
    pairs = [(found, wanted)]
    if isinstance(found, Sequence):
        assert len(found) == len(wanted)
        pairs = list(zip(found, wanted, strict=True))
    errors = [_apart(one, other) for one, other in pairs]
    error = max(errors)
    note(error, *systems, of=of)
    assert error < tolerance, f"number {errors.index(error)} of {len(errors)}: {error:.1e}"
    return error


def _apart(found: Any, wanted: Any) -> float:
    if found is None or wanted is None:
        other = found if wanted is None else wanted
        return 0.0 if other is None or not other.any() else float("inf")
    assert found.shape == wanted.shape
    size = wanted.double().norm().item()
    apart = (found.double() - wanted.double()).norm().item()
    return apart / size if size else apart


def note(error: float, *systems: str, of: str = "values") -> None:
    for file in FILE:
        with file.open("a") as lines:
            for system in systems:
                lines.write(json.dumps([system, of, error]) + "\n")


def largest(lines: Iterable[str]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for line in lines:
        system, of, error = json.loads(line)
        seen = found.setdefault(system, {})
        seen[of] = max(error, seen.get(of, 0.0))
    return found


def words(seen: dict[str, float]) -> str:
    """`values 3.1e-07, gradients 2.0e-06`"""
    parts = (f"{of} {seen[of]:.1e}" if seen[of] else f"{of} 0" for of in ORDER if of in seen)
    return re.sub(r"e-0(\d)", r"e-\1", ", ".join(parts))


def main(file: str) -> None:
    for system, seen in sorted(largest(Path(file).read_text().splitlines()).items()):
        table = TABLES / f"{system}.toml"
        if not table.is_file():
            continue  # a model without mixtures
        line = f'largest_error = "{words(seen)}"'
        table.write_text(re.sub(r"(?m)^largest_error = .*$", line, table.read_text()))
        print(f"{system}: {words(seen)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
