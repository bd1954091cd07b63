"""What the grammar lets through and two people would read in two ways, or in none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from moedsl.diagnostics.model import Diagnostic, Edit, Label, Sink
from moedsl.source import Source, Span
from moedsl.syntax import ast


def check_readings(statements: Iterable[ast.Statement], source: Source, sink: Sink) -> None:
    for statement in statements:
        if isinstance(statement, ast.Declaration):
            _check_says_something(statement, sink)
        for target in _targets(statement):
            _check_indices(target, sink)
        for expression in _expressions(statement):
            check_expression(expression, source, sink)
        if isinstance(statement, ast.Declaration | ast.EditBody) and statement.body:
            check_readings(statement.body.statements, source, sink)


def check_expression(expression: ast.Expr, source: Source, sink: Sink) -> None:
    if isinstance(expression, ast.Flow):
        _check_sums(expression, source, sink)
    if isinstance(expression, ast.Path | ast.Member):
        _check_indices(expression, sink)
    for part in parts(expression):
        check_expression(part, source, sink)
    if isinstance(expression, ast.Configured | ast.With):
        check_readings(expression.body.statements, source, sink)


def parts(expression: ast.Expr) -> tuple[ast.Expr, ...]:
    """The expressions right inside one, bodies left out."""
    match expression:
        case ast.Call():
            return (expression.callee, *(argument.value for argument in expression.arguments))
        case ast.Member():
            return (expression.owner,)
        case ast.Configured() | ast.With():
            return (expression.recipe,)
        case ast.List():
            return tuple(item.value for item in expression.items)
        case ast.Unary():
            return (expression.operand,)
        case ast.Binary():
            return (expression.left, expression.right)
        case ast.Flow():
            return expression.stages
        case ast.Number() | ast.String() | ast.Path():
            return ()


def _expressions(statement: ast.Statement) -> Iterator[ast.Expr]:
    match statement:
        case ast.Assign():
            yield statement.value
        case ast.Declaration():
            yield from (each.default for each in statement.parameters if each.default)
            yield from (each for each in (statement.base, statement.value) if each)
        case ast.Import() | ast.EditBody():
            pass


def _targets(statement: ast.Statement) -> tuple[ast.Path, ...]:
    match statement:
        case ast.Assign():
            return statement.targets
        case ast.EditBody():
            return (statement.target,)
        case ast.Declaration() | ast.Import():
            return ()


def _check_indices(path: ast.Path | ast.Member, sink: Sink) -> None:
    """The grammar takes any number in `[ ]`; places are counted."""
    for part in path.parts:
        if (
            isinstance(part, ast.Index)
            and isinstance(part.value, str)
            and not part.value.isidentifier()
        ):
            message = f"`{part.value}` counts no place"
            sink.error("E0105", message, part.span, "an index is a whole number, or a name")


def _check_says_something(declaration: ast.Declaration, sink: Sink) -> None:
    if declaration.value is not None or declaration.body is not None:
        return
    kind, name = declaration.kind, declaration.names[0]
    names = ", ".join(each.text for each in declaration.names)
    message = f"`{kind.text} {names}` has neither a value nor a body"
    end = Span(declaration.span.end, declaration.span.end, declaration.span.file)
    help = f"a recipe is `{kind.text} {name.text} = ...` or `{kind.text} {name.text} {{ ... }}`"
    edits: tuple[Edit, ...] = ()
    if len(declaration.names) == 1 and not declaration.parameters and declaration.base is None:
        help = f"a setting is `{kind.text} = {name.text}`; {help}"
        edits = (Edit(Span(kind.span.end, name.span.start, end.file), " = "),)
    sink.error("E0111", message, end, "no `=` and no body follows", help=help, edits=edits)


def _check_sums(flow: ast.Flow, source: Source, sink: Sink) -> None:
    """A sum beside an arrow: show both readings, and the edits for each."""
    for index, stage in enumerate(flow.stages):
        if not isinstance(stage, ast.Binary) or stage.operator not in "+-" or stage.parenthesised:
            continue
        operator = _operator_span(stage, source)
        whole = (Edit(_at(stage.span.start), "("), Edit(_at(stage.span.end), ")"))
        split = _split_edits(flow, index, stage)
        readings = [f"`{_applied(edits, flow.span, source)}`" for edits in (whole, split)]
        sink.add(
            Diagnostic(
                "E0108",
                f"`{stage.operator}` beside `->` can be read in two ways",
                Label(operator, "put parentheses around what belongs together"),
                help=f"write {readings[0]}\n   or {readings[1]}",
                edits=tuple(
                    Edit(Span(e.span.start, e.span.end, flow.span.file), e.text) for e in whole
                ),
            )
        )


def _at(offset: int) -> Span:
    return Span(offset, offset)


def _operator_span(stage: ast.Binary, source: Source) -> Span:
    between = source.text[stage.left.span.end : stage.right.span.start]
    start = stage.left.span.end + max(between.find(stage.operator), 0)
    return Span(start, start + 1, stage.span.file)


def _split_edits(flow: ast.Flow, index: int, stage: ast.Binary) -> tuple[Edit, ...]:
    """The flow in parentheses on each side of the operator where it is more than one stage."""
    edits: list[Edit] = []
    if index > 0:
        edits += [Edit(_at(flow.stages[0].span.start), "("), Edit(_at(stage.left.span.end), ")")]
    if index < len(flow.stages) - 1:
        edits += [Edit(_at(stage.right.span.start), "("), Edit(_at(flow.stages[-1].span.end), ")")]
    return tuple(edits)


def _applied(edits: Iterable[Edit], span: Span, source: Source) -> str:
    """The text of `span` with insertions made, on one line."""
    text, end = "", span.start
    for edit in edits:
        text += source.text[end : edit.span.start] + edit.text
        end = edit.span.end
    return " ".join((text + source.text[end : span.end]).split())
