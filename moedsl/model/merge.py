"""Edits become definitions: the layers of one body are laid over each other, before anything is evaluated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moedsl.model import problems
from moedsl.model.limits import MAX_NAME
from moedsl.model.scope import Entry, Frame, Layer
from moedsl.syntax import ast

if TYPE_CHECKING:
    from moedsl.model.run import Run

_FREE = {"embed", "head"}  # roles that a model may declare


def lay(run: Run, frame: Frame, layer: Layer) -> None:
    """Lay one layer over a frame: declarations and settings enter it, edits change what is there."""
    for statement in layer.statements:
        match statement:
            case ast.Declaration():
                for name in statement.names:
                    declare(run, frame, layer, statement, name)
            case ast.Assign():
                for target in statement.targets:
                    _assign(run, frame, layer, statement, target)
            case ast.EditBody():
                _edit(run, frame, layer, statement.target, statement.body)
            case ast.Import():
                problems.misplaced_import(run.sink, statement.span)


def declare(
    run: Run, frame: Frame, layer: Layer, statement: ast.Declaration, name: ast.Name
) -> Entry | None:
    old = frame.names.get(name.text)
    taken = [p for p in statement.parameters if not free(run, frame, ast.Name(p.name, p.span))]
    if taken or not free(run, frame, name):
        return None
    if old is not None and old.layer is layer:
        problems.duplicate(run.sink, name.text, name.span, old.span)
        return None
    entry = Entry(
        name.text,
        statement.kind.text,
        frame,
        layer.env,
        name.span,
        statement.value,
        statement.body,
        statement.parameters,
        statement.base,
        old=old,
        doc=statement.doc,
        layer=layer,
    )
    frame.names[name.text] = entry
    return entry


def free(run: Run, frame: Frame, name: ast.Name) -> bool:
    """Implicit names and roles stay what they are, and a name is short enough to be one."""
    if len(name.text) > MAX_NAME:
        problems.long_name(run.sink, name.text, name.span, MAX_NAME)
        return False
    if name.text not in run.reserved or (name.text in _FREE and frame.scope == "model"):
        return True
    problems.reserved(run.sink, name.text, name.span)
    missing = Entry(name.text, "missing", frame, None, name.span)
    frame.names.setdefault(name.text, missing)  # said once: what reads it stays silent
    return False


def _assign(run: Run, frame: Frame, layer: Layer, statement: ast.Assign, target: ast.Path) -> None:
    if target.name is None:
        _nested(run, frame, layer, statement, target)
        return
    name = target.name
    holder = frame.names if frame.form is None or name in frame.names else frame.given
    old = holder.get(name)
    if frame.form is not None and holder is frame.given and name not in frame.form.settings:
        problems.unknown_setting(run.sink, name, target.span, frame)
        name = problems.suggestion(name, frame.form.settings) or name
        if name not in frame.form.settings or name in frame.given:
            return
        old = None  # taken for what was meant, so that it is not missed as well
    adds = statement.operator != "=" or (layer.edit and name not in run.root_settings)
    if old is None and frame.scope == "model" and adds:
        problems.nothing_to_edit(run.sink, name, target.span, frame)
        return
    if old is not None and old.layer is layer and statement.operator == "=":
        problems.duplicate(run.sink, name, target.span, old.span)
        return
    holder[name] = _assigned(frame, layer, statement, target, old)


def _assigned(
    frame: Frame, layer: Layer, statement: ast.Assign, target: ast.Path, old: Entry | None
) -> Entry:
    kind, parameters = (old.kind, old.parameters) if old is not None else ("set", ())
    if old is not None and old.kind == "parameter":
        kind = "set"
    return Entry(
        str(target.name),
        kind,
        frame,
        layer.env,
        target.span,
        statement.value,
        parameters=parameters if statement.operator != "=" else (),
        operator=statement.operator,
        old=old,
        doc=statement.doc or (old.doc if old is not None else ""),
        layer=layer,
    )


def _nested(run: Run, frame: Frame, layer: Layer, statement: ast.Assign, target: ast.Path) -> None:
    """`a.b = value` is `a { b = value }`."""
    rest = ast.Path(target.parts[1:], target.span)
    inner = ast.Assign((rest,), statement.operator, statement.value, span=statement.span)
    head = ast.Path(target.parts[:1], target.span)
    _edit(run, frame, layer, head, ast.Body((inner,), statement.span))


def _edit(run: Run, frame: Frame, layer: Layer, target: ast.Path, body: ast.Body) -> None:
    if target.name is None:
        rest = ast.Path(target.parts[1:], target.span)
        body = ast.Body((ast.EditBody(rest, body, target.span),), body.span)
        target = ast.Path(target.parts[:1], target.span)
    name = target.name
    if name is None:
        problems.cannot_edit_place(run.sink, target.span)
        return
    holder = frame.names if name in frame.names else frame.given
    old = frame.names.get(name) or (frame.setting(name) if frame.form is not None else None)
    if old is None:
        problems.nothing_to_edit(run.sink, name, target.span, frame)
        return
    if old.is_tensor or (old.value is None and old.body is None):
        problems.no_settings(run.sink, name, target.span, old)
        return
    holder[name] = edited = old.edited(Layer(body.statements, layer.env, True), frame)
    edited.used = old.used


def frame_of(run: Run, frame: Frame, layers: tuple[Layer, ...]) -> Frame:
    """A frame with all layers laid over it, innermost first."""
    for layer in layers:
        lay(run, frame, layer)
    return frame
