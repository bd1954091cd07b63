"""What nothing reads: a warning where it was declared, and its mistakes all the same."""

from __future__ import annotations

from moedsl.model import evaluate, problems
from moedsl.model.run import Run
from moedsl.model.scope import At, Entry, Frame

_ALWAYS = ("input", "output", "checkpoint", "stage", "parallel", "adapter", "model", "missing")


def report(run: Run, model: Frame, file: Frame) -> None:
    before = [entry for entry in model.names.values() if _unread(entry, file.owner)]
    loose = [
        entry for entry in file.names.values() if entry.frame is file and _unread(entry, file.owner)
    ]
    inner = _read_by_another(run, [*before, *loose])
    if run.sink.has_errors:
        return  # what an error kept from being read is not unused
    for entry in (*before, *loose):
        if id(entry) in inner:
            continue
        if entry.kind == "set":
            if entry.name not in run.root_settings:
                problems.unread_setting(run.sink, entry.name, entry.span, run.root_settings)
            continue
        problems.unused(run.sink, entry.kind, entry.name, entry.span)


def _read_by_another(run: Run, unread: list[Entry]) -> set[int]:
    """Those that are read by another one of them: naming that other one is enough."""
    inner: set[int] = set()
    for entry in unread:
        if entry.kind in ("set", "let") or entry.parameters:
            continue
        for other in unread:
            other.used = False
        # A router that no mixture uses has no number of choices of its own; any will do to read the rest of it.
        evaluate.mentioned(run, entry, entry.span, At(choices=1), ())
        inner.update(id(other) for other in unread if other.used and other is not entry)
    return inner


def _unread(entry: Entry, file: str) -> bool:
    """Only what this file says itself: what an imported model does not read is its own affair."""
    here = entry.span.file == file or entry.span.file.startswith("--set")
    return here and not entry.used and not entry.implicit and entry.kind not in _ALWAYS
