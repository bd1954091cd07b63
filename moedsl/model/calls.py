"""Calls: a positional tensor applies, anything else configures."""

from __future__ import annotations

from dataclasses import replace

from moedsl.constructs.declare import Construct
from moedsl.model import evaluate, flows, foresee, misfits, problems, terms
from moedsl.model.run import Run
from moedsl.model.scope import At, Entry, Env, Frame, Layer
from moedsl.source import Span
from moedsl.syntax import ast

Edits = tuple[Layer, ...]
Passed = dict[str, tuple[ast.Expr, Env]]
PHASES = ("train", "eval", "decode")


def call(run: Run, expr: ast.Call, env: Env, at: At, edits: Edits) -> terms.Term | None:
    special = foresee.special_form(expr, env)
    if special == "by_layer":
        found = flows.by_layer(run, expr, env, at)
        return None if found is None else evaluate.evaluate(run, found[0], found[1], at, edits)
    if special == "phase":
        return _phase(run, expr, env, at, edits)
    return _recipe_call(run, expr, env, at, edits)


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
    entry, cls = foresee.target(run, expr.callee, env)
    takes = len(entry.parameters) if entry is not None else 0
    words = foresee.words_by_position(cls) if entry is None else []
    config, inputs = _split(run, expr, env, takes, words)
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
        misfits.wrong_type(
            run.sink, "a call", "a recipe before the parentheses", recipe, at.where(expr.callee)
        )
        return None
    return terms.Apply(recipe, tuple(given), tuple(others), span)  # type: ignore[arg-type]


def _is_setting(name: str, entry: Entry | None, cls: type[Construct] | None) -> bool:
    own = {p.name for p in entry.parameters} if entry is not None else set()
    return name in own or (cls is not None and name in cls.settings)


def _split(
    run: Run, expr: ast.Call, env: Env, takes: int, words: list[tuple[str, ...]]
) -> tuple[tuple[ast.Argument, ...], tuple[ast.Argument, ...]]:
    """What configures and what it is applied to. A declared parameter takes a tensor too; a word of a setting's own is
    no tensor, whatever else has that name."""
    config: list[ast.Argument] = []
    inputs: list[ast.Argument] = []
    position = 0
    for argument in expr.arguments:
        if argument.name is not None:
            config.append(argument)
            continue
        bound = position < takes or foresee.is_word(argument.value, words[position:])
        position += 1
        tensor = not bound and foresee.classify(run, argument.value, env) == "tensor"
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
            problems.cannot_edit(run.sink, misfits.describe(recipe), at.where(callee))
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
    passed, rest = _passed(run, entry, (*entry.edits, *edits))
    frame = bound_frame(run, entry, arguments, span, at, env, passed)
    if frame is None:
        return None
    if passed:
        entry, edits = replace(entry, edits=()), rest
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


def _passed(run: Run, entry: Entry, edits: Edits) -> tuple[Passed, Edits]:
    """Values for parameters among the edits, `sparse(8) with { count = 4 }`, and the edits without them."""
    names = {parameter.name for parameter in entry.parameters}
    passed: Passed = {}
    rest: list[Layer] = []
    for layer in edits:
        kept = []
        assert layer.env is not None  # an edit was written somewhere
        for one in layer.statements:
            targets = [t.name for t in one.targets] if isinstance(one, ast.Assign) else []
            if isinstance(one, ast.Assign) and one.operator == "=" and names.issuperset(targets):
                passed.update((str(name), (one.value, layer.env)) for name in targets)
            else:
                kept.append(one)
        same = len(kept) == len(layer.statements)
        key = ("without parameters", id(layer))
        rest.append(layer if same else run.layer(key, tuple(kept), layer.env, layer.edit))
    run.keep(*edits)
    return passed, tuple(rest)


def bound_frame(
    run: Run,
    entry: Entry,
    arguments: tuple[ast.Argument, ...],
    span: Span,
    at: At,
    env: Env | None,
    passed: Passed,
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
        value, outer = passed.get(parameter.name, (value, outer))
        if value is None:
            problems.missing_argument(run.sink, parameter.name, entry.name, span, parameter.span)
            return None
        assert outer is not None
        kind = "tensor" if foresee.classify(run, value, outer) == "tensor" else "parameter"
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


def member(run: Run, expr: ast.Member, env: Env, at: At) -> terms.Term | None:
    """`weights("folder").ffn` is known to the language and not yet to the compiler."""
    problems.not_yet(run.sink, "a part of what a recipe gives", at.where(expr))
    return None
