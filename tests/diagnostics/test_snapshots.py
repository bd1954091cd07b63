"""What people see for a slip of the pen or a mistake of meaning, source above output, one file each."""

from __future__ import annotations

import pytest

from moedsl.diagnostics.model import Sink
from moedsl.diagnostics.render import render_text
from moedsl.pipeline import check
from moedsl.source import Source
from moedsl.syntax.parser import parse
from tests.conftest import TESTS, present
from tests.diagnostics.mistakes import MISTAKES, SPEC, spelled

FOLDER = "diagnostics/snapshots"
SLIPS = {
    "arrow_dangles": "output = image -> patches(32) ->\n         position(learned)\n",
    "arrow_first": "model tiny {\n  -> last\n}\n",
    "arrow_of_another_language": "q = linear => rope\n",
    "arrow_prettified": "q = linear \u2192 rope\n",
    "assignment_unknown": "x -= 1\n",
    "body_as_value": "moe sparse = {\n  router = top2\n}\n",
    "body_left_open": "model tiny {\n  moe sparse {\n    router = top2\n\n  width = 64\n}\n",
    "body_left_open_outside": "model tiny {\n  moe sparse {\n    router = top2\n}\n",
    "bracket_left_open": "router top2 {\n  select = top_k(2\n  weigh = score\n}\n",
    "bracket_mismatched": "loss = [balance(1e-2), z(1e-3)\n  )\n",
    "bracket_too_many": "select = top_k(2))\n",
    "character_hidden": "x = a # \u202e reversed\n",
    "character_unknown": "x = a ? b\n",
    "colon": "attention own {\n  heads: 32\n}\n",
    "comma_between_statements": "moe sparse { router = top2, experts = 3 }\n",
    "comma_missing": "loss = [balance(1e-2) z(1e-3)]\n",
    "comment_of_another_language": "heads = 32 // as in the paper\n",
    "copies_as_papers_print": "layer = 3 x dense\n",
    "copies_without_star": "experts = 8 swiglu(64)\n",
    "deep": f"x = {'(' * 70}a{')' * 70}\n",
    "equal_doubled": "heads == 32\n",
    "equal_missing": "heads 32\n",
    "equal_missing_inside": "experts = 8 * lora(rank 4)\n",
    "escape": 'path = "C:\\models"\n',
    "import_without_file": "import mixtral_8x7b\n",
    "line_says_nothing": "swiglu(64)\n",
    "look_alike": "t\u043ep = 1\n",
    "many": "a b\nheads: 32\nx = (\nloss = [balance(1e-2) z(1e-3)]\ny = 1\nz = a -> b + c\nw =\n",
    "number_huge": "theta = 1e999\n",
    "number_with_unit": "context = 32k\n",
    "quoted_singly": "embed = 'model.embed'\n",
    "second_statement": "block a { x = 1 } block b { x = 2 }\n",
    "semicolon": "a = 1; b = 2\n",
    "sum_beside_arrow": "attention own {\n  scores = dot -> soft_cap(50) + near\n}\n",
    "sum_beside_arrows": "x = a -> b + c -> d\n",
    "tabs_and_wide_characters": '\tx = f("\u6f22\u5b57", y z)\n',
    "text_left_open": 'embed = "model.embed\nhead = "lm_head"\n',
    "two_names": "router top2\n",
    "value_missing": "model tiny {\n  width =   # of the stream\n}\n",
    "with_without_body": "moe b = a with c\n",
}


@pytest.mark.parametrize("name", SLIPS)
def test_slip(name, golden):
    text = SLIPS[name]
    source, sink = Source(text, "spec.moe"), Sink()
    parse(source, sink)
    output = render_text(sink.sorted(), source)
    golden(f"{FOLDER}/{name}.txt", f"{text}\n----- OUTPUT\n\n{output}")


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake(name, golden):
    source = Source(spelled(name), "spec.moe", {"parts.moe": "attention other {\n  heads = 4\n}\n"})
    output = render_text(check(source).diagnostics, source)
    golden(f"{FOLDER}/{name}.txt", f"{source.text}\n----- OUTPUT\n\n{output}")


def test_the_spec_of_all_mistakes_is_sound():
    assert check(Source(SPEC)).diagnostics == ()


def test_every_snapshot_has_its_source():
    assert present(TESTS / FOLDER) == {f"{name}.txt" for name in (*SLIPS, *MISTAKES)}
