"""Learned distances and attention across streams, against T5 of transformers: values, gradients, cached steps."""

from __future__ import annotations

import math

import pytest
import torch

import moedsl.pipeline
from moedsl.source import Source
from tests.packages import imported, model_class

SPEC = """
model t5 {
  vocab = 40
  width = 16
  tied embed = embedding(vocab)
  norm before_mix, before_cross, before_ffn, last, last_memory = rms(eps = 1e-6)
  tied near, near_causal = relative(buckets = 8, max_distance = 12)

  attention own {
    heads    = 2
    head_dim = 6
    mask     = none
    scores   = dot(scale = 1) + near
  }
  attention own_causal = own with {
    mask   = causal
    scores = dot(scale = 1) + near_causal
  }
  attention cross = own with { scores = dot(scale = 1) }
  ffn dense = mlp(24, activation = relu)

  block encode {
    x += own(before_mix(x))
    x += dense(before_ffn(x))
  }
  block decode(memory) {
    x += own_causal(before_mix(x))
    x += cross(before_cross(x), memory)
    x += dense(before_ffn(x))
  }
  linear head = tied(embed)
  input  source = ids(vocab)
  input  tokens = ids(vocab)
  let    memory = source -> embed -> 2 * encode -> last_memory
  output logits = tokens -> embed -> 2 * decode(memory) -> last -> scale(width, power = -0.5) -> head
}
"""


def result_of(*changes: tuple[str, str]) -> moedsl.pipeline.Result:
    text = SPEC
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return moedsl.pipeline.compile(Source(text, "t5.moe", files={}))


def made(*changes: tuple[str, str]):
    result = result_of(*changes)
    assert result.ok, [(d.code, d.message) for d in result.diagnostics]
    module = imported(result.files)
    return module, model_class(module)().double()


ATTENTIONS = {"own": (0, "SelfAttention"), "own_causal": (0, "SelfAttention")}
ATTENTIONS["cross"] = (1, "EncDecAttention")


def theirs_of(name: str) -> str:
    """The name in transformers of a weight of ours."""
    fixed = {
        "embed.weight": "shared.weight",
        "last.weight": "decoder.final_layer_norm.weight",
        "last_memory.weight": "encoder.final_layer_norm.weight",
        "near.weight": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "near_causal.weight": "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    }
    if name in fixed:
        return fixed[name]
    stack, layer, part, *rest = name.split(".")
    block = f"{stack}r.block.{layer}.layer"
    feed_forward = 1 if stack == "encode" else 2
    norms = {"before_mix": 0, "before_cross": 1, "before_ffn": feed_forward}
    if part in norms:
        return f"{block}.{norms[part]}.layer_norm.weight"
    if part in ATTENTIONS:
        index, called = ATTENTIONS[part]
        return f"{block}.{index}.{called}.{rest[0]}.weight"
    projection = {"up": "wi", "down": "wo"}[rest[0]]
    return f"{block}.{feed_forward}.DenseReluDense.{projection}.weight"


def oracle():
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=40,
        d_model=16,
        d_kv=6,
        d_ff=24,
        num_layers=2,
        num_heads=2,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=12,
        feed_forward_proj="relu",
        decoder_start_token_id=0,
    )
    torch.manual_seed(0)
    config._attn_implementation = "eager"
    model = T5ForConditionalGeneration(config).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


@pytest.fixture(scope="module")
def pair():
    _, ours = made()
    theirs = oracle()
    weights = theirs.state_dict()
    ours.load_state_dict({name: weights[theirs_of(name)] for name in ours.state_dict()})
    return ours, theirs


def batch(left: bool = False):
    torch.manual_seed(1)
    source, tokens = torch.randint(2, 40, (3, 30)), torch.randint(2, 40, (3, 20))
    length = torch.tensor([[30], [9], [17]])
    position = torch.arange(30)
    source_mask = position >= 30 - length if left else position < length
    return source, tokens, source_mask


