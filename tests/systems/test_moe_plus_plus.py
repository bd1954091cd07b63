"""MoE++ against its layers written plainly in float64, token by token.

Sources: SkyworkAI/MoE-plus-plus moe_plus_plus_layer.py (experts, gating, gate residual), modeling_moe_plus_plus.py (what
is handed from layer to layer), config.json of the 7B base model; Jin et al., 2024, sections 3.3 and 3.4 (loss, room).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.agree import agree
from tests.packages import package
from tests.systems.small import model_of

SMALL = (
    "width=16",
    "vocab=32",
    "depth=3",
    "own.heads=2",
    "own.q=linear",
    "own.k=linear",
    "sparse.experts=[full = 16 * swiglu(6), fixed = 2 * replace, same = identity, skip = zero]",
)
MASK = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1], [1] * 8, [0] * 5 + [1] * 3]).bool()
TOKENS = torch.randint(32, (3, 8), generator=torch.Generator().manual_seed(1))
ROWS = MASK.numel()  # padding takes no room, and counts when room is made
Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def module() -> ModuleType:
    return package("moe_plus_plus", SMALL)


@pytest.fixture
def model(module: ModuleType) -> nn.Module:
    return model_of(module).eval()


# --- written plainly --------------------------------------------------------------------------------


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return weight * x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def attention(x_TD: Tensor, w: Weights, at: str) -> Tensor:
    """Two heads of eight, causal, over the real tokens of one sequence; rotation is left out."""
    T = len(x_TD)
    q, k, v = ((x_TD @ w[f"{at}.own.{name}.weight"].T).view(T, 2, 8) for name in "qkv")
    score = torch.einsum("qhc,khc->hqk", q, k) / math.sqrt(8)
    score = score.masked_fill(torch.ones(T, T).triu(1).bool(), -math.inf)
    mixed = torch.einsum("hqk,khc->qhc", score.softmax(-1), v)
    return mixed.reshape(T, 16) @ w[f"{at}.own.o.weight"].T


def expert(e: int, x: Tensor, w: Weights, at: str) -> Tensor:
    own = {
        re.split(r"[._]", name)[-1]: each
        for name, each in w.items()
        if name.startswith(f"{at}.experts")
    }
    if e < 16:
        gate, up = (own["up"][e] @ x).chunk(2)
        return own["down"][e] @ (F.silu(gate) * up)
    if e < 18:
        one, two = (own["linear"][e - 16] @ x).softmax(0)
        return one * x + two * own["constant"][e - 16]
    return x if e == 18 else torch.zeros_like(x)


def own_score(x: Tensor, w: Weights, at: str) -> Tensor:
    """One linear map, or two with a tanh between."""
    if f"{at}.score.weight" in w:
        return w[f"{at}.score.weight"] @ x
    return w[f"{at}.score_linear_2.weight"] @ (w[f"{at}.score_linear.weight"] @ x).tanh()


def residual(own: Tensor, before: Tensor | None, w: Weights, at: str) -> Tensor:
    return own if before is None else own + w[f"{at}.router.previous.weight"] @ before


def sharp(z: Tensor) -> Tensor:
    return (z / z.std()).softmax(0)


def weights(chosen: Tensor, picks: list[int]) -> Tensor:
    """The picked zero expert weighs nothing before the rest is divided by its sum."""
    kept = torch.stack([p * (e != 19) for p, e in zip(chosen, picks, strict=True)])
    return kept / kept.sum()


Plain = tuple[Callable, Callable, Callable, Callable, float]
PAPER: Plain = (residual, sharp, weights, expert, 1.0)


def mixture(
    x_ND: Tensor, before: list[Tensor] | None, w: Weights, at: str, train: bool, plain: Plain
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Output, scores and loss; `plain`: how a score, a probability, weights and experts are made."""
    score_of, probability, weigh, run, factor = plain
    N, taken = len(x_ND), [0] * 20
    room = {**dict.fromkeys(range(16), 0.75), 16: 1.0, 17: 1.0, 18: 1.0, 19: math.inf}
    scores, gates, out = [], [], []
    count = torch.zeros(20, dtype=torch.float64)
    for n, x in enumerate(x_ND):
        own = own_score(x, w, f"{at}.router")
        scores.append(score_of(own, before[n] if before else None, w, at))
        gates.append(probability(scores[-1]))
        chosen, picks = gates[-1].topk(2)
        weight = weigh(chosen, picks.tolist())
        y = torch.zeros_like(x)
        for g, e in zip(weight, picks.tolist(), strict=True):
            count[e] += 1
            slots = math.ceil(1.1 * room[e] * 2 * ROWS / (0.75 * 16 + 4)) if e < 19 else N
            if train and taken[e] >= slots:
                continue
            taken[e] += 1
            y = y + g * run(e, factor * x, w, at)
        out.append(y)
    eta = torch.tensor([1.0] * 16 + [0.75] * 4, dtype=torch.float64)
    return torch.stack(out), scores, (eta * count / N * torch.stack(gates).mean(0)).sum()


