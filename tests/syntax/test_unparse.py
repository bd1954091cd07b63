"""Tree to text and back."""

from __future__ import annotations

import pytest

from moedsl.syntax import ast
from moedsl.syntax.unparse import unparse
from tests.syntax.read import expression, healthy, only


@pytest.mark.parametrize(
    "text",
    [
        "8",
        "12.5%",
        r'"a\"b\\\n\t{i}"',
        "a.b[3][i].[c, d]",
        'weights("folder").ffn[0]',
        "f(a, b = 1)(x)",
        "[1, full = a]",
        "--a",
        "a * b + c / d - e",
        "a - (b - c)",
        "(a + b) -> c -> (d -> e)",
        "(-a)(x)",
        "(a -> b).c",
        "a {}(x).y with {}",
        "-(a -> b)",
        "(a + b) with {}",
    ],
)
def test_canonical_expressions_stay(text):
    assert unparse(expression(text)) == text


CANONICAL = """# The file.

import a, b from "models.moe"
# The model.
#
#   Indented.
model m(n, count = 8) {
  width = 64
  moe sparse = moe(router = top2) with {
    # Every token.
    experts[0].[gate, up] += lora(8) -> scale(0.5)
    inner { loss = none }
  }
}
adapter c on "config.json" {}"""


def test_canonical_files_stay():
    tree = healthy(CANONICAL)
    assert (
        unparse(tree).replace("inner {\n      loss = none\n    }", "inner { loss = none }")
        == CANONICAL
    )
    assert healthy(unparse(tree)) == tree


def test_parentheses_where_a_tree_needs_them():
    """Trees that no text gave, as rewrites make them, have no mark of parentheses."""
    a, b, c = (ast.Path((name,)) for name in "abc")
    assert unparse(ast.Binary("*", ast.Binary("+", a, b), c)) == "(a + b) * c"
    assert unparse(ast.Binary("-", a, ast.Binary("-", b, c))) == "a - (b - c)"
    assert unparse(ast.Flow((ast.Flow((a, b)), c))) == "(a -> b) -> c"
    assert unparse(ast.Call(ast.Flow((a, b)), ())) == "(a -> b)()"
    assert unparse(ast.With(ast.Number(1, "1"), ast.Body(()))) == "(1) with {}"
    assert unparse(ast.Unary(ast.Binary("*", a, b))) == "-(a * b)"


def test_statements_alone():
    assert unparse(only("q,v+=lora( 8 )")) == "q, v += lora(8)"
