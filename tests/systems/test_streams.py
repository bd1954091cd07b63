"""Models with more than one input: streams with lengths, masks and positions of their own, and what reads across."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import moedsl.pipeline
from moedsl.checks.causality import causality
from moedsl.source import Source
from tests.packages import imported, model_class

SPEC = """
model two {
  vocab = 50
  width = 16
  tied embed = embedding(vocab)
  norm before_mix, before_cross, before_ffn, last, last_memory = rms()

  attention own {
    heads = 4
    kv_heads = 2
    mask = none
    q, k = linear -> rope
  }
  attention own_causal = own with { mask = causal }
  attention cross { heads = 4 }

  router top2 {
    score  = linear
    gate   = score -> softmax
    select = top_k(2)
  }
  ffn dense = swiglu(24)
  moe sparse {
    router  = top2
    experts = 4 * swiglu(24)
    loss    = [balance(1e-2), z(1e-3)]
  }

  block encode(feed_forward) {
    x += own(before_mix(x))
    x += feed_forward(before_ffn(x))
  }
  block decode(feed_forward, memory) {
    x += own_causal(before_mix(x))
    x += cross(before_cross(x), memory)
    x += feed_forward(before_ffn(x))
  }

  input  source = ids(40)
  input  tokens = ids(vocab)
  let    memory = source -> embed -> encode(dense) -> encode(sparse) -> last_memory
  output logits = tokens -> embed -> decode(dense, memory) -> decode(sparse, memory) -> last -> head
}
"""


def result_of(text: str, *changes: tuple[str, str]) -> moedsl.pipeline.Result:
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return moedsl.pipeline.compile(Source(text, "t.moe", files={}))


def made(text: str = SPEC, *changes: tuple[str, str]):
    result = result_of(text, *changes)
    assert result.ok, [(d.code, d.message) for d in result.diagnostics]
    module = imported(result.files)
    torch.manual_seed(0)
    model = model_class(module)().double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module, model


def codes(*changes: tuple[str, str]) -> list[str]:
    return [d.code for d in result_of(SPEC, *changes).diagnostics]


def batch():
    torch.manual_seed(1)
    source, tokens = torch.randint(40, (3, 7)), torch.randint(50, (3, 5))
    source_mask = torch.arange(7) < torch.tensor([[7], [4], [5]])
    mask = torch.arange(5) >= torch.tensor([[0], [2], [0]])
    return source, tokens, source_mask, mask


# --- an oracle: the same sums written out ---------------------------------------------------------


def rotated(x_BTHC, position_BT):
    size = x_BTHC.shape[-1]
    angle = position_BT[..., None].double() / 1e4 ** (torch.arange(0, size, 2).double() / size)
    cos, sin = angle.cos()[:, :, None], angle.sin()[:, :, None]
    left, right = x_BTHC.chunk(2, -1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], -1)


def attention(weights, prefix, x, memory, sees_BTS, positions=None):
    """`positions`: those of one stream's tokens, where queries and keys turn."""
    q = F.linear(x, weights[f"{prefix}.q.weight"]).unflatten(-1, (4, 4))
    k = F.linear(memory, weights[f"{prefix}.k.weight"]).unflatten(-1, (-1, 4))
    v = F.linear(memory, weights[f"{prefix}.v.weight"]).unflatten(-1, (-1, 4))
    if positions is not None:
        q, k = rotated(q, positions), rotated(k, positions)
    k, v = (each.repeat_interleave(4 // each.shape[2], 2) for each in (k, v))
    score = torch.einsum("bthc,bshc->bhts", q, k) / 2
    weight = score.masked_fill(~sees_BTS[:, None], -torch.inf).softmax(-1)
    mixed = torch.einsum("bhts,bshc->bthc", weight, v).flatten(-2)
    return F.linear(mixed, weights[f"{prefix}.o.weight"])


def feed_forward(weights, prefix, x):
    if f"{prefix}.gate.weight" in weights:
        gate = F.linear(x, weights[f"{prefix}.gate.weight"])
        up = F.linear(x, weights[f"{prefix}.up.weight"])
        return F.linear(F.silu(gate) * up, weights[f"{prefix}.down.weight"])
    share = F.linear(x, weights[f"{prefix}.router.score.weight"]).softmax(-1)
    kept, chosen = share.topk(2, -1)
    y = torch.zeros_like(x)
    for expert in range(4):
        both = weights[f"{prefix}.experts.gate_up"][expert]
        gate, up = F.linear(x, both).chunk(2, -1)
        out = F.linear(F.silu(gate) * up, weights[f"{prefix}.experts.down"][expert])
        y = y + out * (kept * (chosen == expert)).sum(-1, keepdim=True)
    return y


def norm(weights, name, x):
    return F.rms_norm(x, (16,), weights[f"{name}.weight"], 1e-6)


def oracle(weights, source, tokens, source_mask, mask):
    def positions(real):
        return (real.cumsum(1) - 1).clamp_min(0)

    x = weights["embed.weight"][source]
    sees = source_mask[:, None].expand(-1, 7, -1)
    for i in range(2):
        h = norm(weights, f"encode.{i}.before_mix", x)
        x = x + attention(weights, f"encode.{i}.own", h, h, sees, positions(source_mask))
        h = norm(weights, f"encode.{i}.before_ffn", x)
        x = x + feed_forward(weights, f"encode.{i}.feed_forward", h)
    memory = norm(weights, "last_memory", x)
    x = weights["embed.weight"][tokens]
    before = torch.ones(5, 5, dtype=torch.bool).tril() & (
        mask[:, None] | torch.eye(5, dtype=torch.bool)
    )
    for i in range(2):
        h = norm(weights, f"decode.{i}.before_mix", x)
        x = x + attention(weights, f"decode.{i}.own_causal", h, h, before, positions(mask))
        h = norm(weights, f"decode.{i}.before_cross", x)
        across = source_mask[:, None].expand(-1, 5, -1)
        x = x + attention(weights, f"decode.{i}.cross", h, memory, across)
        h = norm(weights, f"decode.{i}.before_ffn", x)
        x = x + feed_forward(weights, f"decode.{i}.feed_forward", h)
    return F.linear(norm(weights, "last", x), weights["head.weight"])


def test_values_and_gradients_are_those_of_the_formula():
    _, model = made()
    source, tokens, source_mask, mask = batch()
    weights = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
    wanted = oracle(weights, source, tokens, source_mask, mask)
    got = model(source, tokens, source_mask=source_mask, mask=mask).logits
    torch.testing.assert_close(got[mask], wanted[mask], rtol=1e-5, atol=1e-5)
    direction = torch.randn_like(got[mask])
    (got[mask] * direction).sum().backward()
    (wanted[mask] * direction).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.grad, weights[name].grad, rtol=1e-4, atol=1e-5, msg=name
        )


def test_padding_of_each_stream_is_its_own():
    """Padding says nothing: not to the other stream, not to losses; a mask given to the wrong stream would."""
    _, model = made()
    source, tokens, source_mask, mask = batch()
    base = model(source, tokens, source_mask=source_mask, mask=mask)
    other = source.where(source_mask, 39 - source)
    again = model(other, tokens.where(mask, 49 - tokens), source_mask=source_mask, mask=mask)
    torch.testing.assert_close(base.logits[mask], again.logits[mask])
    for name, loss in base.losses.items():
        torch.testing.assert_close(loss, again.losses[name])
    unmasked = model(other, tokens, mask=mask)
    assert not torch.allclose(base.logits[mask], unmasked.logits[mask])


def test_statistics_count_the_real_rows_of_their_stream():
    _, model = made()
    source, tokens, source_mask, mask = batch()
    routing = model(source, tokens, source_mask=source_mask, mask=mask).routing
    assert routing["encode.1.feed_forward"].tokens_S == source_mask.sum()
    assert routing["decode.1.feed_forward"].tokens_S == mask.sum()


def test_the_decoder_sees_all_of_the_source_and_its_own_past():
    _, model = made()
    source, tokens, *_ = batch()
    base = model(source, tokens).logits
    changed = tokens.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 50
    after = model(source, changed).logits
    torch.testing.assert_close(base[:, :3], after[:, :3])
    assert not torch.allclose(base[:, 3:], after[:, 3:])
    changed = source.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 40
    assert not torch.isclose(base, model(changed, tokens).logits).all(-1).any()


def test_bodies_that_serve_both_streams_are_one_class():
    text = result_of(SPEC).files["model.py"]
    for once in ("class Dense(", "class Sparse(", "class SparseExperts(", "class Top2("):
        assert text.count(once) == 1
    assert "class Sparse2" not in text and "memory_BMD" in text and "M tokens of source" in text
    assert "class Decode" in text and "x_BMD" not in text.split("class Two(")[0]


def test_decoding_with_a_cache_is_the_whole_forward():
    module, model = made()
    source, tokens, source_mask, mask = batch()
    whole = model(source, tokens, source_mask=source_mask, mask=mask).logits
    cache = module.Cache()
    steps = [
        model(source, part, source_mask=source_mask, mask=mask[:, :stop], cache=cache).logits
        for part, stop in ((tokens[:, :2], 2), (tokens[:, 2:3], 3), (tokens[:, 3:], 5))
    ]
    torch.testing.assert_close(torch.cat(steps, 1)[mask], whole[mask])


def test_it_compiles_as_one_graph():
    _, model = made()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    source, tokens, source_mask, _ = batch()
    for given in ({}, {"source_mask": source_mask}):
        torch.testing.assert_close(
            compiled(source, tokens, **given).logits, model(source, tokens, **given).logits
        )


def test_what_leaks_is_still_found():
    assert codes() == []
    assert codes(("mask = causal", "mask = none")) == ["E0410"]
    leak = ("memory = source ->", "memory = tokens ->"), ("input  source = ids(40)\n", "")
    assert codes(*leak) == ["E0410"]
    assert str(causality(result_of(SPEC).graph)) == "causal"


def test_a_second_reading_of_the_same_stream_is_causal_where_it_says_so():
    """Keys and values from another tensor of one stream: before and after mean what they mean there."""
    changes = (
        ("memory = source -> embed -> encode(dense) -> encode(sparse)", "memory = tokens -> embed"),
        ("input  source = ids(40)\n", ""),
    )
    module, model = made(SPEC, *changes)
    tokens = batch()[1]
    whole = model(tokens).logits
    cache = module.Cache()
    steps = [model(tokens[:, t : t + 1], cache=cache).logits for t in range(5)]
    torch.testing.assert_close(torch.cat(steps, 1), whole)


# --- inputs that are no streams -------------------------------------------------------------------

CONDITIONED = """
model conditioned {
  vocab = 50
  width = 16
  norm before, last = rms()
  attention own { heads = 2 }
  block layer { x += own(before(x)) }
  embedding language = embedding(6)
  linear told = linear(width)
  input  tokens = ids(vocab)
  input  task = label(6)
  input  features = vector(3)
  let    start = (tokens -> embed) + (task -> language) + (features -> told)
  output logits = start -> layer -> last -> head
}
"""


def test_labels_and_vectors_stand_at_every_position():
    _, model = made(CONDITIONED)
    tokens, task = batch()[1], torch.tensor([2, 0, 5])
    features = torch.randn(3, 3).double()
    got = model(tokens, task, features).logits
    x = model.embed(tokens) + model.language(task)[:, None] + model.told(features)[:, None]
    x = x + model.layer[0].own(model.layer[0].before(x), None, None)
    torch.testing.assert_close(got, model.head(model.last(x)))


THREE = SPEC.replace(
    "  input  tokens",
    "  input  hint = ids(20)\n  let other = hint -> embed -> encode(dense)\n  input  tokens",
).replace(
    "x += cross(before_cross(x), memory)", "x += cross(before_cross(x), memory) + again(x, other)"
)
THREE = THREE.replace("attention cross { heads = 4 }", "attention cross, again { heads = 4 }")


def test_three_streams():
    _, model = made(THREE)
    source, tokens, source_mask, mask = batch()
    hint = torch.randint(20, (3, 4))
    hint_mask = torch.arange(4) < torch.tensor([[4], [2], [1]])
    given = {"source_mask": source_mask, "hint_mask": hint_mask, "mask": mask}
    base = model(source, hint, tokens, **given).logits
    other = model(source, hint.where(hint_mask, 19 - hint), tokens, **given).logits
    torch.testing.assert_close(base[mask], other[mask])
    hint[0, 0] = (hint[0, 0] + 1) % 20
    assert not torch.allclose(base[0], model(source, hint, tokens, **given).logits[0])


@pytest.mark.parametrize("name", ("source", "mask", "cache"))
def test_inputs_may_be_called_anything(name):
    """Names of inputs that the printed code has other uses for."""
    _, model = made(SPEC, ("source", f"{name}2"), ("tokens", name))
    source, tokens, *_ = batch()
    assert model(source, tokens).logits.shape == (3, 5, 50)
