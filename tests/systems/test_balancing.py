"""The balancing bias: what it moves, and by which rule, against the formulas in float64."""

from __future__ import annotations

import pytest
import torch

from tests.agree import agree
from tests.systems.small import built, codes, model_of, spec, tokens, watched

ROUTER = """\
gate   = score -> sigmoid
choose = gate + balancing(rate = 1e-2)
select = top_k(2)
weigh  = gate -> normalize
"""
KINDS = "experts = [full = 4 * swiglu(8), skip = 2 * zero]"


@pytest.fixture(scope="module")
def module():
    return built(spec(ROUTER))


def with_bias(module, seed: int = 3):
    model = model_of(module)
    generator = torch.Generator().manual_seed(seed)
    for buffer in model.buffers():
        buffer.normal_(generator=generator)
    return model


@pytest.mark.parametrize(
    "gate, weigh",
    [
        ("sigmoid", "gate -> normalize"),
        ("softmax", "gate -> scale(2.5)"),
        ("softmax", "score -> softmax"),
        ("", "score -> softmax"),
        ("sigmoid", "score -> softmax"),
    ],
)
def test_the_bias_moves_the_choice_and_no_weight(gate: str, weigh: str) -> None:
    given = f"score -> {gate}" if gate else "score"
    text = ROUTER.replace("score -> sigmoid", given).replace("gate -> normalize", weigh)
    module = built(spec(text))
    model = with_bias(module)
    rows, output = watched(model, tokens())
    moved = 0
    for i, x in enumerate(rows):
        router = model.layer[i].sparse.router
        logits = x @ router.score.weight.T
        score = {"sigmoid": logits.sigmoid(), "softmax": logits.softmax(-1), "": logits}[gate]
        expert = (score + router.bias.value_E).topk(2).indices
        kept = score.gather(1, expert)
        weight = {
            "gate -> normalize": kept / kept.sum(1, keepdim=True),
            "gate -> scale(2.5)": 2.5 * kept,
            "score -> softmax": logits.gather(1, expert).softmax(1),
        }[weigh]
        record = output.routing[f"layer.{i}.sparse"]
        assert torch.equal(record.expert_NK, expert)
        agree(record.weight_NK, weight, 1e-13, "loss_free")
        moved += int((score.topk(2).indices != expert).sum())
        given_back = torch.autograd.grad(record.weight_NK.square().sum(), x, retain_graph=True)
        wanted = torch.autograd.grad(weight.square().sum(), x, retain_graph=True)
        agree(given_back, wanted, 1e-11, "loss_free", of="gradients")
    assert moved > 10  # the bias had its say


@pytest.mark.parametrize("again", [False, True], ids=["kept", "recomputed"])
def test_one_step_of_the_rule(module, again: bool) -> None:
    """Megatron's get_updated_expert_bias: b += u * sign(mean(c) - c), c summed over accumulation."""
    model = with_bias(module)
    model.checkpoint_layers = again
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1] * 7, [0] * 6 + [1]]).bool()
    before = [layer.sparse.router.bias.value_E.clone() for layer in model.layer]
    counts = torch.zeros(2, 6, dtype=torch.int64)
    loads = []
    for seed in (1, 2, 3):
        output = model(tokens(seed=seed), mask=mask)
        output.logits.square().sum().backward()
        loads.append(module.tally(output.routing))
        for i, record in enumerate(output.routing.values()):
            real = record.expert_NK[mask.flatten()]
            counts[i] += torch.bincount(real.flatten(), minlength=6)
    model.adapt(*loads)
    assert len(set(counts[0].tolist())) > 2
    for i, layer in enumerate(model.layer):
        count = counts[i].double()
        wanted = before[i] + 1e-2 * (count.mean() - count).sign()
        agree(layer.sparse.router.bias.value_E, wanted, 1e-14, "loss_free")
        padded = sum(load[f"layer.{i}.sparse"].choices_E.sum() for load in loads)
        assert padded == 3 * 2 * mask.sum()  # padding counts for nothing


