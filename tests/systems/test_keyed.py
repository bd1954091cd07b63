"""Choices by what a token is: a table over its number, a label of its sequence; and selections that differ by phase."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import moedsl.pipeline
from moedsl.checks.causality import causality
from moedsl.source import Source
from tests.agree import agree
from tests.packages import model_class, package
from tests.systems.small import built, codes, model_of, spec, tokens

HASH = "score = 0\nselect = table(by = tokens{})\nweigh = 1\n"
LEARNED = """\
score  = linear
gate   = score -> softplus -> sqrt
select = table(by = tokens, k = 2, seed = index)
weigh  = gate -> normalize(eps = 1e-20) -> scale(1.5)
"""
TASK = """\
score  = linear
gate   = score -> softmax
select = phase(train = labelled(by = task), eval = top_k(1))
"""


def with_attention(router: str) -> str:
    """So that a token's row depends on those before it, and a cache has something to keep."""
    return (
        spec(router)
        .replace("before, last", "before, before_mix, last")
        .replace("  block layer { x +=", "  attention own { heads = 2 }\n  block layer {\n    x += own(before_mix(x))\n    x +=")
        .replace("sparse(before(x)) }", "sparse(before(x))\n  }")
    )  # fmt: skip


def with_task(text: str, size: int = 6) -> str:
    return text.replace("  output", f"  input task = label({size})\n  output")


def moved(model, seed: int = 5):
    """Tables of the test's own: none may be one that the code would make anyway."""
    generator = torch.Generator().manual_seed(seed)
    for name, table in model.named_buffers():
        assert name.endswith("router.table.expert_VK")
        draw = torch.rand(len(table), 6, generator=generator)
        table.copy_(draw.argsort(1)[:, : table.shape[1]])
    return model


def swiglu(x, experts, e):
    gate, up = (x @ experts.gate_up[e].T).chunk(2, -1)
    return (F.silu(gate) * up) @ experts.down[e].T


# --- tables ---------------------------------------------------------------------------------------


def test_a_hash_layer_is_the_feed_forward_of_its_table() -> None:
    """output = FFN_e(x) with e = table[id], no gate weight: value and every gradient, a token at a time in float64."""
    model = moved(model_of(built(spec(HASH.format("")))))
    ids = tokens()
    weights = dict(model.named_parameters())
    assert not any("router" in name for name in weights), "nothing is learned"
    output = model(ids)
    x = weights["embed.weight"][ids]
    for layer in model.layer:
        h = F.rms_norm(x, (16,), layer.before.weight, 1e-5)
        table = layer.sparse.router.table.expert_VK
        y = [
            [swiglu(h[b, t], layer.sparse.experts, int(table[ids[b, t], 0])) for t in range(7)]
            for b in range(3)
        ]
        x = x + torch.stack([torch.stack(row) for row in y])
    logits = F.rms_norm(x, (16,), weights["last.weight"], 1e-5) @ weights["head.weight"].T
    agree(output.logits, logits, 1e-12, "hash_layers")
    draw = torch.randn_like(logits)
    got = torch.autograd.grad((output.logits * draw).sum(), weights.values())
    want = torch.autograd.grad((logits * draw).sum(), weights.values())
    agree(got, want, 1e-10, "hash_layers", of="gradients")


