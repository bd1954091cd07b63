"""A resolved model written in the language: names bound, layers expanded, every default in its place.

    router top2 { select = top_k(2) }   ->   router top2 = router {
                                               score = linear(width = none, ...)
                                               gate = score
                                               ...
"""

from __future__ import annotations

from textwrap import indent

from moedsl.constructs.registry import constructs
from moedsl.model import terms

WIDE = 80  # characters of an inline recipe


def spell(model: terms.Model) -> str:
    speller = _Speller()
    body = [f"{name} = {speller.expression(value)}" for name, value in model.settings]
    body += [f"input {i.name} = {speller.expression(i.recipe)}" for i in model.inputs]
    lets = [f"let {let.name} = {speller.expression(let.value)}" for let in model.lets]
    outputs = [f"output {o.name} = {speller.expression(o.value)}" for o in model.outputs]
    return _braced(f"model {model.name}", [*body, *speller.declared, *lets, *outputs]) + "\n"


def _braced(head: str, statements: list[str]) -> str:
    return "\n".join((f"{head} {{", *(indent(text, "  ") for text in statements), "}"))


class _Speller:
    """Named recipes become declarations, innermost first; what has no name stays where it is used."""

    def __init__(self) -> None:
        self.declared: list[str] = []
        self.names: dict[terms.Recipe, str] = {}
        self.taken: set[str] = set()

    def expression(self, term: terms.Term, tight: bool = False) -> str:
        """`tight` asks for parentheses around whatever is not one thing."""
        match term:
            case terms.Number(value):
                return f"{value:g}" if isinstance(value, float) else str(value)
            case terms.Word(text) | terms.Tensor(text):
                return text
            case terms.Text(value):
                return f'"{value}"'
            case terms.Items(items):
                parts = [f"{label} = {self.expression(i)}" if label else self.expression(i) for label, i in items]
                return f"[{', '.join(parts)}]"
            case terms.Recipe():
                return self.recipe(term)
            case terms.Apply(recipe, (single,), ()) if not tight:
                follows = self.expression(recipe, tight=not isinstance(recipe, terms.Flow))
                return f"{self.expression(single, tight=True)} -> {follows}"
            case terms.Apply(recipe, inputs, named):
                given = [self.expression(i) for i in inputs]
                given += [f"{name} = {self.expression(value)}" for name, value in named]
                return f"{self.expression(recipe, tight=True)}({', '.join(given)})"
            case terms.Phase(train, eval, decode):
                each = zip(("train", "eval", "decode"), (train, eval, decode), strict=True)
                return f"phase({', '.join(f'{name} = {self.expression(value)}' for name, value in each)})"
        text = self._joined(term)
        return f"({text})" if tight else text

    def _joined(self, term: terms.Flow | terms.Copies | terms.Arithmetic) -> str:
        match term:
            case terms.Flow(stages):
                return " -> ".join(self.expression(s, isinstance(s, terms.Arithmetic)) for s in stages)
            case terms.Copies(count, recipe):
                return f"{count} * {self.expression(recipe, tight=True)}"
            case terms.Arithmetic(operator, left, right):
                return f"{self.expression(left, tight=True)} {operator} {self.expression(right, tight=True)}"

    def recipe(self, recipe: terms.Recipe) -> str:
        if recipe.name == recipe.construct and not recipe.body:
            settings = [f"{name} = {self.expression(value)}" for name, value in recipe.settings]
            inline = f"{recipe.construct}({', '.join(settings)})" if settings else recipe.construct
            return inline if len(inline) <= WIDE else _braced(recipe.construct, settings)
        if recipe not in self.names:
            self.names[recipe] = self._free(recipe.place or recipe.name)
            self.declared.append(self._declaration(recipe, self.names[recipe]))
        return self.names[recipe]

    def _declaration(self, recipe: terms.Recipe, name: str) -> str:
        kind = constructs()[recipe.construct].kind
        construct = "" if recipe.construct == kind else f" = {recipe.construct}"
        lines = [f"{n} = {self.expression(v)}" for n, v in recipe.settings]
        for statement in recipe.body:
            word = "let " if isinstance(statement, terms.Let) else ""
            lines.append(f"{word}{statement.name} = {self.expression(statement.value)}")
        return _braced(f"{kind} {name}{construct}", lines)

    def _free(self, stem: str) -> str:
        """Unlike recipes may share a name in different bodies: the second one is numbered."""
        name = next(n for i in range(1, 10_000) if (n := stem if i == 1 else f"{stem}_{i}") not in self.taken)
        self.taken.add(name)
        return name
