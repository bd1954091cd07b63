"""A setting's declared type decides what an expression may be there, before any name is looked up."""

from __future__ import annotations

from dataclasses import replace

from moedsl.constructs.declare import (
    Bank,
    Declared,
    Expression,
    Flag,
    Labels,
    Listed,
    Number,
    PlaceOf,
    RecipeOf,
    Setting,
    Starts,
    TensorOf,
    Words,
)
from moedsl.frozen import frozen
from moedsl.model import banks, calls, evaluate, flows, foresee, misfits, starts, terms
from moedsl.model.algebra import PROJECTION, begins_with_tensor
from moedsl.model.defaults import parsed, words
from moedsl.model.run import Run
from moedsl.model.scope import At, Env, Layer, Without
from moedsl.source import Span
from moedsl.syntax import ast

Some = terms.Term | None
Edits = tuple[Layer, ...]


@frozen
class Slot:
    """One setting of one construct, as messages speak of it."""

    construct: str
    name: str
    setting: Setting
    derived: str = ""  # the default, where the spec does not give the setting

    @property
    def what(self) -> str:
        return f"`{self.name}`" if not self.construct else f"`{self.name}` of `{self.construct}`"

    @property
    def words(self) -> tuple[str, ...]:
        return words(self.setting)


def coerce(run: Run, slot: Slot, expr: ast.Expr, env: Env, at: At, edits: Edits = ()) -> Some:
    """The term that the setting gets from `expr`; None where a diagnostic was made."""
    with run.step(at.where(expr)):
        if isinstance(expr, ast.Path) and not edits:
            settled, term = _name(run, slot, expr, env, at)
            if settled:
                return term
        special = foresee.special_form(expr, env)
        if special == "phase":
            return _phase(run, slot, expr, env, at, edits)  # type: ignore[arg-type]
        if isinstance(slot.setting, RecipeOf):
            env = _without_tensor(run, slot.setting, expr, env)
            if isinstance(expr, ast.List) and slot.setting.by_kind and not edits:
                return _by_kind(run, slot, expr, env, at)
            if isinstance(expr, ast.List):
                run.sink.error("E0210", f"{slot.what} is one thing, not a list", at.where(expr))
                return None
        if special == "by_layer":
            found = flows.by_layer(run, expr, env, at)  # type: ignore[arg-type]
            return None if found is None else coerce(run, slot, found[0], found[1], at, edits)
        match slot.setting:
            case Bank():
                return banks.bank(run, slot, expr, env, at, edits)
            case Listed():
                return _listed(run, slot, expr, env, at, edits)
            case PlaceOf():
                return _place(run, slot, expr, env, at)
            case Declared():
                return _declared(run, slot.setting, expr, env, at)
            case Labels():
                return _labels(run, slot, expr, at)
            case Starts():
                return starts.coerce(run, slot, expr, env, at, edits)
        term = evaluate.evaluate(run, expr, env, at, edits)
        return None if term is None else fit(run, slot, term, at.where(expr))


def _name(run: Run, slot: Slot, expr: ast.Path, env: Env, at: At) -> tuple[bool, Some]:
    """A single name: a word of the setting's own, or what a parameter stands for. (whether settled, term)"""
    name = expr.name
    if name is None:
        return False, None
    span = at.where(expr)
    if name in slot.words:
        return True, terms.Word(name, span)
    entry = env.find(name)
    if entry is not None and entry.kind == "parameter" and entry.value is not None and entry.at:
        with run.body(mentions=False):
            term = coerce(run, slot, entry.value, entry.env, entry.at)
        return True, replace(term, place=name) if isinstance(term, terms.Recipe) else term
    if entry is not None and entry.kind == "set" and (word := _word(entry.value, slot)):
        entry.used = True
        return True, terms.Word(word, span)
    if entry is None and isinstance(slot.setting, Words | Flag):
        misfits.not_a_word(run.sink, slot.what, name, slot.words, span)
        return True, None
    return False, None


def _word(value: ast.Expr | None, slot: Slot) -> str | None:
    """A model's own setting may hold a word: `kernel = fast`."""
    name = value.name if isinstance(value, ast.Path) else None
    return name if name in slot.words else None


