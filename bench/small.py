"""Every spec of the gallery, small, and random models, printed for `bench/models.py`: one package each, with `call.json`.

Random models of odd seeds have experts of odd widths, which a GPU takes expert by expert.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from sizes import SAME, SMALL  # noqa: E402

import moedsl.pipeline  # noqa: E402
from moedsl.source import Source  # noqa: E402
from tests.packages import SPECS, source  # noqa: E402
from tests.systems.combinations import drawn  # noqa: E402

RANDOM = 60


def spec_of(seed: int) -> str:
    """A random model; of even seeds with experts of whole 8 numbers."""
    text = drawn(seed).text
    return (
        re.sub(r"\((12|20)\b", lambda found: f"({int(found[1]) + 4}", text)
        if seed % 2 == 0
        else text
    )


def print_packages(folder: Path) -> None:
    """All of them; `unknown.json` says of those that cannot be small why."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {path.stem for path in SPECS.glob("*.moe")} - {*SMALL, *SAME}
    unknown = dict.fromkeys(sorted(names), "bench/small.py has no settings for this spec")
    for name, settings in SMALL.items():
        result = moedsl.pipeline.compile(source(name), settings)
        if result.ok:
            write(name, result, folder)
        else:
            unknown[name] = "; ".join(f"{d.code} {d.message}" for d in result.diagnostics)
    for seed in range(RANDOM):
        name = f"drawn_{seed}"
        write(name, moedsl.pipeline.compile(Source(spec_of(seed), f"{name}.moe")), folder)
    (folder / "unknown.json").write_text(json.dumps(unknown))


def write(name: str, result: moedsl.pipeline.Result, folder: Path) -> None:
    assert result.ok, f"{name}: {[f'{d.code} {d.message}' for d in result.diagnostics]}"
    for path, text in result.files.items():
        file = folder / name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        # Operators are global to a process, and every random model is named `drawn`.
        file.write_text(re.sub(r'custom_op\(\s*"\w+::', f'custom_op("small_{name}::', text))
    inputs = [called(one) for one in result.model.inputs]
    (folder / name / "call.json").write_text(json.dumps({"inputs": inputs}))


def called(one: Any) -> dict[str, object]:
    """What to call the model with: a kind of input and its sizes."""
    sizes = {key: number.value for key, number in one.recipe.settings}
    return {"name": one.name, "kind": one.recipe.construct, **sizes}


if __name__ == "__main__":
    print_packages(Path(sys.argv[1]))
