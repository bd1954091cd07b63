"""A checkpoint's map as the body of a generator: entries in loops over layers and experts."""

from __future__ import annotations

import json
import re
from itertools import groupby

from moedsl.backend.naming import identifier
from moedsl.backend.plan_lines import STEP, call_lines, fits, indented
from moedsl.frozen import frozen

BRACES = re.compile(r"\{([^{}]*)\}")
_TAKEN = frozenset({"file", "here", "expert", "like"})


@frozen
class Line:
    """One printed entry: templates in which layers and experts are `{variables}`. It is repeated over experts, from
    `first` up to `experts`."""

    file: str
    parameter: str
    rest: tuple[str, ...]
    expert: str = ""
    experts: int = 0
    first: int = 0


@frozen
class Block:
    """An entry and the layers that it holds for: one tuple of values of `variables` for each."""

    variables: tuple[str, ...]
    values: tuple[tuple[int, ...], ...]
    line: Line


def safe(name: str) -> str:
    plain = identifier(name)
    return f"{plain}_" if plain in _TAKEN else plain


def table_lines(blocks: list[Block], stepped: bool) -> list[str]:
    """The body. Runs of entries over the same layers share a loop; with `stepped` entries are spelled `Entry(...)`."""
    found: list[str] = []
    for (variables, values), group in groupby(blocks, key=lambda b: (b.variables, b.values)):
        found += _loop(variables, values, [block.line for block in group], stepped)
    return found


def _loop(
    variables: tuple[str, ...],
    values: tuple[tuple[int, ...], ...],
    entries: list[Line],
    stepped: bool,
) -> list[str]:
    """Entries that hold for the same layers, in one loop over them."""
    if not variables:
        return _body(entries, {}, 1, stepped)
    short: dict[str, str] = {}
    if len(entries) > 1:
        files = [e.file for e in entries if e.file]
        parameters = [e.parameter for e in entries]
        short = {_prefix(files): "file", _prefix(parameters): "here"}
        short.pop("", None)
    names = ", ".join(safe(variable) for variable in variables)
    lines = _header(names, values)
    if short:
        bound = ", ".join(quoted(prefix) for prefix in short)
        lines += indented([f"{', '.join(short.values())} = {bound}"])
    return lines + indented(_body(entries, short, 2, stepped))


def _body(entries: list[Line], short: dict[str, str], depth: int, stepped: bool) -> list[str]:
    lines: list[str] = []
    for (expert, *span), group in groupby(_in_loops(entries), key=_loop_of):
        own = list(group)
        if not expert:
            lines += [line for e in own for line in _entry(e, short, depth, stepped)]
            continue
        lines.append(f"for {expert} in range({', '.join(map(str, span[not span[0] :]))}):")
        prefix = _prefix([e.file for e in own], f"{{{expert}}}") if len(own) > 1 else ""
        if prefix:
            lines += indented([f"expert = {_shortened(prefix, short)}"])
        near = {prefix: "expert", **short} if prefix else short
        lines += indented([line for e in own for line in _entry(e, near, depth + 1, stepped)])
    return lines


def _loop_of(entry: Line) -> tuple[str, int, int]:
    return entry.expert, entry.first, entry.experts


def _in_loops(entries: list[Line]) -> list[Line]:
    """Entries over the same experts behind each other, where entries over others stand between them."""
    runs = groupby(entries, key=lambda entry: entry.expert)
    return [entry for _, run in runs for entry in sorted(run, key=lambda entry: entry.first)]


def _entry(entry: Line, short: dict[str, str], depth: int, stepped: bool) -> tuple[str, ...]:
    names = (_shortened(entry.file, short), _shortened(entry.parameter, short))
    items = [*names, *entry.rest]
    if stepped:
        return call_lines("yield Entry", items, depth=depth)
    one = f"yield {', '.join(items)}"
    if fits(one, depth):
        return (one,)
    return ("yield (", *(f"{STEP}{item}," for item in items), ")")


def _prefix(names: list[str], variable: str = "{") -> str:
    """What dotted names begin with, as far as the part that holds a variable; "" where they differ before it."""
    first = names[0].split(".")
    end = next((n for n, part in enumerate(first, 1) if variable in part), 0)
    prefix = ".".join(first[:end])
    return prefix if end and all(name.startswith(f"{prefix}.") for name in names) else ""


def _shortened(name: str, short: dict[str, str]) -> str:
    """The name as a string, through the first of the bound prefixes that it has; "" stays empty."""
    for prefix, variable in short.items():
        if name.startswith(f"{prefix}."):
            return quoted(f"{{{variable}}}{name[len(prefix) :]}")
    return quoted(name)


def quoted(template: str) -> str:
    """A string, or an f-string where the template has variables."""
    texts = BRACES.split(template)
    escaped = [json.dumps(text)[1:-1] for text in texts[::2]]
    if len(texts) == 1:
        return f'"{escaped[0]}"'
    doubled = [text.replace("{", "{{").replace("}", "}}") for text in escaped]
    variables = [f"{{{name}}}" for name in texts[1::2]]
    return 'f"' + "".join(a + b for a, b in zip(doubled, [*variables, ""], strict=True)) + '"'


def _header(names: str, values: tuple[tuple[int, ...], ...]) -> list[str]:
    """`for i in range(32):`, with the values one below the other where they do not fit."""
    one = f"for {names} in {_range(values)}:"
    if fits(one, 1):
        return [one]
    items = [repr(value[0] if len(value) == 1 else value) for value in values]
    return [f"for {names} in (", *indented([f"{item}," for item in items]), "):"]


def _range(values: tuple[tuple[int, ...], ...]) -> str:
    """`range(32)`, `range(3, 61)`, `range(0, 24, 2)`, what recurs with a period, or the values themselves."""
    if len(values[0]) > 1:
        return repr(values) if len(values) > 1 else f"({values[0]},)"
    plain = [value for (value,) in values]
    step = plain[1] - plain[0] if len(plain) > 1 else 1
    if step < 1 or plain != list(range(plain[0], plain[-1] + 1, step)):
        return _recurring(plain) or repr(tuple(plain))
    if step > 1:
        return f"range({plain[0]}, {plain[-1] + 1}, {step})"
    return f"range({plain[0]}, {plain[-1] + 1})" if plain[0] else f"range({plain[-1] + 1})"


def _recurring(values: list[int]) -> str:
    """`(i for i in range(48) if i % 4 in (0, 1, 2))`; "" where nothing recurs often enough."""
    first, last = values[0], values[-1]
    for period in range(3, (last - first + 1) // 2 + 1):
        left = sorted({value % period for value in values})
        if values == [value for value in range(first, last + 1) if value % period in left]:
            start = f"{first}, " if first else ""
            return f"(n for n in range({start}{last + 1}) if n % {period} in {tuple(left)!r})"
    return ""
