"""How a construct is declared: one class says everything, and everything else is read from it.

    class Rms(Construct):
        '''Root-mean-square norm.  <- first line: hover, tables; the body: reference page, with the source
        '''
        kind = "norm"
        eps = Number("1e-6", low=0, doc="added to the mean square before the root")
        per = Words("none", ("none", "head"), doc="normalise the whole width, or each head by itself")

        def lower(self, build, x): ...

Defaults are written in the language and resolved like a user's text, so that `kinds` and the resolved spec show them.
The construct's name is its class name in snake case unless `name` is set. A class is registered by being defined in a
module of `moedsl.constructs` or of a package that the entry point group `moedsl.constructs` names.
"""

from __future__ import annotations

import re
from dataclasses import field
from typing import Any, ClassVar

from moedsl.frozen import frozen
from moedsl.model import terms


@frozen(kw_only=True, hash_once=True)
class Setting:
    """One setting. `default` is text of the language; None makes it required; positional ones fill in order."""

    default: str | None = field(default=None, kw_only=False)
    doc: str = ""
    positional: bool = False
    type: ClassVar[str] = "any"

    def __get__(self, instance: object, owner: object) -> Any:
        """The declaration on a class; an instance holds the resolved value under the same name."""
        return self

    def value(self, term: terms.Term) -> Any:
        """What an instance holds for a resolved term; see `Construct`."""
        return term


@frozen(kw_only=True, hash_once=True)
class Number(Setting):
    """An int (`whole`) or float, with inclusive bounds; `unit` is for documentation; may admit words such as `none`,
    `learned`; admits `phase(...)` where `phases`, a number with state where `stateful`."""

    low: float | None = None
    high: float | None = None
    whole: bool = False
    unit: str = ""
    words: tuple[str, ...] = ()
    phases: bool = False
    stateful: bool = False
    exclusive_low: bool = False
    type: ClassVar[str] = "number"

    def value(self, term: terms.Term) -> Any:
        match term:
            case terms.Number(value):
                return value
            case terms.Word(text):
                return text
        return term


@frozen(kw_only=True, hash_once=True)
class Words(Setting):
    """One of a few words; admits `phase(...)` where `phases`."""

    choices: tuple[str, ...] = ()
    phases: bool = False
    type: ClassVar[str] = "word"

    def value(self, term: terms.Term) -> Any:
        return term.text if isinstance(term, terms.Word) else term


@frozen(kw_only=True, hash_once=True)
class Flag(Setting):
    """`true` or `false`."""

    type: ClassVar[str] = "flag"

    def value(self, term: terms.Term) -> Any:
        return term.text == "true" if isinstance(term, terms.Word) else term


@frozen(kw_only=True, hash_once=True)
class Expression(Setting):
    """A tensor expression, or (where `bare`) a recipe fed with x. `sees` names the tensors in scope, in the order in
    which a form's expressions are evaluated; `kinds` narrows what a bare recipe may be."""

    sees: tuple[str, ...] = ("x",)
    bare: bool = False
    words: tuple[str, ...] = ()
    type: ClassVar[str] = "expression"


@frozen(kw_only=True, hash_once=True)
class RecipeOf(Setting):
    """A recipe of one of `kinds` (empty: any). Where `tensors`, a named tensor may stand too (a decision). Where
    `flows`, a flow of such recipes is one too (`groups(8) -> top_k(2)`). Where `number`, a plain number within its
    bounds may stand for one. Where `by_kind`, kinds of experts may each have their own: `[full = 0.9, cheap = 2]`."""

    kinds: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    tensors: bool = False
    flows: bool = False
    by_kind: bool = False
    number: Number | None = None
    type: ClassVar[str] = "recipe"

    def value(self, term: terms.Term) -> Any:
        return term.text if isinstance(term, terms.Word) else term


@frozen(kw_only=True, hash_once=True)
class Bank(Setting):
    """Recipes side by side: `8 * swiglu(64)`, a recipe, `none`, or named kinds `[full = 7 * a, skip = zero]`."""

    kinds: tuple[str, ...] = ()
    words: tuple[str, ...] = ("none",)
    type: ClassVar[str] = "bank"

    def value(self, term: terms.Term) -> tuple[tuple[str | None, int, terms.Term], ...]:
        match term:
            case terms.Word():
                return ()
            case terms.Items(items):
                return tuple((label, *_copies(item)) for label, item in items)
        return ((None, *_copies(term)),)


