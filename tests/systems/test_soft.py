"""Slots that are mixtures of tokens. Oracles: the PyPI package soft-moe-pytorch, and the formulas of vmoe's
projects/soft_moe/router.py and of a softmax over each prefix, in float64 and one token at a time."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")

import moedsl.pipeline  # noqa: E402
from moedsl.checks.causality import causality  # noqa: E402
from moedsl.ir.cost import cost  # noqa: E402
from moedsl.source import Source  # noqa: E402
from tests.agree import agree  # noqa: E402
from tests.packages import imported, model_class  # noqa: E402

EXPERTS, SLOTS, WIDTH, INNER = 4, 2, 16, 24

SPEC = """
model m {{
  vocab = 40
  width = 16
  attention own {{ heads = 2
    mask = {mask} }}
  norm before = {norm}
  router slots {{
    score  = {score}
    select = soft(slots = 2{over})
  }}
  moe sparse {{
    router  = slots
    experts = 4 * {expert}
  }}
  block layer {{
    x += own(x)
    x += sparse(before(x))
  }}
  input  tokens = ids(vocab)
  output logits = tokens -> embed -> 2 * layer -> {last}
}}
"""


def spec(over="", mask="none", score="cosine()", norm="layer_norm()", last="head", expert=None):
    expert = expert or "mlp(24, activation = gelu, bias = true)"
    over = f", over = {over}" if over else ""
    return SPEC.format(over=over, mask=mask, score=score, norm=norm, last=last, expert=expert)


ALL = spec(last="linear(7)")
PREFIX = spec(over="prefix", mask="causal")


def compiled(text):
    result = moedsl.pipeline.compile(Source(text, "t.moe"))
    assert result.ok, result.diagnostics
    return result


def made(text, dtype=torch.float64):
    module = imported(compiled(text).files)
    model = model_class(module)().to(dtype)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return module, model


def rows(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def tokens(batch=2, length=9):
    return torch.randint(40, (batch, length), generator=torch.Generator().manual_seed(1))


# --- the formula ----------------------------------------------------------------------------------


def unit(x):
    return x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()


def expert(sparse, e, rows):
    up, down = sparse.experts.up[e], sparse.experts.down[e]
    hidden = torch.nn.functional.gelu(rows @ up.T + sparse.experts.up_bias[e])
    return hidden @ down.T + sparse.experts.down_bias[e]


def formula(sparse, x_BTD, mask=None, *, normed_into_slots=False, combine_by_expert=False):
    """vmoe's router, a sequence and a slot at a time; the flags are what gotchas 24 and 25 warn of."""
    outputs = []
    for row, x in enumerate(x_BTD):
        real = torch.ones(len(x), dtype=torch.bool) if mask is None else mask[row]
        logits = sparse.router.score_scale * unit(x) @ unit(sparse.router.score).T
        y = torch.zeros_like(x)
        if combine_by_expert:
            weight = logits.unflatten(1, (EXPERTS, SLOTS)).softmax(1).flatten(1)
        else:
            weight = logits.softmax(1)
        for slot in range(EXPERTS * SLOTS):
            dispatch = logits[real, slot].softmax(0)
            taken = unit(x) if normed_into_slots else x
            filled = dispatch @ taken[real]
            y = y + weight[:, slot : slot + 1] * expert(sparse, slot // SLOTS, filled)
        outputs.append(y)
    return torch.stack(outputs)


def prefix_formula(sparse, x_BTD, mask=None):
    """At each token, the formula on what came up to it, read at that token alone."""
    out = torch.zeros_like(x_BTD)
    for t in range(x_BTD.shape[1]):
        seen = None if mask is None else mask[:, : t + 1]
        if seen is not None and not seen.any(1).all():
            continue
        out[:, t] = formula(sparse, x_BTD[:, : t + 1], seen)[:, t]
    return out


def error(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()


def compare(system, sparse, inputs, call, oracle, tolerance=1e-13):
    """Values and all gradients."""
    x = inputs.clone().requires_grad_()
    twin, y = copy.deepcopy(sparse), inputs.clone().requires_grad_()
    actual, expected = call(sparse, x), oracle(twin, y)
    weight = rows(*actual.shape, seed=9)
    (actual * weight).sum().backward()
    (expected * weight).sum().backward()
    found = [x.grad, *(p.grad for p in sparse.parameters())]
    wanted = [y.grad, *(p.grad for p in twin.parameters())]
    agree(actual, expected, tolerance, system)
    agree(found, wanted, tolerance, system, of="gradients")


def test_a_sequence_is_the_formula():
    sparse = made(ALL)[1].layer[0].sparse
    compare("soft_moe_b32", sparse, rows(2, 9, WIDTH), lambda s, x: s(x, None), formula)


def test_padding_is_in_no_slot():
    sparse = made(ALL)[1].layer[0].sparse
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[0, :3] = mask[1, 6:] = False
    compare(
        "soft_moe_b32",
        sparse,
        rows(2, 9, WIDTH),
        lambda s, x: s(x, mask)[mask],
        lambda s, x: formula(s, x, mask)[mask],
    )
    x = rows(2, 9, WIDTH)
    assert error(sparse(x, None)[mask], formula(sparse, x, mask)[mask]) > 1e-3


@pytest.mark.parametrize("naive", ("normed_into_slots", "combine_by_expert"))
def test_what_gotchas_warn_of_is_another_function(naive):
    sparse, x = made(ALL)[1].layer[0].sparse, rows(2, 9, WIDTH)
    assert error(formula(sparse, x, **{naive: True}), sparse(x, None)) > 1e-2


def test_images_of_a_batch_are_not_mixed():
    sparse, x = made(ALL)[1].layer[0].sparse, rows(2, 9, WIDTH)
    torch.testing.assert_close(sparse(x, None)[1:], sparse(x[1:], None))


def test_the_package_of_pypi():
    """lucidrains' SoftMoE scores by norms with learned factors, and feeds experts the normed tokens: `before` is its
    norm, and the weights of the score are its normed slots."""
    theirs_module = pytest.importorskip("soft_moe_pytorch")
    torch.manual_seed(0)
    theirs = theirs_module.SoftMoE(
        WIDTH, num_experts=EXPERTS, num_slots=SLOTS, expert_mult=1.5
    ).double()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    sparse = made(spec(score="linear", last="linear(7)"))[1].layer[0].sparse
    with torch.no_grad():
        sparse.router.score.weight.copy_(theirs.slot_norm(theirs.slot_embeds).flatten(0, 1))
        for e, layers in enumerate(theirs.experts.experts):
            sparse.experts.up[e], sparse.experts.up_bias[e] = layers[0].weight, layers[0].bias
            sparse.experts.down[e], sparse.experts.down_bias[e] = layers[3].weight, layers[3].bias
    x, mask = rows(3, 11, WIDTH), torch.ones(3, 11, dtype=torch.bool)
    mask[1, 7:] = False
    given = theirs.norm(x).detach().requires_grad_()
    actual = sparse(given, mask)
    expected = theirs(x, mask=mask)
    agree(actual[mask], expected[mask], 1e-12, "soft_moe_b32")
    weight = rows(*actual.shape, seed=9) * mask[..., None]
    (actual * weight).sum().backward()
    (expected * weight).sum().backward()
    for e, layers in enumerate(theirs.experts.experts):
        found = [sparse.experts.up.grad[e], sparse.experts.down.grad[e]]
        wanted = [layers[0].weight.grad, layers[3].weight.grad]
        agree(found, wanted, 1e-12, "soft_moe_b32", of="gradients")


# --- slots of a prefix ----------------------------------------------------------------------------


def test_a_prefix_is_the_formula_on_what_came_before():
    """150 tokens are more than two chunks."""
    sparse = made(PREFIX)[1].layer[0].sparse
    inputs = rows(1, 150, WIDTH)
    compare("soft_causal", sparse, inputs, lambda s, x: s(x, 0, None, None), prefix_formula, 1e-11)


def test_large_scores_stay_finite():
    sparse = made(PREFIX)[1].layer[0].sparse
    with torch.no_grad():
        sparse.router.score_scale.fill_(3000.0)
    x = rows(1, 90, WIDTH)
    assert error(sparse(x, 0, None, None), prefix_formula(sparse, x)) < 1e-9


def test_nothing_before_it_moves():
    _, model = made(PREFIX)
    ids = tokens(2, 80)
    other = ids.clone()
    other[:, 70] = (other[:, 70] + 1) % 40
    before, after = model(ids).logits, model(other).logits
    assert torch.equal(before[:, :70], after[:, :70])
    assert (before[:, 70:] - after[:, 70:]).abs().min() > 1e-9
    assert str(causality(compiled(PREFIX).graph)) == "causal"


def test_a_whole_sequence_moves_with_its_future():
    """What the check refuses is what happens: the negative of the test above."""
    text = spec(mask="causal")
    (found,) = moedsl.pipeline.check(Source(text, "t.moe")).diagnostics
    assert found.code == "E0410" and "over = prefix" in found.help
    allowed = text.replace("router slots {", "router slots { lookahead = allowed\n")
    _, model = made(allowed)
    ids = tokens()
    other = ids.clone()
    other[:, -1] = (other[:, -1] + 1) % 40
    assert not torch.equal(model(ids).logits[:, :-1], model(other).logits[:, :-1])


def test_the_cache_is_exact():
    module, model = made(PREFIX)
    ids = tokens(2, 80)
    cache = module.Cache()
    parts = [model(ids[:, a:b], cache=cache).logits for a, b in ((0, 5), (5, 6), (6, 75), (75, 80))]
    torch.testing.assert_close(torch.cat(parts, 1), model(ids).logits)


def test_generation_of_a_padded_batch_is_that_of_each_prompt():
    module, model = made(PREFIX)
    ids, mask = tokens(2, 7), torch.ones(2, 7, dtype=torch.bool)
    mask[1, :4] = False
    said = module.generate(model, ids, max_new_tokens=5, mask=mask)
    alone = module.generate(model, ids[1:, 4:], max_new_tokens=5)
    assert torch.equal(said[1, 7:], alone[0, 3:])
    longer = torch.cat([ids[:1], said[:1, 7:]], 1)
    assert torch.equal(model(longer).logits[:, 6:-1].argmax(-1), said[:1, 7:]), "as without a cache"


# --- all of them ----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", (ALL, PREFIX), ids=("sequence", "prefix"))
def test_compiles_whole(text):
    _, model = made(text)
    whole = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(whole(tokens()).logits, model(tokens()).logits)


@pytest.mark.parametrize("text", (ALL, PREFIX), ids=("sequence", "prefix"))
def test_routing_is_wide(text):
    """In half precision scores and both softmaxes are float32: as near to float64 as half precision inputs allow."""
    _, model = made(text)
    sparse = copy.deepcopy(model.layer[0].sparse)
    x = rows(1, 50, WIDTH).bfloat16()
    args = (None,) if text is ALL else (0, None, None)
    sparse.bfloat16()
    expected = copy.deepcopy(sparse).double()(x.double(), *args)
    assert error(sparse(x, *args).double(), expected) < 2e-2
    assert sparse.router(x).dtype == torch.float32


def test_swiglu_norms_and_factors_in_a_bank():
    """Every part of a bank on rows that come by expert, against the bank on routed rows of one expert each."""
    body = "(rms() -> swiglu(24) -> scale(learned, per = channel))"
    soft = made(spec(expert=body, last="linear(7)"))[1].layer[0].sparse.experts
    routed_text = spec(expert=body, last="linear(7)").replace("soft(slots = 2)", "top_k(1)")
    routed_text = routed_text.replace("score  = cosine()", "gate = score -> softmax")
    module, model = made(routed_text)
    routed = model.layer[0].sparse.experts
    routed.load_state_dict(soft.state_dict())
    x = rows(4, 6, WIDTH)
    plan = module.routing.dispatch(torch.arange(4).repeat_interleave(6)[:, None], 4)
    torch.testing.assert_close(soft(x), routed(x.flatten(0, 1), plan).unflatten(0, (4, 6)))


@pytest.mark.parametrize("text", (ALL, PREFIX), ids=("sequence", "prefix"))
def test_counts(text):
    graph = compiled(text).graph
    model = made(text)[1]
    counted = cost(graph, tokens=8).total
    assert counted.total == sum(p.numel() for p in model.parameters())
    bank = 2 * (2 * INNER * WIDTH) * EXPERTS * SLOTS * 2  # two layers, rows of one token
    per_token = bank if text is PREFIX else bank // 8
    dense = cost(compiled(spec(expert="identity", over="prefix", mask="causal")).graph, tokens=8)
    if text is PREFIX:
        assert counted.flops - dense.total.flops == per_token


def codes(text):
    return [d.code for d in moedsl.pipeline.check(Source(text, "t.moe")).diagnostics]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("soft(slots = 2)", "soft(slots = 2)\n gate = score -> softmax"),
        ("soft(slots = 2)", "soft(slots = 2)\n capacity = 1.5"),
        ("soft(slots = 2)", "soft(slots = 2) -> top_k(2)"),
        ("router  = slots", "router = slots\n loss = balance(1e-2)"),
        ("router  = slots", "router = slots\n mix = stack"),
        ("experts = 4 *", "experts = [a = zero, b = 4 *"),
    ],
)
def test_what_is_about_picks_is_refused(old, new):
    text = ALL.replace(old, new)
    text = text.replace("bias = true)\n", "bias = true)]\n") if "[" in new else text
    assert codes(text) == ["E0450"]


