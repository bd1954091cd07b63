"""Generation and left padding end to end: a tiny Llama of printed parts, weights through a printed checkpoint.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from moedsl.backend.runtime_view import GenerationView, RotaryView, StateView
from tests.runtime.maps import COMMON, DENSE, ENDS, checkpoint, view, weights
from tests.runtime.views import package

DENSE_MAP = "".join(line + "\n" for line in COMMON.splitlines() if "sparse" not in line)
PARTS = package(
    state=StateView(rotaries=(RotaryView(theta=1e4, size=8, head=8),)),
    generation=GenerationView(),
    checkpoint=view(checkpoint(DENSE_MAP + DENSE + ENDS), stored=weights(2, sparse=(), D=32, F=48)),
)
state, generate = PARTS.state, PARTS.generation.generate


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.o = (nn.Linear(32, 32, bias=False) for _ in range(2))
        self.k, self.v = (nn.Linear(32, 16, bias=False) for _ in range(2))

    def forward(self, x_BTD, rotary, mask, cache):
        q_BTHC = state.rotate(self.q(x_BTD).unflatten(-1, (4, 8)), rotary)
        k_BTGC = state.rotate(self.k(x_BTD).unflatten(-1, (2, 8)), rotary)
        v_BTGC = self.v(x_BTD).unflatten(-1, (2, 8))
        return self.o(state.attend(q_BTHC, k_BTGC, v_BTGC, mask, cache).flatten(-2))


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = (nn.Linear(32, 48, bias=False) for _ in range(2))
        self.down = nn.Linear(48, 32, bias=False)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before_mix, self.before_ffn = (nn.RMSNorm(32, eps=1e-5) for _ in range(2))
        self.gqa, self.dense = Attention(), Dense()

    def forward(self, x, rotary, mask, cache):
        x = x + self.gqa(self.before_mix(x), rotary, mask, cache)
        return x + self.dense(self.before_ffn(x))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(64, 32)
        self.layer = nn.ModuleList(Layer() for _ in range(2))
        self.last = nn.RMSNorm(32, eps=1e-5)
        self.head = nn.Linear(32, 64, bias=False)

    def forward(self, tokens_BT, mask=None, cache=None):
        past = 0 if cache is None else cache.begin(tokens_BT.shape[1])
        rotary = state.rotary_table(state.positions(tokens_BT, past, mask))
        sees = state.causal_mask(tokens_BT, past, mask)
        x_BTD = self.embed(tokens_BT)
        for layer in self.layer:
            x_BTD = layer(x_BTD, rotary, sees, cache)
        return SimpleNamespace(logits=self.head(self.last(x_BTD)))


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[Model, LlamaForCausalLM, Path]:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-5, initializer_range=0.5,
        pad_token_id=0, eos_token_id=None, bos_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    )  # fmt: skip
    theirs = LlamaForCausalLM(config).eval()
    folder = tmp_path_factory.mktemp("llama")
    theirs.save_pretrained(folder)
    with torch.device("meta"):
        mine = Model()
    PARTS.checkpoint.load_checkpoint(mine, folder)
    return mine, theirs, folder


TOKENS = torch.randint(1, 64, (3, 7), generator=torch.Generator().manual_seed(1))
MASK = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [1] * 7, [0, 1, 1, 1, 1, 1, 1]]).bool()


def test_logits_are_llama_s(models) -> None:
    mine, theirs, _ = models
    torch.testing.assert_close(mine(TOKENS).logits, theirs(TOKENS).logits, atol=1e-5, rtol=1e-5)


def test_left_padding_is_what_it_is_in_transformers(models) -> None:
    """Its forward alone counts padding in positions; rotary attention gives the same."""
    mine, theirs, _ = models
    wanted = theirs(TOKENS, attention_mask=MASK.long()).logits
    torch.testing.assert_close(mine(TOKENS, MASK).logits[MASK], wanted[MASK], atol=1e-4, rtol=1e-4)
    alone = mine(TOKENS[:1, 3:]).logits
    torch.testing.assert_close(mine(TOKENS, MASK).logits[:1, 3:], alone, atol=1e-5, rtol=1e-5)


def test_what_transformers_loads_back(models, tmp_path: Path) -> None:
    mine, theirs, _ = models
    theirs.config.save_pretrained(tmp_path)
    PARTS.checkpoint.save_checkpoint(mine, tmp_path, max_shard_bytes=20_000)
    again = LlamaForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(again(TOKENS).logits, theirs(TOKENS).logits)


@pytest.mark.parametrize("mask", [None, MASK])
def test_greedy_is_transformers(models, mask: Tensor | None) -> None:
    mine, theirs, _ = models
    attention = torch.ones_like(TOKENS) if mask is None else mask.long()
    wanted = theirs.generate(TOKENS, attention_mask=attention, max_new_tokens=12, do_sample=False)
    assert torch.equal(generate(mine, TOKENS, 12, mask), wanted)


def test_rows_that_stop_are_filled(models) -> None:
    mine, theirs, _ = models
    free = generate(mine, TOKENS, 12, MASK)
    stop = int(free[0, 9])
    wanted = theirs.generate(
        TOKENS, attention_mask=MASK.long(), max_new_tokens=12, do_sample=False,
        eos_token_id=stop, pad_token_id=stop,
    )  # fmt: skip
    assert torch.equal(generate(mine, TOKENS, 12, MASK, stop=(stop,)), wanted)
    assert generate(mine, TOKENS[:1], 12, MASK[:1], stop=(63, stop)).shape[1] <= 10


def test_the_cache_changes_nothing(models) -> None:
    mine, *_ = models
    tokens = TOKENS
    for _ in range(5):
        tokens = torch.cat([tokens, mine(tokens).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(generate(mine, TOKENS, 5), tokens)


def test_seeds_repeat(models) -> None:
    mine, *_ = models
    run = lambda seed: generate(mine, TOKENS, 8, MASK, temperature=1.5, top_p=0.9, seed=seed)  # noqa: E731
    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))
    assert not torch.equal(run(None), run(None))


def test_samples_follow_the_distribution() -> None:
    pick = PARTS.generation.pick
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05])).expand(20000, 4)
    generator = torch.Generator().manual_seed(0)

    def shares(temperature: float, top_p: float | None) -> Tensor:
        drawn = pick(logits, temperature, top_p, generator)
        return torch.bincount(drawn.flatten(), minlength=4) / 20000

    close = {"atol": 0.015, "rtol": 0}
    torch.testing.assert_close(shares(1.0, None), torch.tensor([0.5, 0.3, 0.15, 0.05]), **close)
    torch.testing.assert_close(shares(1.0, 0.79), torch.tensor([0.625, 0.375, 0, 0]), **close)
    torch.testing.assert_close(shares(1.0, 1e-9), torch.tensor([1.0, 0, 0, 0]))
    sharp = torch.tensor([0.5, 0.3, 0.15, 0.05]).square()
    torch.testing.assert_close(shares(0.5, None), sharp / sharp.sum(), **close)


class Waits(TorchDispatchMode):
    """Counts what reads a number off the device."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "top_p": 0.9, "seed": 0}])
