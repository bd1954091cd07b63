"""Projections of an attention leave no token out, unless the spec says that zeros are meant."""

from __future__ import annotations

import pytest

import moedsl.pipeline
from moedsl.source import Source

BANK = "4 * linear"
CAUSAL = "lookahead = allowed"


def found(router: str, q: str = "moe(router = pick, experts = {bank})", bank: str = BANK) -> list:
    text = (
        "model m {\n  vocab = 32\n  width = 16\n  norm before = rms()\n"
        f"  router pick {{\n    score = linear\n    gate = score -> softmax\n    {router}\n  }}\n"
        f"  attention own {{\n    heads = 2\n    q = {q.replace('{bank}', bank)}\n  }}\n"
        "  block layer { x += own(before(x)) }\n"
        "  input tokens = ids(vocab)\n  output logits = tokens -> embed -> 2 * layer -> head\n}\n"
    )
    return [d.code for d in moedsl.pipeline.check(Source(text, "m.moe")).diagnostics]


LEAVES_OUT = {
    "drop": "select = top_k(2)\n capacity = phase(train = 1, decode = none)",
    "next": f"select = top_k(1)\n capacity = 1\n overflow = next\n {CAUSAL}",
    "thin all": "select = top_k(2) -> thin(from = 1, below = 0.5)",
    "positive": "select = positive",
    "expert choice": f"select = expert_choice\n capacity = 1\n {CAUSAL}",
}
SERVES = {
    "no limit": "select = top_k(2)",
    "room for all": "select = top_k(2)\n capacity = 2",
    "thin but the first": "select = top_k(2) -> thin(from = 2, below = 0.5)",
    "thin never": "select = top_k(2) -> thin(from = 1, below = 0.5, keep = all)",
    "top_p": "select = top_p(0.5)",
    "all": "select = all",
}
ZEROS = "[full = 3 * linear, none = 2 * zero]"


@pytest.mark.parametrize("router", LEAVES_OUT.values(), ids=LEAVES_OUT)
def test_a_token_with_nothing_is_an_error(router: str) -> None:
    assert found(router) == ["E0421"]
    assert found(f"{router}\n overflow = zero".replace("overflow = next\n", "")) == []


@pytest.mark.parametrize(
    "q",
    [
        "linear + moe(router = pick, experts = {bank})",
        "moe(router = pick, experts = {bank}, shared = linear)",
        "moe(router = pick, experts = {bank}) + moe(router = pick, experts = {bank}, shared = linear)",
    ],
)
@pytest.mark.parametrize("router", LEAVES_OUT.values(), ids=LEAVES_OUT)
def test_something_beside_it_serves_every_token(router: str, q: str) -> None:
    assert found(router, q) == []


@pytest.mark.parametrize("router", LEAVES_OUT.values(), ids=LEAVES_OUT)
def test_two_that_leave_out_are_not_one_that_serves(router: str) -> None:
    both = "moe(router = pick, experts = {bank}) + moe(router = pick, experts = {bank})"
    assert set(found(router, both)) == {"E0421"}


@pytest.mark.parametrize("router", SERVES.values(), ids=SERVES)
def test_each_token_keeps_something(router: str) -> None:
    assert found(router) == []


def test_kinds_that_give_nothing_may_take_all_picks() -> None:
    assert found("select = top_k(2)", bank=ZEROS) == ["E0421"]
    assert found("select = top_k(3)", bank=ZEROS) == []  # two zeros: one pick is something
    assert found("select = top_k(2)\n overflow = zero", bank=ZEROS) == []
    kinds = "[full = 3 * linear, same = identity]"  # each token has one or the other
    assert found("select = top_k(1)", bank=kinds) == []
    assert found("select = positive", bank=kinds) == ["E0421"]


def test_what_comes_out_of_an_attention_too() -> None:
    text = "linear\n    o = mixed -> moe(router = pick, experts = {bank})"
    assert found(LEAVES_OUT["positive"], text) == ["E0421"]
    assert found(SERVES["no limit"], text) == []


def test_a_stream_carries_tokens_on() -> None:
    """A mixture before an attention is none of its projections."""
    text = "linear\n  }\n  moe sparse {\n    router = pick\n    experts = 4 * swiglu(8)"
    plain = found(LEAVES_OUT["drop"], text)
    assert "E0421" not in plain
