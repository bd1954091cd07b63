"""What the same router said before, wherever it said it: order, absence, counts, gradients, refusals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.agree import agree
from tests.systems.small import built, codes, model_of, tokens

HEAD = """model m {
  vocab = 32
  width = 16
  norm before, again, last = rms(eps = 1e-5)
  router pick {
    score  = SCORE
    gate   = score -> softmax
    select = top_k(2)
    weigh  = gate -> normalize
  }
  moe four { router = pick
    experts = 4 * swiglu(8) }
  moe eight { router = pick
    experts = 8 * swiglu(8) }
  ffn dense = swiglu(8)
  block layer(feed) { x += feed(before(x)) }
"""
END = (
    "  input tokens = ids(vocab)\n  output logits = tokens -> embed -> LAYERS -> last -> head\n}\n"
)
PICKS = """gate   = score -> softmax
    select = top_k(2)
    weigh  = gate -> normalize"""
MAPPED = "linear + (previous(score) -> linear)"


def text(layers: str, score: str = MAPPED, more: str = "") -> str:
    return HEAD.replace("SCORE", score) + more + END.replace("LAYERS", layers)


def decisions(model: nn.Module) -> list[tuple[nn.Module, Tensor, Tensor]]:
    """(router, what it read, its score) in the order of computation."""
    found: list = []
    hooks = [
        each.register_forward_hook(lambda r, given, made: found.append((r, given[0], made)))
        for each in model.modules()
        if "Pick" in type(each).__name__
    ]
    output = model(tokens())
    for hook in hooks:
        hook.remove()
    recorded = list(output.routing.values())
    assert len(recorded) == len(found)
    return [(r, x, made.logits_NE) for r, x, made in found]


def held(model: nn.Module) -> int:
    """Each score is that of the formula, z_j = W x + G z_(j - 1), and the first has no G; how many there are."""
    before = None
    found = decisions(model)
    for router, x, score in found:
        wanted = x @ router.score.weight.T
        assert hasattr(router, "previous") == (before is not None)
        if before is not None:
            wanted = wanted + before @ router.previous.weight.T
        agree(score, wanted, 1e-13)
        before = score
    return len(found)


OUTER = "  block outer(feed) { x = x -> layer(feed)\n x += dense(again(x)) }\n"
TWICE = """  moe left, right { router = pick
    experts = 4 * swiglu(8) }
  block twice { x += left(before(x))
    x += right(again(x)) }
"""


@pytest.mark.parametrize(
    "layers, more, count",
    [
        ("4 * layer(four)", "", 4),
        ("2 * layer(dense) -> 3 * layer(four)", "", 3),
        ("3 * (layer(dense) -> layer(four))", "", 3),
        ("2 * (layer(four) -> layer(dense)) -> layer(four)", "", 3),
        ("2 * layer(four) -> again -> 2 * layer(four)", "", 4),
        ("layer(four) -> layer(dense) -> again -> layer(dense) -> layer(four)", "", 2),
        ("2 * layer(four) -> 2 * layer(eight) -> layer(four)", "", 5),
        ("3 * outer(four)", OUTER, 3),
        ("2 * (outer(dense) -> outer(four)) -> again -> outer(four)", OUTER, 3),
        ("2 * twice", TWICE, 4),
        ("layer(dense) -> 2 * twice -> again -> twice", TWICE, 6),
    ],
)
def test_it_reads_the_last_decision(layers: str, more: str, count: int) -> None:
    model = model_of(built(text(layers, more=more)))
    assert held(model) == count


STREAMS = """  attention own { heads = 2
    mask = none }
  attention across { heads = 2 }
  block encode { x += own(before(x))
    x += four(again(x)) }
  block decode(memory) { x += across(before(x), memory)
    x += four(again(x)) }
  input source = ids(vocab)
  let memory = source -> embedding(vocab) -> 3 * encode
"""


def test_each_stream_has_decisions_of_its_own() -> None:
    model = model_of(built(text("3 * decode(memory)", more=STREAMS)))
    found = list(model(tokens(length=5), tokens()).routing.values())
    assert [r.logits_NE.shape[0] for r in found] == [15] * 3 + [21] * 3
    for layers in (model.encode, model.decode):
        routers = [layer.four.router for layer in layers]
        assert [hasattr(router, "previous") for router in routers] == [False, True, True]


ROUNDS = """  block some = recur(layer(four)) {
    rounds = 3
    router = router(score = linear, gate = score -> sigmoid, select = top_k(1))
  }
"""


@pytest.mark.parametrize("layers", ["layer(four) -> 2 * some", "2 * (some -> layer(four))"])
def test_rounds_are_alike(layers: str) -> None:
    """A block that comes back, for some of the tokens, neither reads what was decided before nor leaves anything."""
    model = model_of(built(text(layers, more=ROUNDS)))
    assert model(tokens()).logits.isfinite().all()
    routers = [m for m in model.modules() if "Pick" in type(m).__name__]
    reading = [hasattr(router, "previous") for router in routers]
    assert reading == ([False] * 3 if layers.startswith("layer") else [False, False, False, True])


def test_scores_are_added_as_they_are_where_counts_agree() -> None:
    model = model_of(built(text("3 * layer(four)", "linear + previous(score)")))
    (_, _, first), (second, x, score), _ = decisions(model)
    agree(score, x @ second.score.weight.T + first, 1e-13)


def test_gradients_flow_back_through_the_score_before() -> None:
    """The first router moves by what only the second is asked."""
    model = model_of(built(text("2 * layer(four)")))
    (first, *_), (_, x, score) = decisions(model)
    before = first.score.weight
    (found,) = torch.autograd.grad(score.sum(), before, retain_graph=True)
    (by_stream,) = torch.autograd.grad(x.sum(), before)
    assert (found - by_stream).abs().max() > 1e-3


def test_padding_keeps_to_itself() -> None:
    """A token has its own score before it, whatever stands beside it in the batch."""
    model = model_of(built(text("3 * layer(four)")))
    alone, together = model(tokens()[1:2]), model(tokens())
    agree(together.logits[1:2], alone.logits, 1e-12)


@pytest.mark.parametrize(
    "changed, code",
    [
        (text("2 * layer(four)", "previous(score) -> linear"), "E0417"),
        (text("2 * layer(four)").replace("swiglu(8)", "(swiglu(8) -> previous(score))"), "E0417"),
        (text("layer(four) -> layer(eight)", "linear + previous(score)"), "E0418"),
        (
            text("2 * layer(four)", "(linear + (previous(score) -> linear)) -> hide(0.1)"),
            "E0422",
        ),
        (text("layer(four)"), "W1011"),
        (
            text("2 * some", more="  block some = routed(layer(four)) { select = above(50%) }\n"),
            "W1011",
        ),
        (text("3 * one", more="  tied one = layer(four)\n"), "E0208"),
        (
            text(
                "2 * both",
                more="  block both { tied one = four\n x += one(before(x))\n x += one(again(x)) }\n",
            ),
            "E0208",
        ),
        (text("2 * layer(four)").replace(PICKS, "select = soft(slots = 1)"), "E0208"),
        (
            text("2 * layer(many)", more="  moe many { router = pick\n experts = 16 * mlp(1) }\n")
            .replace(
                f"score  = {MAPPED}",
                f"score = ({MAPPED.replace('linear', 'linear(4)')}) -> product_keys",
            )
            .replace(PICKS, "select = top_k(2)\n    weigh = score -> softmax"),
            "E0208",
        ),
    ],
)
def test_what_cannot_be_is_said(changed: str, code: str) -> None:
    assert code in codes(changed), codes(changed)
