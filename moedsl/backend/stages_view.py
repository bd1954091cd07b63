"""stages.py of a printed package: which weights each stage of training moves, at what rate."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from moedsl.backend.plan_lines import STEP, call_lines, fits
from moedsl.frozen import frozen
from moedsl.ir.graph import Graph
from moedsl.ir.stages import Group, Phase, phases

if TYPE_CHECKING:
    from jinja2 import Environment

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@frozen
class StagesView:
    """`first`: the name of one. `lines`: the stages as entries of a dictionary. `apart`: stages that need a package of their own."""

    header: str
    first: str
    lines: tuple[str, ...]
    apart: tuple[str, ...] = ()


def plan_stages(graph: Graph, header: str) -> StagesView | None:
    """None where a spec says nothing of training."""
    found, _ = phases(graph)
    if not found:
        return None
    chosen = getattr(graph.model.setting("stage"), "text", "none")
    here = [each for each in found if not each.stage.edits or each.stage.name == chosen]
    apart = tuple(each.stage.name for each in found if each not in here)
    modules = {path: one.module for path, one in graph.storage().items()}
    lines = tuple(line for each in here for line in _stage(each, modules))
    return StagesView(header, here[0].stage.name, lines, apart) if here else None


def _stage(phase: Phase, modules: dict[str, str]) -> Iterator[str]:
    every = list(dict.fromkeys(modules.values()))
    if phase.after:
        yield f"# starts from the weights of {phase.after}"
    calls = [_group(group, modules, every, len(phase.groups)) for group in phase.groups]
    one = f'"{phase.stage.name}": (Group({", ".join(calls[0])}),),'
    if len(calls) == 1 and fits(one, 1):
        yield one
        return
    yield f'"{phase.stage.name}": ('
    for call in calls:
        for line in call_lines("Group", call, ",", 2):
            yield STEP + line
    yield "),"


def _group(group: Group, modules: dict[str, str], every: list[str], count: int) -> list[str]:
    own = {modules[path] for path in group.weights}
    patterns = [f'"{each}"' for each in _patterns(own, every)]
    name = group.name or ("all" if own == set(every) else "the others" if count > 1 else "chosen")
    return [f'"{name}"', repr(group.rate), *_tuple(patterns)]


def _tuple(patterns: list[str]) -> list[str]:
    return [f"weights=({', '.join(patterns)}{',' if len(patterns) == 1 else ''})"]


def _patterns(own: set[str], every: list[str]) -> list[str]:
    """The shortest patterns that fit these names and no others, `*` for any text."""
    if own == set(every):
        return ["*"]
    found: list[str] = []
    for name in every:
        if name in own and not any(fnmatchcase(name, pattern) for pattern in found):
            found.append(next(p for p in _candidates(name) if _fits(p, own, every)))
    return found


def _candidates(name: str) -> Iterator[str]:
    for general in (_NUMBER.sub("*", name), name):
        parts = general.split(".")
        for length in range(1, len(parts)):
            yield ".".join(parts[:length]) + ".*"
        yield general


def _fits(pattern: str, own: set[str], every: list[str]) -> bool:
    return all(name in own for name in every if fnmatchcase(name, pattern))


def render_stages(view: StagesView, environment: Environment) -> dict[str, str]:
    return {"stages.py": environment.get_template("package/stages.py.j2").render(view=view)}