@pytest.mark.parametrize("left", (False, True), ids=("right", "left"))
def test_logits_and_every_gradient_are_those_of_transformers(pair, left):
    ours, theirs = pair
    source, tokens, source_mask = batch(left)
    ours.zero_grad()
    theirs.zero_grad()
    got = ours(source, tokens, source_mask=source_mask).logits
    wanted = theirs(
        input_ids=source, attention_mask=source_mask.long(), decoder_input_ids=tokens
    ).logits
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)
    direction = torch.randn_like(wanted)
    (got * direction).sum().backward()
    (wanted * direction).sum().backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(
            parameter.grad, gradients[theirs_of(name)], rtol=1e-5, atol=1e-5, msg=name
        )


def test_cached_steps_are_the_whole_forward(pair):
    ours, _ = pair
    source, tokens, source_mask = batch()
    cache = __import__(type(ours).__module__.rpartition(".")[0]).Cache()
    whole = ours(source, tokens, source_mask=source_mask).logits
    steps = [
        ours(source, part, source_mask=source_mask, cache=cache).logits
        for part in tokens.split([3, 1, 1, 15], 1)
    ]
    torch.testing.assert_close(torch.cat(steps, 1), whole)


@pytest.mark.parametrize("count, furthest", ((32, 128), (8, 12), (4, 3)))
@pytest.mark.parametrize("both", (True, False), ids=("both", "causal"))
def test_buckets_are_those_of_the_formula(count, furthest, both):
    """Mesh TensorFlow's rule, a distance at a time: rounding included."""
    from transformers.models.t5.modeling_t5 import T5Attention

    module, _ = made(
        ("buckets = 8, max_distance = 12", f"buckets = {count}, max_distance = {furthest}")
    )
    positions = __import__(f"{module.__name__}.positions", fromlist=["_"])
    tokens = torch.zeros(1, 300)
    function = positions.relative_buckets if both else positions.causal_buckets
    got = function(tokens, 0, count, furthest)
    ahead = torch.arange(300) - torch.arange(300)[:, None]
    wanted = T5Attention._relative_position_bucket(ahead, both, count, furthest)
    assert torch.equal(got, wanted)
    exact = (count // 2 if both else count) // 2
    for distance in (0, exact - 1, exact, furthest - 1, furthest, 250):
        plain = distance
        if distance >= exact:
            n = count // 2 if both else count
            grown = math.log(distance / exact) / math.log(furthest / exact) * (n - exact)
            plain = min(exact + math.floor(grown + 1e-6), n - 1)
        assert got[299, 299 - distance] == plain
    assert torch.equal(function(tokens[:, :5], 295, count, furthest), got[295:])


def test_a_table_that_is_not_tied_is_each_layers_own():
    _, model = made(("tied near, near_causal = rel", "score near, near_causal = rel"))
    names = [name for name, _ in model.named_parameters() if "scores" in name]
    assert len(names) == 4 and all(".own" in name for name in names)
    source, tokens, source_mask = batch()
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model(source, tokens, source_mask=source_mask).logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_one_graph():
    _, model = made()
    source, tokens, source_mask = batch()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(
        compiled(source, tokens, source_mask=source_mask).logits,
        model(source, tokens, source_mask=source_mask).logits,
    )


@pytest.mark.parametrize(
    "code, change",
    (
        ("E0330", ("buckets = 8, max_distance = 12", "buckets = 7, max_distance = 12")),
        ("E0330", ("buckets = 8, max_distance = 12", "buckets = 8, max_distance = 2")),
        ("E0331", ("{ scores = dot(scale = 1) }", "{ scores = dot(scale = 1) + near }")),
        ("E0332", ("mask   = causal\n", "mask   = causal\n    heads = 4\n")),
    ),
)
def test_what_cannot_be(code, change):
    changes = (
        [change] if code != "E0332" else [change, ("dot(scale = 1) + near_causal", "dot + near")]
    )
    found = [d.code for d in result_of(*changes).diagnostics if d.severity == "error"]
    assert found and set(found) == {code}
