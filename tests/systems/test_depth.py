"""Blocks that serve some of the tokens: against formulas token by token, with negative controls."""

from __future__ import annotations

import math
from functools import cache
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import moedsl.pipeline
from moedsl.checks.causality import causality
from moedsl.ir.cost import cost
from moedsl.source import Source
from tests.agree import agree
from tests.packages import compiled, imported, model_class, package
from tests.systems import plain_depth as plain

HEADS = 2
LENGTH = 9


def spec(select: str, more: str = "", inner: str = "layer", window: str = "none") -> str:
    return f"""
model m {{
  vocab   = 31
  width   = 8
  context = 64
  norm before, after, last = rms(eps = 1e-6)
  attention own {{ heads = {HEADS}
    window = {window}
    q, k = linear -> rope(theta = 1e4) }}
  ffn dense = swiglu(12)
  router pick {{ gate = score -> softmax
    select = top_k(2) }}
  moe sparse {{ router = pick
    experts = 3 * swiglu(8)
    loss = balance(1e-2) }}
  block layer {{
    x += own(before(x))
    x += dense(after(x))
  }}
  block wide {{
    x += own(before(x))
    x += sparse(after(x))
  }}
  block some = routed({inner}) {{ select = {select}
    {more} }}
  input tokens = ids(vocab)
  output logits = tokens -> embed -> layer -> some -> last -> head
}}
"""


TAUGHT = "phase(train = top(30%), decode = predicted(mlp(6)))"


@cache
def built(text: str) -> ModuleType:
    result = moedsl.pipeline.compile(Source(text, "m.moe"))
    assert result.ok, "\n".join(f"{d.code} {d.message}" for d in result.diagnostics)
    return imported(result.files)


def codes(text: str) -> list[str]:
    found = moedsl.pipeline.check(Source(text, "m.moe")).diagnostics
    return [d.code for d in found if d.code != "W1010"]  # not every spec mentions all recipes


def model_of(module: ModuleType, seed: int = 2) -> Any:
    """Every parameter drawn, in float64."""
    model = model_class(module)().double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.6, generator=generator)
    return model


def tokens(batch: int = 2, length: int = LENGTH, vocab: int = 31, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocab, (batch, length), generator=generator)


# --- the formula -----------------------------------------------------------------------------------


def formula(
    model: nn.Module,
    tokens_BT: Tensor,
    count: int | None,
    *,
    window: int = 0,
    compact: bool = False,
    squash: bool = False,
    mask: Tensor | None = None,
    served: Tensor | None = None,
) -> Tensor:
    """Logits by loops over tokens, [B, T, V]. `count`: how many of a sequence are served (or `served`: which).
    `compact`, `squash`: mistakes, for controls."""
    w = dict(model.named_parameters())
    rows = []
    for b, ids in enumerate(tokens_BT.tolist()):
        real = list(range(len(ids))) if mask is None else mask[b].nonzero()[:, 0].tolist()
        positions = list(range(len(real)))
        xs = [w["embed.weight"][ids[t]] for t in real]
        xs = plain.layer(w, "layer.0", xs, positions, HEADS, window)
        scores = [w["layer.1.score.weight"][0] @ x for x in xs]
        if served is not None:
            chosen = [t for t in positions if served[b, real[t]]]
        else:
            ask = count if count is not None else math.ceil(0.3 * len(real))
            chosen = plain.best(scores, ask, positions)
        at = list(range(len(chosen))) if compact else [positions[t] for t in chosen]
        where = dict(zip(chosen, at, strict=True))
        xs = plain.mixture_of_depths(
            xs,
            scores,
            chosen,
            [where.get(t, t) for t in positions],
            lambda own, p: plain.layer(w, "layer.1.layer", own, p, HEADS, window),
            torch.sigmoid if squash else (lambda r: r),
        )
        logits = {
            t: w["head.weight"] @ plain.rms(x, w["last.weight"])
            for t, x in zip(real, xs, strict=True)
        }
        zero = torch.zeros_like(w["head.weight"][:, 0])
        rows.append(torch.stack([logits.get(t, zero) for t in range(len(ids))]))
    return torch.stack(rows)


