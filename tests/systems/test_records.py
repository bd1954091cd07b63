"""What each router says of its decisions: a record of its own, with what is read of it and nothing else."""

from __future__ import annotations

import torch

from tests.systems.small import built, codes, model_of, tokens

# Heads that choose, with nothing read of it; a million-expert layer in small; one that is balanced in two ways.
TEXT = """model m {
  vocab = 32
  width = 16
  norm before, after, last = rms
  router of_heads {
    score  = linear
    gate   = score -> sigmoid
    select = top_k(2)
  }
  router halves {
    score  = linear(16) -> product_keys(heads = 2)
    select = top_k(2)
    weigh  = score -> softmax
  }
  router even {
    score  = linear
    gate   = score -> sigmoid
    choose = gate + balancing(1e-3)
    select = top_k(1)
  }
  router with_room {
    score  = linear
    gate   = score -> softmax
    select = top_k(1)
    capacity = 1
  }
  attention own {
    heads = 2
    moe read {
      router  = of_heads
      experts = 3 * linear
      per     = head
    }
    v = read
  }
  moe many {
    router  = halves
    experts = 16 * mlp(1)
  }
  moe few {
    router  = even
    experts = 4 * mlp(8)
    loss    = [balance(1e-2), entropy(1e-3)]
  }
  moe scarce {
    router  = with_room
    experts = 4 * mlp(8)
    loss    = [z(1e-3), balance(1e-2, over = sequence)]
  }
  block layer(feed) {
    x += own(before(x))
    x += feed(after(x))
  }
  input  tokens = ids(vocab)
  output logits = tokens -> embed -> layer(many) -> 2 * layer(few) -> layer(scarce) -> last -> head
}
"""

FIELDS = ("expert_NK", "weight_NK", "logits_NE")
FEW = ("choices_SE", "probability_SE", "entropy_S", "tokens_S")
READ = {1: FEW, 2: FEW, 3: ("choices_SE", "probability_SE", "z_S", "tokens_S")}


def test_each_router_fills_a_record_of_its_own() -> None:
    module = built(TEXT)
    model = model_of(module)
    output = model(tokens())
    assert len(output.routing) == 8
    for place, record in output.routing.items():
        read = READ.get(int(place.split(".")[1]), ()) if place.endswith("feed") else ()
        assert type(record)._fields == (*FIELDS, *read)
        assert isinstance(record, module.Routing)
    kinds = {type(record).__name__ for record in output.routing.values()}
    assert kinds == {"ReadRouting", "FewRouting", "ScarceRouting"}
    assert output.routing["layer.3.feed"].tokens_S.shape == (3,)  # of each sequence
    assert output.routing["layer.1.feed"].tokens_S.shape == (1,)


def test_losses_read_what_their_routers_say() -> None:
    model = model_of(built(TEXT)).eval()
    mask = torch.ones(3, 7, dtype=torch.bool)
    mask[0, :4] = False
    output = model(tokens(), mask=mask)
    real = mask.flatten()
    few = [output.routing[f"layer.{i}.feed"] for i in (1, 2)]
    balance = torch.zeros((), dtype=torch.float64)
    for record in few:
        p = record.logits_NE[real].sigmoid()
        mean = (p / p.sum(1, keepdim=True)).mean(0)
        share = torch.bincount(record.expert_NK[real, 0], minlength=4) / real.sum()
        balance = balance + 4 * (share * mean).sum()
    torch.testing.assert_close(output.losses["few.balance"], 1e-2 * balance)
    z = output.routing["layer.3.feed"].logits_NE[real].logsumexp(1).square().mean()
    torch.testing.assert_close(output.losses["scarce.z"], 1e-3 * z)


def test_only_what_counts_choices_has_a_load() -> None:
    module = built(TEXT)
    model = model_of(module)
    loads = module.tally(model(tokens()).routing)
    assert set(loads) == {"layer.1.feed", "layer.2.feed", "layer.3.feed"}
    model.adapt(loads)
    moved = model.layer[1].feed.router.bias.value_E
    assert set(moved.abs().tolist()) <= {0.0, 1e-3} and moved.any()


def test_a_model_of_one_kind_has_one_record() -> None:
    text = TEXT.replace("layer(many) -> 2 * layer(few) -> layer(scarce)", "2 * layer(many)")
    module = built(text)
    assert isinstance(module.Routing, type)
    assert module.Routing._fields == FIELDS


def test_decisions_of_many_records_compile() -> None:
    model = model_of(built(TEXT)).float().eval()
    whole = torch.compile(model, fullgraph=True, backend="eager")(tokens())
    torch.testing.assert_close(whole.logits, model(tokens()).logits)


def test_product_keys_refuse_losses_of_their_own_alone() -> None:
    assert codes(TEXT) == []
    own = TEXT.replace("experts = 16 * mlp(1)", "experts = 16 * mlp(1)\n    loss = balance(1e-2)")
    assert codes(own) == ["E0416"]
