"""The model itself: its body after all edits, and everything its outputs read."""

from __future__ import annotations

from dataclasses import field

from moedsl.constructs.declare import Construct
from moedsl.frozen import frozen, record
from moedsl.model import (
    decided,
    defaults,
    evaluate,
    lets,
    merge,
    misfits,
    phases,
    problems,
    terms,
    unused,
    values,
)
from moedsl.model.run import Run
from moedsl.model.scope import At, Entry, Env, Frame, Layer
from moedsl.source import Span
from moedsl.syntax import ast


@record
class _Parts:
    settings: list[tuple[str, terms.Term]] = field(default_factory=list)
    inputs: list[terms.Input] = field(default_factory=list)
    lets: list[terms.Let] = field(default_factory=list)
    outputs: list[terms.Output] = field(default_factory=list)
    checkpoints: list[terms.Checkpoint] = field(default_factory=list)
    stages: list[terms.Stage] = field(default_factory=list)


def model(run: Run, entry: Entry, edits: tuple[Layer, ...], file: Frame) -> terms.Model | None:
    layers = layers_of(run, entry, edits)
    if layers is None:
        return None
    frame = Frame(entry.name, "", scope="model")
    run.root, run.root_span = frame, entry.span
    _stand_by_default(run, frame)
    for each in layers:
        _parameters(run, frame, each)
        merge.lay(run, frame, each.layer)
    _enter_stage(run, frame)
    parts = _parts(run, frame)
    unused.report(run, frame, file)
    if not parts.outputs:
        if not run.sink.has_errors:
            help = "`output logits = tokens -> ... -> head` says what the model computes"
            run.sink.error("E0226", f"`{entry.name}` has no output", entry.span, help=help)
        return None
    return terms.Model(
        entry.name,
        tuple(parts.settings),
        tuple(parts.inputs),
        tuple(parts.lets),
        tuple(parts.outputs),
        tuple(parts.checkpoints),
        tuple(parts.stages),
        entry.doc,
        entry.span,
    )


def _enter_stage(run: Run, frame: Frame) -> None:
    """`stage = tune`: the model as it is in that stage."""
    chosen = frame.names.get("stage")
    if chosen is None or not isinstance(chosen.value, ast.Path) or chosen.value.name == "none":
        return
    name = phases.dotted(chosen.value)
    stage = frame.names.get(name)
    if stage is None or stage.kind != "stage":
        return  # said where the setting is read
    merge.lay(run, frame, Layer(phases.edits_of(stage), stage.env, True))


# --- the definition ----------------------------------------------------------------------------


@frozen
class ModelLayer:
    """A body of the model or an edit of it; `parameters` come before it, with what was passed for them."""

    layer: Layer
    parameters: tuple[ast.Parameter, ...] = ()
    arguments: tuple[ast.Argument, ...] = ()
    env: Env | None = None


def layers_of(run: Run, entry: Entry, edits: tuple[Layer, ...]) -> list[ModelLayer] | None:
    """From the model at the bottom of `a = b with { ... }` up to the edits of the command line."""
    with run.step(entry.span):
        if id(entry) in run.active:
            start = list(run.active).index(id(entry))
            problems.circular(run.sink, list(run.active.values())[start:])
            return None
        run.active[id(entry)] = (entry.name, entry.span)
        try:
            below = _below(run, entry)
        finally:
            del run.active[id(entry)]
    return None if below is None else [*below, *(ModelLayer(edit) for edit in edits)]


def _below(run: Run, entry: Entry) -> list[ModelLayer] | None:
    if entry.value is None:
        body = entry.body or ast.Body(())
        return [ModelLayer(Layer(body.statements, entry.env), entry.parameters)]
    own = ModelLayer(Layer((), entry.env), entry.parameters)
    below = _value_layers(run, entry.value, entry.env)
    return None if below is None else [*below, own]


def _value_layers(run: Run, value: ast.Expr, env: Env) -> list[ModelLayer] | None:
    with run.step(value.span):
        match value:
            case ast.With(recipe, body) | ast.Configured(recipe, body):
                below = _value_layers(run, recipe, env)
                return (
                    None
                    if below is None
                    else [*below, ModelLayer(Layer(body.statements, env, True))]
                )
            case ast.Call(callee, arguments):
                below = _value_layers(run, callee, env)
                return None if below is None else _passed(run, below, arguments, env)
            case ast.Path() if value.name is not None:
                return _named(run, value.name, value.span, env)
    run.sink.error("E0211", "a model is a body, or another model with changes", value.span)
    return None


def _named(run: Run, name: str, span: Span, env: Env) -> list[ModelLayer] | None:
    entry = env.find(name)
    if entry is None:
        problems.unknown_name(run.sink, name, span, env.names())
        return None
    if entry.kind == "missing":
        return None
    if entry.kind != "model":
        message = f"a model is wanted here, but `{name}` is {misfits.a(entry.kind)}"
        run.sink.error("E0211", message, span)
        return None
    entry.used = True
    return layers_of(run, entry, ())


def _passed(
    run: Run, below: list[ModelLayer], arguments: tuple[ast.Argument, ...], env: Env
) -> list[ModelLayer] | None:
    """`switch_base(16)`: values for the parameters, as edits of them."""
    names = [p.name for each in below for p in each.parameters]
    statements: list[ast.Statement] = []
    for position, argument in enumerate(arguments):
        name = argument.name or (names[position] if position < len(names) else None)
        if name is None:
            problems.too_many(run.sink, "this model", names, argument.span)
            return None
        if name not in names:
            problems.unknown_argument(run.sink, name, "this model", names, argument.span)
            return None
        path = ast.Path((name,), argument.span)
        statements.append(ast.Assign((path,), "=", argument.value, span=argument.span))
    return [*below, ModelLayer(Layer(tuple(statements), env, True))]


