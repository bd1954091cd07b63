"""Every kind of setting, given every kind of value: random texts for random settings of random constructs, drawn from
the registry, in a small valid spec. The compiler answers each: a located diagnostic, or a package that can be run."""

from __future__ import annotations

import os
import random

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
    Starts,
    Words,
)
from moedsl.constructs.registry import constructs
from moedsl.model import defaults
from moedsl.model.run import kinds_of
from tests.hostile.answers import answered
from tests.packages import SPECS, imported, model_class

TINY = (SPECS / "tiny.moe").read_text()
ROUNDS = int(os.environ.get("MOEDSL_ROUNDS", "300"))
CHUNK = 100  # rounds of one test

ATOMS = (
    "0", "1", "2", "3", "-1", "0.5", "1e-300", "1e300", "9007199254740993", "12.5%", "none", "true", "false", "causal",
    "all", "x", "index", "choices", "score", "gate", "q", "values", "hidden", "tokens", "width", "vocab", "embed", "head",
    "own", "sparse", "top2", "layer", "tiny", "before_mix", "nothing", '"a text"', '""', "[]", "[1, 2]", "[a = swiglu(8)]",
    "by_layer([1, 2])", "by_layer(2 * (swiglu(8) -> linear))", "phase(train = 1, eval = 2)",
)  # fmt: skip
JOINTS = (" -> ", " + ", " - ", " * ", " / ")


class Drawn:
    """A random text of the language; most values are of the type that is wanted, so that they get far."""

    def __init__(self, seed: str, right: float) -> None:
        self.random = random.Random(seed)
        self.right = right

    def value(self, setting: Setting | None, depth: int) -> str:
        if setting is None or depth == 0 or self.random.random() > self.right:
            return self.anything(depth)
        one = self.random.choice
        if (words := defaults.words(setting)) and self.random.random() < 0.3:
            return one(words)
        match setting:
            case Number():
                return one(
                    ("1", "2", "3", "4", "8", "16", "0.5", "0.25", "1e-2", "0", "7", "index + 1")
                )
            case Words() | Flag():
                return one(defaults.words(setting))
            case Expression(sees=sees):
                return one(
                    (
                        f"{one(sees)} -> {self.flow(depth)}",
                        one(sees),
                        self.flow(depth),
                        f"{one(sees)} + {one(sees)}",
                    )
                )
            case Bank(kinds=kinds):
                return one(
                    (
                        f"{self.random.randint(1, 8)} * {self.recipe(kinds, depth)}",
                        self.recipe(kinds, depth),
                    )
                )
            case RecipeOf(kinds=kinds) | Listed(kinds=kinds):
                return one(
                    (
                        self.recipe(kinds, depth),
                        f"[{self.recipe(kinds, depth)}]",
                        f"{self.recipe(kinds, depth)} -> {self.recipe(kinds, depth)}",
                    )
                )
            case Starts():
                first, second = (self.recipe(("init",), depth) for _ in range(2))
                names = [
                    one(("all", "router", "bias", "down", "own", "norm", "x")) for _ in range(2)
                ]
                listed = f"[{names[0]} = {first}, {names[1]} = {first} -> {second}]"
                return one((first, f"{first} -> {second}", listed))
        return self.anything(depth)

    def flow(self, depth: int) -> str:
        return " -> ".join(self.recipe((), depth) for _ in range(self.random.randint(1, 3)))

    def recipe(self, kinds: tuple[str, ...], depth: int) -> str:
        """A construct of one of the kinds, configured."""
        fit = [
            name for name, cls in constructs().items() if not kinds or kinds_of(cls) & set(kinds)
        ]
        name = self.random.choice(
            [*fit, "swiglu", "linear", "softmax", "rms"] if not kinds else fit or ["linear"]
        )
        given = [
            f"{setting} = {self.value(cls, depth - 1)}"
            for setting, cls in constructs()[name].settings.items()
            if cls.default is None or self.random.random() < 0.2
        ]
        return f"{name}({', '.join(given)})" if given else name

    def anything(self, depth: int) -> str:
        if depth == 0 or self.random.random() < 0.4:
            return self.random.choice(ATOMS)
        match self.random.randrange(5):
            case 0:
                return f"({self.anything(depth - 1)})"
            case 1:
                return f"[{self.anything(depth - 1)}, {self.anything(depth - 1)}]"
            case 2:
                return f"{self.anything(depth - 1)} with {{ {self.setting(constructs()['moe'], depth - 1)} }}"
            case 3:
                return self.recipe((), depth)
        return f"{self.anything(depth - 1)}{self.random.choice(JOINTS)}{self.anything(depth - 1)}"

    def setting(self, cls: type[Construct], depth: int = 2) -> str:
        name = self.random.choice([*cls.settings, "nothing"] if cls.settings else ["nothing"])
        operator = self.random.choice(("=", "=", "=", "+=", "->="))
        return f"{name} {operator} {self.value(cls.settings.get(name), depth)}"


