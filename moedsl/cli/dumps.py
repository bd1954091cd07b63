"""Each stage's value as text, and the graph as a drawing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from moedsl.pipeline import Result


def dump(result: Result, stage: str, form: str) -> str:
    if form != "text":
        from moedsl.cli.drawing import DRAWINGS

        return DRAWINGS[form](result.graph)
    return _TEXTS[stage](result)


def _model(result: Result) -> str:
    from moedsl.model.dump import dump_model

    return dump_model(result.model)


def _graph(result: Result) -> str:
    from moedsl.ir.dump import dump_graph

    return dump_graph(result.graph)


def _plan(result: Result) -> str:
    from moedsl.backend.plan import dump_plan

    return dump_plan(result.plan)


_TEXTS: dict[str, Callable[[Result], str]] = {
    "ast": lambda result: outline(result.tree),
    "model": _model,
    "graph": _graph,
    "plan": _plan,
}


def outline(node: Any) -> str:
    """Nested values, one a line: the class, then what it holds. Spans are left out."""
    return "\n".join(_lines(node, "")) + "\n"


def _lines(node: Any, label: str) -> Iterator[str]:
    start = f"{label}: " if label else ""
    if isinstance(node, tuple):
        for item in node:
            yield from _lines(item, label)
    elif is_dataclass(node) and not isinstance(node, type):
        shown = [(f.name, getattr(node, f.name)) for f in fields(node) if f.compare]
        plain = [f"{name} {value!r}" for name, value in shown if _is_plain(value)]
        yield start + " ".join((type(node).__name__, *plain))
        for name, value in shown:
            if not _is_plain(value):
                yield from (f"  {line}" for line in _lines(value, name))
    elif node is not None:
        yield f"{start}{node!r}"


def _is_plain(value: Any) -> bool:
    """Worth showing on its owner's line."""
    if isinstance(value, tuple):
        return bool(value) and all(isinstance(item, str) for item in value)
    return isinstance(value, (str, int, float)) and value not in ("", False)
