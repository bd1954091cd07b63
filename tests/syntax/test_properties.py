"""Any text gets an answer, soon; every tree has a text."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moedsl.diagnostics.model import Sink
from moedsl.diagnostics.render import render_text
from moedsl.source import Source
from moedsl.syntax import ast
from moedsl.syntax.parser import parse, parse_expression
from moedsl.syntax.unparse import unparse
from tests.conftest import TESTS

SPECS = [path.read_text() for path in sorted((TESTS.parent / "specs").glob("*.moe"))]
BITS = [
    *"(){}[]=+-*/.,#\"'\\ \n\t;:|%_\u00e9\ufeff\0",
    "->",
    "->=",
    "+=",
    " with {",
    " on ",
    "1e9",
    "x",
    "\r\n",
]
BITS += ["import a", " from ", "//", "/*", "moe m {\n", "# doc\n", "8 * ", '"a"', "f(a, b = 1)"]

quick = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def answered(text: str) -> None:
    """Parsed without an exception, in time; what was said can be shown; a tree without findings has a text."""
    source, sink = Source(text, "spec.moe"), Sink()
    started = time.process_time()
    tree = parse(source, sink)
    found = sink.sorted()
    assert time.process_time() - started < 2
    assert all(each.message and "\n" not in each.message for each in found)
    assert all(0 <= each.primary.span.start <= each.primary.span.end <= len(text) for each in found)
    render_text(found, source)
    if len(text) < 50_000:
        round_trips(tree)


def round_trips(tree: ast.File) -> None:
    printed = unparse(tree)
    again = parse(Source(printed, "again.moe"), Sink())
    assert again.statements == tree.statements
    assert unparse(again) == printed


@quick
@given(st.text())
def test_any_text(text):
    answered(text)


@quick
@given(st.lists(st.sampled_from(BITS), max_size=60).map("".join))
def test_any_bits(text):
    answered(text)
    parse_expression(text, "--set", Sink())


@quick
@given(st.sampled_from(SPECS), st.integers())
def test_mutants(text, seed):
    source = random.Random(seed)
    for _ in range(source.randint(1, 8)):
        at = source.randrange(len(text) + 1)
        bit = source.choice(BITS) if source.random() < 0.5 else ""
        text = text[:at] + bit + text[at + source.choice([0, 1, 4]) :]
    answered(text)


HOSTILE = {
    "arrows": "x = a" + " -> a" * 30_000,
    "arrows_with_counts": "x = a" + " -> 2 * a(b)" * 5_000,
    "backslashes": 'x = "' + "\\" * 900_000,
    "bodies": "a {" * 30_000,
    "bodies_closed": "a {\n" * 15_000 + "}\n" * 15_000,
    "brackets": "x = " + "(" * 90_000,
    "brackets_mixed": "([{" * 30_000,
    "calls": "x = f" + "(a)" * 30_000,
    "closers": "}" * 90_000,
    "commas": "x = [" + "a," * 40_000 + "]",
    "comment": "#" * 1_000_000,
    "digits": "x = " + "1_" * 400_000,
    "dots": "x = a" + ".a" * 45_000,
    "large": "x = 1\n" * 1_000_000,
    "line": "x" * 4_000_000,
    "lines": "\n" * 1_000_000,
    "minus": "x = " + "-" * 90_000 + "1",
    "opened_lines": "x = f(a {\n" * 15_000,
    "quotes": '"' * 900_000,
    "slashes": "/*" * 400_000,
    "strays": "? " * 90_000,
    "sum": "x = " + "a + " * 49_000 + "a",
    "sum_over_lines": "x = (a" + "\n+ a" * 30_000 + ")",
    "unindented": "a {\n b {\n  c {\n}\n" * 8_000,
    "unicode": "".join(map(chr, range(1, 0xD800))),
    "wrong": "a b c = 1\n" * 10_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(name):
    answered(HOSTILE[name])


def test_growth_is_linear():
    spec = "\n".join(SPECS)

    def seconds(copies: int) -> float:
        source = Source(spec * copies, "large.moe")
        started = time.process_time()
        parse(source, Sink())
        return time.process_time() - started

    seconds(1)
    lines = spec.count("\n")
    small, large = 1_000 // lines + 1, 8_000 // lines + 1
    assert seconds(large) < max(20 * seconds(small), 0.5)
