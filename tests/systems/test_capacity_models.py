"""Whole models whose experts have limited room, against loops over tokens in float64: logits, losses, every gradient."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import moedsl.pipeline
from moedsl.ir.routers import routers
from tests.systems import plain_capacity as plain
from tests.systems.small import built, codes, model_of, spec, tokens

E, K, CLOSE = 6, 2, 1e-11
LOOKS = "lookahead = allowed\n"
NORMED = "gate = score -> softmax\nselect = top_k(2)\nweigh = gate -> normalize\n"
RAW = "gate = score -> softmax\nselect = top_k(2)\nweigh = gate\n"

# name: (what the router says, how rows find room, rows of a group, room of an expert in training, in evaluation)
CASES = {
    "first come": (NORMED + "capacity = 1", "first_come", 21, 7, 7),
    "phases": (NORMED + "capacity = phase(train = 0.5, eval = 1.5)", "first_come", 21, 4, 11),
    "none in evaluation": (NORMED + "capacity = phase(train = 0.5, eval = none)", "first_come", 21, 4, 21),
    "slots": (RAW + "capacity = slots(3)", "first_come", 21, 3, 3),
    "by rank": (RAW + LOOKS + "capacity = 0.75\npriority = by_rank", "by_rank", 21, 6, 6),
    "best": (RAW + LOOKS + "capacity = 0.75\npriority = best", "best", 21, 6, 6),
    "strongest": (RAW + LOOKS + "capacity = 0.75\npriority = strongest", "strongest", 21, 6, 6),
    "per sequence": (RAW + "capacity = 0.9\nwithin = sequence", "first_come", 7, 3, 3),
    "groups": (RAW + "capacity = 0.9\nwithin = tokens(5)", "first_come", 5, 2, 2),
    "mesh": (NORMED + "capacity = room(1, per = token, round = down)", "first_come", 21, 3, 3),
    "lingvo": (
        NORMED + "capacity = room(1.5, per = token, round = down, least = 4, multiple = 4)",
        "first_come", 21, 8, 8,
    ),
    "nearest": (NORMED + "capacity = room(1, per = token, round = nearest)", "first_come", 21, 4, 4),
    "vmoe": (RAW + "capacity = room(0.6, multiple = 4)", "first_come", 21, 8, 8),
    "nllb": (
        RAW + "capacity = phase(train = room(1, per = token, times = 2), eval = room(0.1, per = group))",
        "first_come", 21, 8, 3,
    ),
    "served": (NORMED + "capacity = 0.75\nweighed = served", "first_come", 21, 6, 6),
    "next": (NORMED + LOOKS + "capacity = 0.75\noverflow = next(2)", "first_come", 21, 6, 6),
    # By kind: 4 experts `full`, then 2 `cheap`; rooms of each expert.
    "kinds": (
        NORMED + "capacity = [full = 0.75, cheap = slots(2)]",
        "first_come", 21, [6, 6, 6, 6, 2, 2], [6, 6, 6, 6, 2, 2],
    ),
    "one kind": (
        RAW + "capacity = [cheap = room(0.1, per = group)]\nwithin = sequence",
        "first_come", 7, [7, 7, 7, 7, 1, 1], [7, 7, 7, 7, 1, 1],
    ),
    "kinds and phases": (
        RAW + LOOKS + "capacity = phase(train = [full = 1, cheap = 0.4], eval = [full = 0.5], decode = none)"
        "\npriority = best\nweighed = served",
        "best", 21, [7, 7, 7, 7, 3, 3], [4, 4, 4, 4, 21, 21],
    ),
    "kinds that rank": (
        RAW + LOOKS + "capacity = [cheap = phase(train = 0.4, eval = 0.8), full = 0.6]\npriority = strongest",
        "strongest", 21, [5, 5, 5, 5, 3, 3], [5, 5, 5, 5, 6, 6],
    ),
}  # fmt: skip
KINDS = "experts = [full = 4 * swiglu(8), cheap = 2 * swiglu(8)]"


class Plain:
    """The same model in loops. `route` says which experts serve a row, and with what weight."""

    def __init__(
        self, model: nn.Module, name: str, training: bool, real: list[bool] | None
    ) -> None:
        self.p = {
            key: value.detach().clone().requires_grad_() for key, value in model.named_parameters()
        }
        said, self.priority, self.size, train, eval_ = CASES[name]
        self.room = train if training else eval_
        self.normed, self.served = "normalize" in said, "served" in said
        self.rounds = 2 if "next" in said else 0
        self.real = real
        self.dropped = 0

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight

    def route(self, gate_NE: Tensor) -> list[dict[int, Tensor]]:
        ranking = gate_NE.detach().sort(dim=1, descending=True, stable=True).indices.tolist()
        picks = [row[:K] for row in ranking]
        gates = [[gate_NE[n, e].item() for e in row] for n, row in enumerate(picks)]
        left = plain.serve(self.priority, picks, gates, self.size, self.room, self.real)
        held = [[e for e in row if e is not None] for row in left]
        if self.rounds:
            held = plain.serve_next(
                left, picks, ranking, self.size, self.room, self.rounds, self.real
            )
        self.dropped += sum(K - len(row) for row in held)
        found = []
        for n, row in enumerate(held):
            lost = [e for e in picks[n] if e not in row]
            over = row if self.served else [*row, *lost][:K]
            total = sum((gate_NE[n, e] for e in over), torch.zeros((), dtype=torch.float64))
            found.append({e: gate_NE[n, e] / total if self.normed else gate_NE[n, e] for e in row})
        return found

    def experts(self, x_ND: Tensor, routed: list[dict[int, Tensor]], layer: int) -> Tensor:
        both, down = (
            self.bank(f"layer.{layer}.sparse.experts", part) for part in ("gate_up", "down")
        )
        rows = []
        for x, weights in zip(x_ND, routed, strict=True):
            y = torch.zeros_like(x)
            for expert, weight in weights.items():
                gate, up = (both[expert] @ x).chunk(2)
                y = y + weight * (down[expert] @ (F.silu(gate) * up))
            rows.append(y)
        return torch.stack(rows)

    def bank(self, place: str, part: str) -> list[Tensor]:
        names = [f"{place}{kind}.{part}" for kind in ("", "_full", "_cheap")]
        return [weight for name in names if name in self.p for weight in self.p[name]]

    def balance(self, gate_NE: Tensor) -> Tensor:
        """Over what was picked by real tokens, before anything was dropped."""
        real = (
            torch.ones(len(gate_NE), dtype=torch.bool)
            if self.real is None
            else torch.tensor(self.real)
        )
        picks = gate_NE.detach().sort(dim=1, descending=True, stable=True).indices[real, :K]
        share = torch.bincount(picks.flatten(), minlength=E).double() / picks.numel()
        return 1e-2 * E * (share * gate_NE[real].mean(0)).sum()

    def __call__(self, tokens_BT: Tensor) -> tuple[Tensor, Tensor]:
        x = self.p["embed.weight"][tokens_BT]
        loss = torch.zeros((), dtype=torch.float64)
        for layer in range(2):
            h = self.norm(x, self.p[f"layer.{layer}.before.weight"]).flatten(0, 1)
            gate = (h @ self.p[f"layer.{layer}.sparse.router.score.weight"].T).softmax(1)
            loss = loss + self.balance(gate)
            x = x + self.experts(h, self.route(gate), layer).view_as(x)
        return self.norm(x, self.p["last.weight"]) @ self.p["head.weight"].T, loss


def package(name: str) -> ModuleType:
    bank = KINDS if "kind" in name else "experts = 6 * swiglu(8)"
    return built(spec(CASES[name][0], f"{bank}\nloss = balance(1e-2)"))


def relative(found: Tensor, want: Tensor) -> float:
    return ((found - want).abs().max() / want.abs().max().clamp_min(1e-9)).item()


@pytest.mark.parametrize("name", CASES)
def test_models_agree_with_loops(name: str) -> None:
    model = model_of(package(name))
    ids = tokens()
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[0, :3] = False
    dropped = 0
    for training, masked in ((True, False), (False, False), (True, True)):
        model.train(training)
        model.zero_grad()
        real = mask.flatten().tolist() if masked else None
        want = Plain(model, name, training, real)
        logits, loss = want(ids)
        output = model(ids, mask=mask if masked else None)
        seen = mask if masked else torch.ones_like(mask)
        assert relative(output.logits[seen], logits[seen]) < CLOSE
        assert relative(output.losses["sparse.balance"], loss) < CLOSE
        (output.logits[seen].square().mean() + output.losses["sparse.balance"]).backward()
        (logits[seen].square().mean() + loss).backward()
        for key, value in model.named_parameters():
            assert relative(value.grad, want.p[key].grad) < CLOSE, key
        dropped += want.dropped
    assert dropped > 0


@pytest.mark.parametrize("name", ("by rank", "next", "kinds and phases"))
def test_models_compile_whole(name: str) -> None:
    model = model_of(package(name))
    ids = tokens()
    fast = torch.compile(model, fullgraph=True, backend="eager")
    assert torch.equal(fast(ids).logits, model(ids).logits)


def test_weights_before_and_after_drops_differ() -> None:
    """The weight of the pick that is left differs by up to 2."""
    before, after = model_of(package("first come")), model_of(package("served"))
    text = NORMED + "capacity = 0.75"
    before = model_of(built(spec(text)))
    one, other = before(tokens()).routing, after(tokens()).routing
    ratio = other["layer.0.sparse"].weight_NK / one["layer.0.sparse"].weight_NK
    alone = (one["layer.0.sparse"].expert_NK < E).sum(1) == 1
    assert torch.equal(one["layer.0.sparse"].expert_NK, other["layer.0.sparse"].expert_NK)
    assert alone.any() and ratio[alone].nan_to_num(0).amax() > 1.2


def test_padding_takes_no_room() -> None:
    """Two padded rows must not cost real ones their place."""
    model = model_of(built(spec(RAW + "capacity = slots(3)")))
    ids = tokens()
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[0, :4] = False
    other = ids.clone()
    other[0, :4] = (ids[0, :4] + 5) % 32
    one, two = model(ids, mask=mask), model(other, mask=mask)
    assert torch.equal(one.logits[mask], two.logits[mask])
    assert not torch.equal(model(ids).logits[mask], model(other).logits[mask])


def test_a_later_token_moves_an_earlier_one_only_where_that_is_allowed() -> None:
    """On whole models: the spec that is refused is the one that looks ahead."""
    ids = tokens(1, 21)
    changed = ids.clone()
    changed[0, 12:] = (ids[0, 12:] + 7) % 32
    for name, ahead in (("first come", False), ("by rank", True), ("best", True), ("next", True)):
        model = model_of(package(name)).eval()
        one, two = model(ids).logits[:, :12], model(changed).logits[:, :12]
        assert torch.equal(one, two) is not ahead, name
        refused = codes(spec(CASES[name][0].replace(LOOKS, "")))
        assert refused == (["E0410"] if ahead else []), name


def test_one_pick_by_rank_is_first_come() -> None:
    assert (
        codes(spec("gate = score -> softmax\nselect = top_k(1)\ncapacity = 1\npriority = by_rank"))
        == []
    )


def test_a_rule_for_decoding_takes_the_place_of_looking_ahead() -> None:
    text = RAW + "priority = by_rank\ncapacity = phase(train = 0.5, eval = 0.5, decode = none)"
    module = built(spec(text))
    model = model_of(module).eval()
    free = model_of(built(spec(RAW))).eval()
    free.load_state_dict(model.state_dict())
    ids = tokens()
    said = module.generate(model, ids, 5)
    want = ids
    for _ in range(5):
        want = torch.cat([want, free(want).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(said, want)
    assert not torch.equal(model(ids).logits, free(ids).logits)


# --- room by kind ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("router", "code"),
    [
        ("capacity = [full = 0.9, cheap = 1.2]", None),
        ("capacity = [full = 0.9, cheep = 1.2]", "E0412"),
        ("capacity = [0.9, 1.2]", "E0210"),
        ("capacity = [full = 0.9, full = 1.2]", "E0210"),
        ("capacity = [full = -1]", "E0206"),
        ("capacity = [full = [cheap = 1]]", "E0210"),
        (LOOKS + "capacity = [full = 0.9]\noverflow = next", "E0420"),
    ],
)
def test_what_room_by_kind_can_be(router: str, code: str | None) -> None:
    assert codes(spec(RAW + router, KINDS)) == ([] if code is None else [code])


def test_experts_that_choose_have_one_capacity() -> None:
    text = "gate = score -> softmax\nselect = expert_choice\ncapacity = [full = 1]\n" + LOOKS
    assert "E0420" in codes(spec(text, KINDS))


def test_one_capacity_for_all_kinds_is_that_capacity() -> None:
    """Naming all kinds with one number changes nothing; a number for each kind does."""
    one, all_, other = (
        model_of(built(spec(RAW + f"capacity = {text}", KINDS)))
        for text in ("0.75", "[full = 0.75, cheap = 0.75]", "[full = 0.75, cheap = 0.3]")
    )
    ids = tokens()
    assert torch.equal(one(ids).logits, all_(ids).logits)
    assert relative(other(ids).logits, one(ids).logits) > 1e-3


def test_room_by_kind_decodes_where_it_is_lifted() -> None:
    from moedsl.checks.causality import causality
    from moedsl.source import Source

    text = "capacity = [full = phase(train = 0.9, decode = none)]\npriority = by_rank"
    graph = moedsl.pipeline.check(Source(spec(RAW + text, KINDS), "m.moe")).graph
    assert str(causality(graph)) == "causal when decoding with capacity = none"
    notes = routers(graph, 24)[0].rooms
    assert [(note.phase, note.kind, note.slots) for note in notes] == [
        ("training and evaluation", "full", 8)
    ]
    assert notes[0].dropped is not None and 0 < notes[0].dropped[0] < notes[0].dropped[1]
