"""Expressions to terms, on demand: a name is worked out when something reads it, in the scope that edits left."""

from __future__ import annotations

import math
from dataclasses import replace

from moedsl.model import absent, algebra, calls, flows, forms, limits, misfits, problems, terms
from moedsl.model.run import Run
from moedsl.model.scope import At, Entry, Env, Frame, Layer
from moedsl.source import Span
from moedsl.syntax import ast

Edits = tuple[Layer, ...]

ANY_KIND = {"tied", "set", "parameter", "embed", "head"}


def evaluate(run: Run, expr: ast.Expr, env: Env, at: At, edits: Edits = ()) -> terms.Term | None:
    """The term that `expr` denotes; None where a diagnostic was made. `edits` are changes still to be applied to the
    recipe that it names."""
    span = at.where(expr)
    with run.step(span):
        match expr:
            case ast.Path():
                return path(run, expr, env, at, edits)
            case ast.Call():
                return calls.call(run, expr, env, at, edits)
            case ast.Configured(recipe, body) | ast.With(recipe, body):
                layer = run.layer(
                    ("body", id(expr)), body.statements, env, isinstance(expr, ast.With)
                )
                return evaluate(run, recipe, env, at, (layer, *edits))
            case ast.Binary("*"):
                return flows.product(run, expr, env, at, edits)
        if edits:
            uneditable(run, expr, at)
            return None
        match expr:
            case ast.Number(value):
                return number(run, value, span)
            case ast.String(value):
                return terms.Text(value, span)
            case ast.List(items):
                return listed(run, items, env, at, span)
            case ast.Unary(operand):
                return algebra.negative(run, evaluate(run, operand, env, at), span)
            case ast.Binary(operator, left, right):
                one, other = evaluate(run, left, env, at), evaluate(run, right, env, at)
                return algebra.arithmetic(run, operator, one, other, span)
            case ast.Flow():
                return flows.flow(run, expr, env, at)
            case ast.Member():
                return calls.member(run, expr, env, at)
    raise AssertionError(expr)


def number(run: Run, value: int | float, span: Span) -> terms.Number | None:
    if (
        isinstance(value, float)
        and math.isfinite(value)
        and value == int(value)
        and abs(value) < 2**53
    ):
        pass  # `1e4` stays a float: settings that want whole numbers make it one
    if not math.isfinite(value) or abs(value) > limits.MAX_NUMBER:
        run.sink.error(
            "E0231", "this number is too large", span, help="numbers go up to 2 to the power of 53"
        )
        return None
    return terms.Number(value, span)


def listed(
    run: Run, items: tuple[ast.Item, ...], env: Env, at: At, span: Span
) -> terms.Items | None:
    found = [(item.name, evaluate(run, item.value, env, at)) for item in items]
    whole = tuple((name, term) for name, term in found if term is not None)
    return terms.Items(whole, span) if len(whole) == len(found) else None


def uneditable(run: Run, expr: ast.Expr, at: At) -> None:
    what = {ast.Flow: "a flow", ast.Binary: "a sum", ast.List: "a list"}.get(type(expr), "this")
    problems.cannot_edit(run.sink, what, at.where(expr))


# --- names -------------------------------------------------------------------------------------


def path(run: Run, expr: ast.Path, env: Env, at: At, edits: Edits) -> terms.Term | None:
    head = expr.parts[0]
    span = at.where(expr)
    if not isinstance(head, str):
        problems.cannot_edit_place(run.sink, span)
        return None
    term = name(run, head, span, env, at, edits)
    for part in expr.parts[1:]:
        if term is None:
            return None
        term = setting_of(run, term, part, span)
    return term


def setting_of(run: Run, term: terms.Term, part: object, span: Span) -> terms.Term | None:
    """`gqa.heads`: what a recipe's setting says."""
    if isinstance(term, terms.Recipe) and isinstance(part, str):
        found = dict(term.settings)
        if part in found:
            return found[part]
        more = problems.meant(part, span, found)
        run.sink.error("E0202", f"`{term.name}` has no setting `{part}`", span, **more)
        return None
    run.sink.error("E0210", f"{misfits.describe(term)} has no parts to name", span)
    return None


def name(run: Run, name: str, span: Span, env: Env, at: At, edits: Edits = ()) -> terms.Term | None:
    if name in ("index", "choices"):
        return position(run, name, span, at)
    entry = env.find(name)
    if entry is not None:
        run.mention_if_place(entry, span)
        return mentioned(run, entry, span, at, edits)
    cls = run.registry.get(name)
    if cls is not None:
        return forms.instantiate(run, cls, edits, env, at, name=name, span=span)
    if run.root is not None and name in run.root.names and (at.blame or name in run.root_settings):
        return mentioned(run, run.root.names[name], span, at, edits)
    if run.root is not None and name in run.root_settings:
        return absent.setting(run, name, at)
    inside = any(name == active for active, _ in run.active.values())
    problems.unknown_name(run.sink, name, span, [*env.names(), *run.registry], inside)
    return None


def position(run: Run, name: str, span: Span, at: At) -> terms.Number | None:
    if name == "choices":
        run.note(("choices",), at.choices)
        if at.choices is None:
            run.sink.error(
                "E0201",
                "`choices` is not known here",
                span,
                help="it is the number of experts of the mixture that decides, or of those that name a decision, where they agree",
            )
            return None
        return terms.Number(at.choices, span)
    if at.index is None or at.flow is None:
        run.sink.error(
            "E0201",
            "`index` is not known here",
            span,
            help="it is the position of a block in its flow",
        )
        return None
    run.note(("index", at.flow), at.index)
    return terms.Number(at.index, span)