def compare(found: Tensor, wanted: Tensor, model: nn.Module, system: str = "mod_small") -> None:
    """Values, and every gradient of a drawn sum of them (tables of angles are float32)."""
    agree(found, wanted, 1e-6, system)
    drawn = torch.randn(
        wanted.shape, generator=torch.Generator().manual_seed(3), dtype=wanted.dtype
    )
    weights = [p for n, p in model.named_parameters() if "predicted" not in n]
    mine = torch.autograd.grad((found * drawn).sum(), weights)
    theirs = torch.autograd.grad((wanted * drawn).sum(), weights)
    assert all(gradient.any() for gradient in theirs)
    agree(mine, theirs, 1e-6, system, of="gradients")


@pytest.mark.parametrize("window", (0, 3))
def test_served_tokens_attend_among_themselves_where_they_stood(window):
    model = model_of(built(spec(TAUGHT, window=str(window) if window else "none")))
    ids = tokens()
    found = model(ids)
    compare(found.logits, formula(model, ids, 3, window=window), model)
    assert found.depth["layer.1"].served_BT.sum(1).tolist() == [3, 3]
    # Gotcha 26: compacted positions, or a squashed multiplier, are other models.
    for mistake in ({"compact": True}, {"squash": True}):
        wrong = formula(model, ids, 3, window=window, **mistake)
        assert (found.logits - wrong).abs().max() > 1e-3


def test_padding_is_never_served_and_changes_nothing():
    model = model_of(built(spec("top(30%)", "lookahead = allowed")))
    ids = tokens(3, 11)
    mask = torch.ones(3, 11, dtype=torch.bool)
    mask[1, :4] = False
    mask[2, 5:] = False
    found = model(ids, mask=mask)
    wanted = formula(model, ids, None, mask=mask)
    compare(found.logits * mask[..., None], wanted, model)
    served = found.depth["layer.1"].served_BT
    assert not (served & ~mask).any()
    assert served.sum(1).tolist() == [4, 3, 2]  # the share of each sequence's own length
    for b in range(3):
        alone = model(ids[b : b + 1, mask[b]])
        torch.testing.assert_close(found.logits[b, mask[b]], alone.logits[0], rtol=1e-6, atol=1e-6)


def test_so_many_tokens_are_served_or_all_there_are():
    model = model_of(built(spec("top(4)", "lookahead = allowed")))
    for length, count in ((9, 4), (3, 3)):
        ids = tokens(2, length)
        found = model(ids)
        assert found.depth["layer.1"].served_BT.sum(1).tolist() == [count, count]
        torch.testing.assert_close(found.logits, formula(model, ids, count), rtol=1e-6, atol=1e-6)


def test_ties_go_to_the_earlier_token():
    model = model_of(built(spec("top(3)", "lookahead = allowed")))
    with torch.no_grad():
        model.layer[1].score.weight.zero_()
    served = model(tokens()).depth["layer.1"].served_BT
    assert served.nonzero()[:, 1].tolist() == [0, 1, 2, 0, 1, 2]


# --- decoding --------------------------------------------------------------------------------------

RULES = (TAUGHT, "phase(train = top(30%), decode = above(60%, membership = 1e-2))")


def stepped(
    model: Any, module: ModuleType, ids: Tensor, sizes: list[int], mask: Tensor | None = None
) -> Tensor:
    cache = module.Cache()
    parts, start = [], 0
    for size in sizes:
        seen = None if mask is None else mask[:, : start + size]
        parts.append(model(ids[:, start : start + size], mask=seen, cache=cache).logits)
        start += size
    return torch.cat(parts, 1)