def test_only_the_stop_test_waits_for_the_device(models, sampling: dict) -> None:
    mine, *_ = models
    with Waits() as free:
        generate(mine, TOKENS, 10, MASK, **sampling)
    assert free.count == 2  # both about the mask, once
    with Waits() as stopping:
        generate(mine, TOKENS, 10, MASK, stop=(64,), **sampling)
    assert stopping.count == 12


def test_mistakes_are_said() -> None:
    with pytest.raises(ValueError, match="padded on the left"):
        generate(nn.Identity(), TOKENS, 3, MASK.flip(1))
    with pytest.raises(ValueError, match="temperature"):
        generate(nn.Identity(), TOKENS, 3, temperature=-1.0)
    with pytest.raises(ValueError, match="top_p"):
        generate(nn.Identity(), TOKENS, 3, temperature=1.0, top_p=0.0)
    noisy = package(
        state=StateView(rotaries=(RotaryView(theta=1e4, size=8, head=8),)),
        generation=GenerationView(noisy=True),
    )
    with pytest.raises(ValueError, match="eval"):
        noisy.generation.generate(nn.Identity(), TOKENS, 3)


def test_tokens_can_be_trained_on(models) -> None:
    mine, *_ = models
    tokens = generate(mine, TOKENS, 2)
    mine(tokens).logits.sum().backward()
    assert mine.embed.weight.grad is not None
    mine.zero_grad()
