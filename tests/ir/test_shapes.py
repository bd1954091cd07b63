"""Errors of shape: a code, the sizes, and where each was fixed."""

from __future__ import annotations

import pytest

from moedsl.ir.graph import Dim, TensorType
from moedsl.ir.shapes import Mismatch, broadcast, same, spell
from tests.ir.specs import OUTPUT, ROUTER, errors_of, feed_forward, mixture, model

HEADS = "attention own {{\n  heads = 4\n  {0}\n}}\nblock layer {{ x += own(a(x)) }}\n"
EXPERTS = "experts = 4 * swiglu(32)"

CASES = {
    "E0301": feed_forward("linear(32)"),
    "E0302": feed_forward("linear -> silu -> linear(64)"),
    "E0303": model(HEADS.format("kv_heads = 3"), OUTPUT),
    "E0306": mixture("experts = 4 * (linear(32) -> attention(heads = 2))"),
    "E0307": feed_forward("rms(per = head)"),
    "E0308": model(HEADS.format("q, k = linear -> rope(part = 20%)"), OUTPUT),
    "E0309": model("block layer { x = x -> linear(32) }\n", OUTPUT),
    "E0310": model(HEADS.format("mask = none\n  window = 4"), OUTPUT),
    "E0311": model(HEADS.format("scores = dot() -> softmax"), OUTPUT),
    "E0403": mixture(EXPERTS, ROUTER.replace("linear", "linear(3)")),
    "E0408": feed_forward("scale(learned, per = expert)"),
}


@pytest.mark.parametrize("code", CASES)
def test_each_misfit_is_told_once(code: str) -> None:
    found = errors_of(CASES[code])
    assert [d.code for d in found] == [code], found
    span = found[0].primary.span
    assert 0 < span.start < span.end <= len(CASES[code])


def test_both_origins_are_shown() -> None:
    text = feed_forward("linear(32)")
    (found,) = errors_of(text)
    shown = {text[label.span.start : label.span.end] for label in found.secondary}
    assert "32" in shown and "64" in {s.split()[-1] for s in shown}
    assert "64 and 32" in found.message


B, T, D, ONE = Dim("B"), Dim("T"), Dim("D", 64), Dim("1", 1)


def test_broadcast() -> None:
    full, gate, vector = TensorType((B, T, D)), TensorType((B, T, ONE)), TensorType((D,))
    for left, right in ((full, gate), (gate, full), (full, vector), (vector, full)):
        assert broadcast(left, right, "sides") == full
    with pytest.raises(Mismatch):
        broadcast(full, TensorType((B, T, Dim("F", 32))), "sides")
    assert broadcast(full, TensorType((D,), "float32"), "sides").dtype == "float32"


def test_same_and_spell() -> None:
    assert same(D, Dim("F", 64)) and not same(B, T) and not same(B, D)
    assert spell(TensorType((B, D), "int")) == "[B, D 64] int"
