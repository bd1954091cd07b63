"""Every declaration says what pages, completion and the resolver read from it."""

from __future__ import annotations

import pytest

from moedsl.constructs.declare import (
    Bank,
    Construct,
    Expression,
    Flag,
    Listed,
    Number,
    RecipeOf,
    Setting,
    Words,
)
from moedsl.constructs.registry import construct_of, constructs
from moedsl.diagnostics.model import Sink
from moedsl.model import terms
from moedsl.source import Source
from moedsl.syntax.parser import parse

ALL = constructs()
SETTINGS = [(name, key) for name, cls in ALL.items() for key in cls.settings]
# Names of papers and models are specs, never constructs.
PAPERS = {"mixtral", "switch", "deepseek", "qwen", "llama", "olmoe", "gshard", "hash", "soft_moe"}


@pytest.mark.parametrize("name", ALL)
def test_documentation(name: str) -> None:
    cls = ALL[name]
    assert (cls.__doc__ or "").strip()
    assert cls.__doc__ != Construct.__doc__, "has the documentation of its base"
    assert name not in PAPERS


@pytest.mark.parametrize(("name", "key"), SETTINGS)
def test_settings_are_documented(name: str, key: str) -> None:
    setting = ALL[name].settings[key]
    assert setting.doc and not setting.doc.endswith(".")
    assert setting.default is None or isinstance(setting.default, str)


@pytest.mark.parametrize(("name", "key"), SETTINGS)
def test_defaults_are_of_the_language(name: str, key: str) -> None:
    default = ALL[name].settings[key].default
    if default is not None:
        sink = Sink()
        parse(Source(f"a = {default}\n"), sink)
        assert not sink.found, default


@pytest.mark.parametrize(("name", "key"), SETTINGS)
def test_words_hold_their_default(name: str, key: str) -> None:
    setting = ALL[name].settings[key]
    if isinstance(setting, Words):
        assert setting.phases or setting.default in (None, *setting.choices)
    if isinstance(setting, Flag):
        assert setting.default in (None, "true", "false")


@pytest.mark.parametrize("name", ALL)
def test_positional_settings_come_before_optional_ones(name: str) -> None:
    positional = [s for s in ALL[name].settings.values() if s.positional]
    required = [s.default is None for s in positional]
    assert required == sorted(required, reverse=True)


def test_kinds_that_settings_ask_for_exist() -> None:
    kinds = {cls.kind for cls in ALL.values()}
    for cls in ALL.values():
        for setting in cls.settings.values():
            asked = getattr(setting, "kinds", ())
            assert set(asked) <= kinds, (cls.name, asked)


def test_expressions_see_themselves_or_what_stands_before() -> None:
    for name in ("attention", "router", "swiglu", "glu", "mlp"):
        settings = ALL[name].settings
        for key, setting in settings.items():
            if isinstance(setting, Expression):
                known = {"x", "memory", *settings}
                assert set(setting.sees) <= known, (name, key)


def recipe(construct: str, **settings: terms.Term) -> terms.Recipe:
    return terms.Recipe(construct, construct, tuple(settings.items()))


ONE, TWO = terms.Number(1), terms.Word("two")
A = recipe("silu")


@pytest.mark.parametrize(
    ("setting", "term", "value"),
    [
        (Number(), terms.Number(3), 3),
        (Number(words=("two",)), TWO, "two"),
        (Number(phases=True), terms.Phase(ONE, ONE, ONE), terms.Phase(ONE, ONE, ONE)),
        (Words(), TWO, "two"),
        (Flag(), terms.Word("true"), True),
        (Flag(), terms.Word("false"), False),
        (Expression(), A, A),
        (RecipeOf(), A, A),
        (Bank(), A, ((None, 1, A),)),
        (Bank(), terms.Copies(4, A), ((None, 4, A),)),
        (Bank(), terms.Word("none"), ()),
        (
            Bank(),
            terms.Items((("full", terms.Copies(2, A)), (None, A))),
            (("full", 2, A), (None, 1, A)),
        ),
        (Listed(), A, (A,)),
        (Listed(), terms.Items(((None, A), (None, A))), (A, A)),
        (Listed(), terms.Word("none"), ()),
        (Listed(texts=True), terms.Items(((None, terms.Text("a")),)), ("a",)),
    ],
)
def test_values_of_an_instance(setting: Setting, term: terms.Term, value: object) -> None:
    assert setting.value(term) == value


def test_an_instance_has_its_settings_as_attributes() -> None:
    found = construct_of(recipe("rms", eps=terms.Number(1e-5), weight=terms.Word("false")))
    assert (found.eps, found.weight, found.name, found.kind) == (1e-5, False, "rms", "norm")
    assert ALL["rms"].settings["eps"].default == "1e-6"


def test_a_class_still_shows_its_declaration() -> None:
    assert isinstance(ALL["rms"].eps, Number)
    assert ALL["model"].implicit == {"embed": "embedding(vocab)", "head": "linear(vocab)"}