def plainly(w: Weights, train: bool = False, plain: Plain = PAPER) -> tuple[Tensor, Tensor]:
    """Logits of the real tokens, one sequence after another, and the loss."""
    real = [tokens[mask] for tokens, mask in zip(TOKENS, MASK, strict=True)]
    sizes = [len(one) for one in real]
    x = w["embed.weight"][torch.cat(real)]
    before, loss = None, torch.zeros((), dtype=torch.float64)
    for i in range(3):
        at = f"layer.{i}"
        normed = rms(x, w[f"{at}.before_mix.weight"]).split(sizes)
        x = x + torch.cat([attention(one, w, at) for one in normed])
        y, before, balance = mixture(
            rms(x, w[f"{at}.before_ffn.weight"]), before, w, f"{at}.sparse", train, plain
        )
        x, loss = x + y, loss + 0.01 * balance
    return rms(x, w["last.weight"]) @ w["head.weight"].T, loss


# --- held to it ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("train", [False, True])
def test_it_is_the_published_model(model: nn.Module, train: bool) -> None:
    model.train(train)
    names = dict(model.named_parameters())
    output = model(TOKENS, mask=MASK)
    logits, loss = plainly(names, train)
    mine = [output.logits[MASK], output.losses["sparse.balance"]]
    agree(mine, [logits, loss], 1e-12, "moe_plus_plus")
    seen = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2)).double()
    found, wanted = (
        torch.autograd.grad((each * seen).sum() + 30 * one, list(names.values()))
        for each, one in (mine, (logits, loss))
    )
    agree(found, wanted, 1e-10, "moe_plus_plus", of="gradients")
    picked = torch.cat([r.expert_NK for r in output.routing.values()])
    assert {16, 17, 18, 19} <= set(picked.flatten().tolist())


# The other readings that the released code has switches for.
SWITCHES: dict[str, tuple[tuple[str, ...], Plain]] = {
    "moe_2layer_gate, scores as they are, experts get twice their token": (
        (
            "pathway.score=float32 -> ((linear(160) -> tanh -> linear) + (previous(score) -> linear))",
            "pathway.gate=score -> softmax",
            "sparse.experts=[full = 16 * (scale(2) -> swiglu(6)), fixed = 2 * (scale(2) -> replace), "
            "same = scale(2), skip = zero]",
            "hub=none",
        ),
        (residual, lambda z: z.softmax(0), weights, expert, 2.0),
    ),
    "moe_use_mixtral_gating": (
        ("pathway.gate=score -> spread", "pathway.weigh=gate -> softmax", "sparse.loss=none"),
        (residual, lambda z: z / z.std(), lambda chosen, _: chosen.softmax(0), expert, 1.0),
    ),
}


@torch.no_grad()
@pytest.mark.parametrize("name", SWITCHES)
def test_the_switches_of_the_released_code_are_said(name: str) -> None:
    settings, plain = SWITCHES[name]
    other = model_of(package("moe_plus_plus", (*SMALL, *settings))).eval()
    logits, _ = plainly(dict(other.named_parameters()), plain=plain)
    agree(other(TOKENS, mask=MASK).logits[MASK], logits, 1e-12, "moe_plus_plus")


NAIVE: dict[str, Plain] = {
    "the score before is not heard": (lambda own, *_: own, *PAPER[1:]),
    "scores as they are": (residual, lambda z: z.softmax(0), *PAPER[2:]),
    "deviation of all, not of a sample": (
        residual,
        lambda z: (z / z.std(correction=0)).softmax(0),
        *PAPER[2:],
    ),
    "a zero expert keeps its weight": (*PAPER[:2], lambda p, _: p / p.sum(), *PAPER[3:]),
    "experts get twice their token": (*PAPER[:4], 2.0),
    "a constant expert forgets the token": (
        *PAPER[:3],
        lambda e, x, w, at: (
            w[f"{at}.experts_fixed.constant"][e - 16] if e in (16, 17) else expert(e, x, w, at)
        ),
        1.0,
    ),
}


