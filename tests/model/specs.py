"""Small specs for the resolver, and what it says about them."""

from __future__ import annotations

from dataclasses import dataclass

from moedsl.diagnostics.model import Diagnostic, Sink
from moedsl.model import terms
from moedsl.model.resolve import resolve
from moedsl.source import Source
from moedsl.syntax.parser import parse

PARTS = """
  vocab = 256
  width = 64
  norm before_mix, before_ffn, last = rms(eps = 1e-5)
  attention own {
    heads = 4
    mask  = causal
    q, k  = linear -> rope(theta = 1e4)
  }
  router top2 {
    score  = linear
    select = top_k(2)
    weigh  = score -> softmax
  }
  moe sparse {
    router  = top2
    experts = 4 * swiglu(96)
    loss    = balance(1e-2)
  }
  block layer(feed_forward) {
    x += own(before_mix(x))
    x += feed_forward(before_ffn(x))
  }
"""


@dataclass(frozen=True)
class Answer:
    """The model, if there is one, and the diagnostics in order."""

    model: terms.Model | None
    diagnostics: tuple[Diagnostic, ...]

    @property
    def codes(self) -> list[str]:
        return [d.code for d in self.diagnostics]

    @property
    def errors(self) -> list[Diagnostic]:
        return [d for d in self.diagnostics if d.severity == "error"]

    @property
    def flow(self) -> tuple[terms.Term, ...]:
        """The stages of the first output's flow, its input left out."""
        assert self.model is not None, self.diagnostics
        value = self.model.outputs[0].value
        assert isinstance(value, terms.Apply)
        return value.recipe.stages if isinstance(value.recipe, terms.Flow) else (value.recipe,)


def answer(
    text: str, files: dict[str, str] | None = None, sets: tuple[str, ...] = (), target: str = ""
) -> Answer:
    sink = Sink()
    source = Source(text, "spec.moe", {"spec.moe": text} | (files or {}))
    model = resolve(parse(source, sink), source, sink, sets, target)
    return Answer(model, sink.sorted())


def resolved(text: str, files: dict[str, str] | None = None, sets: tuple[str, ...] = ()) -> Answer:
    found = answer(text, files, sets)
    assert not found.diagnostics, found.diagnostics
    assert found.model is not None
    return found


def model(output: str, more: str = "", parts: str = PARTS, name: str = "m") -> str:
    """A whole model around a flow: `tokens -> embed -> {output} -> last -> head`."""
    return (
        f"model {name} {{\n{parts}\n{more}\n  input  tokens = ids(vocab)\n"
        f"  output logits = tokens -> embed -> {output} -> last -> head\n}}\n"
    )


def stage(flow: tuple[terms.Term, ...], name: str) -> terms.Recipe:
    """The first recipe of a flow with a name."""
    for term in flow:
        recipe = term.recipe if isinstance(term, terms.Copies) else term
        if isinstance(recipe, terms.Recipe) and recipe.name == name:
            return recipe
    raise KeyError(name)


def applied(block: terms.Recipe, number: int) -> terms.Recipe:
    """The recipe that a block's statement `x += recipe(norm(x))` applies."""
    value = block.body[number].value
    assert isinstance(value, terms.Arithmetic) and isinstance(value.right, terms.Apply)
    assert isinstance(value.right.recipe, terms.Recipe)
    return value.right.recipe