FORMS = {
    "attention own {": "attention",
    "router top2 {": "router",
    "moe sparse {": "moe",
    "model tiny {": "model",
}
PARTS = (
    ("linear -> rope(theta = 1e4)", ()), ("top_k(2)", ("selection",)), ("softmax", ()), ("swiglu(96)", ("ffn",)),
    ("rms(eps = 1e-5)", ("norm",)), ("balance(1e-2)", ("loss",)), ("own(before_mix(x))", None),
    ("sparse(before_ffn(x))", None), ("2 * layer", None), ("embed ->", None), ("-> head", None),
)  # fmt: skip


def changed(number: int) -> str:
    """The small spec with one or two of its values replaced, or settings added."""
    drawn = Drawn(f"moedsl settings {number}", right=(0.98, 0.9, 0.5)[number % 3])
    text = TINY
    for _ in range(1 + (number % 4 == 3)):
        if drawn.random.random() < 0.5:
            place, construct = drawn.random.choice(list(FORMS.items()))
            line = drawn.setting(constructs()[construct])
            kept = [
                each
                for each in text.split("\n")
                if not each.strip().startswith(f"{line.split()[0]} ")
            ]
            text = "\n".join(kept).replace(place, f"{place}\n    {line}", 1)
        else:
            old, kinds = drawn.random.choice(PARTS)
            new = drawn.recipe(kinds, 2) if kinds is not None else f"{drawn.flow(2)}(x)"
            arrow = ("-> " * old.startswith("->"), " ->" * old.endswith("->"))
            text = text.replace(
                old, f"{arrow[0]}{drawn.flow(2) if any(arrow) else new}{arrow[1]}", 1
            )
    return text


@pytest.mark.parametrize("start", range(0, ROUNDS, CHUNK))
def test_settings_of_every_kind(start):
    for number in range(start, min(start + CHUNK, ROUNDS)):
        text = changed(number)
        try:
            runs_or_is_refused(text)
        except Exception as error:
            raise AssertionError(f"round {number}: {error!r} for\n{text}") from error


@pytest.mark.parametrize("start", range(0, ROUNDS, CHUNK))
def test_settings_from_the_command_line(start):
    paths = ("width", "vocab", "depth", "sparse", "sparse.experts", "sparse.loss", "own.q", "own", "top2.select", "layer", "head",
             "layer[0].own", "own.[q, k]", "", "x", "output", "logits", "tiny.width", "sparse.router.score", "swiglu.gate")  # fmt: skip
    for number in range(start, min(start + CHUNK, ROUNDS)):
        drawn = Drawn(f"moedsl edits {number}", right=0.7)
        one = drawn.random.choice
        edits = tuple(
            one(
                (
                    f"{one(paths)}{one(('=', '+=', '->='))}{drawn.anything(2)}",
                    drawn.setting(constructs()["moe"]),
                    drawn.anything(1),
                )
            )
            for _ in range(drawn.random.randint(1, 2))
        )
        try:
            answered(TINY, edits)
        except Exception as error:
            raise AssertionError(f"round {number}: {error!r} for {edits}") from error


def runs_or_is_refused(text: str) -> None:
    result = answered(text)
    if not result.ok:
        return
    torch = pytest.importorskip("torch")
    module = imported(result.files)
    made = model_class(module)()
    made.init_weights(seed=0)
    smallest = min(
        each.num_embeddings for each in made.modules() if isinstance(each, torch.nn.Embedding)
    )
    made(torch.randint(0, min(2, smallest), (2, 8)))