def _phase(run: Run, slot: Slot, expr: ast.Call, env: Env, at: At, edits: Edits) -> Some:
    branches = calls.phases(run, expr, at)
    if branches is None:
        return None
    if (isinstance(slot.setting, Number | Words) and not slot.setting.phases) or isinstance(
        slot.setting, Flag | Labels | Listed | PlaceOf | Starts
    ):
        run.sink.error("E0210", f"{slot.what} is the same in every phase", at.where(expr))
        return None
    train, eval_, decode = (coerce(run, slot, branch, env, at, edits) for branch in branches)
    if train is None or eval_ is None or decode is None:
        return None
    return terms.Phase(train, eval_, decode, at.where(expr))


def _declared(run: Run, setting: Declared, expr: ast.Expr, env: Env, at: At) -> terms.Word | None:
    name = expr.name if isinstance(expr, ast.Path) else None
    entry = env.find(name) if name else None
    if entry is not None and entry.kind == setting.by:
        entry.used = True
        return terms.Word(entry.name, at.where(expr))
    known = [each for each in env.names() if getattr(env.find(each), "kind", "") == setting.by]
    said = f"`{name}`" if name else "this"
    run.sink.error(
        "E0201",
        f"{said} is not the name of {misfits.a(setting.by)}",
        at.where(expr),
        help=f"there are: {', '.join(f'`{each}`' for each in known)}" if known else "",
    )
    return None


def _without_tensor(run: Run, setting: RecipeOf, expr: ast.Expr, env: Env) -> Env:
    """The setting's type decides first: where only `tokens(64)` of a kind can stand, no tensor `tokens` is meant."""
    callee = expr.callee if isinstance(expr, ast.Call) else expr
    name = callee.name if isinstance(callee, ast.Path) else None
    cls = run.registry.get(name) if name is not None else None
    if name is None or cls is None or setting.tensors or not run.kinds(cls) & {*setting.kinds}:
        return env
    entry = env.find(name)
    return Without(env.frame, env, name=name) if entry is not None and entry.is_tensor else env


def _place(run: Run, slot: Slot, expr: ast.Expr, env: Env, at: At) -> terms.Text | None:
    """`tied(embed)`: the path of a place, whose recipe must be there."""
    span = at.where(expr)
    if not isinstance(expr, ast.Path) or not all(isinstance(part, str) for part in expr.parts):
        run.sink.error("E0210", f"{slot.what} wants the name of a place", span)
        return None
    with run.body(mentions=False):
        term = evaluate.evaluate(run, ast.Path(expr.parts[:1], expr.span), env, at)
    if term is None:
        return None
    if terms.type_of(term) != "recipe":
        misfits.wrong_type(run.sink, slot.what, "the name of a place", term, span)
        return None
    return terms.Text(".".join(str(part) for part in expr.parts), span)


def _labels(run: Run, slot: Slot, expr: ast.Expr, at: At) -> Some:
    """Names that mean something in a bank only: `full`, `[full, wide]`."""
    items = [item.value for item in expr.items] if isinstance(expr, ast.List) else [expr]
    names = [item.name if isinstance(item, ast.Path) else None for item in items]
    if None in names or not names:
        what = f"{slot.what} wants names of kinds of experts"
        run.sink.error("E0210", what, at.where(expr), help="`kinds = full`, or `[full, wide]`")
        return None
    if names == ["all"]:
        return terms.Word("all", at.where(expr))
    words = [
        terms.Word(name, at.where(item)) for name, item in zip(names, items, strict=True) if name
    ]
    return terms.Items(tuple((None, word) for word in words), at.where(expr))


