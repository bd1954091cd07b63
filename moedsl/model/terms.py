"""Resolved expressions: names bound, kinds and types decided, layers expanded. Frozen and hashable; spans and docs
never take part in equality, so that equal layers are equal values.

A term denotes a number, word, text, list, recipe (a map from tensors to tensors, with weights of its own at each
place) or tensor. `type_of(term)` says which.
"""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from moedsl.frozen import frozen
from moedsl.model.tree import Compound, Leaf
from moedsl.source import Span

_NOWHERE = Span(0, 0)


def _span() -> Span:
    return field(default=_NOWHERE, compare=False, repr=False)


@frozen
class Number(Leaf):
    value: int | float
    span: Span = _span()


@frozen
class Word(Leaf):
    """A word of a setting's own type: `causal`, `mean`, `none`, `true`."""

    text: str
    span: Span = _span()


@frozen
class Text(Leaf):
    value: str
    span: Span = _span()


@frozen
class Items(Compound):
    """`[a, b]` or `[full = a, skip = b]`: (label or None, term) pairs."""

    items: tuple[tuple[str | None, Term], ...]
    span: Span = _span()

    @property
    def parts(self) -> tuple[Term, ...]:
        return tuple([term for _, term in self.items])


@frozen
class Tensor(Leaf):
    """A named tensor of the body one is in: `x`, `score`, a `let`, a bound parameter of a block."""

    name: str
    span: Span = _span()


@frozen
class Let:
    """`let name = value` in a block, an attention, a model."""

    name: str
    value: Term
    span: Span = _span()


@frozen
class Assign:
    """`name = value` in a block's body; `x += f(x)` arrives as Assign("x", Arithmetic("+", Tensor("x"), ...))."""

    name: str
    value: Term
    span: Span = _span()


@frozen(hash_once=True)
class Recipe(Compound):
    """A construct with every setting filled in (defaults too), in the construct's declared order.

    name: what the spec calls it (`gqa`, `sparse`, `before_mix`; the construct's own name where inline): names classes.
    place: the attribute it stands at (a parameter it was passed as, else `name`): names modules and paths.
    body: statements, for blocks. bound: tensors given to a block's parameters (`decode(feed_forward, memory)`).
    tied: identity of a `tied` declaration: equal non-empty values share one module.
    given: names of the settings the spec wrote itself; origins: where each setting was written.
    """

    construct: str
    name: str
    settings: tuple[tuple[str, Term], ...] = ()
    place: str = ""
    body: tuple[Let | Assign, ...] = ()
    bound: tuple[tuple[str, Term], ...] = ()
    tied: str = ""
    doc: str = field(default="", compare=False)
    given: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    origins: tuple[tuple[str, Span], ...] = field(default=(), compare=False, repr=False)
    span: Span = _span()

    @property
    def parts(self) -> tuple[Term, ...]:
        settings, bound = [term for _, term in self.settings], [term for _, term in self.bound]
        return (*settings, *[statement.value for statement in self.body], *bound)

    @property
    def said(self) -> tuple[object, ...]:
        """All of it but where it stands."""
        return self.construct, self.name, self.settings, self.body, self.bound

    def setting(self, name: str) -> Term:
        return next(term for key, term in self.settings if key == name)

    def origin(self, name: str) -> Span:
        """Where the setting was written; the recipe itself where it is a default."""
        return dict(self.origins).get(name, self.span)


@frozen
class Flow(Compound):
    """`a -> b`: recipes composed."""

    stages: tuple[Term, ...]
    span: Span = _span()

    @property
    def parts(self) -> tuple[Term, ...]:
        return self.stages


@frozen
class Copies(Compound):
    """`n * recipe`: n copies with weights of their own; in sequence in a flow, side by side in a bank.

    In a flow every run of equal layers arrives as one Copies (or the bare recipe where n is 1); layers that differ
    (`index`, `by_layer`) arrive as stages of their own.
    """

    count: int
    recipe: Term
    span: Span = _span()

    @property
    def parts(self) -> tuple[Term, ...]:
        return (self.recipe,)


