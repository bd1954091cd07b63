"""What was probably meant."""

from __future__ import annotations

import pytest

from moedsl.diagnostics.suggest import did_you_mean

OPTIONS = ["top_k", "top_p", "softmax", "sigmoid", "experts", "expert_choice", "Linear", "q", "k"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("topk", ["top_k"]),
        ("TOP_K", ["top_k"]),
        ("linear", ["Linear"]),
        ("sotfmax", ["softmax"]),
        ("softmx", ["softmax"]),
        ("exprts", ["experts"]),
        ("expert", ["experts"]),
        ("expertchoice", ["expert_choice"]),
        ("zzz", []),
        ("x", []),
        ("", []),
        ("top_k", ["top_p"]),
    ],
)
def test_did_you_mean(name, meant):
    assert did_you_mean(name, OPTIONS) == meant


def test_order_of_options_does_not_matter():
    assert did_you_mean("topk", reversed(OPTIONS)) == did_you_mean("topk", OPTIONS)


def test_few_are_suggested():
    assert len(did_you_mean("abcdef", [f"abcde{letter}" for letter in "ghijklmn"])) == 4
