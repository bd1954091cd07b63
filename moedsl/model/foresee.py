"""What an expression will be, before it is worked out: enough to know whether a call configures or applies."""

from __future__ import annotations

from moedsl.constructs.declare import Construct, Words
from moedsl.model.run import Run
from moedsl.model.scope import Entry, Env
from moedsl.syntax import ast


def special_form(expr: ast.Expr, env: Env) -> str | None:
    """`by_layer` or `phase`: what the language itself reads."""
    if isinstance(expr, ast.Call) and isinstance(expr.callee, ast.Path):
        name = expr.callee.name
        if name in ("by_layer", "phase"):
            return name
    return None


def target(
    run: Run, callee: ast.Expr, env: Env, depth: int = 0
) -> tuple[Entry | None, type[Construct] | None]:
    """The declared recipe with parameters that a callee names, if any; and the construct it comes down to."""
    if depth > 60:
        return None, None
    match callee:
        case ast.Path() if callee.name is not None:
            entry = env.find(callee.name)
            if entry is None:
                return None, run.registry.get(callee.name)
            return _target_of(run, entry, depth)
        case ast.Call(callee=inner):
            if special_form(callee, env):
                return None, None
            return None, target(run, inner, env, depth + 1)[1]
        case ast.Configured(recipe) | ast.With(recipe):
            return None, target(run, recipe, env, depth + 1)[1]
    return None, None


def _target_of(run: Run, entry: Entry, depth: int) -> tuple[Entry | None, type[Construct] | None]:
    if entry.is_tensor:
        return None, None
    if entry.value is None:
        cls = run.registry.get(entry.kind)
    else:
        cls = target(run, entry.value, entry.env, depth + 1)[1]
    return (entry if entry.parameters else None), cls


def words_by_position(cls: type[Construct] | None) -> list[tuple[str, ...]]:
    """The words that settings of a construct take by position."""
    settings = [] if cls is None else [one for one in cls.settings.values() if one.positional]
    return [one.choices if isinstance(one, Words) else () for one in settings]


def is_word(expr: ast.Expr, words: list[tuple[str, ...]]) -> bool:
    return isinstance(expr, ast.Path) and bool(words) and expr.name in words[0]


def classify(run: Run, expr: ast.Expr, env: Env) -> str:
    """number | tensor | recipe | other: enough to know what a call or a product is, without working it out."""
    key = (id(expr), id(env))
    if key not in run.classes:
        run.keep(expr, env)
        run.classes[key] = "other"  # an answer for what asks about itself
        with run.step(expr.span):
            run.classes[key] = _classified(run, expr, env)
    return run.classes[key]


def _classified(run: Run, expr: ast.Expr, env: Env) -> str:
    match expr:
        case ast.Number():
            return "number"
        case ast.Unary(operand):
            return classify(run, operand, env)
        case ast.Path():
            return _classified_name(run, expr, env)
        case ast.Flow(stages):
            return "tensor" if classify(run, stages[0], env) == "tensor" else "recipe"
        case ast.Binary(_, left, right):
            sides = {classify(run, left, env), classify(run, right, env)}
            found = [kind for kind in ("recipe", "tensor", "number") if kind in sides]
            return found[0] if found else "other"
        case ast.Configured() | ast.With() | ast.Member():
            return "recipe"
        case ast.Call():
            return _classified_call(run, expr, env)
    return "other"


def _classified_name(run: Run, expr: ast.Path, env: Env) -> str:
    head = expr.parts[0]
    if head in ("index", "choices") or len(expr.parts) > 1:
        return "number"
    entry = env.find(head) if isinstance(head, str) else None
    if entry is None:
        known = head in run.registry
        root = run.root.names.get(head) if run.root is not None and isinstance(head, str) else None
        return (
            "recipe" if known else "number" if root is not None and root.kind == "set" else "other"
        )
    if entry.is_tensor:
        return "tensor"
    if entry.value is not None and entry.kind in ("set", "parameter"):
        return classify(run, entry.value, entry.env)
    return "recipe"


def _classified_call(run: Run, expr: ast.Call, env: Env) -> str:
    special = special_form(expr, env)
    if special is not None and expr.arguments:
        return _classified_special(run, expr, env)
    entry, cls = target(run, expr.callee, env)
    takes = len(entry.parameters) if entry is not None else 0
    words = words_by_position(cls) if entry is None else []
    positional = [
        argument
        for index, argument in enumerate(a.value for a in expr.arguments if a.name is None)
        if index >= takes and not is_word(argument, words[index:])
    ]
    return (
        "tensor" if any(classify(run, value, env) == "tensor" for value in positional) else "recipe"
    )


def _classified_special(run: Run, expr: ast.Call, env: Env) -> str:
    value = expr.arguments[0].value
    while isinstance(value, ast.List | ast.Flow | ast.Binary):
        match value:
            case ast.List(items) if items:
                value = items[0].value
            case ast.Flow(stages):
                value = stages[0]
            case ast.Binary("*", _, right):
                value = right
            case _:
                break
    return classify(run, value, env)
