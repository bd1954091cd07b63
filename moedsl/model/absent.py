"""A setting of the model that something needs and the spec does not give, perhaps under another spelling."""

from __future__ import annotations

from moedsl.model import evaluate, problems, terms
from moedsl.model.run import Run
from moedsl.model.scope import At, Entry


def setting(run: Run, name: str, at: At) -> terms.Term | None:
    """Said once. A number of the model that is spelled nearly like it is taken for it."""
    assert run.root is not None
    close = next((entry for entry in run.root.names.values() if _meant(run, entry, name)), None)
    if close is None:
        span = run.root_span
        problems.missing_setting(run.sink, name, run.root_settings[name], "model", span)
        run.root.names[name] = Entry(name, "missing", run.root, None, span)
        return None
    problems.unread_setting(run.sink, close.name, close.span, [name])
    run.root.names[name] = close
    return evaluate.mentioned(run, close, close.span, at, ())


def _meant(run: Run, entry: Entry, name: str) -> bool:
    own = entry.kind == "set" and entry.name not in run.root_settings and not entry.used
    return own and problems.suggestion(entry.name, [name]) is not None
