"""Marks under lines: where labels meet, reach over lines, or point outside of everything."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moedsl.diagnostics.model import Diagnostic, Label
from moedsl.diagnostics.render import LIMIT, render, render_text
from moedsl.source import Source, Span

TEXT = """model tiny {
  layers 6 { experts = 2 }

\ttop_k = 4  # \u6f22\u5b57
  x = "\u6f22\u5b57" + y
  block b {
    x = 1
    y = 2
    z = 3
  }
}
"""
SOURCES = {
    "tiny.moe": Source(TEXT, "tiny.moe"),
    "other.moe": Source("a = 1\nb = 2\n", "other.moe"),
    "long.moe": Source(f"{'x' * 500} = ?{'y' * 500}", "long.moe"),
}


def label(start: str, text: str = "", end: str = "", file: str = "tiny.moe") -> Label:
    whole = SOURCES[file].text
    at = whole.index(start)
    return Label(Span(at, whole.index(end, at) + len(end) if end else at + len(start), file), text)


CASES = {
    "two_lines": Diagnostic(
        "E0402",
        "top_k is 4 but layer 6 has only 2 experts",
        label("4", "needs at least 4 experts in every layer it routes"),
        (label("experts = 2", "2 experts set here"),),
        help="lower top_k to 2, or raise experts in layer 6",
    ),
    "one_line": Diagnostic(
        "E0101",
        "four labels on one line",
        label("experts", "here"),
        (label("layers", "first"), label("2 }", "last"), label("6", "second"), label("=")),
    ),
    "overlapping": Diagnostic(
        "E0101",
        "labels over each other",
        label("experts", "inner"),
        (label("experts = 2", "outer"), label("layers 6 { experts", "before")),
    ),
    "wide_characters": Diagnostic(
        "E0101", "wide", label("+ y", "behind them"), (label('"\u6f22\u5b57"', "they"),)
    ),
    "tab": Diagnostic("E0101", "a tab", label("top_k", "behind it"), severity="warning"),
    "many_lines": Diagnostic(
        "E0101",
        "a body",
        label("block b", "all of this", end="z = 3"),
        (label("y = 2", "one of it"), label("b = 2", "in another file", file="other.moe")),
        severity="note",
    ),
    "whole_text": Diagnostic("E0101", "everything", Label(Span(0, len(TEXT), "tiny.moe"), "all")),
    "end_of_text": Diagnostic(
        "E0101", "the end", Label(Span(len(TEXT), len(TEXT), "tiny.moe"), "here")
    ),
    "unknown_file": Diagnostic("E0101", "elsewhere", Label(Span(3, 9, "none.moe"), "there")),
    "long_line": Diagnostic("E0101", "a long line", label("?", "here", file="long.moe")),
    "hostile_text": Diagnostic(
        "E0101", "an \x1b[31mescape", label("6", "a\u202eb"), help="one\ntwo"
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_drawing(name, golden):
    golden(f"diagnostics/drawings/{name}.txt", render([CASES[name]], SOURCES))


def test_colour_changes_no_character(golden):
    import re

    plain, coloured = (render(CASES.values(), SOURCES, color) for color in (False, True))
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain
    golden("diagnostics/drawings/coloured.txt", render([CASES["two_lines"]], SOURCES, color=True))


def test_codes_are_explained_once_and_findings_counted():
    text = render([CASES["tab"]] * (LIMIT + 13), SOURCES)
    assert text.count("moedsl explain") == 1
    assert text.count("warning[E0101]: a tab") == LIMIT
    assert text.endswith("... and 13 more\n")


def test_imported_files_are_shown():
    source = Source("a = 1", "main.moe", {"lib/other.moe": "b = ?"})
    found = Diagnostic("E0101", "there", Label(Span(4, 5, "lib/other.moe"), "here"))
    assert "lib/other.moe:1:5" in render_text([found], source)
    assert "^ here" in render_text([found], source)


spans = st.builds(
    Span, st.integers(-5, 300), st.integers(-5, 300), st.sampled_from([*SOURCES, "none.moe"])
)
labels = st.builds(Label, spans, st.sampled_from(["", "here", "\u6f22\u5b57\n"]))


@settings(max_examples=300, deadline=None)
@given(
    st.builds(
        Diagnostic,
        st.just("E0101"),
        st.text(max_size=5),
        labels,
        st.lists(labels, max_size=5).map(tuple),
    )
)
def test_any_span_can_be_shown(diagnostic):
    assert render([diagnostic], SOURCES).startswith("error[E0101]:")


@settings(max_examples=200, deadline=None)
@given(
    st.text(max_size=40),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=4),
)
def test_any_text_can_be_shown(text, places):
    found = [Label(Span(start, end, "any.moe"), "t") for start, end in places]
    render(
        [Diagnostic("E0101", "m", found[0], tuple(found[1:]))], {"any.moe": Source(text, "any.moe")}
    )
