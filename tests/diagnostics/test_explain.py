"""Pages are executed: the first spec of each fails with its code, and the mend is clean."""

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
_CODE = re.compile(r'"([EW]\d{4})"')


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
    assert set(codes_of(specs.fails, code)) == {code}
    assert not codes_of(specs.mended, code)


def codes_of(text: str, code: str) -> list[str]:
    """Syntax is shown on fragments, which are read only; everything else on whole specs."""
    source = Source(text, "page.moe")
    if code.startswith(SYNTAX):
        sink = Sink()
        parse(source, sink)
        return [diagnostic.code for diagnostic in sink.sorted()]
    pipeline = pytest.importorskip("moedsl.pipeline")
    return [diagnostic.code for diagnostic in pipeline.check(source).diagnostics]


def test_each_code_of_the_compiler_is_known():
    folder = Path(moedsl.__file__).parent
    files = [file for file in folder.rglob("*.py") if file.name != "codes.py"]
    reported = {code for file in files for code in _CODE.findall(file.read_text())}
    assert reported - CODES.keys() == set(), "codes without a row in codes.py"
    assert CODES.keys() - reported == set(), "rows that nothing reports"
