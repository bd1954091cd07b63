"""A hostile spec gets a located diagnostic, soon."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moedsl.model import limits
from tests.model.specs import PARTS, answer, model, resolved

SECONDS = 2.0


def refused(text: str, files: dict[str, str] | None = None) -> list[str]:
    started = time.process_time()
    found = answer(text, files)
    assert time.process_time() - started < SECONDS
    assert found.errors
    for diagnostic in found.diagnostics:
        assert 0 <= diagnostic.primary.span.start <= diagnostic.primary.span.end
    return found.codes


BOMBS = {
    "count": model("1e12 * layer(sparse)"),
    "counts": model("100 * (100 * (100 * layer(sparse)))"),
    "bank": model("layer(sparse)").replace("4 * swiglu", "1e9 * swiglu"),
    "plan": model("2 * layer(swiglu(by_layer(100000 * [8])))"),
    "plans": model("2 * layer(swiglu(by_layer(9999 * (9999 * [8]))))"),
    "tower": model(
        "layer(sparse)", "\n".join(f"n{i} = n{i + 1} * n{i + 1}" for i in range(80)) + "\nn80 = 9"
    ),
    "index": model("9999 * layer(swiglu(8 + index))"),
    "chain": model(
        "layer(n0)", "\n".join(f"norm n{i} = n{i + 1}" for i in range(400)) + "\nnorm n400 = rms()"
    ),
    "double": model(
        "n0",
        "\n".join(f"ffn n{i} = n{i + 1} -> n{i + 1}" for i in range(60)) + "\nffn n60 = mlp(8)",
    ),
    "add": model(
        "n0", "\n".join(f"ffn n{i} = n{i + 1} + n{i + 1}" for i in range(60)) + "\nffn n60 = mlp(8)"
    ),
    "pass": model("a(a)", "block a(f) { x += f(f)(x) }"),
    "mutual": model(
        "a(b)",
        "block a(f) { x += b(f)(x)\nx += b(f)(x) }\nblock b(f) { x += a(f)(x)\nx += a(f)(x) }",
    ),
    "groups": model(
        "layer(sparse)", "checkpoint c = huggingface() { a" + ".[b, c]" * 30 + ' = "x" }'
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(name):
    refused(BOMBS[name])


def test_with_chains():
    edits = "\n".join(f"model m{i + 1} = m{i} with {{ width = {i + 1} }}" for i in range(1000))
    assert "E0230" in refused(model("layer(sparse)", name="m0") + edits)


def test_import_bombs():
    files = {f"m{i}.moe": f'import a from "m{i + 1}.moe"\n' for i in range(1000)}
    assert "E0230" in refused('import a from "m0.moe"\nmodel m = a with { width = 2 }\n', files)


def test_many_mistakes_are_not_all_told():
    lines = "\n".join(f"norm n{i} = rms(epz = {i})" for i in range(3000))
    found = answer(model("layer(sparse)", lines))
    assert len(found.diagnostics) <= limits.MAX_ERRORS


def test_a_long_spec_takes_linear_time():
    def seconds(n: int) -> float:
        parts = "".join(
            f"  norm a{i} = rms()\n  ffn f{i} = swiglu(64)\n  block b{i} {{\n    x += f{i}(a{i}(x))\n  }}\n"
            for i in range(n)
        )
        text = model(" -> ".join(f"b{i}" for i in range(n)) + " -> layer(sparse)", parts, PARTS)
        started = time.process_time()
        resolved(text)
        return time.process_time() - started

    seconds(10)
    assert seconds(800) < 10 * seconds(200) + 0.5


WORDS = st.sampled_from(
    [
        "x",
        "index",
        "choices",
        "own",
        "sparse",
        "layer",
        "top2",
        "before_mix",
        "last",
        "linear",
        "rope",
        "rms",
        "swiglu",
        "top_k",
        "softmax",
        "moe",
        "block",
        "norm",
        "router",
        "attention",
        "let",
        "tied",
        "with",
        "by_layer",
        "phase",
        "none",
        "causal",
        "true",
        "->",
        "+=",
        "->=",
        "=",
        "+",
        "*",
        "/",
        "-",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        ".",
        "0",
        "1",
        "2",
        "0.5",
        "12.5%",
        "1e3",
        "a",
        "b",
        '"t"',
        "\n",
        "model",
        "input",
        "output",
        "tokens",
        "embed",
        "head",
        "import",
        "from",
        "checkpoint",
        "huggingface",
        "stage",
    ]
)


@settings(max_examples=120, deadline=None)
@given(st.lists(WORDS, max_size=30), st.integers(0, 600))
def test_anything_is_answered(words, place):
    text = model("2 * layer(sparse)")
    place = min(place, len(text))
    started = time.process_time()
    answer(text[:place] + " " + " ".join(words) + " " + text[place:])
    assert time.process_time() - started < SECONDS


@settings(max_examples=40, deadline=None)
@given(st.lists(WORDS, max_size=12))
def test_any_expression_is_answered(words):
    expression = " ".join(words)
    answer(model("layer(sparse)").replace("own(before_mix(x))", f"({expression})"))
    answer(model("layer(sparse)").replace("4 * swiglu(96)", expression))
    answer(model(f"layer({expression})"))
    answer(model("layer(sparse)"), sets=(f"sparse.experts={expression}",))