def test_ranks_are_summed_in_one_exchange(module, monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_bias(module)
    load = module.tally(model(tokens()).routing)
    others = torch.tensor([9, 0, 0, 7, 0, 5, 21] * 2)
    exchanged = []

    def all_reduce(count):
        exchanged.append(count.clone())
        count += others

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    before = [layer.sparse.router.bias.value_E.clone() for layer in model.layer]
    model.adapt(load)
    assert len(exchanged) == 1
    for i, layer in enumerate(model.layer):
        count = (load[f"layer.{i}.sparse"].choices_E + others[:6]).double()
        wanted = before[i] + 1e-2 * (count.mean() - count).sign()
        torch.testing.assert_close(layer.sparse.router.bias.value_E, wanted, rtol=0, atol=1e-15)


def test_it_stays_float32_and_out_of_the_optimizer(module) -> None:
    model = model_of(module, dtype=torch.bfloat16)
    biases = [layer.sparse.router.bias.value_E for layer in model.layer]
    assert {bias.dtype for bias in biases} == {torch.float32}
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert not any("bias" in name for name, _ in model.named_parameters())
    assert sum("bias" in name for name in model.state_dict()) == 2
    model.adapt(module.tally(model(tokens()).routing))
    assert all(set(bias.abs().tolist()) <= {0.0, biases[0].abs().max().item()} for bias in biases)
    held = [bias.clone() for bias in biases]
    model.eval()
    model.adapt(module.tally(model(tokens()).routing))
    assert all(torch.equal(a, b) for a, b in zip(held, biases, strict=True))
    model.init_weights()
    assert not any(bias.any() for bias in biases)


def test_without_memory_at_first(module) -> None:
    from tests.packages import model_class

    with torch.device("meta"):
        model = model_class(module)()
    model.to(torch.bfloat16).to_empty(device="cpu").init_weights()
    assert model.layer[0].sparse.router.bias.value_E.dtype == torch.float32
    assert not model.layer[0].sparse.router.bias.value_E.any()


def test_compiled_whole(module) -> None:
    model = with_bias(module)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(tokens()).logits, model(tokens()).logits)


def test_some_kinds_to_a_budget() -> None:
    """LongCat-Flash: db_i = mu * (K_e / (K N) - T_i / (K T)); zero experts keep theirs."""
    rule = "balancing(rate = 0.5, update = proportional, kinds = full, picks = 1.5)"
    module = built(spec(ROUTER.replace("balancing(rate = 1e-2)", rule), KINDS))
    model = with_bias(module)
    before = [layer.sparse.router.bias.value_E.clone() for layer in model.layer]
    load = module.tally(model(tokens()).routing)
    model.adapt(load)
    for i, layer in enumerate(model.layer):
        count = load[f"layer.{i}.sparse"].choices_E.double()
        assert count[4:].any()
        wanted = before[i].clone()
        wanted[:4] += 0.5 * (1.5 / (2 * 4) - count[:4] / (2 * 21))
        torch.testing.assert_close(layer.sparse.router.bias.value_E, wanted, rtol=1e-14, atol=1e-15)


def test_sign_among_some_kinds_is_around_their_own_mean() -> None:
    rule = "balancing(rate = 1e-2, kinds = full)"
    module = built(spec(ROUTER.replace("balancing(rate = 1e-2)", rule), KINDS))
    model = model_of(module)
    load = module.tally(model(tokens()).routing)
    model.adapt(load)
    for i, layer in enumerate(model.layer):
        count = load[f"layer.{i}.sparse"].choices_E.double()
        own = (count[:4].mean() - count[:4]).sign()
        wanted = 1e-2 * torch.cat([own, torch.zeros(2)])
        torch.testing.assert_close(layer.sparse.router.bias.value_E, wanted.double())


def test_a_checkpoint_maps_it(tmp_path) -> None:
    lines = [
        'embed = "embed.weight"',
        'layer[i].before = "l.{i}.norm.weight"',
        'layer[i].sparse.router.score = "l.{i}.gate.weight"',
        'layer[i].sparse.router.bias = "l.{i}.gate.e_score_correction_bias"',
        'layer[i].sparse.experts.[gate, up, down] = "l.{i}.[g, u, d]"',
        'last = "norm.weight"',
        'head = "head.weight"',
    ]
    more = "checkpoint hub = huggingface(names = file) {\n" + "\n".join(lines) + "\n}"
    module = built(spec(ROUTER, more=more))
    model = with_bias(module).float()
    module.save_checkpoint(model, tmp_path)
    other = model_of(module, seed=9, dtype=torch.float32)
    module.load_checkpoint(other, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(other.buffers(), model.buffers(), strict=True))
    assert all(buffer.any() for buffer in other.buffers())
    without = more.replace(lines[3], "")
    assert "E0602" in codes(spec(ROUTER, more=without))


def test_what_it_cannot_do() -> None:
    assert codes(spec(ROUTER.replace("rate = 1e-2", "kinds = ful"), KINDS)) == ["E0412"]
    assert codes(spec(ROUTER.replace("rate = 1e-2", "kinds = full"))) == ["E0412"]
    assert codes(spec(ROUTER.replace("rate = 1e-2", "kinds = 3"))) == ["E0210"]
    assert codes(spec(ROUTER.replace("rate = 1e-2", "0"))) == ["E0206"]
    elsewhere = ROUTER.replace("gate -> normalize", "gate + balancing(1e-2)")
    assert [code for code in codes(spec(elsewhere)) if code[0] == "E"] != []
