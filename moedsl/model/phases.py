"""Training phases: what they say is about places and losses, so names stay words until the graph is there."""

from __future__ import annotations

from moedsl.model import evaluate, misfits, problems, terms
from moedsl.model.run import Run
from moedsl.model.scope import At, Entry, Env
from moedsl.syntax import ast
from moedsl.syntax.unparse import unparse

OWN = ("init", "train", "rate", "data", "fit", "loss")  # what a stage itself has
_LATER = ("data", "fit", "loss")


def stage(run: Run, entry: Entry, at: At) -> terms.Stage:
    """`stage tune { init = pretrain  train = all - sparse.experts }`."""
    settings: list[tuple[str, terms.Term]] = []
    edits: list[tuple[str, str]] = []
    seen: dict[str, ast.Assign] = {}
    for statement in entry.body.statements if entry.body is not None else ():
        if not isinstance(statement, ast.Assign) or statement.operator != "=":
            run.sink.error("E0218", "a stage says `path = value`", statement.span)
            continue
        for target in statement.targets:
            path = dotted(target)
            if path in seen:
                problems.duplicate(run.sink, path, target.span, seen[path].span)
                continue
            seen[path] = statement
            if path not in OWN:
                edits.append((path, unparse(statement.value)))
                continue
            if path in _LATER:
                problems.not_yet(run.sink, f"`{path}` in a stage", target.span)
                continue
            term = _said(run, statement.value, entry.env, at)
            if term is not None:
                settings.append((path, term))
    return terms.Stage(entry.name, tuple(settings), tuple(edits), entry.span)


def edits_of(entry: Entry) -> tuple[ast.Statement, ...]:
    """What a stage changes in the model: `sparse.experts.dropout = 0.4`, and edits with a body."""
    statements = entry.body.statements if entry.body is not None else ()
    return tuple(each for each in statements if isinstance(each, ast.Assign) and _edits(each))


def _edits(statement: ast.Assign) -> bool:
    return any(dotted(target) not in OWN for target in statement.targets)


def _said(run: Run, expr: ast.Expr, env: Env, at: At) -> terms.Term | None:
    """A selection of places, a list, a number, or a construct such as a loss."""
    with run.step(expr.span):
        match expr:
            case ast.Path():
                path = _numbered(run, expr, env, at)
                return None if path is None else terms.Word(dotted(path), expr.span)
            case ast.Binary(operator, left, right) if operator in "+-" or _factor(expr):
                one, other = _said(run, left, env, at), _said(run, right, env, at)
                if one is None or other is None:
                    return None
                return terms.Arithmetic(operator, one, other, expr.span)  # type: ignore[arg-type]
            case ast.List(items):
                found = [(item.name, _said(run, item.value, env, at)) for item in items]
                kept = tuple((name, term) for name, term in found if term is not None)
                return terms.Items(kept, expr.span)
    return evaluate.evaluate(run, expr, env, at)


def _factor(expr: ast.Binary) -> bool:
    """`0.1 * experts[2]`, in a `rate`."""
    numbers = isinstance(expr.left, ast.Number) and isinstance(expr.right, ast.Number)
    return expr.operator == "*" and not numbers


def _numbered(run: Run, path: ast.Path, env: Env, at: At) -> ast.Path | None:
    """`experts[newest]` with the model's number in place of its name."""
    parts: list[str | ast.Index | ast.Group] = []
    for part in path.parts:
        if isinstance(part, ast.Index) and isinstance(part.value, str):
            number = evaluate.evaluate(run, ast.Path((part.value,), part.span), env, at)
            if number is None:
                return None
            if not isinstance(number, terms.Number) or not float(number.value).is_integer():
                misfits.wrong_type(run.sink, "an index", "a whole number", number, part.span)
                return None
            part = ast.Index(int(number.value), part.span)
        parts.append(part)
    return ast.Path(tuple(parts), path.span)


def dotted(path: ast.Path) -> str:
    """`layer[3].sparse.[a, b]`, as it is written."""
    text = ""
    for part in path.parts:
        match part:
            case ast.Index(value):
                text += f"[{value}]"
            case ast.Group(names):
                text += f".[{', '.join(names)}]"
            case _:
                text += f".{part}" if text else str(part)
    return text