@torch.no_grad()
@pytest.mark.parametrize("name", NAIVE)
def test_a_naive_reading_is_another_function(model: nn.Module, name: str) -> None:
    logits, _ = plainly(dict(model.named_parameters()), plain=NAIVE[name])
    assert (model(TOKENS, mask=MASK).logits[MASK] - logits).abs().max() > 1e-3


def test_what_costs_nothing_has_no_weights_and_no_rows(model: nn.Module) -> None:
    names = {name for name, _ in model.layer[1].sparse.named_parameters()}
    assert names == {
        "router.score.weight",
        "router.previous.weight",
        "experts_full.gate_up",
        "experts_full.down",
        "experts_fixed.linear",
        "experts_fixed.constant",
    }
    assert model.layer[1].sparse.experts_full.gate_up.shape[0] == 16
    assert not hasattr(model.layer[0].sparse.router, "previous")


def test_activations_may_be_made_again(model: nn.Module) -> None:
    """The score before crosses the border of a layer as an argument."""
    found = []
    for again in (False, True):
        model.checkpoint_layers = again
        output = model.train()(TOKENS, mask=MASK)
        loss = output.logits[MASK].square().mean() + 30 * output.losses["sparse.balance"]
        found.append(torch.autograd.grad(loss, list(model.parameters())))
    agree(found[0], found[1], 1e-14)


@torch.no_grad()
def test_it_generates_with_a_cache(module: ModuleType, model: nn.Module) -> None:
    out = module.generate(model, TOKENS, max_new_tokens=4, mask=MASK)
    real = torch.cat([MASK, torch.ones(3, 4, dtype=torch.bool)], 1)
    whole = model(out, mask=real).logits[:, 7:-1].argmax(-1)
    assert torch.equal(whole, out[:, 8:])


@torch.no_grad()
def test_it_compiles_whole(model: nn.Module) -> None:
    fast = torch.compile(model, fullgraph=True, backend="eager")
    agree(fast(TOKENS, mask=MASK).logits, model(TOKENS, mask=MASK).logits, 1e-12)


def hub(model: nn.Module) -> Weights:
    """The state dict of the released code, by the names of its modules."""
    w, found = dict(model.named_parameters()), {}
    for name in ("embed_tokens", "norm"):
        found[f"model.{name}.weight"] = w[f"{'embed' if 'embed' in name else 'last'}.weight"]
    found["lm_head.weight"] = w["head.weight"]
    for i in range(3):
        at, own = f"model.layers.{i}", f"layer.{i}"
        found[f"{at}.input_layernorm.weight"] = w[f"{own}.before_mix.weight"]
        found[f"{at}.post_attention_layernorm.weight"] = w[f"{own}.before_ffn.weight"]
        for name in "qkvo":
            found[f"{at}.self_attn.{name}_proj.weight"] = w[f"{own}.own.{name}.weight"]
        found[f"{at}.mlp.moe.gate.wg.weight"] = w[f"{own}.sparse.router.score.weight"]
        unread = torch.zeros(20, 20, dtype=torch.float64)
        found[f"{at}.mlp.moe.gate.gate_map.weight"] = w.get(
            f"{own}.sparse.router.previous.weight", unread
        )
        for e in range(16):
            expert_at = f"{at}.mlp.moe.experts.experts.{e}"
            found[f"{expert_at}.up_proj.weight"] = w[f"{own}.sparse.experts_full.gate_up"][e]
            found[f"{expert_at}.down_proj.weight"] = w[f"{own}.sparse.experts_full.down"][e]
        for e in range(2):
            expert_at = f"{at}.mlp.moe.experts.experts.{16 + e}"
            found[f"{expert_at}.wg.weight"] = w[f"{own}.sparse.experts_fixed.linear"][e]
            found[f"{expert_at}.constant"] = w[f"{own}.sparse.experts_fixed.constant"][e]
    return {name: weight.detach().clone() for name, weight in found.items()}


def test_it_reads_and_writes_the_released_names(
    module: ModuleType, model: nn.Module, tmp_path: Path
) -> None:
    wanted = hub(model)
    save_file(wanted, tmp_path / "model.safetensors")
    other = model_of(module, seed=5)
    module.load_checkpoint(other, tmp_path)
    agree(list(other.parameters()), list(model.parameters()), 1e-15)
    module.save_checkpoint(other, tmp_path / "again")
    written = load_file(tmp_path / "again" / "model.safetensors")
    del wanted["model.layers.0.mlp.moe.gate.gate_map.weight"]
    assert written.keys() == wanted.keys()
    agree([written[name] for name in wanted], list(wanted.values()), 1e-15)
