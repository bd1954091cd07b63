"""stages.py of a printed package: which weights each stage of training moves, at what rate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from moedsl.backend.patterns import patterns_of
from moedsl.backend.plan_lines import STEP, call_lines, fits
from moedsl.frozen import frozen
from moedsl.ir.graph import Graph, Storage
from moedsl.ir.selections import every
from moedsl.ir.stages import Group, Phase, phases

if TYPE_CHECKING:
    from jinja2 import Environment


@frozen
class StagesView:
    """`first`: the name of one. `lines`: the stages as entries of a dictionary. `apart`: stages that need a package of their own.
    `members`: does one train some of what stands side by side in a weight?"""

    header: str
    first: str
    lines: tuple[str, ...]
    apart: tuple[str, ...] = ()
    members: bool = False


def plan_stages(graph: Graph, header: str) -> StagesView | None:
    """None where a spec says nothing of training."""
    found, _ = phases(graph)
    if not found:
        return None
    chosen = getattr(graph.model.setting("stage"), "text", "none")
    here = [each for each in found if not each.stage.edits or each.stage.name == chosen]
    apart = tuple(each.stage.name for each in found if each not in here)
    stored = graph.storage()
    lines = tuple(line for each in here for line in _stage(each, stored))
    members = any("members=" in line for line in lines)
    return StagesView(header, here[0].stage.name, lines, apart, members) if here else None


def _stage(phase: Phase, stored: dict[str, Storage]) -> Iterator[str]:
    if phase.after:
        yield f"# starts from the weights of {phase.after}"
    calls = [call for group in phase.groups for call in _group(group, stored, len(phase.groups))]
    one = f'"{phase.stage.name}": (Group({", ".join(calls[0])}),),'
    if len(calls) == 1 and fits(one, 1):
        yield one
        return
    yield f'"{phase.stage.name}": ('
    for call in calls:
        for line in call_lines("Group", call, ",", 2):
            yield STEP + line
    yield "),"


def _group(group: Group, stored: dict[str, Storage], count: int) -> Iterator[list[str]]:
    """What it is called with: once for all whose members train alike."""
    modules = list(dict.fromkeys(one.module for one in stored.values()))
    found: dict[tuple[int, ...] | None, set[str]] = {}
    for path, bits in group.weights.items():
        found.setdefault(_members(bits, stored[path]), set()).add(stored[path].module)
    everything = found.get(None) == set(modules)
    name = group.name or ("all" if everything else "the others" if count > 1 else "chosen")
    for some, own in found.items():
        patterns = [f'"{each}"' for each in patterns_of(own, modules)]
        members = [] if some is None else [_tuple("members", [str(m) for m in some])]
        yield [f'"{name}"', repr(group.rate), _tuple("weights", patterns), *members]


def _members(bits: int, weight: Storage) -> tuple[int, ...] | None:
    """None where all of it trains."""
    if bits == every(weight.members):
        return None
    return tuple(number for number in range(weight.members) if bits >> number & 1)


def _tuple(name: str, items: list[str]) -> str:
    return f"{name}=({', '.join(items)}{',' if len(items) == 1 else ''})"


def render_stages(view: StagesView, environment: Environment) -> dict[str, str]:
    return {"stages.py": environment.get_template("package/stages.py.j2").render(view=view)}
