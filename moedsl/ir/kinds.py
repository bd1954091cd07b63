"""Kinds of experts by name: which choices of a bank `full` or `skip` are."""

from __future__ import annotations

from collections.abc import Iterable

from moedsl.diagnostics.model import Sink
from moedsl.diagnostics.suggest import did_you_mean
from moedsl.frozen import frozen
from moedsl.model import terms
from moedsl.source import Span


@frozen
class Choices:
    """The choices of one kind: `count` of them from `first` on. `construct` is what its experts are."""

    label: str
    first: int
    count: int
    construct: str = ""


def kinds_of(moe: terms.Recipe) -> tuple[Choices, ...]:
    """The named kinds of a mixture's bank; none where it is all of one kind."""
    from moedsl.constructs.registry import construct_of

    first, found = 0, []
    for label, count, body in getattr(construct_of(moe), "experts", ()):
        construct = body.construct if isinstance(body, terms.Recipe) else ""
        found.append(Choices(label or "", first, count, construct))
        first += count
    return tuple(found) if any(kind.label for kind in found) else ()


def common_kinds(mixtures: Iterable[terms.Recipe]) -> tuple[Choices, ...]:
    """The kinds that all of these mixtures have."""
    found = [kinds_of(one) for one in mixtures]
    return found[0] if found and all(kinds == found[0] for kinds in found) else ()


def span_of_kinds(
    sink: Sink, kinds: tuple[Choices, ...], labels: tuple[str, ...], span: Span
) -> tuple[int, int] | None:
    """(first, count) of the choices of these kinds, which stand side by side; None: all, or an error was made."""
    if not labels:
        return None
    known = {kind.label: kind for kind in kinds}
    unknown = next((label for label in labels if label not in known), None)
    if unknown is not None:
        close = did_you_mean(unknown, list(known))
        names = ", ".join(f"`{name}`" for name in known)
        sink.error(
            "E0412",
            f"no kind of experts is called `{unknown}`",
            span,
            help=f"did you mean `{close[0]}`?"
            if close
            else f"there are: {names}"
            if known
            else "name the kinds in the bank: `experts = [full = 6 * swiglu(64), skip = 2 * zero]`",
        )
        return None
    found = sorted((known[label] for label in dict.fromkeys(labels)), key=lambda kind: kind.first)
    count = sum(kind.count for kind in found)
    if found[-1].first + found[-1].count - found[0].first != count:
        sink.error(
            "E0412",
            "these kinds do not stand side by side in the bank",
            span,
            help="list them as neighbours in `experts`",
        )
        return None
    return found[0].first, count