@frozen
class Apply(Compound):
    """`recipe(tensor, second_stream, name = tensor)` or `tensor -> recipe`."""

    recipe: Term
    inputs: tuple[Term, ...]
    named: tuple[tuple[str, Term], ...] = ()
    span: Span = _span()

    @property
    def parts(self) -> tuple[Term, ...]:
        return (*self.inputs, *[term for _, term in self.named], self.recipe)


@frozen
class Arithmetic(Compound):
    """`a + b`, `a - b`, `a * b`, `a / b` of recipes (same input to both), tensors, or a tensor beside a recipe."""

    operator: Literal["+", "-", "*", "/"]
    left: Term
    right: Term
    span: Span = _span()

    @property
    def parts(self) -> tuple[Term, ...]:
        return self.left, self.right


@frozen
class Phase(Compound):
    """`phase(train = a, eval = b, decode = c)` where the three differ."""

    train: Term
    eval: Term
    decode: Term
    span: Span = _span()

    @property
    def parts(self) -> tuple[Term, ...]:
        return self.train, self.eval, self.decode


Term = Number | Word | Text | Items | Tensor | Recipe | Flow | Copies | Apply | Arithmetic | Phase


def stages_of(term: Term) -> tuple[Term, ...]:
    """What a flow is made of, one after the other; of another term, itself."""
    if not isinstance(term, Flow):
        return (term,)
    return tuple(inner for stage in term.stages for inner in stages_of(stage))


def type_of(term: Term) -> str:
    """number | word | text | list | tensor | recipe | phase"""
    match term:
        case Arithmetic(_, left, right):
            kinds = {type_of(left), type_of(right)}
            return "recipe" if "recipe" in kinds else "tensor" if "tensor" in kinds else "number"
        case Phase(train=train):
            return type_of(train)
    return _TYPES[type(term)]


_TYPES: dict[type, str] = {Number: "number", Word: "word", Text: "text", Items: "list"}
_TYPES |= {Tensor: "tensor", Apply: "tensor", Recipe: "recipe", Flow: "recipe", Copies: "recipe"}


# --- a resolved spec ---------------------------------------------------------------------------


@frozen
class Input:
    """`input tokens = ids(vocab)`."""

    name: str
    recipe: Recipe
    span: Span = _span()


@frozen
class Output:
    name: str
    value: Term
    span: Span = _span()


@frozen
class PathPattern:
    """`layer[i].gqa.[q, k]` spelled out to one path: parts are names or ("index", int | variable)."""

    parts: tuple[str | tuple[str, int | str], ...]
    span: Span = _span()


@frozen
class CheckpointEntry:
    """`paths = "file name" -> steps`: several paths where the file tensor is split among them.

    No file name: the weights are made, as the one step says.
    """

    paths: tuple[PathPattern, ...]
    file: str
    steps: tuple[Recipe, ...] = ()
    span: Span = _span()


@frozen
class Checkpoint:
    """`checkpoint hub = huggingface(names = file, ignore = [...]) { entries }`. `settings` are the source recipe's."""

    name: str
    source: Recipe
    entries: tuple[CheckpointEntry, ...]
    span: Span = _span()


@frozen
class Stage:
    """A training phase, in order; `settings` as written. `edits`: the paths of the model that it sets anew, and
    what they get, in the words of the spec."""

    name: str
    settings: tuple[tuple[str, Term], ...]
    edits: tuple[tuple[str, str], ...] = ()
    span: Span = _span()


@frozen
class Model:
    """A whole resolved spec."""

    name: str
    # vocab, width, context and the model's own numbers (depth, ...)
    settings: tuple[tuple[str, Term], ...]
    inputs: tuple[Input, ...]
    lets: tuple[Let, ...]
    outputs: tuple[Output, ...]
    checkpoints: tuple[Checkpoint, ...] = ()
    stages: tuple[Stage, ...] = ()
    doc: str = ""
    span: Span = _span()

    def setting(self, name: str) -> Term | None:
        return dict(self.settings).get(name)