@frozen(kw_only=True, hash_once=True)
class Listed(Setting):
    """A list whose items are recipes of one of `kinds` (one item may stand without brackets), or texts."""

    kinds: tuple[str, ...] = ()
    texts: bool = False
    words: tuple[str, ...] = ("none",)
    type: ClassVar[str] = "list"

    def value(self, term: terms.Term) -> tuple[Any, ...]:
        items = [i for _, i in term.items] if isinstance(term, terms.Items) else [term]
        kept = [i for i in items if not isinstance(i, terms.Word)]
        return tuple(i.value if isinstance(i, terms.Text) else i for i in kept)


@frozen(kw_only=True, hash_once=True)
class Labels(Setting):
    """Names of kinds of experts in a bank: `full`, `[full, wide]`, or `all` of them."""

    words: tuple[str, ...] = ("all",)
    type: ClassVar[str] = "kinds of experts"

    def value(self, term: terms.Term) -> tuple[str, ...]:
        """The names; empty where all are meant."""
        if not isinstance(term, terms.Items):
            return ()
        return tuple(item.text for _, item in term.items if isinstance(item, terms.Word))


@frozen(kw_only=True, hash_once=True)
class PlaceOf(Setting):
    """The path of another place (`tied(embed)`); resolved to `terms.Text` with that path."""

    type: ClassVar[str] = "place"

    def value(self, term: terms.Term) -> Any:
        match term:
            case terms.Text(value):
                return value
            case terms.Word(text):
                return text
            case terms.Tensor(name) | terms.Recipe(name=name):
                return name
        return term


@frozen(kw_only=True, hash_once=True)
class TensorOf(Setting):
    """A tensor of the body around, by name or as an expression: `by = task`."""

    type: ClassVar[str] = "tensor"


@frozen(kw_only=True, hash_once=True)
class Starts(Setting):
    """How weights start: a start, a flow of one and its changes (`normal(0.02) -> alike`), or several by name:
    `[all = normal(0.02), router = zeros]`. `standard` leaves it to what is around."""

    words: tuple[str, ...] = ("standard",)
    type: ClassVar[str] = "init | list by name | standard"

    def value(self, term: terms.Term) -> Any:
        return None if isinstance(term, terms.Word) else term


INIT = Starts("standard", doc="how its weights start, or some of them by name: `[down = zeros]`")


@frozen(kw_only=True)
class Declared(Setting):
    """The name of something that the model declares with the word `by` (a stage)."""

    by: str = ""
    words: tuple[str, ...] = ("none",)
    type: ClassVar[str] = "name"

    def value(self, term: terms.Term) -> Any:
        return term.text if isinstance(term, terms.Word) else term


def _copies(term: terms.Term) -> tuple[int, terms.Term]:
    return (term.count, term.recipe) if isinstance(term, terms.Copies) else (1, term)


class Construct:
    """Base of every declaration. An instance is one resolved recipe: its settings are attributes.

    After resolution attributes hold: int/float for Number (str for an admitted word), str for Words, bool for Flag,
    `terms.Term` for Expression / RecipeOf, tuple[(label | None, count, term)] for Bank, tuple[terms.Recipe, ...] for
    Listed (texts: tuple[str, ...]), tuple[str, ...] for Labels; `terms.Phase` stays as it is.
    """

    kind: ClassVar[str] = "stage"
    name: ClassVar[str] = ""
    unit: ClassVar[bool] = False  # has a body of its own: lowered to a Unit, printed as a class
    streams: ClassVar[tuple[str, ...]] = ()  # further tensors that it may be applied to, by name
    implicit: ClassVar[
        dict[str, str]
    ] = {}  # places that stand in its scope by default: name -> text
    settings: ClassVar[dict[str, Setting]] = {}
    source: ClassVar[str] = ""  # paper, section or reference file
    # --- traits, read by generic checks ---
    causality: ClassVar[str] = "causal"  # causal | decodes | noncausal
    linear_in_input: ClassVar[bool] = False
    mixes_tokens: ClassVar[bool] = False
    takes: ClassVar[str] = "numbers"  # numbers | ids | any: what tensors it takes
    whole: ClassVar[bool] = False  # reads sequences: no expert, which gets tokens one by one

    recipe: terms.Recipe  # what this instance was made from

    def __init__(self, recipe: terms.Recipe) -> None:
        self.recipe = recipe
        for name, term in recipe.settings:
            setattr(self, name, self.settings[name].value(term) if name in self.settings else term)

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if "name" not in cls.__dict__:
            cls.name = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()
        own = {k: v for k, v in cls.__dict__.items() if isinstance(v, Setting)}
        cls.settings = {**cls.settings, **own}

    def check(self, at: Any, sink: Any) -> None:
        """What bounds, types and traits cannot say about one resolved recipe. `at` is the terms.Recipe."""

    def lower(self, build: Any, *inputs: Any) -> Any:
        """Add typed nodes to the unit under construction and return the value(s)."""
        raise NotImplementedError(self.name)
