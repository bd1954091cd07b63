"""Sentences for people who read the package: docstrings, the legend of shape letters, numbers as they are said."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterable, Iterator

from moedsl.backend.header import docstring_text
from moedsl.backend.plan_lines import WIDTH, fits, prose
from moedsl.ir.graph import Dim, Graph, RecordType, TensorType, Unit
from moedsl.ir.ops import Before, TableRows
from moedsl.ir.shapes import MAIN, streams_in
from moedsl.ir.walk import walk
from moedsl.model import terms

_MEANINGS = {
    "B": "batch",
    "T": "tokens",
    "N": "rows of all sequences",
    "M": "heads of all rows",
    "D": "width",
    "V": "vocabulary",
    "H": "heads",
    "G": "key/value heads",
    "C": "head size",
    "E": "experts",
    "K": "chosen per row",
    "F": "inner width",
    "Q": "part for one pick",
    "R": "routed rows",
    "S": "tokens seen",
    "Z": "slots of all experts",
    "L": "short vector",
    "U": "still channels",
    "P": "turning channels",
    "W": "value size",
}


def docstring(text: str, depth: int) -> tuple[str, ...]:
    '''The lines of a docstring: `"""One."""`, or several with the closing quotes on a line of their own.'''
    text = docstring_text(text)
    if not text:
        return ()
    end = " " if text.endswith('"') else ""
    if "\n" not in text and fits(f'"""{text}{end}"""', depth):
        return (f'"""{text}{end}"""',)
    # What almost fits on one line is broken early, so that the closing quotes do not stick out.
    lines = prose(text, depth, first=3)
    lines = lines if len(lines) > 1 else prose(text, depth, first=7)
    return (f'"""{lines[0]}', *lines[1:], '"""')


def describe(unit: Unit) -> str:
    """What the spec says of it, and what it is, with sizes."""
    return "\n".join(part for part in (unit.doc.strip(), _nature(unit)) if part)


def _nature(unit: Unit) -> str:
    settings = dict(getattr(unit.recipe, "settings", ()))
    match unit.kind:
        case "attention":
            return _attention(settings)
        case "router" if found := chosen_of(unit):
            if any(isinstance(node.op, TableRows) for node in unit.nodes):
                return f"Looks up {kept_text(found[0])} of {found[1]} experts for each row."
            kept = kept_text(found[0])
            if any(isinstance(op, Before) for op in unit.wants):
                return (
                    f"Scores {found[1]} experts for each row, by its last score too; keeps {kept}."
                )
            return f"Scores {found[1]} experts for each row and keeps {kept}."
        case "moe" if found := chosen_of(unit):
            return f"A mixture of {found[1]} experts; each row goes to {kept_text(found[0])}."
        case "experts" if unit.bank:
            construct = getattr(unit.recipe, "construct", "")
            construct = unit.recipe.name if construct == "block" else construct
            what = f"{unit.bank} {construct} experts{_sizes(settings)}".replace("  ", " ")
            return f"{what}; {_HOW_ROWS_COME[met_of(unit)]}."
        case "router" if slots := slots_of(unit):
            return f"Scores {slots} slots for each token."
        case "moe" if banks := [u for u in _called(unit) if met_of(u) == "merged"]:
            return f"{banks[0].bank} experts, merged into one for each group of tokens."
        case "moe" if slots := slots_of(unit):
            return f"A mixture of experts that fill {slots} slots: each a mean of tokens, each token a mean of slots."
        case "block" if body := getattr(unit.recipe, "body", ()):
            return "; ".join(spell_statement(one) for one in body)
        case _ if construct := getattr(unit.recipe, "construct", ""):
            return f"A {construct}{_sizes(settings)}." if "width" in settings else ""
    return ""


_HOW_ROWS_COME = {
    "grouped": "rows come sorted by expert",
    "batched": "rows come by expert",
    "looked up": "each row looks up the two vectors of its own",
    "merged": "rows come in groups, each with its own mean of the experts",
}


def met_of(unit: Unit) -> str:
    """How rows meet the weights of a bank."""
    banks = (node.op for node in unit.nodes if getattr(node.op, "bank", 0))
    return next((getattr(op, "met", "grouped") for op in banks), "grouped")


def _called(unit: Unit) -> list[Unit]:
    return [called for node in unit.nodes for _, _, called in node.calls()]


def slots_of(unit: Unit) -> int | None:
    """How many slots there are where tokens are mixed into slots."""
    values = [value for node in unit.nodes for value in node.outputs]
    found = (
        dim.size
        for v in values
        if isinstance(v.type, TensorType)
        for dim in v.type.dims
        if dim.letter == "Z"
    )
    return next(found, None)


def _sizes(settings: dict[str, terms.Term]) -> str:
    width = _number(settings.get("width"))
    return f" of inner width {width}" if width else ""


def chosen_of(unit: Unit) -> tuple[Dim, int] | None:
    """How many experts a router, or the mixture around it, keeps, and of how many."""
    for node in unit.nodes:
        if chosen := getattr(node.op, "chosen", None):
            kept, among = chosen
            return getattr(node.op, "in_all", None) or kept, among.size
    if unit.kind == "moe":
        routers = [called for node in unit.nodes for _, _, called in node.calls()]
        own = next((found for router in routers if (found := chosen_of(router))), None)
        return own or next(_given(unit), None)
    return None


def kept_text(kept: Dim) -> str:
    if kept.mean is not None:
        return f"{float(kept.picks):g} on average"
    return f"up to {kept.size}" if kept.loose else f"{kept.size}"


def _given(unit: Unit) -> Iterator[tuple[Dim, int]]:
    """What is kept, and of how many, in decisions that were made elsewhere."""
    for value in unit.inputs:
        match value.type:
            case RecordType("Routing", (kept, choices)) if kept.size and choices.size:
                yield kept, choices.size


def flow(graph: Graph) -> str:
    """What becomes of the inputs, as the spec says it."""
    outputs = [spell(output.value) for output in getattr(graph.model, "outputs", ())]
    lets = [f"{let.name} = {spell(let.value)}" for let in getattr(graph.model, "lets", ())]
    return "; ".join([*lets, *outputs])


def further_streams(graph: Graph) -> dict[str, str]:
    """The letters of all streams but the main one, and what runs along them."""
    named = ((dim, value.name) for value in graph.root.inputs for dim in streams_in(value.type))
    return {dim.letter: f"tokens of {name}" for dim, name in named if dim != MAIN}


def _attention(settings: dict[str, terms.Term]) -> str:
    heads, size = _number(settings.get("heads")), _number(settings.get("head_dim"))
    shared, window = _number(settings.get("kv_heads")), _number(settings.get("window"))
    if heads is None:
        return ""
    text = f"{heads} heads" + (f" of {size}" if size else "")
    if shared is not None and shared != heads:
        text += f" share {shared} key/value {'head' if shared == 1 else 'heads'}"
    if (short := _number(settings.get("kv_rank"))) is not None:
        text += f", their keys and values from {short} channels"
    mask = settings.get("mask")
    causal = isinstance(mask, terms.Word) and mask.text == "causal"
    kind = "Causal attention" if causal else "Attention"
    return f"{kind}{f' to the last {window} tokens' if window else ''}: {text}."


def _number(term: terms.Term | None) -> int | float | None:
    return term.value if isinstance(term, terms.Number) else None


def spell_statement(statement: terms.Let | terms.Assign) -> str:
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
            return f"{term.place or term.name}{_passed(term)}"
        case terms.Flow(stages=stages):
            return " -> ".join(_repeated([spell(stage) for stage in stages]))
        case terms.Copies(count=count, recipe=recipe):
            return f"{count} * {spell(recipe)}"
        case terms.Apply(recipe=recipe, inputs=inputs, named=named):
            if not isinstance(recipe, terms.Recipe) and len(inputs) == 1 and not named:
                return f"{spell(inputs[0])} -> {spell(recipe)}"
            parts = [*map(spell, inputs), *(f"{name} = {spell(value)}" for name, value in named)]
            head = spell(recipe) if isinstance(recipe, terms.Recipe) else f"({spell(recipe)})"
            return f"{head}({', '.join(parts)})"
        case terms.Arithmetic(operator=operator, left=left, right=right):
            return f"{spell(left)} {operator} {spell(right)}"
        case terms.Phase(train=train):
            return spell(train)


def _passed(recipe: terms.Recipe) -> str:
    """What a block was given for its parameters: `(sparse)`."""
    found: dict[str, str] = {}
    for statement in recipe.body:
        for term in walk(statement.value):
            if isinstance(term, terms.Recipe) and term.place not in ("", term.name):
                found.setdefault(term.place, term.name)
    return f"({', '.join(found.values())})" if found else ""


def _repeated(stages: list[str]) -> list[str]:
    """`a -> a -> b -> a -> b` as `a`, `2 * (a -> b)`: what is repeated is said once."""
    found, start = [], 0
    while start < len(stages):
        tried = [(length, _times(stages, start, length)) for length in range(1, 9)]
        length, times = max(tried, key=lambda t: (t[0] * t[1] if t[1] > 1 else 1, -t[0]))
        one = " -> ".join(stages[start : start + length])
        found.append(one if times == 1 else f"{times} * {one if length == 1 else f'({one})'}")
        start += length * times
    return found


def _times(stages: list[str], start: int, length: int) -> int:
    """How often the next `length` stages follow each other; what has a count already stays as it is."""
    pattern, times = stages[start : start + length], 1
    if any(stage[0].isdigit() for stage in pattern) or len(pattern) < length:
        return 1
    while stages[start + times * length : start + (times + 1) * length] == pattern:
        times += 1
    return times


def legend(dims: Iterable[Dim], streams: dict[str, str]) -> str:
    """`Shapes: B batch, T tokens, D width 64, ...`: every letter that a printed name ends with. `streams`: what those of
    further streams of tokens stand for."""
    meanings = {**_MEANINGS, **streams}
    sizes: dict[str, set[int]] = {}
    others: dict[str, dict[str, int | None]] = {}  # letters that stand for something else here
    for dim in dims:
        if dim.meaning:
            others.setdefault(dim.letter, {})[dim.meaning] = dim.size
            continue
        sizes.setdefault(dim.letter, set()).update({dim.size} if dim.size is not None else ())
    known = [letter for letter in meanings if letter in sizes]
    parts = []
    for letter in [*known, *sorted(set(sizes) - set(known))]:
        meaning = meanings.get(letter, "")
        numbers = " or ".join(map(str, sorted(sizes[letter])))
        if letter != numbers:  # an axis of size 1 is called 1
            parts.append(" ".join(word for word in (letter, meaning, numbers) if word))
    for letter, said in others.items():
        for meaning, size in said.items():
            also = f"{letter} also" if letter in sizes else letter
            parts.append(" ".join(word for word in (also, meaning, str(size or "")) if word))
    # A letter stays on one line with its meaning.
    glued = ", ".join(part.replace(" ", "~") for part in parts)
    return "\n".join(textwrap.wrap(f"Shapes: {glued}.", WIDTH)).replace("~", " ")


def opening_comment(text: str) -> str:
    """The comment at the top of a spec."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    return "\n".join(line.lstrip("#").strip() for line in lines).strip()


def count(number: int) -> str:
    """46.7 billion, 12.9 million, 189,248."""
    for size, word in ((10**12, "trillion"), (10**9, "billion"), (10**6, "million")):
        if number >= size:
            return f"{number / size:.1f} {word}"
    return f"{number:,}"
