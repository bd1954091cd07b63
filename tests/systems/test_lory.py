"""Experts merged into one, and what is pooled over stretches of tokens. Oracle: the formulas in float64, a segment and
an expert at a time (Zhong et al., 2024, section 3)."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")

import moedsl.pipeline  # noqa: E402
from moedsl.checks.causality import causality  # noqa: E402
from moedsl.ir.cost import cost  # noqa: E402
from moedsl.source import Source  # noqa: E402
from tests.agree import agree  # noqa: E402
from tests.packages import compiled, imported, model_class  # noqa: E402

WIDTH, INNER, EXPERTS, SEGMENT = 16, 24, 3, 4

SPEC = """
model m {{
  vocab = 40
  width = 16
  attention own {{ heads = 2
    mask = {mask} }}
  router segments {{
    score  = {score}
    gate   = score -> softmax
    select = all
  }}
  moe merged {{
    router  = segments
    experts = 3 * {expert}
    mix     = parameters
  }}
  block layer {{
    x += own(x)
    x += merged(x)
  }}
  input  tokens = ids(vocab)
  output logits = tokens -> embed -> 2 * layer -> {last}
}}
"""
MLP = "mlp(24, activation = gelu, bias = true)"


def spec(over, mask="causal", last="head", expert=MLP):
    score = f"pool(mean, over = {over}) -> linear"
    return SPEC.format(score=score, mask=mask, last=last, expert=expert)


ZERO = spec("segment(4)")
OWN = spec("segment(4, first = own)")
WHOLE = spec("sequence", mask="none", last="linear(7)")


def graph_of(text):
    result = moedsl.pipeline.compile(Source(text, "t.moe"))
    assert result.ok, result.diagnostics
    return result


def made(text):
    module = imported(graph_of(text).files)
    model = model_class(module)().double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return module, model


def rows(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def tokens(batch=2, length=11):
    return torch.randint(40, (batch, length), generator=torch.Generator().manual_seed(1))


def error(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()


def formula(merged, x_BTD, mask=None, *, own=False, segment=SEGMENT, lag=1, frozen=False):
    """One expert for each segment: the mean of all by what the segment before says."""
    outputs = []
    for row, x in enumerate(x_BTD):
        real = torch.ones(len(x), dtype=torch.bool) if mask is None else mask[row]
        parts = x[real].split(segment)
        found = []
        for index, part in enumerate(parts):
            before = parts[index - lag].mean(0) if index >= lag else torch.zeros_like(x[0])
            if own and index < lag:
                before = part.mean(0).detach()
            share = (merged.router.score.weight @ before).softmax(0)
            share = share.detach() if frozen else share
            e = merged.experts
            up, up_bias, down, down_bias = (
                sum(share[i] * weight[i] for i in range(EXPERTS))
                for weight in (e.up, e.up_bias, e.down, e.down_bias)
            )
            found.append(torch.nn.functional.gelu(part @ up.T + up_bias) @ down.T + down_bias)
        outputs.append(torch.zeros_like(x).masked_scatter(real[:, None], torch.cat(found)))
    return torch.stack(outputs)


def compare(merged, call, oracle, kept=None, tolerance=1e-12):
    x, y = (rows(2, 11, WIDTH).requires_grad_() for _ in range(2))
    twin = copy.deepcopy(merged)
    merged = copy.deepcopy(merged)
    actual, expected = call(merged, x), oracle(twin, y)
    weight = rows(*actual.shape, seed=9)
    if kept is not None:
        actual, expected, weight = actual[kept], expected[kept], weight[kept]
    (actual * weight).sum().backward()
    (expected * weight).sum().backward()
    found = [x.grad, *(p.grad for p in merged.parameters())]
    wanted = [y.grad, *(p.grad for p in twin.parameters())]
    agree(actual, expected, tolerance, "lory")
    agree(found, wanted, tolerance, "lory", of="gradients")


@pytest.mark.parametrize("text", (ZERO, OWN), ids=("zero", "own"))
@pytest.mark.parametrize("padded", (False, True))
def test_segments_are_the_formula(text, padded):
    merged, own = made(text)[1].layer[0].merged, text is OWN
    mask = None
    if padded:
        mask = torch.ones(2, 11, dtype=torch.bool)
        mask[0, :3] = mask[1, 8:] = False
    compare(
        merged,
        lambda m, x: m(x, 0, mask, None),
        lambda m, x: formula(m, x, mask, own=own),
        mask,
    )


def test_a_sequence_is_the_formula():
    merged = made(WHOLE)[1].layer[0].merged

    def whole(m, x):
        means = x.mean(1, keepdim=True).expand(-1, 11, -1)
        both = torch.cat(
            [means, x], 1
        )  # a segment that says what the sequence is about, then the sequence
        return formula(m, both, segment=11)[:, 11:]

    compare(merged, lambda m, x: m(x, None), whole)


@pytest.mark.parametrize("naive", ({"lag": 0}, {"own": True}), ids=str)
def test_what_it_is_not(naive):
    merged, x = made(ZERO)[1].layer[0].merged, rows(2, 11, WIDTH)
    assert error(formula(merged, x, **naive), merged(x, 0, None, None)) > 1e-3


def test_gradients_reach_shares_through_merged_weights():
    merged = made(ZERO)[1].layer[0].merged
    compare(merged, lambda m, x: m(x, 0, None, None), formula)
    merged(rows(2, 11, WIDTH), 0, None, None).sum().backward()
    assert merged.router.score.weight.grad.norm() > 1e-3


def moved(text, at=6):
    _, model = made(text)
    ids = tokens()
    other = ids.clone()
    other[:, at] = (other[:, at] + 1) % 40
    return model(ids).logits, model(other).logits


def test_nothing_before_it_moves():
    before, after = moved(ZERO)
    assert torch.equal(before[:, :6], after[:, :6]) and not torch.equal(before, after)
    assert str(causality(graph_of(ZERO).graph)) == "causal"


def test_the_first_segments_own_mean_sees_what_follows_in_it():
    before, after = moved(OWN)
    assert torch.equal(before[:, :6], after[:, :6]), "later segments do not"
    before, after = moved(OWN, at=3)
    assert not torch.equal(before[:, :3], after[:, :3])
    verdict = str(causality(graph_of(OWN).graph))
    assert verdict == "causal when decoding with the mean of the first segment so far"


def codes(text):
    return [d.code for d in moedsl.pipeline.check(Source(text, "t.moe")).diagnostics]


def test_a_segment_of_its_own_is_refused():
    (found,) = moedsl.pipeline.check(Source(spec("segment(4, lag = 0)"), "t.moe")).diagnostics
    assert found.code == "E0410" and "lag = 1" in found.help
    assert codes(spec("sequence")) == ["E0410"]


@pytest.mark.parametrize(
    "over", ("segment(4)", "segment(4, lag = 2)", "prompt"), ids=("one", "two", "prompt")
)
def test_the_cache_is_exact(over):
    module, model = made(spec(over))
    ids, cache = tokens(2, 19), module.Cache()
    cuts = ((0, 5), (5, 6), (6, 7), (7, 15), (15, 19))
    parts = [model(ids[:, a:b], cache=cache).logits for a, b in cuts]
    joined = torch.cat(parts, 1)
    if over == "prompt":  # what the first call had is the prompt, and stays it
        torch.testing.assert_close(joined[:, :5], model(ids[:, :5]).logits)
        assert not torch.equal(joined, model(ids).logits)
        again, other = module.Cache(), torch.cat([ids[:, :5], tokens(2, 14) + 0], 1)
        first = model(other[:, :5], cache=again).logits
        torch.testing.assert_close(first, joined[:, :5])
    else:
        torch.testing.assert_close(joined, model(ids).logits)


def test_generation_of_a_padded_batch_is_that_of_each_prompt():
    module, model = made(ZERO)
    ids, mask = tokens(2, 7), torch.ones(2, 7, dtype=torch.bool)
    mask[1, :4] = False
    said = module.generate(model, ids, max_new_tokens=6, mask=mask)
    alone = module.generate(model, ids[1:, 4:], max_new_tokens=6)
    assert torch.equal(said[1, 7:], alone[0, 3:])
    assert torch.equal(model(said[:1]).logits[:, 6:-1].argmax(-1), said[:1, 7:])


def test_a_mean_of_the_prefix():
    """Plain stages: each token minus what came before it on average."""
    text = """
