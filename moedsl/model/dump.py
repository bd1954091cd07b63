"""The resolved spec as text: every default written out, every name bound. It reads as a spec again.

moe sparse {
  router  = top2
  experts = 8 * swiglu(width = 14336, bias = false, ...)
"""

from __future__ import annotations

from dataclasses import field

from moedsl.constructs.declare import Labels, Listed, PlaceOf
from moedsl.constructs.registry import constructs
from moedsl.frozen import record
from moedsl.model import lets, terms
from moedsl.model.dump_layout import (
    aligned,
    arrows,
    braced,
    bracketed,
    fits,
    grouped,
    indented,
    named,
    quoted,
)

_SUM, _PRODUCT, _ATOM = 1, 2, 3


def dump_model(model: terms.Model) -> str:
    """Stable text: equal models give equal bytes."""
    printer = _Printer()
    tail = [*_flowing(printer, model), *_checkpoints(printer, model), *_stages(printer, model)]
    head = aligned([(name, printer.text(term)) for name, term in model.settings])
    groups = ["\n".join(head), *printer.declared.values(), *tail]
    body = "\n\n".join(indented(group) for group in groups if group)
    return f"model {model.name} {{\n{body}\n}}\n"


def _flowing(printer: _Printer, model: terms.Model) -> list[str]:
    lines = [f"input {each.name} = {printer.inline(each.recipe)}" for each in model.inputs]
    lines += [f"let {each.name} = {printer.text(each.value)}" for each in model.lets]
    lines += [f"output {each.name} = {printer.text(each.value)}" for each in model.outputs]
    return ["\n".join(lines)]


def _checkpoints(printer: _Printer, model: terms.Model) -> list[str]:
    groups = []
    for each in model.checkpoints:
        rows = []
        for entry in each.entries:
            paths = ", ".join(_path(path) for path in entry.paths)
            file = [quoted(entry.file)] if entry.file else []
            steps = [printer.inline(step) for step in entry.steps]
            rows.append((paths, " -> ".join([*file, *steps])))
        body = indented("\n".join(aligned(rows)))
        source = printer.inline(each.source)
        groups.append(f"checkpoint {each.name} = {source} {{\n{body}\n}}")
    return groups


def _stages(printer: _Printer, model: terms.Model) -> list[str]:
    return [
        braced(
            f"stage {each.name}",
            aligned([*((n, printer.text(t)) for n, t in each.settings), *each.edits]),
        )
        for each in model.stages
    ]


def _path(pattern: terms.PathPattern) -> str:
    text = ""
    for part in pattern.parts:
        if isinstance(part, tuple):
            text += f"[{part[1]}]"
        else:
            text += f".{part}" if text else part
    return text


# --- recipes -----------------------------------------------------------------------------------


