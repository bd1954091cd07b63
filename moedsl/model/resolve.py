"""What was written becomes what is meant: names bound, kinds and types decided, layers expanded.

    model m { width = 8 ... output y = tokens -> embed -> 2 * layer -> head }
    ->  terms.Model("m", settings=(("width", 8), ...), outputs=(Output("y", Apply(Flow(...), tokens)),))

Two steps: `files` and `merge` build the definition tree and lay edits over it (imports, `with`, `--set`); `evaluate`
then works out, on demand, what the outputs read. All limits are in `limits`.
"""

from __future__ import annotations

from moedsl.diagnostics.model import Diagnostic, Label, Sink
from moedsl.model import files, limits, problems, root, terms
from moedsl.model.collect import Collected
from moedsl.model.run import Run
from moedsl.model.scope import Entry, Frame, Layer
from moedsl.source import Source, Span
from moedsl.syntax import ast

TARGETS = ("model", "adapter")


def resolve(
    tree: ast.File,
    source: Source,
    sink: Sink,
    settings: tuple[str, ...] = (),
    target: str = "",
) -> terms.Model | None:
    """The resolved model, or None where nothing can be made. Mistakes of the spec go to the sink."""
    characters = len(source.text) + sum(len(text) for text in settings)
    own = Collected()
    try:
        with limits.undisturbed():
            return _resolved(Run(own, limits.Fuel(characters)), tree, source, settings, target)
    except limits.Stopped:
        return None
    except RecursionError:
        own.found.append(_too_deep(tree))
        return None
    finally:
        own.hand_over(sink)


def _too_deep(tree: ast.File) -> Diagnostic:
    return Diagnostic("E0230", "this spec is nested too deeply", Label(_top(tree)))


def _resolved(
    run: Run, tree: ast.File, source: Source, settings: tuple[str, ...], target: str
) -> terms.Model | None:
    frame = files.root_scope(run, tree, source)
    entry = _target(run, frame, tree, target)
    if entry is None:
        root.check_fragment(run, frame)
        return None
    if entry.kind != "model":
        problems.not_yet(run.sink, f"`{entry.kind}`", entry.span)
        return None
    layers = _set_layers(run, settings, entry)
    return root.model(run, entry, layers, frame)


def _target(run: Run, frame: Frame, tree: ast.File, target: str) -> Entry | None:
    """The model that is asked for: the file's last one where none is named."""
    own = [n for n, e in frame.names.items() if e.kind in TARGETS and e.frame is frame]
    if target:
        found = frame.names.get(target)
        if found is not None and found.kind in TARGETS:
            return found
        more = problems.meant(target, tree.span, own)
        more.pop("edits", None)
        run.sink.error("E0224", f"this file declares no model `{target}`", _top(tree), **more)
        return None
    if own:
        return frame.names[own[-1]]
    if not run.sink.has_errors:
        help = "`model name { ... }` declares one; recipes alone can be imported by other files"
        run.sink.error("E0224", "this file declares no model", _top(tree), help=help)
    return None


def _top(tree: ast.File) -> Span:
    return Span(tree.span.start, tree.span.start, tree.span.file)


def _set_layers(run: Run, settings: tuple[str, ...], entry: Entry) -> tuple[Layer, ...]:
    """Each `--set path=expression` is one more edit, in a text of its own."""
    from moedsl.syntax.parser import parse

    layers: list[Layer] = []
    for number, text in enumerate(settings, 1):
        source = Source(text, f"--set {number}")
        before = run.errors()
        tree = parse(source, run.sink)
        only = tree.statements[0] if len(tree.statements) == 1 else None
        if isinstance(only, ast.Assign):
            layers.append(Layer(tree.statements, entry.env, True))
        elif run.errors() == before:
            run.sink.error(
                "E0218",
                "this is not an edit",
                tree.span,
                help="write `path=expression`, as in `depth=2` or `sparse.experts=4 * swiglu(96)`",
            )
    return tuple(layers)