@pytest.mark.parametrize("select", RULES)
def test_steps_with_a_cache_are_the_whole_under_the_rule(select):
    module = built(spec(select))
    model = model_of(module).eval()
    ids = tokens(3)
    whole = model(ids, cache=module.Cache())
    depth = whole.depth["layer.1"]
    limit = 0 if "predicted" in select else math.log(0.6 / 0.4)
    assert torch.equal(depth.served_BT, depth.logit_BT > limit)
    assert 0 < depth.served_BT.sum() < depth.served_BT.numel()
    # The formula, where keys and values of tokens that are not served do not exist.
    wanted = formula(model, ids, None, served=depth.served_BT)
    torch.testing.assert_close(whole.logits, wanted, rtol=1e-6, atol=1e-6)
    for sizes in ([1] * LENGTH, [4, 1, 3, 1]):
        torch.testing.assert_close(stepped(model, module, ids, sizes), whole.logits)
    # A rule by token never sees the future.
    changed = ids.clone()
    changed[:, 6:] = (changed[:, 6:] + 7) % 31
    again = model(changed, cache=module.Cache())
    torch.testing.assert_close(again.logits[:, :6], whole.logits[:, :6])


def test_a_cache_under_padding():
    module = built(spec(TAUGHT))
    model = model_of(module).eval()
    ids = tokens(2)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, :3] = False
    found = stepped(model, module, ids, [5, 1, 1, 2], mask)
    alone = model(ids[1:, 3:], cache=module.Cache()).logits
    torch.testing.assert_close(found[1:, 3:], alone, rtol=1e-6, atol=1e-6)


def test_generate_follows_the_rule():
    module = built(spec(TAUGHT))
    model = model_of(module).eval()
    said = module.generate(model, tokens(2, 4), 5)
    for length in range(4, 9):
        logits = model(said[:, :length], cache=module.Cache()).logits
        assert torch.equal(logits[:, -1].argmax(-1), said[:, length])


def test_ranking_sees_the_future_where_the_rule_does_not():
    model = model_of(built(spec(TAUGHT)))
    ids = tokens()
    changed = ids.clone()
    changed[:, 6:] = (changed[:, 6:] + 7) % 31
    assert (model(ids).logits[:, :6] - model(changed).logits[:, :6]).abs().max() > 1e-3


def test_a_threshold_may_serve_in_training_too():
    module = built(spec("above(50%)", "gate = score -> sigmoid"))
    assert str(verdict(spec("above(50%)"))) == "causal"
    model = model_of(module)
    ids = tokens()
    found = model(ids)
    served = found.depth["layer.1"].served_BT
    compare(found.logits, formula(model, ids, None, served=served, squash=True), model)
    torch.testing.assert_close(model(ids, cache=module.Cache()).logits, found.logits)
    assert found.losses == {}


# --- what the rule learns --------------------------------------------------------------------------


def test_the_predictor_learns_and_moves_nothing_else():
    """Gotcha 39: what only a loss reads changes no other gradient."""
    model = model_of(built(spec(TAUGHT)))
    output = model(tokens())
    depth = output.depth["layer.1"]
    p = depth.logit_BT.sigmoid()
    wanted = -torch.where(depth.served_BT, p.log(), (1 - p).log()).mean()
    torch.testing.assert_close(output.losses["some.membership"], wanted)
    gradients = dict(zip(dict(model.named_parameters()), torch.autograd.grad(
        output.losses["some.membership"], list(model.parameters()), allow_unused=True), strict=True))  # fmt: skip
    moved = {name for name, g in gradients.items() if g is not None and g.abs().max() > 0}
    assert moved == {"layer.1.predicted.up.weight", "layer.1.predicted.down.weight"}
    # Not detached, the same loss reaches the trunk: the control.
    attached = model.layer[1].predicted(
        model.layer[0](model.embed(tokens()), *_tables(model, tokens()))
    )
    assert torch.autograd.grad(attached.sum(), [model.embed.weight])[0].abs().max() > 0


