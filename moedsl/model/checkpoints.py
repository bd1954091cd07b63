"""Checkpoint maps: lists on both sides pair by position, and every entry becomes one file name with its paths.

gqa.[q, k] = "self_attn.[q, k]_proj.weight"    ->    gqa.q = "self_attn.q_proj.weight", gqa.k = ...
gqa.[q, k] = "self_attn.qk.weight" -> split(2) ->    one entry with two paths
"""

from __future__ import annotations

import re

from moedsl.frozen import record
from moedsl.model import evaluate, misfits, phases, problems, terms
from moedsl.model.run import Run
from moedsl.model.scope import At, Entry, Env
from moedsl.source import Span
from moedsl.syntax import ast

_LIST = re.compile(r"\[([^\[\]]*)\]")
_VARIABLE = re.compile(r"\{([^{}]*)\}")
_MOST = 1000  # names that one entry may spell out


@record
class _Written:
    """One statement of a map: where its left side points, and what the file calls it."""

    targets: tuple[ast.Path, ...]
    value: ast.Expr
    env: Env


def checkpoint(run: Run, entry: Entry, at: At) -> terms.Checkpoint | None:
    """None where it was taken away again: `hub = none`."""
    if entry.value is not None and _is_none(entry.value):
        entry.used = True
        return None
    found = _definition(run, entry)
    if found is None:
        return None
    source, env, written = found
    recipe = evaluate.evaluate(run, source, env, at)
    if recipe is None:
        return None
    if not isinstance(recipe, terms.Recipe) or run.kind(recipe) != "checkpoint":
        misfits.wrong_type(
            run.sink, f"`checkpoint {entry.name}`", "a checkpoint", recipe, entry.span
        )
        return None
    entries: list[terms.CheckpointEntry] = []
    native = recipe.construct == "native"
    for each in written:
        entries += _made(run, each, at, "step") if native else _entries(run, each, at)
    return terms.Checkpoint(entry.name, recipe, tuple(entries), entry.span)


# --- the definition ----------------------------------------------------------------------------

_Definition = tuple[ast.Expr, Env, list[_Written]]


def _definition(run: Run, entry: Entry) -> _Definition | None:
    """The source recipe and the statements, with edits laid over: an entry with the same left side replaces."""
    if entry.value is None:
        run.sink.error(
            "E0203",
            f"`checkpoint {entry.name}` does not say what it is",
            entry.span,
            help=f"write `checkpoint {entry.name} = huggingface(names = file) {{ ... }}`",
        )
        return None
    if id(entry) in run.active:
        problems.circular(run.sink, [(entry.name, entry.span)])
        return None
    run.active[id(entry)] = (entry.name, entry.span)
    entry.used = True
    try:
        found = _from_value(run, entry.value, entry.env)
    finally:
        del run.active[id(entry)]
    for edit in entry.edits if found is not None else ():
        assert found is not None and edit.env is not None
        found = found[0], found[1], _laid(run, found[2], edit.statements, edit.env)
    return found


def _from_value(run: Run, value: ast.Expr, env: Env) -> _Definition | None:
    with run.step(value.span):
        match value:
            case ast.Configured(recipe, body) | ast.With(recipe, body):
                below = _from_value(run, recipe, env)
                if below is None:
                    return None
                return below[0], below[1], _laid(run, below[2], body.statements, env)
            case ast.Path() if value.name is not None:
                entry = env.find(value.name)
                if entry is not None and entry.kind == "checkpoint":
                    return _definition(run, entry)
    return value, env, []


def _laid(
    run: Run, below: list[_Written], statements: tuple[ast.Statement, ...], env: Env
) -> list[_Written]:
    by_path = {_key(each.targets): each for each in below}
    fresh: dict[str, Span] = {}
    for statement in statements:
        if not isinstance(statement, ast.Assign) or statement.operator != "=":
            run.sink.error("E0218", 'a checkpoint map says `path = "name"`', statement.span)
            continue
        key = _key(statement.targets)
        if key in fresh:
            problems.duplicate(run.sink, key, statement.span, fresh[key])
            continue
        fresh[key] = statement.span
        by_path[key] = _Written(statement.targets, statement.value, env)
    return [each for each in by_path.values() if not _is_none(each.value)]


def _key(targets: tuple[ast.Path, ...]) -> str:
    return ", ".join(phases.dotted(target) for target in targets)


def _is_none(value: ast.Expr) -> bool:
    return isinstance(value, ast.Path) and value.name == "none"


# --- entries -----------------------------------------------------------------------------------


