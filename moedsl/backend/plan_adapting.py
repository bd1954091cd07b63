"""The root's `adapt`: numbers with state, each with the load that it follows."""

from __future__ import annotations

import re
from itertools import groupby

from moedsl.backend.naming import attribute
from moedsl.backend.plan_classes import BODY, MEMBER, Method, Names
from moedsl.backend.plan_lines import STEP, call_lines, indented, statement_lines
from moedsl.backend.plan_taps import numbered
from moedsl.backend.plan_words import docstring
from moedsl.ir.adapting import Adapting, adapting
from moedsl.ir.graph import Graph

HOME = ".adapting"
WANTS = (f"{HOME}:Load", f"{HOME}:tally", f"{HOME}:total")  # what `adapt` and its callers need


def adapts(graph: Graph) -> bool:
    return bool(adapting(graph))


def plan_adapt(graph: Graph, names: Names) -> Method:
    names.imports.ask(WANTS[::2])
    lines = ["if not self.training:", STEP + "return", "load = total(loads)"]
    for group in _alike(adapting(graph)):
        lines += _loops(group)
    return Method(
        call_lines("def adapt", ["self", "*loads: dict[str, Load]"], " -> None:", MEMBER),
        tuple(lines),
        docstring(
            "Move what follows the load, after an optimizer step: `loads` has the `tally` of each "
            "of its forwards. Nothing moves in evaluation.",
            BODY,
        ),
    )


def _alike(found: list[Adapting]) -> list[list[Adapting]]:
    """Numbers in a row whose places differ in layer numbers alone."""
    return [list(group) for _, group in groupby(found, key=_form)]


def _form(one: Adapting) -> tuple[str, str]:
    return re.sub(r"\.\d+", ".#", one.site), re.sub(r"\.\d+", ".#", one.module)


def _loops(group: list[Adapting]) -> list[str]:
    sites, modules = [one.site for one in group], [one.module for one in group]
    found = [numbered([attribute(path) for path in paths]) for paths in (sites, modules)]
    if len(group) == 1 or any(each is None for each in found) or found[0][1] != found[1][1]:  # type: ignore[index]
        return [line for one in group for line in _call(f'"{attribute(one.site)}"', one.module)]
    (site, ranges), (module, _) = found  # type: ignore[misc]
    lines = _call(f'f"{site}"', module, depth=len(ranges))
    for counter, numbers in reversed(ranges):
        lines = [f"for {counter} in {numbers}:", *indented(lines)]
    return lines


def _call(site: str, module: str, depth: int = 0) -> list[str]:
    place = re.sub(
        r"\.(\d+|\{\w\})",
        lambda m: f"[{m[1].strip('{}')}]",
        attribute(module) if not depth else module,
    )
    return [*statement_lines(f"self.{place}.adapt(load[{site}])", BODY + depth)]
