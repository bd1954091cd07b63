"""Pages are executed: the first spec of each fails with its code, and the mend does not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import moedsl
from moedsl.diagnostics.codes import CODES
from moedsl.diagnostics.explain import HEADINGS, example, page, pages
from moedsl.diagnostics.model import Sink
from moedsl.source import Source
from moedsl.syntax.parser import parse

SYNTAX = "E01"


def test_each_code_has_a_page_and_each_page_a_code():
    assert pages() == sorted(CODES)


def test_unknown_codes_have_no_page():
    assert page("E9999") is None
    assert page("../codes") is None


@pytest.mark.parametrize("code", pages())
def test_page_has_its_headings(code):
    text = page(code)
    assert text.startswith(f"# {code}: {CODES[code]}\n")
    assert tuple(re.findall("^## .*$", text, re.MULTILINE)) == HEADINGS


@pytest.mark.parametrize("code", pages())
def test_page_fails_and_is_mended(code):
    specs = example(page(code))
    assert code in codes_of(specs.fails, code)
    mended = codes_of(specs.mended, code)
    assert code not in mended
    if code.startswith(SYNTAX):
        assert not mended


def codes_of(text: str, code: str) -> list[str]:
    """Syntax is shown on fragments, which are read only; everything else on whole specs."""
    source = Source(text, "page.moe")
    if code.startswith(SYNTAX):
        sink = Sink()
        parse(source, sink)
        return [diagnostic.code for diagnostic in sink.sorted()]
    pipeline = pytest.importorskip("moedsl.pipeline")
    return [diagnostic.code for diagnostic in pipeline.check(source).diagnostics]


def test_each_syntax_code_of_the_compiler_is_known():
    folder = Path(moedsl.__file__).parent / "syntax"
    texts = [file.read_text() for file in folder.glob("*.py")]
    used = {code for text in texts for code in re.findall(r'"([EW]\d{4})"', text)}
    assert used <= CODES.keys()
    assert {code for code in CODES if code.startswith(SYNTAX)} <= used
