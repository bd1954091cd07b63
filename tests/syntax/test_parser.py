"""Text to tree: every form of statement and expression."""

from __future__ import annotations

import re

import pytest

from moedsl.diagnostics.model import Sink
from moedsl.resources import read_text
from moedsl.syntax import ast
from moedsl.syntax.ast import Argument, Binary, Call, Flow, Number, Path
from moedsl.syntax.parser import parse_expression
from tests.conftest import TESTS
from tests.syntax.read import expression, healthy, only, read

A, B, C = (Path((name,)) for name in "abc")
GRAMMAR = (TESTS.parent / "grammar" / "README.md").read_text()


@pytest.mark.parametrize("text", re.findall(r"```moe\n(.*?)```", GRAMMAR, re.DOTALL))
def test_grammar_readme(text):
    assert healthy(text).statements


def test_grammar_names_no_construct():
    words = set(re.findall(r"\w+", re.sub("//.*", "", read_text("grammar", "moe.lark"))))
    assert not words & {
        "router",
        "moe",
        "expert",
        "experts",
        "attention",
        "model",
        "block",
        "let",
        "loss",
    }


# --- statements --------------------------------------------------------------------------------


def test_import():
    statement = only('import a, b from "models.moe"')
    assert [name.text for name in statement.names] == ["a", "b"]
    assert statement.path == ast.String("models.moe")


def test_declaration_with_everything():
    statement = only('adapter a, b(n, m = 2) on "config.json" { x = 1 }')
    assert statement.kind.text == "adapter"
    assert [name.text for name in statement.names] == ["a", "b"]
    assert statement.parameters == (ast.Parameter("n"), ast.Parameter("m", Number(2, "2")))
    assert statement.base == ast.String("config.json")
    assert statement.value is None
    assert [each.operator for each in statement.body.statements] == ["="]


def test_body_behind_a_value_belongs_to_the_value():
    statement = only("block some(inner) = routed(inner) { score = linear }")
    assert statement.body is None
    assert isinstance(statement.value, ast.Configured)
    assert statement.value.recipe == Call(Path(("routed",)), (Argument(None, Path(("inner",))),))


@pytest.mark.parametrize("operator", ["=", "+=", "->="])
def test_assign(operator):
    assert only(f"a, b.c {operator} 1") == ast.Assign(
        (A, Path(("b", "c"))), operator, Number(1, "1")
    )


def test_edit():
    statement = only("a with_ = b with {\n  c.d { e = 1 }\n}").value.body.statements[0]
    assert statement == ast.EditBody(Path(("c", "d")), only("x y { e = 1 }").body)


def test_words_are_names_where_a_name_can_stand():
    tree = healthy(
        "on = 1\nwith = 2\nfrom = 3\nimport = 4\nx = from -> on\nblock with { import { a = 1 } }"
    )
    assert len(tree.statements) == 6
    names = only('import from, on, with from "with.moe"').names
    assert [name.text for name in names] == ["from", "on", "with"]
    assert only("adapter on on on {}").base == Path(("on",))


# --- expressions -------------------------------------------------------------------------------


def test_precedence():
    assert expression("a -> b * c") == Flow((A, Binary("*", B, C)))
    assert expression("a + b * c") == Binary("+", A, Binary("*", B, C))
    assert expression("a - b - c") == Binary("-", Binary("-", A, B), C)
    assert expression("a -> b -> c") == Flow((A, B, C))
    assert expression("-a * b") == Binary("*", ast.Unary(A), B)
    assert expression("a * b with {}") == Binary("*", A, ast.With(B, ast.Body(())))


def test_parentheses_are_kept_where_they_decide():
    assert expression("(a + b) -> c") == Flow((Binary("+", A, B, parenthesised=True), C))
    assert expression("(a -> b) -> c") == Flow((Flow((A, B), parenthesised=True), C))
    assert expression("(a)") == A


def test_calls():
    call = Call(A, (Argument(None, B), Argument("c", Number(1, "1"))))
    assert expression("a(b, c = 1,)") == call
    assert expression("a(b, c = 1)()") == Call(call, ())


def test_paths():
    assert expression("a.b[3][i].[c, d]").parts == (
        "a",
        "b",
        ast.Index(3),
        ast.Index("i"),
        ast.Group(("c", "d")),
    )
    owner = Call(Path(("weights",)), (Argument(None, ast.String("folder")),))
    assert expression('weights("folder").ffn[0]') == ast.Member(owner, ("ffn", ast.Index(0)))