def _stand_by_default(run: Run, frame: Frame) -> None:
    """`embed` and `head`, and the settings that a model may leave unsaid."""
    cls = run.registry.get("model", Construct)
    apart = Frame(frame.owner, "", scope="defaults")  # they do not read what the spec declares
    for name, text in cls.implicit.items():
        value = defaults.parsed(text)
        frame.names[name] = Entry(
            name, name, apart, None, Span(0, 0), value, implicit=True, used=True
        )


def _parameters(run: Run, frame: Frame, each: ModelLayer) -> None:
    for parameter in each.parameters:
        if not merge.free(run, frame, ast.Name(parameter.name, parameter.span)):
            continue
        frame.names[parameter.name] = Entry(
            parameter.name, "set", frame, each.layer.env, parameter.span, parameter.default
        )


# --- what it amounts to ------------------------------------------------------------------------


def _parts(run: Run, frame: Frame) -> _Parts:
    parts, at = _Parts(), At()
    _settings(run, frame, parts, at)
    entries = list(frame.names.values())
    with run.body(mentions=True):
        for entry in entries:
            if entry.kind == "input":
                _input(run, parts, entry, at)
        lets_ = [entry for entry in entries if entry.kind == "let"]
        later = {
            entry.name: entry for entry in lets_ if decided.decides(run, entry.value, entry.env)
        }
        for kind in ("let", "output"):
            for entry in entries:
                if entry.kind == kind and entry.name not in later:
                    _tensor(run, parts, entry, at)
        for entry in later.values():  # decisions, after those who use them
            after = [*parts.lets, *(output.value for output in parts.outputs)]
            _tensor(run, parts, entry, decided.at_decision(at, entry.name, after))
    ordered = lets.in_order(run, parts.lets)
    told = sum(entry.kind in ("let", "input") for entry in entries)
    if ordered is None or len(parts.inputs) + len(ordered) < told:
        parts.outputs = []  # they may read what could not be made
    parts.lets = ordered or []
    for entry in entries:
        if entry.kind == "checkpoint":
            from moedsl.model import checkpoints  # most specs have none

            made = checkpoints.checkpoint(run, entry, at)
            parts.checkpoints += [made] if made is not None else []
        elif entry.kind == "stage":
            parts.stages.append(phases.stage(run, entry, at))
        elif entry.kind == "parallel":
            problems.not_yet(run.sink, "`parallel`", entry.span)
    return parts


def _input(run: Run, parts: _Parts, entry: Entry, at: At) -> None:
    term = None if entry.value is None else evaluate.evaluate(run, entry.value, entry.env, at)
    if isinstance(term, terms.Recipe) and run.kind(term) == "input":
        parts.inputs.append(terms.Input(entry.name, term, entry.span))
    elif term is not None:
        misfits.wrong_type(
            run.sink, f"`input {entry.name}`", "what an input can be", term, entry.span
        )


def _tensor(run: Run, parts: _Parts, entry: Entry, at: At) -> None:
    """`let` and `output`: tensors."""
    if entry.value is None:
        return
    term = evaluate.evaluate(run, entry.value, entry.env, at)
    if term is None:
        return
    if terms.type_of(term) != "tensor":
        first = "begin with an input: `tokens -> ...`" if terms.type_of(term) == "recipe" else ""
        misfits.wrong_type(
            run.sink, f"`{entry.kind} {entry.name}`", "a tensor", term, entry.value.span, help=first
        )
    elif entry.kind == "let":
        parts.lets.append(terms.Let(entry.name, term, entry.span))
    else:
        parts.outputs.append(terms.Output(entry.name, term, entry.span))


def _settings(run: Run, frame: Frame, parts: _Parts, at: At) -> None:
    """Known settings in declared order, then the model's own numbers."""
    known = run.root_settings
    own = [n for n, e in frame.names.items() if e.kind == "set" and n not in known]
    for name in [*known, *own]:
        entry = frame.names.get(name)
        if entry is None:
            default = known[name].default
            if default is not None:
                expr = defaults.parsed(default)
                term = values.coerce(run, values.Slot("", name, known[name]), expr, Env(frame), at)
                parts.settings += [(name, term)] if term is not None else []
            continue
        term = _setting(run, entry, at)
        if term is None:
            entry.kind = "missing"  # said once: what reads it stays silent
        else:
            parts.settings.append((name, term))


def _setting(run: Run, entry: Entry, at: At) -> terms.Term | None:
    if entry.value is None:
        message = f"the model's parameter `{entry.name}` has no value"
        run.sink.error(
            "E0204", message, entry.span, help=f"give it a default, or `--set {entry.name}=...`"
        )
        return None
    setting = run.root_settings.get(entry.name)
    if setting is not None:
        return values.coerce(
            run, values.Slot("model", entry.name, setting), entry.value, entry.env, at
        )
    if (
        isinstance(entry.value, ast.Path)
        and entry.value.name
        and not entry.env.find(entry.value.name)
    ):
        return terms.Word(entry.value.name, entry.value.span)
    term = evaluate.evaluate(run, entry.value, entry.env, at)
    if term is not None and terms.type_of(term) in ("recipe", "tensor"):
        help = f"declare it with its kind: `norm {entry.name} = ...`, or `let {entry.name} = ...`"
        misfits.wrong_type(run.sink, f"`{entry.name}`", "a number", term, entry.span, help=help)
        return None
    return term


def check_fragment(run: Run, frame: Frame) -> None:
    """A file without a model: its recipes are checked by themselves."""
    for entry in list(frame.names.values()):
        if entry.frame is frame and not entry.parameters and entry.kind not in ("model", "adapter"):
            evaluate.mentioned(run, entry, entry.span, At(), ())