def _by_kind(run: Run, slot: Slot, expr: ast.List, env: Env, at: At) -> terms.Items | None:
    """One for each kind of experts that is named."""
    single = replace(slot, setting=replace(slot.setting, by_kind=False))
    found: list[tuple[str | None, terms.Term]] = []
    for item in expr.items:
        if item.name is None or item.name in dict(found):
            said = (
                f"names `{item.name}` twice" if item.name else "wants the name of a kind for each"
            )
            help_ = "`[full = 0.9, skip = 2]`, where `experts = [full = ..., skip = ...]`"
            run.sink.error("E0210", f"{slot.what} {said}", at.where(item.value), help=help_)
            return None
        term = coerce(run, single, item.value, env, at)
        if term is None:
            return None
        found.append((item.name, term))
    return terms.Items(tuple(found), at.where(expr))


def _listed(run: Run, slot: Slot, expr: ast.Expr, env: Env, at: At, edits: Edits) -> Some:
    if not isinstance(expr, ast.List) or edits:
        term = _item(run, slot, expr, env, at, edits)
        if term is None or isinstance(term, terms.Word | terms.Items):
            return term
        return terms.Items(((None, term),), at.where(expr))
    found = [(item.name, _item(run, slot, item.value, env, at)) for item in expr.items]
    if any(term is None for _, term in found):
        return None
    return terms.Items(tuple(found), at.where(expr))  # type: ignore[arg-type]


def _item(run: Run, slot: Slot, expr: ast.Expr, env: Env, at: At, edits: Edits = ()) -> Some:
    setting = slot.setting
    assert isinstance(setting, Listed)
    if setting.texts and isinstance(expr, ast.Path) and expr.name and env.find(expr.name) is None:
        return terms.Word(expr.name, at.where(expr))
    term = evaluate.evaluate(run, expr, env, at, edits)
    return None if term is None else fit(run, slot, term, at.where(expr))


# --- fitting -----------------------------------------------------------------------------------


def fit(run: Run, slot: Slot, term: terms.Term, span: Span) -> Some:
    """The term as the setting keeps it, or a diagnostic that says what was expected and what came."""
    if isinstance(term, terms.Word) and term.text in slot.words:
        return term
    if isinstance(term, terms.Phase) and isinstance(
        slot.setting, Expression | RecipeOf | Bank | Words
    ):
        branches = [fit(run, slot, branch, span) for branch in (term.train, term.eval, term.decode)]
        return None if None in branches else term
    match slot.setting:
        case Number() as setting:
            return _number(run, slot, setting, term, span)
        case Words() | Flag():
            misfits.wrong_type(run.sink, slot.what, f"one of {_words(slot)}", term, span)
            return None
        case Expression() as setting:
            return _expression(run, slot, setting, term, span)
        case RecipeOf(number=Number() as number) if terms.type_of(term) == "number":
            return _number(run, slot, number, term, span)
        case RecipeOf(by_kind=True) if isinstance(term, terms.Items):
            return term
        case RecipeOf(kinds=kinds, tensors=True) if terms.type_of(term) == "tensor":
            return term
        case RecipeOf(kinds=kinds, flows=flows):
            return _recipe(run, slot, kinds, term, span, flows)
        case Bank(kinds=kinds):
            return _recipe(run, slot, kinds, term, span)
        case Listed() as listed:
            return _list_item(run, slot, listed, term, span)
        case TensorOf() if terms.type_of(term) != "tensor":
            misfits.wrong_type(
                run.sink, slot.what, "a tensor", term, span, help="name an input or a `let`"
            )
            return None
    return term


def _words(slot: Slot) -> str:
    return ", ".join(f"`{word}`" for word in slot.words)


def _number(run: Run, slot: Slot, setting: Number, term: terms.Term, span: Span) -> Some:
    if setting.stateful and isinstance(term, terms.Recipe) and run.kind(term) == "number":
        return term
    if isinstance(term, terms.Phase) and setting.phases:
        train, eval_, decode = (
            _number(run, slot, setting, each, span) for each in (term.train, term.eval, term.decode)
        )
        if train is None or eval_ is None or decode is None:
            return None
        return terms.Phase(train, eval_, decode, term.span)
    if not isinstance(term, terms.Number):
        wanted = "a whole number" if setting.whole else "a number"
        words = f" or {_words(slot)}" if slot.words else ""
        misfits.wrong_type(run.sink, slot.what, wanted + words, term, span)
        return None
    return _bounded(run, slot, setting, term, span)


