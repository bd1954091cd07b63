"""A block's body: statements in order over the stream `x`, and recipes of its own."""

from __future__ import annotations

from dataclasses import field

from moedsl.constructs.declare import Construct
from moedsl.frozen import record
from moedsl.model import decided, evaluate, merge, misfits, problems, terms
from moedsl.model.run import Run
from moedsl.model.scope import At, Entry, Env, Frame, Layer, tensors
from moedsl.source import Span
from moedsl.syntax import ast

Statements = list["_Statement"]


@record
class _Statement:
    """`let name = value` or `name op value`, with the environment it is read in."""

    name: str
    let: bool
    operator: str
    value: ast.Expr
    env: Env
    span: Span
    layer: Layer


@record
class _Body:
    run: Run
    frame: Frame
    statements: Statements = field(default_factory=list)
    _envs: dict[int, Env] = field(default_factory=dict)

    def env(self, layer: Layer) -> Env:
        if id(layer) not in self._envs:
            self._envs[id(layer)] = Env(self.frame, layer.env)
        return self._envs[id(layer)]

    def let(self, name: str) -> _Statement | None:
        return next((s for s in self.statements if s.let and s.name == name), None)


def block(
    run: Run,
    cls: type[Construct],
    layers: tuple[Layer, ...],
    at: At,
    *,
    name: str,
    span: Span,
    doc: str = "",
) -> terms.Recipe | None:
    frame = tensors("x")
    frame.owner, frame.path, frame.scope = name, f"{name}.", "block"
    body = _Body(run, frame)
    before = len(run.sink.found)
    for layer in layers:
        _lay(body, layer)
    healthy = len(run.sink.found) == before
    run.keep(frame, body)
    with run.body(mentions=True):
        done = _in_turn(body, at)
    if not healthy or None in done:
        return None
    return terms.Recipe(cls.name, name, (), name, tuple(done), doc=doc, span=span)  # type: ignore[arg-type]


def _lay(body: _Body, layer: Layer) -> None:
    """Recipes of the block's own enter its names; tensors are statements, in order."""
    for statement in layer.statements:
        match statement:
            case ast.Declaration(kind=ast.Name("let"), names=names, value=value) if (
                value is not None
            ):
                for name in names:
                    _let(body, layer, name, value)
            case ast.Assign(targets=targets) if all(_is_stream(body, t) for t in targets):
                for target in targets:
                    _assign(body, layer, statement, target)
            case _:
                merge.lay(body.run, body.frame, Layer((statement,), layer.env, layer.edit))


def _is_stream(body: _Body, target: ast.Path) -> bool:
    return target.name is not None and target.name not in _recipes(body.frame)


def _recipes(frame: Frame) -> set[str]:
    return {name for name, entry in frame.names.items() if not entry.is_tensor}


def _let(body: _Body, layer: Layer, name: ast.Name, value: ast.Expr) -> None:
    if not merge.free(body.run, body.frame, name):
        return
    old = body.let(name.text)
    if old is not None and old.layer is layer:
        problems.duplicate(body.run.sink, name.text, name.span, old.span)
        return
    new = _Statement(name.text, True, "=", value, body.env(layer), name.span, layer)
    if old is not None:
        body.statements[body.statements.index(old)] = new
    else:
        body.statements.append(new)


def _assign(body: _Body, layer: Layer, statement: ast.Assign, target: ast.Path) -> None:
    name = str(target.name)
    new = _Statement(
        name, False, statement.operator, statement.value, body.env(layer), target.span, layer
    )
    old = body.let(name)
    if old is not None and layer.edit and statement.operator == "=":
        new.let = True
        body.statements[body.statements.index(old)] = new
    elif name == "x" or old is not None:
        body.statements.append(new)
    else:
        names = ["x", *(s.name for s in body.statements if s.let)]
        problems.not_a_stream(body.run.sink, name, target.span, names)


def _in_turn(body: _Body, at: At) -> list[terms.Let | terms.Assign | None]:
    """Statements in order; decisions after those who use them, as if in their place."""
    frame, waiting = body.frame, []
    done: list[terms.Let | terms.Assign | None] = []
    for index, one in enumerate(body.statements):
        if one.let and decided.decides(body.run, one.value, one.env):
            waiting.append((index, dict(frame.names)))
            _name(body, one)
            done.append(None)
        else:
            done.append(_evaluated(body, one, at))
    names = frame.names
    for index, known in waiting:
        one = body.statements[index]
        after = [other for other in done[index + 1 :] if other is not None]
        frame.names = known
        done[index] = _evaluated(body, one, decided.at_decision(at, one.name, after))
    frame.names = names
    return done


def _name(body: _Body, let: _Statement) -> None:
    frame = body.frame
    frame.names[let.name] = Entry(let.name, "let", frame, None, let.span, let.value)


def _evaluated(body: _Body, statement: _Statement, at: At) -> terms.Let | terms.Assign | None:
    run, name, span = body.run, statement.name, statement.span
    term = evaluate.evaluate(run, statement.value, statement.env, at)
    if statement.let:
        _name(body, statement)
    if term is None:
        return None
    kind = terms.type_of(term)
    if statement.operator == "->=":
        if kind != "recipe":
            misfits.wrong_type(run.sink, f"`{name} ->=`", "a recipe", term, span)
            return None
        return terms.Assign(name, terms.Apply(term, (terms.Tensor(name, span),), span=span), span)
    if kind not in ("tensor", "number") or (kind == "number" and statement.operator == "="):
        misfits.wants_a_tensor(run.sink, name, statement.operator, term, statement.value.span)
        return None
    if statement.operator == "+=":
        term = terms.Arithmetic("+", terms.Tensor(name, span), term, statement.value.span)
    return terms.Let(name, term, span) if statement.let else terms.Assign(name, term, span)