def _tables(model: nn.Module, ids: Tensor) -> tuple[Any, Any, None]:
    state = __import__(type(model).__module__.rpartition(".")[0] + ".state", fromlist=["state"])
    return state.rotary_table(state.positions(ids, 0, None)), None, None


def test_a_taught_threshold_moves_the_router():
    model = model_of(built(spec(RULES[1])))
    output = model(tokens())
    depth = output.depth["layer.1"]
    p = depth.logit_BT.sigmoid()
    wanted = 1e-2 * -torch.where(depth.served_BT, p.log(), (1 - p).log()).mean()
    torch.testing.assert_close(output.losses["some.membership"], wanted)
    (moved,) = torch.autograd.grad(wanted, [model.layer[1].score.weight])
    assert moved.abs().max() > 0


def test_padding_teaches_nothing():
    model = model_of(built(spec(TAUGHT)))
    ids, mask = tokens(), torch.ones(2, LENGTH, dtype=torch.bool)
    mask[:, :3] = False
    alone = model(ids[:, 3:]).losses["some.membership"]
    torch.testing.assert_close(
        model(ids, mask=mask).losses["some.membership"], alone, rtol=1e-6, atol=1e-6
    )


# --- inside: mixtures, blocks in sequence, blocks that serve some of those ---------------------------


def test_a_mixture_inside_counts_the_tokens_that_it_serves():
    model = model_of(built(spec(TAUGHT, inner="wide")))
    output = model(tokens())
    assert set(output.routing) == {"layer.1.wide.sparse"}
    assert output.routing["layer.1.wide.sparse"].expert_NK.shape == (6, 2)
    assert set(output.losses) == {"sparse.balance", "some.membership"}
    mask = torch.ones(2, LENGTH, dtype=torch.bool)
    mask[0, :4] = False
    ids = tokens()
    padded = model(ids, mask=mask)
    assert sum(r.choices_SE.sum() for r in padded.routing.values()) == 2 * (2 + 3)


def test_blocks_in_sequence_and_within():
    nested = spec(TAUGHT, inner="2 * layer").replace(
        "block some", "block few = routed(wide) { select = phase(train = top(50%), decode = predicted(mlp(4))) }\n"
        "  block some",
    )  # fmt: skip
    model = model_of(built(nested))
    names = {name for name, _ in model.named_parameters()}
    assert {"layer.1.layer.0.own.q.weight", "layer.1.layer.1.own.q.weight"} <= names
    model(tokens()).logits.sum().backward()
    text = nested.replace("routed(2 * layer)", "routed(few)")
    module = built(text)
    model = model_of(module)
    output = model(tokens())
    outer, inner = output.depth["layer.1"], output.depth["layer.1.few"]
    assert outer.served_BT.sum(1).tolist() == [3, 3]
    assert inner.served_BT.sum(1).tolist() == [2, 2] and inner.served_BT.shape == (2, 3)
    assert set(output.losses) == {"sparse.balance", "some.membership", "few.membership"}
    model.eval()
    ids = tokens()
    whole = model(ids, cache=module.Cache()).logits
    torch.testing.assert_close(stepped(model, module, ids, [4] + [1] * 5), whole)


def test_compiled_without_a_break():
    model = model_of(built(spec(TAUGHT, inner="wide")))
    fast = torch.compile(model, fullgraph=True, backend="eager", dynamic=False)
    for ids in (tokens(), tokens(3, 12)):
        torch.testing.assert_close(fast(ids).logits, model(ids).logits)
    mask = torch.ones(2, LENGTH, dtype=torch.bool)
    mask[0, :4] = False
    torch.testing.assert_close(fast(tokens(), mask=mask).logits, model(tokens(), mask=mask).logits)


# --- what the compiler says ------------------------------------------------------------------------


def verdict(text: str) -> Any:
    return causality(moedsl.pipeline.check(Source(text, "m.moe")).graph)