model m {
  vocab = 40
  width = 16
  block layer { x = pool(mean, over = prefix)(x) + x }
  input  tokens = ids(vocab)
  output logits = tokens -> embed -> layer -> head
}
"""
    module, model = made(text)
    ids, mask = tokens(), torch.ones(2, 11, dtype=torch.bool)
    mask[1, :3] = False
    x = model.embed(ids)
    x = x.where(mask[..., None], 0)
    mean = x.cumsum(1) / mask.cumsum(1).clamp(min=1)[..., None]
    expected = model.head(mean + x)
    torch.testing.assert_close(model(ids, mask).logits[mask], expected[mask])
    cache = module.Cache()
    parts = [model(ids[:, a:b], cache=cache).logits for a, b in ((0, 4), (4, 5), (5, 11))]
    torch.testing.assert_close(torch.cat(parts, 1), model(ids).logits)


def test_every_part_of_an_expert_is_merged():
    """Norms, factors, gates: equal experts merged are themselves."""
    body = "(rms() -> swiglu(24) -> scale(learned, per = channel))"
    _, model = made(spec("segment(4)", expert=body))
    experts = model.layer[0].merged.experts
    share = rows(5, EXPERTS).softmax(-1)
    x = rows(5, 4, WIDTH)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in experts.parameters():
            weight.copy_(weight[:1].expand_as(weight))
    one = torch.zeros_like(share)
    one[:, 0] = 1
    torch.testing.assert_close(experts(x, share), experts(x, one))


def test_compiles_whole():
    for text in (ZERO, OWN, WHOLE):
        _, model = made(text)
        whole = torch.compile(model, fullgraph=True, backend="eager")
        torch.testing.assert_close(whole(tokens()).logits, model(tokens()).logits)


def test_counts():
    """Merging costs two operations for each weight of the bank in each segment."""
    graph, (_, model) = graph_of(ZERO).graph, made(ZERO)
    counted = cost(graph, tokens=8).total
    assert counted.total == counted.active == sum(p.numel() for p in model.parameters())
    dense = (
        SPEC.replace("mix     = parameters", "")
        .format(score="linear", mask="causal", last="head", expert=MLP)
        .replace("select = all", "select = top_k(1)")
    )
    one = cost(graph_of(dense).graph, tokens=8).total.flops
    bank = EXPERTS * (2 * WIDTH * INNER + INNER + WIDTH)
    layers, score = 2, 2 * WIDTH * EXPERTS
    merging = layers * (2 * bank // SEGMENT)
    assert abs(counted.flops - (one - layers * (score - score // SEGMENT) + merging)) <= 4


def test_published_sizes():
    """0.3B grown to 8 experts is 1.8B."""
    assert round(cost(compiled("lory").graph).total.total / 1e9, 1) == 1.8


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("select = all", "select = top_k(2)"),
        ("select = all", "select = all\n capacity = 1.5"),
        ("mix     = parameters", "mix = parameters\n loss = balance(1e-2)"),
        ("mix     = parameters", "mix = parameters\n weight = input"),
        ("pool(mean, over = segment(4)) -> linear", "linear"),
    ],
)
def test_what_cannot_be_merged(old, new):
    assert codes(ZERO.replace(old, new)) == ["E0451"]