def test_the_input_is_hashed_and_not_the_target() -> None:
    """Roller et al.: at every depth the key is the input token. Keyed on the next one, the layer would be told it."""
    model = moved(model_of(built(with_attention(HASH.format("")))))
    ids = tokens()
    shifted = ids.roll(-1, 1)
    for layer, record in zip(model.layer, model(ids).routing.values(), strict=True):
        table = layer.sparse.router.table.expert_VK
        assert torch.equal(record.expert_NK, table[ids.flatten()])
        assert not torch.equal(record.expert_NK, table[shifted.flatten()])
    changed = ids.clone()
    changed[:, 4:] = (changed[:, 4:] + 1) % 32
    torch.testing.assert_close(
        model(ids).logits[:, :4], model(changed).logits[:, :4], rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize(
    "router", [HASH.format(", fill = balanced"), LEARNED], ids=["bare", "gated"]
)
def test_with_a_cache_the_new_tokens_are_looked_up(router: str) -> None:
    module = built(with_attention(router))
    model = moved(model_of(module)).eval()
    ids = tokens()
    whole = model(ids).logits
    cache = module.Cache()
    parts = [model(part, cache=cache).logits for part in ids.split([3, 1, 1, 2], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-12, atol=1e-12)
    padded = torch.cat([torch.zeros(3, 2, dtype=torch.int64), ids], 1)
    mask = torch.arange(9) >= torch.tensor([[2], [2], [2]])
    torch.testing.assert_close(
        model(padded, mask=mask).logits[:, 2:], whole, rtol=1e-12, atol=1e-12
    )
    assert module.generate(model.float(), ids, max_new_tokens=3).shape == (3, 10)


def test_deepseek_v4_weighs_what_its_table_says() -> None:
    modeling = pytest.importorskip("transformers.models.deepseek_v4.modeling_deepseek_v4")
    model = moved(model_of(built(with_attention(LEARNED.replace("index", "0")))))
    router = model.layer[1].sparse.router
    config = type("Config", (), {
        "num_experts_per_tok": 2, "num_local_experts": 6, "hidden_size": 16, "vocab_size": 32,
        "scoring_func": "sqrtsoftplus", "routed_scaling_factor": 1.5,
    })  # fmt: skip
    theirs = modeling.DeepseekV4HashRouter(config()).double()
    with torch.no_grad():
        theirs.weight.copy_(router.score.weight)
        theirs.tid2eid.copy_(router.table.expert_VK)
    ids = tokens()
    x = torch.randn(21, 16, dtype=torch.float64, requires_grad=True)
    record = router(x, ids)
    logits, weight, index = theirs(x, ids)
    assert torch.equal(record.expert_NK, index)
    torch.testing.assert_close(record.weight_NK, weight, rtol=1e-13, atol=0)
    draw = torch.randn_like(weight)
    ours = torch.autograd.grad((record.weight_NK * draw).sum(), (x, router.score.weight))
    hf = torch.autograd.grad((weight * draw).sum(), (x, theirs.weight))
    torch.testing.assert_close(ours, hf, rtol=1e-12, atol=1e-13)
    naive = F.softplus(logits).gather(1, index)  # without the root
    assert not torch.allclose(1.5 * naive / naive.sum(1, keepdim=True), weight, rtol=1e-3)


def test_tables_are_filled_as_they_say() -> None:
    module = built(spec(HASH.format(", k = 3, fill = balanced")))
    tables = __import__(f"{module.__name__}.tables", fromlist=["*"])
    even = tables.ChoiceTable(60, 6, 3, seed=1, balanced=True).expert_VK
    for group in even.split(6):  # among neighbours each choice stands once in each column
        assert all(sorted(column.tolist()) == list(range(6)) for column in group.T)
    assert all(len(set(row.tolist())) == 3 for row in even)
    drawn = tables.ChoiceTable(6000, 6, 2, seed=1).expert_VK
    assert all((drawn[:, 0] == e).float().mean().sub(1 / 6).abs() < 0.02 for e in range(6))
    assert (drawn[:, 0] != drawn[:, 1]).all()
    assert torch.equal(drawn, tables.ChoiceTable(6000, 6, 2, seed=1).expert_VK)
    assert not torch.equal(drawn, tables.ChoiceTable(6000, 6, 2, seed=2).expert_VK)
    table = tables.ChoiceTable(60, 6, 1, seed=0)
    count = 1000 // torch.arange(1, 61)
    uneven = torch.zeros(6).long().scatter_add(0, table.expert_VK[:, 0], count)
    table.balance(count)
    load = torch.zeros(6).long().scatter_add(0, table.expert_VK[:, 0], count)
    assert load.max() <= 1000 < load.sum() / 4  # the most frequent number alone is the largest load
    assert load.sort().values[:5].max() - load.min() < 20 < uneven.max() - uneven.min()


def test_layers_have_tables_of_their_own_where_seeds_differ() -> None:
    module = built(with_attention(LEARNED))
    first, second = (layer.sparse.router.table.expert_VK for layer in model_class(module)().layer)
    assert not torch.equal(first, second)


def test_a_table_is_saved_and_made_again(tmp_path) -> None:
    module = built(spec(HASH.format("")))
    model = moved(model_of(module, dtype=torch.float32))
    saved = [table.clone() for table in model.buffers()]
    module.save_checkpoint(model, tmp_path / "saved")
    with torch.device("meta"):
        other = model_class(module)()
    module.load_checkpoint(other, tmp_path / "saved")
    assert all(torch.equal(a, b) for a, b in zip(saved, other.buffers(), strict=True))
    assert {table.dtype for table in other.bfloat16().buffers()} == {torch.int64}
    with torch.device("meta"):
        fresh = model_class(module)()
    fresh.to_empty(device="cpu").init_weights(seed=3)
    new = model_class(module)()
    assert all(torch.equal(a, b) for a, b in zip(fresh.buffers(), new.buffers(), strict=True))


def test_compiled_whole() -> None:
    model = moved(model_of(built(with_attention(LEARNED)), dtype=torch.float32))
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(tokens()).logits, model(tokens()).logits)


def test_the_spec() -> None:
    module = package("hash_layers", ("width=16", "vocab=32", "sparse.experts=6 * mlp(8)"))
    model = model_of(module)
    moved(model)
    assert list(model(tokens()).routing) == ["layer.5.feed_forward"]
    info = moedsl.pipeline.check(Source(with_attention(HASH.format("")), "m.moe"))
    assert str(causality(info.graph)) == "causal"


# --- labels ---------------------------------------------------------------------------------------


def test_a_label_names_the_expert_in_training_alone() -> None:
    module = built(with_task(with_attention(TASK)))
    model = model_of(module)
    ids, task = tokens(), torch.tensor([4, 0, 4])
    output = model(ids, task)
    for record in output.routing.values():
        assert torch.equal(record.expert_NK, task.repeat_interleave(7)[:, None])
        share = record.logits_NE.softmax(1)
        torch.testing.assert_close(record.weight_NK, share.gather(1, record.expert_NK))
    output.logits.square().sum().backward()
    grad = model.layer[0].sparse.experts.down.grad.abs().sum((1, 2))
    assert grad[[4, 0]].all() and not grad[[1, 2, 3, 5]].any()
    model.eval()
    for record in model(ids, task).routing.values():
        assert torch.equal(record.expert_NK, record.logits_NE.argmax(1, keepdim=True))
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(ids, task).logits, model(ids, task).logits)


def test_findings() -> None:
    assert codes(with_task(spec(TASK), 5)) == ["E0414"]
    assert codes(spec(TASK)) == ["E0201"]
    assert codes(spec(HASH.format(", k = 7"))) == ["E0401"]
    assert codes(spec("score = linear\nselect = table(by = tokens)\nweigh = 1\n")) == ["E0501"]
    assert codes(spec("score = 0\nselect = table(by = x)\nweigh = 1\n")) == ["E0315"]
    assert codes(spec("score = 0\nselect = table(by = 3)\nweigh = 1\n")) == ["E0210"]
    two = "gate = score -> softmax\nselect = phase(train = top_k(1), eval = top_k(2))\n"
    assert codes(spec(two)) == []
    balanced = spec(HASH.format(""), "experts = 6 * swiglu(8)\nloss = balance(1e-2)")
    assert codes(balanced) == ["E0502"], "nothing could be balanced"


def test_another_streams_ids_are_no_key() -> None:
    text = spec(HASH.format("").replace("tokens", "source")).replace(
        "  input tokens", "  input source = ids(20)\n  input tokens"
    )
    assert codes(text) == ["E0414"]
