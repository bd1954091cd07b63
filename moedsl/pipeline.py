"""The spine: text in, files and diagnostics out. Pure."""

from __future__ import annotations

from dataclasses import field, replace
from typing import Any

from moedsl.diagnostics.model import Diagnostic, Sink
from moedsl.frozen import frozen
from moedsl.model.limits import undisturbed
from moedsl.source import Source


@frozen
class Result:
    """What is known after the stages that ran; later ones are None or empty where an error stopped before them."""

    tree: Any = None
    model: Any = None
    graph: Any = None
    plan: Any = None
    files: dict[str, str] = field(default_factory=dict)
    diagnostics: tuple[Diagnostic, ...] = ()

    @property
    def ok(self) -> bool:
        return not any(d.severity == "error" for d in self.diagnostics)


@undisturbed()
def check(source: Source, settings: tuple[str, ...] = (), target: str = "") -> Result:
    """Everything up to the checked graph. `settings` are `path=expression` edits; `target` names one of several
    models of the file (default: the last)."""
    from moedsl.checks import CHECKS
    from moedsl.checks.stages import apart, check_same_weights
    from moedsl.ir.lower import lower
    from moedsl.model.resolve import resolve
    from moedsl.syntax.parser import parse

    sink = Sink()
    tree = parse(source, sink)
    model = resolve(tree, source, sink, settings=settings, target=target)
    graph = lower(model, sink) if model is not None else None
    if graph is not None:
        for examine in CHECKS:
            examine(graph, sink)
        for stage in apart(graph):
            other = resolve(tree, source, sink, (*settings, f"stage = {stage.name}"), target)
            changed = lower(other, sink) if other is not None else None
            if changed is not None and not sink.has_errors:
                check_same_weights(graph, changed, stage, sink)
    return Result(tree, model, graph, diagnostics=sink.sorted())


@undisturbed()
def compile(
    source: Source, settings: tuple[str, ...] = (), target: str = "", compiled: Any = None
) -> Result:
    """Text in, the files of a standalone package out. `compiled`: a shell's keep of compiled templates, for `render`."""

    from moedsl.backend.plan import plan_package
    from moedsl.backend.render import render
    from moedsl.rewrites import rewrite

    result = check(source, settings, target)
    if not result.ok or result.graph is None:
        return result
    plan = plan_package(rewrite(result.graph), source, settings)
    return replace(result, plan=plan, files=render(plan, compiled))