def test_lists():
    items = expression("[1, full = a,]").items
    assert items == (ast.Item(None, Number(1, "1")), ast.Item("full", A))
    assert expression("[]") == ast.List(())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8),
        ("1_000", 1000),
        ("007", 7),
        ("1e-2", 0.01),
        ("1e4", 10000.0),
        ("1.5", 1.5),
        ("12.5%", 0.125),
        ("1.1%", 0.011),
        ("1e2%", 1.0),
        ("0%", 0.0),
        ("0e999", 0.0),
        ("9223372036854775807", 2**63 - 1),
    ],
)
def test_numbers(text, value):
    number = expression(text)
    assert (number.value, type(number.value)) == (value, type(value))
    assert (number.text, number.percent) == (text, text.endswith("%"))


@pytest.mark.parametrize(
    "text", ["1.", "1__0", "1_", "32k", "0x10", "1.2.3", ".5", "1e", "5%%", "1e5e5"]
)
def test_not_numbers(text):
    assert [each.code for each in read(f"x = {text}")[1]] == ["E0105"]


@pytest.mark.parametrize(
    "text", ["1e999", "1e-999", "9223372036854775808", "1" * 5000, "1e99999999999%"]
)
def test_numbers_out_of_range(text):
    assert [each.code for each in read(f"x = {text}")[1]] == ["E0106"]


def test_strings():
    assert expression(r'"a\"b\\c\n\t{i}"').value == 'a"b\\c\n\t{i}'
    assert expression('"\u6f22 # no comment"').value == "\u6f22 # no comment"


@pytest.mark.parametrize("text", ["", "a b", "a = 1", "a\nb", "(a", "a +", "a -> b + c", "?", "{}"])
def test_no_expression(text):
    sink = Sink()
    parse_expression(text, "--set", sink)
    assert len(sink.found) == 1
    assert sink.found[0].primary.span.file == "--set"


# --- lines -------------------------------------------------------------------------------------


def test_arrow_at_the_start_of_a_line_continues_it():
    text = "x = a\n\n  # a comment between\n  -> b # another\n  -> c\ny = a"
    assert [each.value for each in healthy(text).statements] == [Flow((A, B, C)), A]


def test_brackets_suspend_the_end_of_the_line():
    assert only("x = f(\n  a,\n  b = [\n  ],\n)").value.arguments[1].name == "b"


def test_bodies_inside_brackets_have_lines():
    inner = only("x = f(a {\n  b = 1\n  c = 2\n})").value.arguments[0].value.body
    assert len(inner.statements) == 2


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_line_ends(end):
    text = end.join(["# doc", "model m {", "\ta = 1  # one", "", "  b = 2 }", ""])
    tree = healthy(text)
    assert len(tree.statements[0].body.statements) == 2
    assert tree.doc == "doc"


def test_byte_order_mark_is_no_text():
    assert only("\ufeffa = 1").targets == (A,)


def test_empty_texts():
    for text in ("", "\n", "# only a comment", "  \t\n\n"):
        assert healthy(text).statements == ()


# --- documentation -----------------------------------------------------------------------------


def test_docs():
    text = """# The file,
# in two lines.

# Not above anything.

#  The model.
#
model m {
  a = 1  # behind
  # The next.
  b = 2
  # Above a doc-less form.

  c = 3
}
"""
    tree = healthy(text)
    model = tree.statements[0]
    assert tree.doc == "The file,\nin two lines."
    assert model.doc == " The model.\n"
    assert [each.doc for each in model.body.statements] == ["", "The next.", ""]


def test_first_block_documents_file_and_declaration():
    tree = healthy("# Both.\nmodel m {}")
    assert (tree.doc, tree.statements[0].doc) == ("Both.", "Both.")


# --- places ------------------------------------------------------------------------------------


def test_spans_are_the_text_of_what_they_cover():
    text = "block a, b(n = 2) = (f(x).y + [1]) { z = -1 } # no"

    def covered(node):
        return text[node.span.start : node.span.end]

    block = only(text)
    assert covered(block) == text.removesuffix(" # no")
    assert [covered(each) for each in (block.kind, *block.names)] == ["block", "a", "b"]
    assert covered(block.parameters[0]) == "n = 2"
    assert covered(block.value.recipe) == "(f(x).y + [1])"
    assert covered(block.value.recipe.left) == "f(x).y"
    assert covered(block.value.recipe.right) == "[1]"
    assert covered(block.value.body) == "{ z = -1 }"
    assert covered(block.value.body.statements[0].value) == "-1"
    assert block.span.file == "spec.moe"


@pytest.mark.parametrize(
    "path", sorted((TESTS.parent / "specs").glob("*.moe")), ids=lambda path: path.stem
)
def test_specs_parse(path):
    assert healthy(path.read_text()).statements
