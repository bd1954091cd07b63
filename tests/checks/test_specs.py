"""The checks on whole specs, through the pipeline: what the gallery may do, and what it may not after one edit."""

from __future__ import annotations

import pytest

from moedsl.checks.causality import causality
from moedsl.diagnostics.model import Diagnostic
from moedsl.ir.shapes import is_ids, is_sequence
from moedsl.pipeline import check
from moedsl.source import Source
from tests.packages import SPECS, source

TINY = (SPECS / "tiny.moe").read_text()


def edited(*changes: tuple[str, str], text: str = TINY) -> str:
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    return text


def found(text: str) -> tuple[Diagnostic, ...]:
    return check(Source(text)).diagnostics


def mended(text: str, problem: Diagnostic) -> str:
    for edit in sorted(problem.edits, key=lambda edit: -edit.span.start):
        text = text[: edit.span.start] + edit.text + text[edit.span.end :]
    return text


@pytest.mark.parametrize("name", sorted(path.stem for path in SPECS.glob("*.moe")))
def test_the_gallery_is_clean(name: str) -> None:
    result = check(source(name))
    assert [d for d in result.diagnostics if d.severity == "error"] == []
    reads_ids = any(is_ids(value) and is_sequence(value) for value in result.graph.root.inputs)
    verdict = str(causality(result.graph))
    assert verdict.startswith("causal") if reads_ids else verdict == "nothing to decode"


@pytest.mark.parametrize("written", ["top_k(9)", "top_k(k = 9)"])
def test_picks(written: str) -> None:
    text = edited(("top_k(2)", written))
    (problem,) = found(text)
    assert problem.code == "E0401"
    assert "`layer[0..1].sparse` has only 4 experts" in problem.message
    assert found(mended(text, problem)) == ()
    assert "top_k(4)" in mended(text, problem) or "top_k(k = 4)" in mended(text, problem)


def test_picks_in_some_layers_only() -> None:
    text = edited(("top_k(2)", "top_k(5)"), text=(SPECS / "tiny_pyramid.moe").read_text())
    (problem,) = found(text)
    assert "`layer[1..2].feed_forward` has only 4 experts" in problem.message


def test_one_k_is_reported_once_with_every_layer_that_has_too_few() -> None:
    pyramid = (SPECS / "tiny_pyramid.moe").read_text()
    text = edited(("top_k(2)", "top_k(9)"), text=pyramid)
    (problem,) = found(text)
    assert "`layer[1..2].feed_forward` has only 4 experts" in problem.message
    assert found(mended(text, problem)) == ()


def test_a_mask_left_out() -> None:
    text = edited(("= causal", "= none"))
    (problem,) = found(text)
    assert problem.code == "E0410"
    assert mended(text, problem) == TINY


def test_a_classifier_may_look_everywhere() -> None:
    assert found(edited(("= causal", "= none"), ("-> head", "-> linear(10)"))) == ()


ONE = ("top_k(2)", "top_k(1)")
LOSSES = ("    loss    = [balance(1e-2), z(1e-3)]\n", "")


@pytest.mark.parametrize("weigh", ["score -> softmax", "gate -> normalize"])
def test_one_pick_divided_by_itself(weigh: str) -> None:
    changes = [ONE, ("weigh  = score -> softmax", f"gate = score -> sigmoid\n    weigh = {weigh}")]
    (problem,) = found(edited(*changes, LOSSES))
    assert (problem.code, problem.severity) == ("W1001", "warning")
    assert problem.message.startswith("no gradient reaches `layer[0..1].sparse.router.score`")
    (problem,) = found(edited(*changes))
    assert problem.message.startswith("only losses move")


def test_one_pick_by_its_share_of_all_is_trained() -> None:
    assert (
        found(edited(ONE, ("weigh  = score -> softmax", "gate = score -> softmax"), LOSSES)) == ()
    )


def test_what_only_ranks_is_never_trained() -> None:
    (problem,) = found(edited(("    select =", "    choose = x -> linear\n    select =")))
    assert problem.code == "E0501"
    assert problem.message == "no gradient reaches `layer[0..1].sparse.router.choose`"


def test_a_place_that_nothing_reads() -> None:
    (problem,) = found(edited(("    x += own", "    let spare = x -> linear(64)\n    x += own")))
    assert problem.code == "W1002"


def test_a_loss_of_nothing() -> None:
    (problem,) = found(edited(("balance(1e-2)", "balance(0)")))
    assert problem.code == "W1003"


def test_a_loss_that_moves_nothing() -> None:
    problems = found(edited(("score  = linear", "score  = linear -> zero")))
    assert {"E0502"} <= {problem.code for problem in problems}
