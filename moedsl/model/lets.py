"""Named tensors in the order in which they can be computed, however they were written."""

from __future__ import annotations

from collections.abc import Iterable

from moedsl.model import problems, terms
from moedsl.model.run import Run


def in_order(run: Run, lets: Iterable[terms.Let]) -> list[terms.Let] | None:
    """Each after those it reads; None where some read each other."""
    lets = list(lets)
    if not lets:
        return lets  # as in most bodies
    by_name = {let.name: let for let in lets}
    reads = {name: read(let.value) & by_name.keys() for name, let in by_name.items()}
    done: dict[str, terms.Let] = {}
    while len(done) < len(by_name):
        ready = [name for name in by_name if name not in done and reads[name] <= done.keys()]
        if not ready:
            waiting = [name for name in by_name if name not in done]
            problems.circular(run.sink, [(name, by_name[name].span) for name in waiting])
            return None
        done.update((name, by_name[name]) for name in ready)
    return list(done.values())


def read(term: terms.Term) -> set[str]:
    """The tensors that stand anywhere in a term; shared parts are looked at once."""
    names: set[str] = set()
    seen: set[int] = set()
    open_parts = [term]
    while open_parts:
        part = open_parts.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, terms.Tensor):
            names.add(part.name)
        open_parts.extend(part.parts)
    return names
