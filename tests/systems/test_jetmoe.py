"""JetMoE: one decision for both sides of a mixture of attention heads (tests/parity compares it with transformers)."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from transformers.models.jetmoe.modeling_jetmoe import load_balancing_loss_func  # noqa: E402

from tests.packages import compiled, model_class, package  # noqa: E402
from tests.parity.families import JETMOE  # noqa: E402


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    theirs = JETMOE.reference()
    folder = tmp_path_factory.mktemp("jetmoe")
    theirs.save_pretrained(folder)
    module = package(JETMOE.spec, JETMOE.settings)
    ours = model_class(module)().eval()
    module.load_checkpoint(ours, folder)
    return theirs, module, ours, folder


def tokens(batch=3, length=19):
    return torch.randint(2, 97, (batch, length), generator=torch.Generator().manual_seed(1))


def their_logits(theirs, ids, mask=None):
    """Of each router once. transformers 5.23 records that of attention twice: from the router, and from attention."""
    found = theirs(ids, attention_mask=mask, output_router_logits=True).router_logits
    assert len(found) == 9
    assert all(torch.equal(found[i], found[i + 1]) for i in (0, 3, 6))
    return tuple(found[i] for i in (0, 2, 3, 5, 6, 8))


def test_balance_loss_pools_both_routers_of_all_layers(pair):
    theirs, _, ours, _ = pair
    ids = tokens()
    output = ours(ids)
    wanted = 0.01 * load_balancing_loss_func(their_logits(theirs, ids), 5, 2)
    assert list(output.losses) == ["top2.balance"]
    torch.testing.assert_close(output.losses["top2.balance"], wanted, rtol=1e-6, atol=0)
    twice = theirs(ids, labels=ids, output_router_logits=True).aux_loss
    assert (0.01 * twice - wanted).abs() > 1e-4 * wanted, "counted twice it is another number"


def test_balance_loss_skips_padding(pair):
    theirs, _, ours, _ = pair
    ids, mask = tokens(), torch.ones(3, 19, dtype=torch.bool)
    mask[0, :7] = mask[1, :3] = False
    logits = their_logits(theirs, ids, mask.long())
    wanted = 0.01 * load_balancing_loss_func(logits, 5, 2, mask.long())
    torch.testing.assert_close(ours(ids, mask).losses["top2.balance"], wanted, rtol=1e-5, atol=0)


def test_gradients_of_the_balance_loss(pair):
    theirs, _, ours, _ = pair
    ids = tokens()
    wanted = 0.01 * load_balancing_loss_func(their_logits(theirs, ids), 5, 2)
    theirs.zero_grad()
    ours.zero_grad()
    wanted.backward()
    ours(ids).losses["top2.balance"].backward()
    layers = zip(theirs.model.layers, ours.layer, strict=True)
    for their, our in layers:
        found = our.mixed_heads.top2.score.weight.grad
        expected = their.self_attention.experts.router.layer.weight.grad
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("change", ["share=interleaved", "asking.weight=input"])
def test_another_reading_is_another_function(pair, change):
    """Gotcha 27: keys are tiled, not interleaved; weights act at the way back, and not at the queries too."""
    theirs, _, _, folder = pair
    module = package(JETMOE.spec, (*JETMOE.settings, f"mixed_heads.{change}"))
    other = model_class(module)().eval()
    module.load_checkpoint(other, folder)
    with torch.no_grad():
        difference = (other(tokens()).logits - theirs(tokens()).logits).abs().max()
    assert difference > 0.1


def test_it_compiles_whole(pair):
    _, _, ours, _ = pair
    whole = torch.compile(ours, fullgraph=True, backend="eager")
    ids = tokens(2, 9)
    torch.testing.assert_close(whole(ids).logits, ours(ids).logits)


def test_published_size():
    from moedsl.ir.cost import cost

    counted = cost(compiled("jetmoe_8b").graph).total
    config = transformers.JetMoeConfig(num_hidden_layers=24)
    with torch.device("meta"):
        theirs = transformers.JetMoeForCausalLM(config)
    assert counted.total == sum(p.numel() for p in theirs.parameters())
    assert 2.2e9 < counted.active < 2.4e9