@record
class _Printer:
    """Named recipes become declarations, in the order in which they are needed."""

    declared: dict[str, str] = field(default_factory=dict)
    names: dict[terms.Recipe, str] = field(default_factory=dict)
    _taken: dict[str, str] = field(default_factory=dict)  # what a name was given to
    _bodies: list[_Body] = field(default_factory=list)  # the blocks around, outermost first

    def text(self, term: terms.Term, level: int = 0) -> str:
        match term:
            case terms.Number(value):
                return repr(value)
            case terms.Word(text):
                return text
            case terms.Text(value):
                return quoted(value)
            case terms.Tensor(name):
                return name
            case terms.Items(items):
                return bracketed("[", [named(label, self.text(t)) for label, t in items], "]")
            case terms.Recipe():
                return self.recipe(term)
            case terms.Flow(stages):
                return grouped(arrows([self.text(s, _PRODUCT) for s in stages]), level > 0)
            case terms.Copies(count, recipe):
                return grouped(f"{count} * {self.text(recipe, _ATOM)}", level > _PRODUCT)
            case terms.Arithmetic():
                return self._arithmetic(term, level)
            case terms.Apply():
                return self._apply(term, level)
            case terms.Phase(train, eval_, decode):
                parts = zip(("train", "eval", "decode"), (train, eval_, decode), strict=True)
                return bracketed("phase(", [named(n, self.text(t)) for n, t in parts], ")")
        raise AssertionError(term)

    def _arithmetic(self, term: terms.Arithmetic, level: int) -> str:
        own = _SUM if term.operator in "+-" else _PRODUCT
        left, right = self.text(term.left, own), self.text(term.right, own + 1)
        return grouped(f"{left} {term.operator} {right}", level > own)

    def _apply(self, term: terms.Apply, level: int) -> str:
        called = _is_named(term.recipe) or isinstance(term.recipe, terms.Word)  # a parameter
        if len(term.inputs) == 1 and not term.named and not called:
            stages = term.recipe.stages if isinstance(term.recipe, terms.Flow) else (term.recipe,)
            parts = [self.text(each, _PRODUCT) for each in (*term.inputs, *stages)]
            return grouped(arrows(parts), level > 0)
        arguments = [self.text(each) for each in term.inputs]
        arguments += [named(name, self.text(each)) for name, each in term.named]
        return bracketed(f"{self.text(term.recipe, _ATOM)}(", arguments, ")")

    def recipe(self, recipe: terms.Recipe) -> str:
        """How a recipe is mentioned: by its name where the spec gave it one."""
        if not _is_named(recipe):
            return self.inline(recipe)
        passed = _passed(recipe)
        arguments = [self.recipe(each) for each in passed.values()]
        arguments += [self.text(value) for _, value in recipe.bound]
        name = self._name(recipe, passed)
        return bracketed(f"{name}(", arguments, ")") if arguments else name

    def inline(self, recipe: terms.Recipe) -> str:
        settings = [named(name, self._setting(recipe, name, t)) for name, t in recipe.settings]
        return (
            bracketed(f"{recipe.construct}(", settings, ")")
            if settings
            else f"{recipe.construct}()"
        )

    def _setting(self, recipe: terms.Recipe, name: str, term: terms.Term) -> str:
        cls = constructs().get(recipe.construct)
        setting = cls.settings.get(name) if cls is not None else None
        if isinstance(setting, PlaceOf) and isinstance(term, terms.Text):
            return term.value
        items = term.items if isinstance(term, terms.Items) else ()
        if isinstance(setting, Labels | Listed) and len(items) == 1:
            return self.text(items[0][1])
        return self.text(term)

    def _name(self, recipe: terms.Recipe, passed: dict[str, terms.Recipe]) -> str:
        reads = lets.read(recipe) if self._bodies else set()
        home: _Printer | _Body = next((b for b in self._bodies[::-1] if b.tensors & reads), self)
        if recipe not in home.names:
            text = self._declaration(recipe, passed)
            name, number = recipe.name, 1
            while self._taken.get(name, text) != text:
                number += 1
                name = f"{recipe.name}_{number}"
            self._taken[name] = text
            home.names[recipe] = name
            home.declared.setdefault(name, text.replace("\0", name))
        return home.names[recipe]

    def _declaration(self, recipe: terms.Recipe, passed: dict[str, terms.Recipe]) -> str:
        """The declaration, with a null where its name goes."""
        cls = constructs().get(recipe.construct)
        kind = "tied" if recipe.tied else cls.kind if cls is not None else recipe.construct
        parameters = [*passed, *(name for name, _ in recipe.bound)]
        head = f"{kind} \0({', '.join(parameters)})" if parameters else f"{kind} \0"
        if not recipe.body and recipe.construct != "block":
            line = f"{head} = {self.inline(recipe)}"
            if recipe.construct != kind or fits(line):
                return line
        if recipe.construct != kind:
            head = f"{head} = {recipe.construct}"
        inner = _Standing(self, {each: name for name, each in passed.items()})
        own = _Body({each.name for each in recipe.body} - {"x"} | {n for n, _ in recipe.bound})
        self._bodies.append(own)
        body = [inner.statement(each) for each in recipe.body]
        rows = [(name, self._setting(recipe, name, term)) for name, term in recipe.settings]
        self._bodies.pop()
        body = [*own.declared.values(), *body]
        return braced(head, body + aligned(rows))


@record
class _Body:
    """A block being printed: recipes that read its tensors are declared in it."""

    tensors: set[str]
    declared: dict[str, str] = field(default_factory=dict)
    names: dict[terms.Recipe, str] = field(default_factory=dict)


@record
class _Standing:
    """Statements of a block, where what was passed is called by its parameter."""

    printer: _Printer
    passed: dict[terms.Recipe, str]

    def statement(self, statement: terms.Let | terms.Assign) -> str:
        name, value = statement.name, self._renamed(statement.value)
        if isinstance(statement, terms.Let):
            return f"let {name} = {self.printer.text(value)}"
        match value:
            case terms.Arithmetic("+", terms.Tensor(same), right) if same == name:
                return f"{name} += {self.printer.text(right)}"
        return f"{name} = {self.printer.text(value)}"

    def _renamed(self, term: terms.Term) -> terms.Term:
        match term:
            case terms.Recipe() if term in self.passed:
                return terms.Word(self.passed[term])
            case terms.Flow(stages):
                return terms.Flow(tuple(self._renamed(s) for s in stages))
            case terms.Copies(count, recipe):
                return terms.Copies(count, self._renamed(recipe))
            case terms.Apply(recipe, inputs, named):
                given = tuple(self._renamed(each) for each in inputs)
                others = tuple((name, self._renamed(each)) for name, each in named)
                return terms.Apply(self._renamed(recipe), given, others)
            case terms.Arithmetic(operator, left, right):
                return terms.Arithmetic(operator, self._renamed(left), self._renamed(right))
        return term


def _is_named(term: terms.Term) -> bool:
    if not isinstance(term, terms.Recipe):
        return False
    own = term.name != term.construct or term.place != term.name
    return own or bool(term.body or term.tied) or term.construct == "block"


def _passed(recipe: terms.Recipe) -> dict[str, terms.Recipe]:
    """What stands in a body under a parameter's name."""
    found: dict[str, terms.Recipe] = {}

    def walk(term: terms.Term) -> None:
        match term:
            case terms.Recipe(name=name, place=place):
                if place != name:
                    found.setdefault(place, term)
            case terms.Flow(stages):
                for stage in stages:
                    walk(stage)
            case terms.Copies(recipe=inner):
                walk(inner)
            case terms.Apply(inner, inputs, named):
                for each in (inner, *inputs, *(value for _, value in named)):
                    walk(each)
            case terms.Arithmetic(left=left, right=right):
                walk(left)
                walk(right)

    for statement in recipe.body:
        walk(statement.value)
    return found
