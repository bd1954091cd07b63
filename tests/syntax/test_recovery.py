"""Many mistakes in one text: each is said once, at its place, and the healthy statements are in the tree."""

from __future__ import annotations

import pytest

from tests.syntax.read import codes, healthy, marked, mended, read


def names(text: str) -> list[str]:
    """The first target or name of each statement that was kept."""
    found = []
    for statement in read(text)[0].statements:
        found.append(
            statement.names[0].text if hasattr(statement, "names") else statement.targets[0].name
        )
    return found


def test_four_mistakes_are_four_findings():
    text = """a = 1
b =
c = 2
d: 3
model m {
  e = 4
  f = (g h)
  i = 5
}
j = k..l
n = 6
"""
    assert marked(text) == [("E0101", ""), ("E0110", ":"), ("E0101", "h"), ("E0101", ".")]
    assert names(text) == ["a", "c", "m", "n"]
    assert len(read(text)[0].statements[2].body.statements) == 2


def test_mistakes_inside_a_body_do_not_lose_the_body():
    text = "model m {\n  a = = 1\n  block b {\n    c ++ d\n    e = 1\n  }\n}\nz = 1\n"
    tree, found = read(text)
    assert [each.code for each in found] == ["E0101", "E0111"]
    block = tree.statements[0].body.statements[0]
    assert [each.targets[0].name for each in block.body.statements] == ["e"]


def test_a_broken_head_takes_its_body_with_it():
    assert codes("moe (a {\n  b = 1\n  c = (\n}\nd = 2\n")[0] == "E0104"
    text = "moe sparse ! {\n  a b c\n  d { e f g }\n}\nh = 2\n"
    assert (codes(text), names(text)) == (["E0102"], ["h"])


def test_open_bracket_ends_where_its_body_ends():
    text = "model m {\n  a = f(1\n  b = 2\n}\nc = 3\n"
    assert marked(text) == [("E0104", "(")]
    assert names(text) == ["m", "c"]


def test_open_body_is_found_by_indentation():
    text = "model m {\n  moe a {\n    b = 1\n\n  moe c {\n    d = 1\n  }\n}\ne = 1\n"
    assert [each.primary.span.start for each in read(text)[1]] == [text.index("{", 9)]
    assert names(text) == ["m", "e"]


def test_open_body_inside_an_open_bracket():
    assert codes("model m {\n  x = f(a {\n    b = 1\n  c = 2\n}\n") == ["E0104", "E0104"]


def test_second_statement_behind_a_body_is_kept():
    text = "block a { x = 1 } block b { x = 2 }\n"
    assert (codes(text), names(text)) == (["E0112"], ["a", "b"])


def test_line_behind_a_dangling_arrow_is_read_on():
    tree, found = read("x = a ->\n  b(c = 1)\ny = 1\n")
    assert [each.code for each in found] == ["E0109"]
    assert tree.statements[0] == healthy("x = a -> b(c = 1)").statements[0]
    assert names("x = a ->\ny = 1\n") == ["y"]


@pytest.mark.parametrize("rest", ["b +", "b(c = )", "b ->\n  c +", "b(\n) c"])
def test_line_behind_a_dangling_arrow_may_break_too(rest):
    found = codes(f"x = a ->\n  {rest}\ny = 1\n")
    assert found[0] == "E0109" and len(found) > 1
    assert "y" in names(f"x = a ->\n  {rest}\ny = 1\n")


def test_broken_bodies_inside_a_statement_that_breaks_later():
    assert codes("a b { c d e }  ) \nf = 1\n") == ["E0110", "E0104"]
    assert names("x = [a { b c d }, e f]\ny = 1") == ["y"]


def test_findings_are_bounded():
    assert 100 <= len(codes("a b c = 1\n" * 5000)) <= 120
    assert 100 <= len(codes("? " * 5000)) <= 120


@pytest.mark.parametrize(
    ("text", "better"),
    [
        ("heads 32", "heads = 32"),
        ("heads: 32", "heads = 32"),
        ("heads == 32", "heads = 32"),
        ("router top2", "router = top2"),
        ("moe m = {\n}", "moe m {\n}"),
        ("x = f(rank 4)", "x = f(rank = 4)"),
        ("x = [a b]", "x = [a, b]"),
        ("x = 8 swiglu(2)", "x = 8 * swiglu(2)"),
        ("x = 3 x dense", "x = 3 * dense"),
        ("x = f(a", "x = f(a)"),
        ("x = f(a]", "x = f(a)"),
        ("x = a)", "x = a"),
        ("x = a => b", "x = a -> b"),
        ("x = a \u2192 b", "x = a -> b"),
        ("x = 2 \u00d7 b", "x = 2 * b"),
        ("x = a\u00a0+ b", "x = a + b"),
        ("x = \u201ca\u201d", 'x = "a"'),
        ("x = 'a'", 'x = "a"'),
        ("x = .5", "x = 0.5"),
        ("x = 2.", "x = 2.0"),
        ("x = 32k", "x = 32_000"),
        ("t\u043ep_k = 1", "top_k = 1"),
        ("\uff41 = 1", "a = 1"),
        ("caf\u00e9 = 1", "cafe = 1"),
        ("a = 1 // b", "a = 1 # b"),
        ("a = 1 b = 2", "a = 1\nb = 2"),
        ("m n { a = 1, b = 2 }", "m n { a = 1\n b = 2 }"),
        ("x = a ->\n  b", "x = a \n  -> b"),
        ("x = a + b -> c", "x = (a + b) -> c"),
        ('x = "\\q"', 'x = "\\\\q"'),
        ("x = a # \u202e", "x = a # "),
    ],
)
def test_edits_mend(text, better):
    assert mended(text) == better
    healthy(better)
