"""The tables that travel with moedsl, and the parser that reads them: both say what Lark says."""

from __future__ import annotations

import pytest
from lark import Lark

from moedsl.diagnostics.model import Sink
from moedsl.resources import read_text
from moedsl.source import Source, Span
from moedsl.syntax import lalr, tables
from moedsl.syntax.build import Build
from moedsl.syntax.lalr import END, Parser, pattern
from moedsl.syntax.layout import lay_out
from moedsl.syntax.lexer import Lexeme, scan
from tests.conftest import TESTS

GRAMMAR = read_text("grammar", "moe.lark")
TEXTS = [
    *(path.read_text() for path in sorted((TESTS.parent / "specs").glob("*.moe"))),
    'import a, b from "c.moe"\nm x, y(n, k = 1,) on z.w { }\nq.[a, b,][i][0] ->= -f(1, n = [2, k = 3,],)(x)\n',
    "a = (b -> c) with { d { e = 1 } } (2).f { g += 1 }\n",
]


def test_tables_are_what_lark_makes_of_the_grammar():
    assert read_text("grammar", "moe.tables.json") == tables.spell(tables.make(GRAMMAR)), (
        "the grammar has changed: run `make grammar`"
    )


def texts(**changed):
    """`read_text`, with some files of the grammar as given."""

    def read(kind, name):
        if name in changed and changed[name] is None:
            raise FileNotFoundError(name)
        return changed.get(name) or read_text(kind, name)

    return read


@pytest.mark.parametrize("old", [None, "<<<<<<< merge", read_text("grammar", "moe.tables.json")])
def test_tables_of_another_grammar_are_made_anew(old, monkeypatch):
    edited = GRAMMAR.replace("// a -> b -> c", "// a -> b -> d")
    changed = {"moe.lark": edited, "moe.tables.json": old}
    monkeypatch.setattr(lalr, "read_text", texts(**changed))
    found = lalr.read_tables()
    assert found["grammar"] == tables.checksum(edited)
    assert found == tables.make(edited)


def test_tables_of_this_grammar_are_read_without_lark(monkeypatch):
    monkeypatch.setattr(lalr, "make", None)
    assert lalr.read_tables()["grammar"] == tables.checksum(GRAMMAR)


def test_a_rule_that_the_parser_does_not_know_is_refused():
    with pytest.raises(ValueError, match=r"\?names"):
        tables.make(GRAMMAR.replace("\nnames:", "\n?names:"))


@pytest.fixture(scope="module")
def lark():
    starts = list(tables.STARTS)
    return Lark(GRAMMAR, parser="lalr", lexer="basic", start=starts, transformer=Build())


@pytest.mark.parametrize("text", TEXTS)
def test_every_step_is_that_of_lark(text, lark):
    """Lexeme by lexeme, with a wrong one tried now and then: the same is taken, and the same tree comes out."""
    source = Source(text)
    lexemes, _ = lay_out(source, scan(source, pattern(), Sink()), Sink())
    theirs, ours = lark.parse_interactive("", start="start"), Parser("start")
    wrong = Lexeme("IMPORT", "import", Span(0, 0))
    for i, lexeme in enumerate(lexemes):
        if i % 7 == 0:
            assert ours.accepts() == theirs.accepts()
        if i % 11 == 5 and wrong.type not in ours.accepts():
            before = ours.mark()
            assert not ours.feed(wrong)
            ours.return_to(before)
        for kind in ("_ON", "_WITH", "FROM", "IMPORT"):
            if lexeme.text == kind.strip("_").lower() and kind in ours.accepts():
                lexeme = lexeme._replace(type=kind)
        assert ours.feed(lexeme)
        theirs.feed_token(lexeme)
    end = Lexeme(END, "", Span(len(text), len(text)))
    assert ours.feed(end)
    assert ours.result == theirs.parser_state.feed_token(end, True)


def test_what_does_not_fit_changes_nothing_that_was_marked():
    parser = Parser("expression")
    name, comma = (Lexeme(kind, kind, Span(0, 1)) for kind in ("NAME", "COMMA"))
    mark, expected = parser.mark(), parser.accepts()
    assert parser.feed(name) and not parser.feed(comma)
    parser.return_to(mark)
    assert parser.accepts() == expected