def _entries(run: Run, written: _Written, at: At) -> list[terms.CheckpointEntry]:
    value = written.value
    text, steps = (
        (value.stages[0], value.stages[1:]) if isinstance(value, ast.Flow) else (value, ())
    )
    span = written.targets[0].span
    if not isinstance(text, ast.String):
        return _made(run, written, at, "start")
    made = [evaluate.evaluate(run, step, written.env, at) for step in steps]
    for step, term in zip(steps, made, strict=True):
        if term is not None and not isinstance(term, terms.Recipe):
            misfits.wrong_type(run.sink, "a step", "a recipe", term, step.span)
    if any(not isinstance(term, terms.Recipe) for term in made):
        return []
    paths = [path for target in written.targets for path in _spelled_out(run, target)]
    names = _names(run, text)
    if not names or not paths or not _same_variables(run, paths, names, text.span, span):
        return []
    return _paired(run, paths, names, tuple(made), text.span, span)  # type: ignore[arg-type]


def _made(run: Run, written: _Written, at: At, kind: str) -> list[terms.CheckpointEntry]:
    """An entry without a name: `layer[i].sparse.router.score = fresh`, or `experts = grow(3)` in the model's own names."""
    value, span = written.value, written.targets[0].span
    first = value.stages[0] if isinstance(value, ast.Flow) else value
    named = isinstance(first, ast.String)
    recipe = None if named else evaluate.evaluate(run, value, written.env, at)
    if recipe is None and not named:
        return []
    if not isinstance(recipe, terms.Recipe) or run.kind(recipe) != kind:
        wanted = "a checkpoint map gives a name in quotes, then steps"
        if kind == "step":
            wanted = "the names are the model's own: an entry gives a step, such as `grow(3)`"
        run.sink.error("E0210", wanted, value.span)
        return []
    paths = [path for target in written.targets for path in _spelled_out(run, target)]
    return [terms.CheckpointEntry((path,), "", (recipe,), span) for path in paths]


def _paired(
    run: Run,
    paths: list[terms.PathPattern],
    names: list[str],
    steps: tuple[terms.Recipe, ...],
    text: Span,
    span: Span,
) -> list[terms.CheckpointEntry]:
    if len(names) == 1:
        return [terms.CheckpointEntry(tuple(paths), names[0], steps, span)]
    if len(names) != len(paths):
        message = f"{len(paths)} places stand against {len(names)} names"
        run.sink.error("E0233", message, text, help="lists on both sides pair by position")
        return []
    return [
        terms.CheckpointEntry((path,), name, steps, span)
        for path, name in zip(paths, names, strict=True)
    ]


def _spelled_out(run: Run, target: ast.Path) -> list[terms.PathPattern]:
    """`a[i].[q, k]` as `a[i].q` and `a[i].k`."""
    parts: list[tuple[str | tuple[str, int | str], ...]] = [()]
    for part in target.parts:
        match part:
            case ast.Index(value):
                parts = [(*each, ("index", value)) for each in parts]
            case ast.Group(names):
                parts = [(*each, name) for each in parts for name in names]
            case _:
                parts = [(*each, part) for each in parts]
        if len(parts) > _MOST:
            run.sink.error("E0230", "this path spells out too many places", target.span)
            return []
    return [terms.PathPattern(each, target.span) for each in parts]


def _names(run: Run, text: ast.String) -> list[str]:
    """`[q, k]_proj` as `q_proj` and `k_proj`; several lists pair by position."""
    lists = [[each.strip() for each in found.split(",")] for found in _LIST.findall(text.value)]
    if not lists:
        return [text.value]
    if len({len(each) for each in lists}) > 1:
        run.sink.error("E0233", "the lists in this name have different lengths", text.span)
        return []
    return [_filled(text.value, row) for row in zip(*lists, strict=True)]


def _filled(text: str, row: tuple[str, ...]) -> str:
    """The text with its lists replaced by one word each."""
    words = iter(row)
    return _LIST.sub(lambda _: next(words), text)


def _same_variables(
    run: Run, paths: list[terms.PathPattern], names: list[str], text: Span, span: Span
) -> bool:
    left = {
        p[1] for path in paths for p in path.parts if isinstance(p, tuple) and isinstance(p[1], str)
    }
    right = set(_VARIABLE.findall(names[0]))
    missing = sorted(right - left, key=str)
    if missing:
        message = f"`{{{missing[0]}}}` stands for nothing on the left"
        run.sink.error(
            "E0234", message, text, help="an index of the path is written `[i]`, in the name `{i}`"
        )
    return not missing
