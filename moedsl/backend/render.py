"""Plan -> text. Nothing is decided here: templates print view models."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from moedsl.backend.library import print_library
from moedsl.backend.routing_view import render_routing_files
from moedsl.backend.runtime_view import render_runtime_files
from moedsl.backend.stages_view import render_stages
from moedsl.resources import read_text

if TYPE_CHECKING:
    from jinja2 import BytecodeCache, Environment

    from moedsl.backend.plan import Plan


@cache
def environment(compiled: BytecodeCache | None = None) -> Environment:
    """The one Jinja environment of printed packages; it keeps the templates it compiled."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    return Environment(
        loader=FunctionLoader(lambda name: read_text("templates", name)),
        undefined=StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        auto_reload=False,
        bytecode_cache=compiled,
    )


def render(plan: Plan, compiled: BytecodeCache | None = None) -> dict[str, str]:
    """Every file of the package by its path inside the package's folder, in reading order. `compiled`: where a shell
    keeps compiled templates from one process to the next."""
    jinja = environment(compiled)
    own = {
        file: jinja.get_template(f"package/{file}.j2").render(view=view)
        for file, view in (
            ("__init__.py", plan.exports),
            ("model.py", plan.model),
            ("README.md", plan.card),
        )
    }
    routing = render_routing_files(plan.routing, jinja) if plan.routing else {}
    library = {f"{file.name}.py": print_library(file) for file in plan.library}
    runtime = render_runtime_files(plan.runtime, jinja)
    stages = render_stages(plan.stages, jinja) if plan.stages else {}
    starts = {"start.py": plan.starts} if plan.starts else {}
    start = {
        file: jinja.get_template(f"package/{file}.j2").render(view=view)
        for file, view in starts.items()
    }
    return {**own, **routing, **library, **runtime, **stages, **start}
