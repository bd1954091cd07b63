"""What programs read: the same findings as JSON, as workflow commands and as SARIF."""

from __future__ import annotations

import json

from moedsl.diagnostics.formats import as_github, as_json, as_sarif
from moedsl.diagnostics.model import Diagnostic, Edit, Label
from moedsl.source import Source, Span

SOURCE = Source("a = 1\nb: 2\n", "dir/a spec.moe", {"lib.moe": "c = \u6f22\n"})
FOUND = Diagnostic(
    "E0110",
    "`:` sets nothing",
    Label(Span(7, 8, SOURCE.path), "write `=`"),
    (Label(Span(4, 5, "lib.moe"), "100%, as: here"),),
    help="first\nsecond",
    edits=(Edit(Span(7, 8, SOURCE.path), " ="),),
)
WARNING = Diagnostic(
    "W9999", "of another package", Label(Span(0, 9, "none.moe")), severity="warning"
)
PAIRS = [(SOURCE, FOUND), (SOURCE, WARNING)]


def test_json(golden):
    golden("diagnostics/formats/findings.json", as_json(PAIRS))
    first = json.loads(as_json(PAIRS))[0]
    assert first["primary"]["start"] == {"offset": 7, "line": 2, "column": 2}
    assert first["edits"][0]["text"] == " ="


def test_github(golden):
    golden("diagnostics/formats/findings.github.txt", as_github(PAIRS))
    lines = as_github(PAIRS).splitlines()
    assert len(lines) == len(PAIRS)
    assert lines[0].startswith(
        "::error file=dir/a spec.moe,line=2,endLine=2,col=2,endColumn=3,title=E0110%3A "
    )
    assert lines[0].endswith("%0Asecond")


def test_sarif(golden):
    golden("diagnostics/formats/findings.sarif", as_sarif(PAIRS).replace(_version(), "0.0.0"))
    log = json.loads(as_sarif(PAIRS))
    (run,) = log["runs"]
    assert log["version"] == "2.1.0"
    rules = run["tool"]["driver"]["rules"]
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in ("error", "warning", "note")
        place = result["locations"][0]["physicalLocation"]
        assert " " not in place["artifactLocation"]["uri"]
        assert all(
            place["region"][side] >= 1
            for side in ("startLine", "startColumn", "endLine", "endColumn")
        )
    assert run["results"][0]["fixes"][0]["artifactChanges"][0]["replacements"][0][
        "insertedContent"
    ] == {"text": " ="}


def test_nothing_found():
    assert json.loads(as_json([])) == []
    assert as_github([]) == ""
    assert json.loads(as_sarif([]))["runs"][0]["results"] == []


def _version() -> str:
    from moedsl import __version__

    return __version__