def mentioned(run: Run, entry: Entry, span: Span, at: At, edits: Edits) -> terms.Term | None:
    """What a name in scope stands for, where it is mentioned."""
    entry.used = True
    if entry.kind == "missing":
        return None  # its import has said so
    if entry.is_tensor:
        if edits:
            problems.no_settings(run.sink, entry.name, span, entry)
            return None
        return terms.Tensor(entry.name, span)
    if entry.kind == "parameter":
        return argument(run, entry, edits)
    if entry.kind in ("model", "adapter", "output", "stage", "checkpoint", "parallel"):
        run.sink.error(
            "E0211",
            f"`{entry.name}` is {misfits.a(entry.kind)}, not something to compute with",
            span,
        )
        return None
    if entry.parameters:
        return calls.declared(run, entry, (), span, at, edits)
    term = once(run, entry, span, at, edits)
    return replace(term, span=span) if isinstance(term, terms.Number) else term


def argument(run: Run, entry: Entry, edits: Edits) -> terms.Term | None:
    """A parameter is what was passed, read where it was written; its place has the parameter's name."""
    assert entry.value is not None and entry.at is not None
    with run.body(mentions=False):
        term = evaluate(run, entry.value, entry.env, entry.at, edits)
    return replace(term, place=entry.name) if isinstance(term, terms.Recipe) else term


def once(run: Run, entry: Entry, span: Span, at: At, edits: Edits) -> terms.Term | None:
    """An entry's own term, worked out once for equal questions; reaching itself is an error. What stands there by
    default speaks of the place that mentions it."""
    if id(entry) in run.active:
        names = list(run.active.values())
        start = list(run.active).index(id(entry))
        problems.circular(run.sink, names[start:])
        return None
    run.active[id(entry)] = (entry.name, entry.span)
    run.keep(entry, *edits)
    key = ("entry", id(entry), *(id(edit) for edit in edits))
    inner = at.blaming(span if entry.implicit else None)
    try:
        return run.remember(key, inner, lambda: definition(run, entry, entry.env, inner, edits))
    finally:
        del run.active[id(entry)]


def definition(run: Run, entry: Entry, env: Env, at: At, edits: Edits) -> terms.Term | None:
    """What the declaration says: its value, or its body as settings of the construct its kind is named after."""
    changes = (*entry.edits, *edits)
    with run.step(at.blame or entry.span):
        if entry.value is not None:
            with run.body(mentions=False):
                term = evaluate(run, entry.value, env, at, changes)
        else:
            term = from_body(run, entry, env, at, changes)
        if entry.operator != "=" and entry.old is not None:
            before = once(run, entry.old, entry.span, at, edits)
            term = algebra.changed(run, before, entry.operator, term, entry.span)
    return declared_as(run, entry, term, at.blame or entry.span)


def from_body(run: Run, entry: Entry, env: Env, at: At, changes: Edits) -> terms.Term | None:
    cls = run.registry.get(entry.kind)
    if entry.body is None:
        return None  # the parser has said so
    if cls is None and entry.kind not in run.all_kinds:
        problems.unknown_kind(run.sink, entry.kind, entry.span, run.all_kinds)
        return None
    if cls is None:
        run.sink.error(
            "E0211",
            f"nothing is built by {misfits.a(entry.kind)} with a body alone",
            entry.span,
            help=f"write `{entry.kind} {entry.name} = recipe {{ ... }}`",
        )
        return None
    layer = run.layer(("body", id(entry.body)), entry.body.statements, env, False)
    return forms.instantiate(
        run, cls, (layer, *changes), env, at, name=entry.name, span=entry.span, doc=entry.doc
    )


def declared_as(run: Run, entry: Entry, term: terms.Term | None, span: Span) -> terms.Term | None:
    """The term under its declared name, if it is of the declared kind."""
    if term is None or (entry.kind == "set" and not isinstance(term, terms.Recipe)):
        return term
    if terms.type_of(term) not in ("recipe", "phase"):
        misfits.wrong_type(
            run.sink,
            f"`{entry.kind} {entry.name}`",
            "a recipe",
            term,
            entry.span,
            **mend(entry, term),
        )
        return None
    if not isinstance(term, terms.Recipe):
        if entry.kind == "tied":
            run.sink.error(
                "E0210",
                f"`tied {entry.name}` wants one recipe, not {misfits.describe(term)}",
                entry.span,
            )
            return None
        return term
    cls = run.registry.get(term.construct)
    if cls is not None and not entry.implicit and entry.kind not in ANY_KIND | run.kinds(cls):
        if entry.kind in run.all_kinds or entry.kind in run.registry:
            misfits.wrong_declaration(run.sink, entry, term, cls.kind)
        else:
            problems.unknown_kind(run.sink, entry.kind, entry.span, run.all_kinds)
        return None
    tied = f"{entry.frame.path}{entry.name}" if entry.kind == "tied" else term.tied
    doc = entry.doc or term.doc
    return replace(term, name=entry.name, place=entry.name, tied=tied, doc=doc, span=span)


def mend(entry: Entry, term: terms.Term) -> dict[str, str]:
    kind = terms.type_of(term)
    if kind == "tensor":
        return {"help": f"a tensor is named by `let {entry.name} = ...`"}
    if kind == "number":
        return {"help": f"a number is a setting: `{entry.name} = ...`"}
    return {}


def root_frame() -> Frame:
    return Frame(scope="model")
