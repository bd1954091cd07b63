"""Room that the experts of a device share (DeepSeek-V2, 2024, section 2.2.4), and sequences of which nothing is dropped,
against a loop over picks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import moedsl.pipeline
from moedsl.checks.causality import causality
from moedsl.ir.routers import routers
from moedsl.source import Source
from tests.agree import agree
from tests.systems import test_heads_decide
from tests.systems.small import built, codes, model_of, spec, tokens

E, D, M, K = 8, 4, 2, 3
PICK = f"gate = score -> softmax\nselect = groups({D}, keep = {M}) -> top_k({K})\n"
BANK = f"experts = {E} * swiglu(8)\n"
DROP = PICK + f"capacity = phase(train = room(1, devices = {D}, spare = 40%), eval = none)\n"
STRONG = "priority = strongest\n"


def served(expert_NK: Tensor, gate_NE: Tensor, spared_N: Tensor, real_N: Tensor, places: int = D):
    """Section 2.2.4 pick by pick: a device takes those of spared sequences, then the strongest, up to its budget; what
    is spared is never dropped. An absent pick is E."""
    N, k, size = len(expert_NK), expert_NK.shape[1], E // places
    budget, load = -(-k * N // places), [0] * places
    found = torch.full_like(expert_NK, E)
    picks = [
        (not spared_N[n], -float(gate_NE[n, expert_NK[n, j]]), n, j)
        for n in range(N)
        for j in range(k)
        if real_N[n]
    ]
    for is_not_spared, _, n, j in sorted(picks):
        device = int(expert_NK[n, j]) // size
        if load[device] < budget or not is_not_spared:
            found[n, j] = expert_NK[n, j]
        load[device] += 1
    return found


def spared_rows(seed: int, batch: int, length: int) -> Tensor:
    torch.manual_seed(seed)
    return (torch.rand(batch, 1) < 0.4).expand(batch, length).flatten()


@pytest.fixture(scope="module")
def dropping():
    return built(spec(DROP + STRONG, BANK))


def test_drops_are_those_of_the_paper(dropping) -> None:
    """In all layers from one draw; the mixture's values and gradients follow."""
    model, x = model_of(dropping), tokens(5, 7)
    mask = torch.ones(5, 7, dtype=torch.bool)
    mask[0, :3] = False
    seed = next(s for s in range(99) if 0 < spared_rows(s, 5, 7).double().mean() < 0.5)
    spared = spared_rows(seed, 5, 7)
    torch.manual_seed(seed)
    output = model(x, mask=mask)
    dropped = 0
    for record in output.routing.values():
        gate = record.logits_NE.softmax(1)
        limited = gate.view(-1, D, E // D)
        groups = limited.amax(2).topk(M).indices
        allowed = torch.zeros(len(gate), D).scatter(1, groups, 1).repeat_interleave(E // D, 1)
        picked = gate.where(allowed > 0, -torch.inf).topk(K).indices
        wanted = served(picked, gate.detach(), spared, mask.flatten())
        assert torch.equal(record.expert_NK, wanted)
        absent = record.expert_NK == E
        assert not absent[spared & mask.flatten()].any()
        dropped += int((absent & mask.flatten().unsqueeze(1)).sum())
        assert torch.equal(record.weight_NK, gate.gather(1, picked).where(~absent, 0))
        # Neither of those that a device would keep by order, nor those by the room of experts.
        by_order = served(picked, torch.zeros_like(gate), spared, mask.flatten())
        by_expert = served(picked, gate.detach(), spared, mask.flatten(), places=E)
        nobody = served(picked, gate.detach(), torch.zeros_like(spared), mask.flatten())
        assert not any(torch.equal(wanted, naive) for naive in (by_order, by_expert, nobody))
    assert dropped > 10


def test_a_mixture_without_what_was_dropped(dropping) -> None:
    model = model_of(dropping)
    sparse = model.layer[0].sparse
    x = torch.randn(4, 6, 16, dtype=torch.float64, requires_grad=True)
    again = x.detach().requires_grad_()
    spared = torch.zeros(24, dtype=torch.bool)
    y, record = sparse(x, None, spared)
    gate = sparse.router.score(again.flatten(0, 1)).softmax(1)
    wanted = torch.zeros(24, 16, dtype=torch.float64)
    for n, j in (record.expert_NK < E).nonzero().tolist():
        e = int(record.expert_NK[n, j])
        g, u = (sparse.experts.gate_up[e] @ again.flatten(0, 1)[n]).chunk(2)
        out = sparse.experts.down[e] @ (torch.nn.functional.silu(g) * u)
        wanted = wanted.index_add(0, torch.tensor([n]), (gate[n, e] * out).unsqueeze(0))
    agree(y.flatten(0, 1), wanted, 1e-12, "deepseek_v2")
    y.square().sum().backward()
    wanted.square().sum().backward()
    agree(x.grad, again.grad, 1e-11, "deepseek_v2", of="gradients")


def test_evaluation_drops_nothing(dropping) -> None:
    result = moedsl.pipeline.check(Source(spec(DROP + STRONG, BANK), "m.moe"))
    assert str(causality(result.graph)) == "causal when decoding with capacity = none"
    model = model_of(dropping).eval()
    whole = model(tokens())
    assert all((r.expert_NK < E).all() for r in whole.routing.values())
    plain = model_of(built(spec(PICK, BANK))).eval()
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(whole.logits, plain(tokens()).logits)
    generated = dropping.generate(model, tokens(), max_new_tokens=2)
    assert generated.shape == (3, 9)


def test_training_draws_once_and_again_the_same(dropping) -> None:
    found = []
    for again in (False, True):
        model = model_of(dropping)
        model.checkpoint_layers = again
        torch.manual_seed(2)
        model(tokens()).logits.square().sum().backward()
        found.append([weight.grad for weight in model.parameters()])
    agree(*found, 1e-12)
    router = model_of(dropping).layer[0].sparse.router
    compiled = torch.compile(router, fullgraph=True, backend="eager")
    x, spared = torch.randn(21, 16, dtype=torch.float64) + 1, torch.arange(21) < 7
    one, other = compiled(x, None, spared), router(x, None, spared)
    assert torch.equal(one.expert_NK, other.expert_NK) and (one.expert_NK == E).any()


@pytest.mark.parametrize("priority", ["first_come", "by_rank", "best", "random"])
def test_any_order_keeps_to_the_budget(priority: str) -> None:
    text = f"{PICK}capacity = room(1, devices = {D}, round = down)\npriority = {priority}\n"
    model = model_of(built(spec(text + "lookahead = allowed\n", BANK)))
    for record in model(tokens(4, 9)).routing.values():
        device = record.expert_NK[record.expert_NK < E] // (E // D)
        load = torch.bincount(device, minlength=D)
        assert load.max() == K * 36 // D and (record.expert_NK == E).any()


def test_sequences_are_spared_where_experts_have_room_of_their_own() -> None:
    text = PICK + "capacity = room(0.5, spare = 50%)\nlookahead = allowed\n" + STRONG
    model = model_of(built(spec(text, BANK)))
    torch.manual_seed(1)
    spared = (torch.rand(6, 1) < 0.5).expand(6, 7).flatten()
    torch.manual_seed(1)
    for record in model(tokens(6, 7)).routing.values():
        whole = (record.expert_NK < E).all(1)
        assert spared.any() and whole[spared].all() and not whole[~spared].all()
    assert (model.eval()(tokens()).routing["layer.0.sparse"].expert_NK == E).any()


def test_room_in_training_alone_is_that_room_and_none() -> None:
    """Experts' own room too: in training as if it were said plainly, else as if it were not."""
    both = model_of(built(spec(PICK + "capacity = phase(train = 0.5, eval = none)\n", BANK)))
    for training, other in ((True, "capacity = 0.5\n"), (False, "")):
        plain = model_of(built(spec(PICK + other, BANK))).train(training)
        found, wanted = both.train(training)(tokens()), plain(tokens())
        assert torch.equal(found.logits, wanted.logits)
        picks = found.routing["layer.0.sparse"].expert_NK
        assert torch.equal(picks, wanted.routing["layer.0.sparse"].expert_NK)
        assert bool((picks == E).any()) == training


def test_heads_have_room_in_training_alone_and_none_of_devices() -> None:
    def heads(room: str) -> str:
        router = (
            f"gate = score -> sigmoid\n select = top_k(2)\n overflow = zero\n capacity = {room}"
        )
        return test_heads_decide.spec(router)

    assert codes(heads("room(1, devices = 2)")) == ["E0420"]
    model = model_of(built(heads("phase(train = 0.5, eval = none)")))
    (record, *_) = model(tokens()).routing.values()
    assert (record.expert_NK == 8).any()
    (record, *_) = model.eval()(tokens()).routing.values()
    assert (record.expert_NK < 8).all()


def test_info_says_what_devices_drop() -> None:
    (note,) = routers(moedsl.pipeline.check(Source(spec(DROP + STRONG, BANK), "m.moe")).graph)
    (room,) = note.rooms
    assert (room.slots, room.tokens, room.device) == (4096 * K // D, 4096, True)
    even, uneven = room.dropped
    assert 0 < even < 0.02 < uneven < 0.5
    assert "picks of 4,096 tokens to a device" in str(room)


ROOM_REFUSED = {
    "devices that do not come out": ("capacity = room(1, devices = 3)", "E0411"),
    "another order": (f"capacity = room(1, devices = {D}, spare = 10%)", "E0420"),
    "devices in one phase": (f"capacity = phase(train = room(1, devices = {D}), eval = 2)", "E0420"),
    "the next best": (f"capacity = room(1, devices = {D})\noverflow = next", "E0420"),
    "experts that choose": (f"capacity = room(1, devices = {D})\nselect = expert_choice", "E0420"),
    "unsaid when decoding": (f"capacity = room(1, devices = {D})\npriority = strongest", "E0410"),
}  # fmt: skip


@pytest.mark.parametrize("name", ROOM_REFUSED)
def test_what_room_of_devices_does_not_go_with(name: str) -> None:
    text, code = ROOM_REFUSED[name]
    pick = PICK if "select" not in text else "gate = score -> softmax\n"
    allowed = "" if code == "E0410" else "lookahead = allowed\n"
    context = spec(f"{pick}{allowed}{text}\n", BANK)
    assert code in codes(context)
