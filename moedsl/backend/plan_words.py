"""Sentences for people who read the package: docstrings, the legend of shape letters, numbers as they are said."""

from __future__ import annotations

from collections.abc import Iterator

from moedsl.backend.header import docstring_text
from moedsl.backend.plan_lines import STEP, WIDTH, prose
from moedsl.ir.graph import Dim, Graph, TensorType, Unit
from moedsl.model import terms

_MEANINGS = {
    "B": "batch",
    "T": "tokens",
    "N": "rows (B*T)",
    "D": "width",
    "V": "vocabulary",
    "H": "heads",
    "G": "key/value heads",
    "C": "head size",
    "E": "experts",
    "K": "chosen per row",
    "F": "inner width",
    "R": "routed rows (N*K)",
    "S": "sequences",
}


def docstring(text: str, depth: int) -> tuple[str, ...]:
    '''The lines of a docstring: `"""One."""`, or several with the closing quotes on a line of their own.'''
    lines = prose(docstring_text(text), depth, first=3)
    if not text.strip():
        return ()
    if len(lines) == 1 and len(lines[0]) + 6 + len(STEP) * depth <= WIDTH:
        end = " " if lines[0].endswith('"') else ""
        return (f'"""{lines[0]}{end}"""',)
    return (f'"""{lines[0]}', *lines[1:], '"""')


def describe(unit: Unit) -> str:
    """What the spec says of it, and what it is, with sizes."""
    return "\n".join(part for part in (unit.doc.strip(), _nature(unit)) if part)


def _nature(unit: Unit) -> str:
    settings = dict(getattr(unit.recipe, "settings", ()))
    match unit.kind:
        case "attention":
            return _attention(settings)
        case "router":
            return _choice(unit, "Scores {all} experts for each row and keeps {some}.")
        case "moe":
            routers = [called for node in unit.nodes for _, _, called in node.calls()]
            for called in routers:
                if text := _choice(called, "A mixture of {all} experts; each row goes to {some}."):
                    return text
        case "experts" if unit.bank:
            return (
                f"{unit.bank} experts side by side{_sizes(settings)}; rows come sorted by expert."
            )
        case "block" if body := getattr(unit.recipe, "body", ()):
            return "; ".join(_statement(one) for one in body)
        case _ if construct := getattr(unit.recipe, "construct", ""):
            return f"{construct}{_sizes(settings)}." if "width" in settings else ""
    return ""


def _sizes(settings: dict[str, terms.Term]) -> str:
    width = _number(settings.get("width"))
    return f" of inner width {width}" if width else ""


def _choice(unit: Unit, text: str) -> str:
    """`text` with how many experts a router chooses among, and how many it keeps."""
    for node in unit.nodes:
        if chosen := getattr(node.op, "chosen", None):
            kept, among = chosen
            return text.format(all=among.size, some=kept.size)
    return ""


def flow(graph: Graph) -> str:
    """What becomes of the inputs, as the spec says it."""
    outputs = getattr(graph.model, "outputs", ())
    return "; ".join(spell(output.value) for output in outputs)


def _attention(settings: dict[str, terms.Term]) -> str:
    heads, size = _number(settings.get("heads")), _number(settings.get("head_dim"))
    shared = _number(settings.get("kv_heads"))
    if heads is None:
        return ""
    text = f"{heads} heads" + (f" of {size}" if size else "")
    if shared is not None and shared != heads:
        plural = "head" if shared == 1 else "heads"
        text += f" share {shared} key/value {plural}"
    window = _number(settings.get("window"))
    words = [
        t.text for t in (settings.get("mask"),) if isinstance(t, terms.Word) and t.text != "none"
    ]
    words += [f"a window of {window}"] if window else []
    return text + (f"; {', '.join(words)}" if words else "") + "."


def _number(term: terms.Term | None) -> int | float | None:
    return term.value if isinstance(term, terms.Number) else None


def _statement(statement: terms.Let | terms.Assign) -> str:
    value = statement.value
    if isinstance(statement, terms.Let):
        return f"let {statement.name} = {spell(value)}"
    match value:
        case terms.Arithmetic("+", terms.Tensor(name), added) if name == statement.name:
            return f"{name} += {spell(added)}"
    return f"{statement.name} = {spell(value)}"


def spell(term: terms.Term) -> str:
    """A term as the spec would write it, recipes by their names."""
    match term:
        case terms.Number(value=value):
            return f"{value:g}" if isinstance(value, float) else str(value)
        case terms.Word(text=text):
            return text
        case terms.Text(value=value):
            return f'"{value}"'
        case terms.Items(items=items):
            return "[" + ", ".join(f"{n} = {spell(t)}" if n else spell(t) for n, t in items) + "]"
        case terms.Tensor(name=name):
            return name
        case terms.Recipe():
            return term.place or term.name
        case terms.Flow(stages=stages):
            return " -> ".join(spell(stage) for stage in stages)
        case terms.Copies(count=count, recipe=recipe):
            return f"{count} * {spell(recipe)}"
        case terms.Apply(recipe=recipe, inputs=inputs, named=named):
            parts = [*map(spell, inputs), *(f"{name} = {spell(value)}" for name, value in named)]
            head = spell(recipe) if isinstance(recipe, terms.Recipe) else f"({spell(recipe)})"
            return f"{head}({', '.join(parts)})"
        case terms.Arithmetic(operator=operator, left=left, right=right):
            return f"{spell(left)} {operator} {spell(right)}"
        case terms.Phase(train=train):
            return spell(train)


def legend(graph: Graph) -> str:
    """`Shapes: B batch, T tokens, D width 64, ...`: every letter that a printed name ends with."""
    sizes: dict[str, set[int]] = {}
    for dim in _dims(graph):
        sizes.setdefault(dim.letter, set()).update({dim.size} if dim.size is not None else ())
    known = [letter for letter in _MEANINGS if letter in sizes]
    parts = []
    for letter in [*known, *sorted(set(sizes) - set(known))]:
        meaning = _MEANINGS.get(letter, "")
        numbers = " or ".join(map(str, sorted(sizes[letter])))
        parts.append(" ".join(word for word in (letter, meaning, numbers) if word))
    return f"Shapes: {', '.join(parts)}."


def _dims(graph: Graph) -> Iterator[Dim]:
    for unit in graph.units:
        values = [*unit.inputs, *unit.ambients, *(v for node in unit.nodes for v in node.outputs)]
        for value in values:
            if isinstance(value.type, TensorType):
                yield from value.type.dims


def count(number: int) -> str:
    """46.7 billion, 12.9 million, 189,248."""
    for size, word in ((10**12, "trillion"), (10**9, "billion"), (10**6, "million")):
        if number >= size:
            return f"{number / size:.1f} {word}"
    return f"{number:,}"
