"""Calls: a positional tensor applies, anything else configures."""

from __future__ import annotations

from dataclasses import replace

from moedsl.constructs.declare import Construct
from moedsl.model import evaluate, flows, forms, problems, terms
from moedsl.model.run import Run
from moedsl.model.scope import At, Entry, Env, Frame, Layer
from moedsl.source import Span
from moedsl.syntax import ast

Edits = tuple[Layer, ...]
PHASES = ("train", "eval", "decode")


def call(run: Run, expr: ast.Call, env: Env, at: At, edits: Edits) -> terms.Term | None:
    special = special_form(expr, env)
    if special == "by_layer":
        found = flows.by_layer(run, expr, env, at)
        return None if found is None else evaluate.evaluate(run, found[0], found[1], at, edits)
    if special == "phase":
        return _phase(run, expr, env, at, edits)
    return _recipe_call(run, expr, env, at, edits)


def special_form(expr: ast.Expr, env: Env) -> str | None:
    """`by_layer` or `phase`: what the language itself reads."""
    if isinstance(expr, ast.Call) and isinstance(expr.callee, ast.Path):
        name = expr.callee.name
        if name in ("by_layer", "phase"):
            return name
    return None


def phases(run: Run, expr: ast.Call, at: At) -> tuple[ast.Expr, ast.Expr, ast.Expr] | None:
    """train, eval, decode: eval is train and decode is eval where they are not written."""
    given = {argument.name: argument.value for argument in expr.arguments}
    for argument in expr.arguments:
        if argument.name not in PHASES:
            span = at.blame or argument.span
            run.sink.error("E0205", "`phase` takes `train`, `eval` and `decode`, by name", span)
            return None
    if "train" not in given:
        run.sink.error("E0204", "`phase` needs a value for `train`", at.where(expr))
        return None
    train = given["train"]
    eval_ = given.get("eval", train)
    return train, eval_, given.get("decode", eval_)


def _phase(run: Run, expr: ast.Call, env: Env, at: At, edits: Edits) -> terms.Term | None:
    branches = phases(run, expr, at)
    if branches is None:
        return None
    found = [evaluate.evaluate(run, branch, env, at, edits) for branch in branches]
    if None in found:
        return None
    train, eval_, decode = found
    return terms.Phase(train, eval_, decode, at.where(expr))  # type: ignore[arg-type]


def _recipe_call(run: Run, expr: ast.Call, env: Env, at: At, edits: Edits) -> terms.Term | None:
    """Configure with what is not a tensor, then apply to what is."""
    span = at.where(expr)
    entry, cls = target(run, expr.callee, env)
    takes = len(entry.parameters) if entry is not None else 0
    config, inputs = _split(run, expr, env, takes)
    named: tuple[ast.Argument, ...] = ()
    if inputs:
        named = tuple(a for a in config if a.name and not _is_setting(a.name, entry, cls))
        config = tuple(a for a in config if a not in named)
    recipe = _configured(run, expr, config, entry, cls, env, at, edits)
    given = [evaluate.evaluate(run, a.value, env, at) for a in inputs]
    others = [(a.name or "", evaluate.evaluate(run, a.value, env, at)) for a in named]
    if recipe is None or None in given or any(term is None for _, term in others):
        return None
    if not inputs:
        return recipe
    if terms.type_of(recipe) not in ("recipe", "phase"):
        problems.wrong_type(
            run.sink, "a call", "a recipe before the parentheses", recipe, at.where(expr.callee)
        )
        return None
    return terms.Apply(recipe, tuple(given), tuple(others), span)  # type: ignore[arg-type]


def _is_setting(name: str, entry: Entry | None, cls: type[Construct] | None) -> bool:
    own = {p.name for p in entry.parameters} if entry is not None else set()
    return name in own or (cls is not None and name in cls.settings)


def _split(
    run: Run, expr: ast.Call, env: Env, takes: int
) -> tuple[tuple[ast.Argument, ...], tuple[ast.Argument, ...]]:
    """What configures and what it is applied to. A declared parameter takes a tensor too."""
    config: list[ast.Argument] = []
    inputs: list[ast.Argument] = []
    position = 0
    for argument in expr.arguments:
        if argument.name is not None:
            config.append(argument)
            continue
        bound = position < takes
        position += 1
        tensor = not bound and classify(run, argument.value, env) == "tensor"
        (inputs if tensor else config).append(argument)
    return tuple(config), tuple(inputs)


def _configured(
    run: Run,
    expr: ast.Call,
    config: tuple[ast.Argument, ...],
    entry: Entry | None,
    cls: type[Construct] | None,
    env: Env,
    at: At,
    edits: Edits,
) -> terms.Term | None:
    callee, span = expr.callee, at.where(expr)
    if entry is not None and isinstance(callee, ast.Path) and env.find(callee.name or "") is entry:
        run.mention_if_place(entry, at.where(callee))
        return declared(run, entry, config, span, at, edits, env)
    if cls is None or not config:
        recipe = evaluate.evaluate(run, callee, env, at, edits)
        if config and recipe is not None:
            problems.cannot_edit(run.sink, problems.describe(recipe), at.where(callee))
            return None
        return recipe
    layer = _argument_layer(run, expr, config, cls, env, at)
    return None if layer is None else evaluate.evaluate(run, callee, env, at, (layer, *edits))