# --- slots of earlier segments --------------------------------------------------------------------

SEGMENTS = spec(over="segment(4)", mask="causal")


def segment_formula(sparse, x_BTD, mask=None):
    """Slots of all tokens of earlier segments; nothing in the first."""
    out = torch.zeros_like(x_BTD)
    for row, x in enumerate(x_BTD):
        real = torch.arange(len(x)) if mask is None else mask[row].nonzero().flatten()
        for place, t in enumerate(real.tolist()):
            seen = real[: place // 4 * 4]
            if len(seen):
                both = torch.cat([x[seen], x[t : t + 1]])[None]
                only = torch.ones(1, len(seen) + 1, dtype=torch.bool)
                only[0, -1] = False  # read by the token, not made of it
                out[row, t] = formula(sparse, both, only)[0, -1]
    return out


@pytest.mark.parametrize("padded", (False, True))
def test_segments_are_the_formula(padded):
    sparse = made(SEGMENTS)[1].layer[0].sparse
    mask = torch.ones(2, 13, dtype=torch.bool)
    if padded:
        mask[0, :3] = mask[1, 9:] = False
    given = mask if padded else None
    compare(
        "soft_causal",
        sparse,
        rows(2, 13, WIDTH),
        lambda s, x: s(x, 0, given, None)[mask],
        lambda s, x: segment_formula(s, x, given)[mask],
        1e-12,
    )


def test_segments_do_not_see_the_future():
    _, model = made(SEGMENTS)
    ids = tokens(2, 13)
    other = ids.clone()
    other[:, 6] = (other[:, 6] + 1) % 40
    before, after = model(ids).logits, model(other).logits
    assert torch.equal(before[:, :6], after[:, :6]) and not torch.equal(before, after)
    assert str(causality(compiled(SEGMENTS).graph)) == "causal"
    assert codes(spec(over="segment(4, lag = 0)", mask="causal")) == ["E0410"]


def test_segments_go_on_with_the_cache():
    module, model = made(SEGMENTS)
    ids, cache = tokens(2, 19), module.Cache()
    cuts = ((0, 5), (5, 6), (6, 7), (7, 15), (15, 19))
    parts = [model(ids[:, a:b], cache=cache).logits for a, b in cuts]
    torch.testing.assert_close(torch.cat(parts, 1), model(ids).logits)
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, :4] = False
    said = module.generate(model, ids[:, :7], max_new_tokens=6, mask=mask)
    alone = module.generate(model, ids[1:, 4:7], max_new_tokens=6)
    assert torch.equal(said[1, 7:], alone[0, 3:])
