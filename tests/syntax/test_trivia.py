"""Comments and empty lines by offset."""

from __future__ import annotations

from moedsl.source import Source
from moedsl.syntax.trivia import trivia

TEXT = '# head\r\n\r\na = 1  # one\n\n  \nb = "# text"\n# last'


def test_comments():
    found = trivia(Source(TEXT))
    assert [(each.text, each.alone) for each in found.comments] == [
        ("# head", True),
        ("# one", False),
        ("# last", True),
    ]
    assert all(TEXT[each.span.start : each.span.end] == each.text for each in found.comments)


def test_between():
    found = trivia(Source(TEXT))
    one, b = TEXT.index("a = 1"), TEXT.index("b =")
    assert [each.text for each in found.comments_between(one, b)] == ["# one"]
    assert found.has_empty_line_between(0, one)
    assert found.has_empty_line_between(one, b)
    assert not found.has_empty_line_between(b, len(TEXT))
    assert len(found.empty_lines) == 3


def test_any_text_has_trivia():
    assert trivia(Source("")).comments == ()
    assert trivia(Source("? ( # a\n\x00")).comments[0].text == "# a"