def test_verdicts():
    assert codes(spec("top(30%)")) == ["E0410"]
    assert codes(spec("phase(train = top(30%), eval = above(50%), decode = top(30%))")) == ["E0410"]
    assert str(verdict(spec(TAUGHT))) == "causal when decoding with select = predicted"
    assert str(verdict(spec(RULES[1]))) == "causal when decoding with select = above"
    assert str(verdict(spec("top(30%)", "lookahead = allowed"))) == "looks ahead"
    help = moedsl.pipeline.check(Source(spec("top(30%)"), "m.moe")).diagnostics[-1].help
    assert "phase(train = top(30%), decode = predicted(mlp(64)))" in help


def test_mistakes():
    assert codes(spec("phase(train = top(30%), decode = above(50%))")) == ["E0425"]
    assert codes(spec("predicted(mlp(4))")) == ["E0425"]
    assert codes(spec("top(130%)", "lookahead = allowed")) == ["E0206"]
    assert codes(spec("above(100%)")) == ["E0206"]
    assert codes(spec(TAUGHT, "score = linear(2)")) == ["E0403"]
    assert codes(spec("phase(train = top(30%), decode = predicted(linear(2)))")) == ["E0403"]
    assert codes(spec("top_k(2)")) == ["E0211"]
    assert codes(spec(TAUGHT, inner="dense")) == ["E0211"]


def test_cost_counts_the_share():
    graph = moedsl.pipeline.check(
        Source(spec("phase(train = top(25%), decode = predicted(mlp(6)))"), "m.moe")
    ).graph
    layers = {line.unit: line for line in cost(graph, 64).layers}
    inner = next(part for part in layers["some"].parts if part.path == "layer").sum
    full = layers["layer"].sum
    assert inner.total == full.total
    assert inner.active == sum(int(n / 4) for n in _sizes(graph))
    projections = 2 * (4 * 64 + 3 * 8 * 12)
    assert full.flops == projections + 64 * 4 * 8
    assert inner.flops == projections // 4 + 64 * 4 * 8 // 16
    assert inner.cache_bytes == full.cache_bytes


def _sizes(graph: Any) -> list[int]:
    return [p.size for path, _, p, _ in graph.parameters() if path.startswith("some[1].layer.")]


# --- the published form ----------------------------------------------------------------------------

SMALL = ("vocab=40", "width=16", "count=1", "gqa.heads=4", "gqa.kv_heads=2")
DENSE = ("layer[0].feed_forward=swiglu(8)",)


def test_mod_small_runs_small():
    module = package("mod_small", SMALL)
    model = model_of(module)
    output = model(tokens(2, 16, vocab=40))
    assert set(output.losses) == {"mode.balance", "some.membership"}
    assert output.depth["layer.1"].served_BT.sum(1).tolist() == [2, 2]
    sum(output.losses.values(), output.logits.sum()).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert module.generate(model.eval(), tokens(1, 3, vocab=40), 2).shape == (1, 5)


def test_parameters_of_mod_small():
    graph = compiled("mod_small").graph
    total = sum(p.size for _, _, p, _ in graph.parameters())
    assert cost(graph).total.total == total
    layer = 2 * 768 * 768 + 2 * 768 * 256 + 2 * 768
    mode = layer + 8 * 768 + 7 * 3 * 768 * 2048
    some = layer + 3 * 768 * 2048 + 768 + 768 * 192 + 192
    assert total == 2 * 50304 * 768 + 768 + 6 * (mode + some)


@pytest.mark.parametrize("score", ("linear", "float32 -> linear"))
def test_half_precision(score):
    model = model_of(built(spec(TAUGHT, f"score = {score}"))).bfloat16()
    output = model(tokens())
    assert output.logits.dtype == torch.bfloat16
    (output.logits.float().sum() + output.losses["some.membership"]).backward()
    with torch.autocast("cpu", torch.bfloat16):
        model.float()(tokens()).logits.sum().backward()