def _bounded(
    run: Run, slot: Slot, setting: Number, term: terms.Number, span: Span
) -> terms.Number | None:
    value = term.value
    if setting.whole and value != int(value):
        misfits.out_of_bounds(run.sink, slot.what, "a whole number", value, span, slot.derived)
        return None
    low, high = setting.low, setting.high
    under = low is not None and (value < low or (setting.exclusive_low and value == low))
    over = high is not None and value > high
    if not under and not over:
        return replace(term, value=int(value)) if setting.whole else term
    at_least = (
        f"more than {low:g}"
        if setting.exclusive_low and low is not None
        else f"at least {low or 0:g}"
    )
    needs = [at_least] if low is not None else []
    needs += [f"at most {high:g}"] if high is not None else []
    misfits.out_of_bounds(run.sink, slot.what, " and ".join(needs), value, span, slot.derived)
    return None


def _expression(run: Run, slot: Slot, setting: Expression, term: terms.Term, span: Span) -> Some:
    kind = terms.type_of(term)
    if kind not in ("tensor", "recipe", "number"):
        misfits.wrong_type(run.sink, slot.what, "an expression", term, span)
        return None
    if kind == "recipe" and not setting.bare and not begins_with_tensor(term):
        fed = _fed(setting, term, span)
        if fed is not None:
            return fed
        names = ", ".join(f"`{name}`" for name in setting.sees)
        misfits.wrong_type(
            run.sink, slot.what, "an expression that begins with a tensor", term, span,
            help=f"say what it reads: {names}, as in `{setting.sees[0]} -> ...`",
        )  # fmt: skip
        return None
    return term


def _fed(setting: Expression, term: terms.Term, span: Span) -> terms.Apply | None:
    """A projection may be a bare recipe: it reads what its default reads (`o = linear(bias = true)` reads `mixed`)."""
    default = parsed(setting.default) if setting.default else None
    if not isinstance(default, ast.Flow) or not isinstance(default.stages[0], ast.Path):
        return None
    first, last = default.stages[0].name, default.stages[-1]
    if first not in setting.sees or not isinstance(last, ast.Path) or last.name != PROJECTION:
        return None
    return terms.Apply(term, (terms.Tensor(first, span),), span=span)


def _recipe(
    run: Run, slot: Slot, kinds: tuple[str, ...], term: terms.Term, span: Span, flows: bool = False
) -> Some:
    """Where kinds are asked for, one recipe of them, or a flow of such where `flows`."""
    wanted = " or ".join(misfits.a(kind) for kind in kinds) or "a recipe"
    if terms.type_of(term) != "recipe":
        more = (
            {"help": "leave the input away: the place feeds it"}
            if terms.type_of(term) == "tensor"
            else {}
        )
        misfits.wrong_type(run.sink, slot.what, wanted, term, span, **more)
        return None
    if not kinds:
        return term
    if isinstance(term, terms.Flow) and flows:
        stages = [_recipe(run, slot, kinds, stage, span) for stage in term.stages]
        return None if None in stages else term
    if isinstance(term, terms.Copies) and flows and kinds == ("block",):  # layers in sequence
        return None if _recipe(run, slot, kinds, term.recipe, span, flows) is None else term
    if not isinstance(term, terms.Recipe):
        misfits.wrong_type(run.sink, slot.what, wanted, term, span)
        return None
    cls = run.registry.get(term.construct)
    if cls is not None and not run.kinds(cls) & set(kinds):
        misfits.wrong_kind(run.sink, slot.what, kinds, term, cls.kind, span)
        return None
    return term


def _list_item(run: Run, slot: Slot, setting: Listed, term: terms.Term, span: Span) -> Some:
    if setting.texts:
        if isinstance(term, terms.Text | terms.Word | terms.Number | terms.Items):
            return term
        misfits.wrong_type(run.sink, slot.what, "texts", term, span)
        return None
    if isinstance(term, terms.Items):
        found = [_recipe(run, slot, setting.kinds, item, span) for _, item in term.items]
        return None if None in found else term
    return _recipe(run, slot, setting.kinds, term, span)