def _argument_layer(
    run: Run,
    expr: ast.Call,
    config: tuple[ast.Argument, ...],
    cls: type[Construct] | None,
    env: Env,
    at: At,
) -> Layer | None:
    """`top_k(2)` says what `top_k { k = 2 }` says."""
    positional = [n for n, s in cls.settings.items() if s.positional] if cls is not None else []
    what = cls.name if cls is not None else "this"
    statements: list[ast.Statement] = []
    position = 0
    for argument in config:
        name = argument.name
        if name is None:
            if position >= len(positional):
                if evaluate.evaluate(run, argument.value, env, at) is not None:
                    problems.too_many(run.sink, what, positional, at.blame or argument.span)
                return None
            name = positional[position]
            position += 1
        statements.append(_given(name, argument))
    return run.layer(("arguments", id(expr)), tuple(statements), env, True)


def _given(name: str, argument: ast.Argument) -> ast.Assign:
    return ast.Assign((ast.Path((name,), argument.span),), "=", argument.value, span=argument.span)


# --- recipes with parameters -------------------------------------------------------------------


def declared(
    run: Run,
    entry: Entry,
    arguments: tuple[ast.Argument, ...],
    span: Span,
    at: At,
    edits: Edits,
    env: Env | None = None,
) -> terms.Term | None:
    """`tier(4)`: a declared recipe with its parameters bound. What is passed is read where it was written."""
    entry.used = True
    frame = bound_frame(run, entry, arguments, span, at, env)
    if frame is None:
        return None
    inner = Env(frame, entry.env)
    run.keep(frame, inner)
    bare = at.blaming(None)
    term = evaluate.definition(run, entry, inner, bare, edits)
    if not isinstance(term, terms.Recipe):
        return term
    streams = [e for e in frame.names.values() if e.kind == "tensor"]
    values = [(e.name, _stream(run, e)) for e in streams]
    if any(value is None for _, value in values):
        return None
    return replace(term, bound=tuple(values)) if values else term  # type: ignore[arg-type]


def _stream(run: Run, entry: Entry) -> terms.Term | None:
    assert entry.value is not None and entry.outer is not None and entry.at is not None
    return evaluate.evaluate(run, entry.value, entry.outer, entry.at)


def bound_frame(
    run: Run, entry: Entry, arguments: tuple[ast.Argument, ...], span: Span, at: At, env: Env | None
) -> Frame | None:
    """A frame of the parameters: tensors are bound streams, everything else stands for what was passed."""
    given = _matched(run, entry, arguments, span)
    if given is None:
        return None
    frame = Frame(entry.name, entry.frame.path, scope="parameters")
    for parameter in entry.parameters:
        argument = given.get(parameter.name)
        value, outer = (
            (argument.value, env) if argument is not None else (parameter.default, entry.env)
        )
        if value is None:
            problems.missing_argument(run.sink, parameter.name, entry.name, span, parameter.span)
            return None
        assert outer is not None
        kind = "tensor" if classify(run, value, outer) == "tensor" else "parameter"
        frame.names[parameter.name] = Entry(
            parameter.name, kind, frame, outer, parameter.span, value, at=at, used=True
        )
    return frame


def _matched(
    run: Run, entry: Entry, arguments: tuple[ast.Argument, ...], span: Span
) -> dict[str, ast.Argument] | None:
    names = [p.name for p in entry.parameters]
    given: dict[str, ast.Argument] = {}
    position = 0
    for argument in arguments:
        name = argument.name
        if name is None:
            if position >= len(names):
                problems.too_many(run.sink, entry.name, names, argument.span)
                return None
            name = names[position]
            position += 1
        if name not in names:
            problems.unknown_argument(run.sink, name, entry.name, names, argument.span)
            return None
        if name in given:
            problems.duplicate(run.sink, name, argument.span, given[name].span)
            return None
        given[name] = argument
    return given


# --- what an expression will be, before it is worked out ---------------------------------------


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
    entry, _ = target(run, expr.callee, env)
    takes = len(entry.parameters) if entry is not None else 0
    positional = [a.value for a in expr.arguments if a.name is None][takes:]
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


def member(run: Run, expr: ast.Member, env: Env, at: At) -> terms.Term | None:
    """`weights("folder").ffn` is known to the language and not yet to the compiler."""
    problems.not_yet(run.sink, "a part of what a recipe gives", at.where(expr))
    return None


__all__ = ["call", "classify", "declared", "forms", "phases", "special_form", "target"]
