"""state.py against transformers and against plain formulas in float64."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from transformers import MixtralConfig
from transformers.masking_utils import sliding_window_causal_mask_function
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.deepseek_v3.modeling_deepseek_v3 import apply_rotary_pos_emb_interleave
from transformers.models.mixtral.modeling_mixtral import (
    MixtralRotaryEmbedding,
    apply_rotary_pos_emb,
)

from moedsl.backend.runtime_view import AttendView, MaskView, RotaryView, StateView
from moedsl.ir.stretch import Ramp
from tests.runtime.views import STATES, package


def config(theta: float = 1e6, **rope) -> MixtralConfig:
    parameters = {"rope_type": "default", "rope_theta": theta, **rope}
    return MixtralConfig(
        hidden_size=64, num_attention_heads=4, head_dim=16, rope_parameters=parameters
    )


# --- rotary --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 9), (3, 9)])
def test_halves_are_mixtral_s_to_the_last_bit(shape: tuple[int, int]) -> None:
    state = package(state=STATES["mixtral"]).state
    position = torch.randint(0, 30000, shape)
    q, k = torch.randn(3, 9, 4, 16), torch.randn(3, 9, 2, 16)
    cos, sin = MixtralRotaryEmbedding(config())(q, position)
    theirs = apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim=2)
    table = state.rotary_table(position)
    assert torch.equal(state.rotate(q, table), theirs[0])
    assert torch.equal(state.rotate(k, table), theirs[1])


def test_adjacent_pairs_give_deepseek_s_scores() -> None:
    """transformers leaves the channels of such a rotation in another order, the same for q and k."""
    state = package(state=STATES["partial"]).state
    position = torch.arange(7)[None]
    q, k = torch.randn(1, 7, 2, 16), torch.randn(1, 7, 2, 16)
    cos, sin = MixtralRotaryEmbedding(config(theta=1e4))(q, position)
    heads_first = [x.transpose(1, 2) for x in (q, k)]
    q_, k_ = apply_rotary_pos_emb_interleave(*heads_first, cos, sin)
    table = state.table_2(position)
    mine = [state.rotate_2(x, table).transpose(1, 2) for x in (q, k)]
    torch.testing.assert_close(mine[0] @ mine[1].mT, q_ @ k_.mT)


def test_partial_rotation_leaves_the_rest_alone() -> None:
    state = package(state=STATES["partial"]).state
    whole = package(state=StateView(rotaries=(RotaryView(theta=1e4, size=8, head=8),))).state
    x, position = torch.randn(2, 5, 3, 16), torch.arange(5)[None]
    turned = state.rotate(x, state.rotary_table(position))
    assert torch.equal(turned[..., 8:], x[..., 8:])
    assert torch.equal(turned[..., :8], whole.rotate(x[..., :8], whole.rotary_table(position)))


@pytest.mark.parametrize("truncate", [True, False])
@pytest.mark.parametrize("factor", [4.0, 32.0])
def test_yarn_is_transformers(truncate: bool, factor: float) -> None:
    rope = {"factor": factor, "original_max_position_embeddings": 4096, "truncate": truncate}
    theirs = config(theta=150000.0, rope_type="yarn", **rope)
    frequency, attention = ROPE_INIT_FUNCTIONS["yarn"](theirs, torch.device("cpu"))
    view = Ramp(factor=factor, original=4096, truncate=truncate, by=0.1 * math.log(factor) + 1)
    state = package(
        state=StateView(rotaries=(RotaryView(theta=150000, size=16, head=16, stretch=view),))
    ).state
    position = torch.arange(0, 5000, 7)[None]
    table = state.rotary_table(position)
    angle = position[..., None, None].float() * frequency
    torch.testing.assert_close(table.cos, angle.cos() * attention, atol=2e-3, rtol=0)
    torch.testing.assert_close(table.sin[:, :40], angle.sin()[:, :40] * attention)


def test_linear_scaling_divides_positions() -> None:
    state = package(state=STATES["capped"]).state
    far, near = state.rotary_table_far(torch.tensor([[80, 800]])), torch.tensor([[10, 100]])
    plain = package(state=StateView(rotaries=(RotaryView(theta=1e4, size=16, head=16),))).state
    torch.testing.assert_close(far.cos, plain.rotary_table(near).cos)


def test_low_precision_rotates_in_float32() -> None:
    state = package(state=STATES["mixtral"]).state
    x = torch.randn(2, 6, 4, 16)
    table = state.rotary_table(torch.arange(5000, 5006)[None])
    low = state.rotate(x.bfloat16(), table)
    assert low.dtype == torch.bfloat16
    assert torch.equal(low, state.rotate(x.bfloat16().float(), table).bfloat16())


def test_positions_count_real_tokens() -> None:
    state = package(state=STATES["mixtral"]).state
    tokens = torch.zeros(2, 4, dtype=torch.int64)
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]).bool()
    assert state.positions(tokens, 0, None).tolist() == [[0, 1, 2, 3]]
    assert state.positions(tokens[:, :1], 7, None).tolist() == [[7]]
    assert state.positions(tokens, 0, mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]
    assert state.positions(tokens[:, :1], 3, mask).tolist() == [[1], [3]]


# --- masks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "past"), [(6, 0), (1, 5), (3, 4), (1, 0)])
@pytest.mark.parametrize("window", [None, 1, 3, 100])
def test_masks_are_transformers(length: int, past: int, window: int | None) -> None:
    """A window counts the query itself, as kv > q - window does."""
    view = StateView(
        masks=(MaskView(window=window), MaskView(name="always", window=window, tensor=True))
    )
    state = package(state=view).state
    tokens, stop = torch.zeros(1, length, dtype=torch.int64), past + length
    theirs = sliding_window_causal_mask_function(window or stop)
    query, key = torch.arange(past, stop)[:, None], torch.arange(stop)
    wanted = theirs(0, 0, query, key)
    assert torch.equal(state.always(tokens, past, None)[0, 0], wanted)
    mine = state.causal_mask(tokens, past, None)
    if mine is None:  # then what attend does instead must be the same
        flag = torch.ones(length, stop).tril().bool() if length > 1 else torch.ones(1, stop).bool()
        assert torch.equal(flag, wanted)
    else:
        assert torch.equal(mine[0, 0], wanted)


def test_training_makes_no_mask() -> None:
    state = package(state=STATES["mixtral"]).state
    assert state.causal_mask(torch.zeros(2, 4096, dtype=torch.int64), 0, None) is None
    assert state.causal_mask(torch.zeros(2, 1, dtype=torch.int64), 4096, None) is None


def test_padding_sees_itself_and_is_seen_by_nobody() -> None:
    state = package(state=STATES["mixtral"]).state
    real = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 1]]).bool()
    sees = state.causal_mask(torch.zeros(2, 5, dtype=torch.int64), 0, real)[:, 0]
    for b, q, k in itertools.product(range(2), range(5), range(5)):
        assert sees[b, q, k] == (k <= q and bool(real[b, k] or k == q))


# --- attention -----------------------------------------------------------------------------------


def plain(q, k, v, sees, scale=None, cap=None, sinks=None, bias=None):
    """softmax(q k) v, head by head, in float64. `sees`: [B, T, S]."""
    out = torch.zeros(*q.shape[:3], v.shape[-1], dtype=torch.float64)
    for h in range(q.shape[2]):
        g = h * k.shape[2] // q.shape[2]
        score = torch.einsum("btc,bsc->bts", q[:, :, h].double(), k[:, :, g].double())
        score = score * (q.shape[-1] ** -0.5 if scale is None else scale)
        score = score if bias is None else score + bias[h].double()
        score = score if cap is None else cap * (score / cap).tanh()
        score = score.masked_fill(~sees, -torch.inf)
        if sinks is not None:
            score = torch.cat([score, sinks[h].double().expand(*score.shape[:2], 1)], -1)
        weight = score.softmax(-1)[..., : k.shape[1]]
        out[:, :, h] = torch.einsum("bts,bsc->btc", weight, v[:, :, g].double())
    return out


def tensors(heads: int = 4, groups: int = 2, length: int = 6, stop: int | None = None):
    generator = torch.Generator().manual_seed(0)
    make = lambda n, h: torch.randn(2, n, h, 16, generator=generator)  # noqa: E731
    return make(length, heads), make(stop or length, groups), make(stop or length, groups)


LEFT = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]).bool()


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("real", [None, LEFT])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("kind", ["plain", "scale", "cap", "sinks", "bias", "everything"])
def test_attention_is_the_formula(grouped, real, window, kind) -> None:
    everything = kind == "everything"
    cap, sinks, bias, scale = (everything or kind == k for k in ("cap", "sinks", "bias", "scale"))
    view = AttendView(
        grouped=grouped, soft_cap=2.0 if cap else None, sinks=sinks, bias=bias, scale=scale
    )
    mask_view = MaskView(window=window, tensor=view.always_masked)
    state = package(state=StateView(masks=(mask_view,), attends=(view,))).state
    q, k, v = tensors(groups=2 if grouped else 4)
    tokens = torch.zeros(2, 6, dtype=torch.int64)
    always = package(state=StateView(masks=(MaskView(window=window, tensor=True),))).state
    sees = always.causal_mask(tokens, 0, real).expand(2, 1, 6, 6)[:, 0]
    more = {}
    if sinks:
        more["sinks_H"] = torch.randn(4)
    if bias:
        more["bias_HTS"] = torch.randn(4, 6, 6)
    if scale:
        more["scale"] = 0.3
    mixed = state.attend(q, k, v, state.causal_mask(tokens, 0, real), None, **more)
    wanted = plain(
        q, k, v, sees, 0.3 if scale else None, 2.0 if cap else None,
        more.get("sinks_H"), more.get("bias_HTS"),
    )  # fmt: skip
    torch.testing.assert_close(mixed.double(), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("real", [None, LEFT])
@pytest.mark.parametrize("explicit", [True, False])
def test_gradients_are_the_formula_s_and_finite(real, explicit) -> None:
    view = AttendView(soft_cap=2.0 if explicit else None)
    state = package(
        state=StateView(masks=(MaskView(tensor=view.always_masked),), attends=(view,))
    ).state
    q, k, v = (x.double().requires_grad_() for x in tensors())
    tokens = torch.zeros(2, 6, dtype=torch.int64)
    mask = state.causal_mask(tokens, 0, real)
    sees = torch.ones(2, 6, 6).tril().bool()
    if real is not None:
        sees = sees & (real[:, None] | torch.eye(6).bool())
    probe = torch.randn(2, 6, 4, 16, dtype=torch.float64)
    mine = torch.autograd.grad((state.attend(q, k, v, mask, None) * probe).sum(), (q, k, v))
    wanted = torch.autograd.grad((plain(q, k, v, sees, cap=view.soft_cap) * probe).sum(), (q, k, v))
    for a, b in zip(mine, wanted, strict=True):
        assert a.isfinite().all()
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_padding_are_finite(dtype: torch.dtype) -> None:
    state = package(state=STATES["encoder"]).state
    real = torch.tensor([[False] * 6, [True] * 6])
    q, k, v = (x.to(dtype) for x in tensors())
    mixed = state.attend(q, k, v, state.padding_mask(real))
    assert mixed.isfinite().all()
    wanted = plain(q, k, v, torch.ones(2, 6, 6).bool())
    torch.testing.assert_close(mixed.double(), wanted, atol=5e-2, rtol=5e-2)


def test_attention_over_another_sequence() -> None:
    state = package(state=STATES["translator"]).state
    q, k, v = tensors(stop=9)
    real = torch.ones(2, 9).bool()
    real[0, 5:] = False
    mixed = state.attend_memory(q, k, v, state.padding_mask(real))
    wanted = plain(q, k, v, real[:, None].expand(2, 6, 9))
    torch.testing.assert_close(mixed.double(), wanted, atol=1e-5, rtol=1e-5)
    assert state.padding_mask(None) is None
    wanted = plain(q, k, v, torch.ones(2, 6, 9).bool())
    torch.testing.assert_close(
        state.attend_memory(q, k, v, None).double(), wanted, atol=1e-5, rtol=1e-5
    )


def test_dropout_drops_weights() -> None:
    for name in ("gpt-oss", "translator", "capped"):
        state = package(state=STATES[name]).state
        view = STATES[name].attends[0]
        q, k, v = tensors(groups=2 if view.grouped else 4)
        mask = state.causal_mask(torch.zeros(2, 6, dtype=torch.int64), 0, None)
        more = {"scale": 0.25} if view.scale else {}
        more |= {"sinks_H": torch.zeros(4)} if view.sinks else {}
        more |= {"bias_HTS": torch.zeros(4, 6, 6)} if view.bias else {}
        kept = [state.attend(q, k, v, mask, None, dropout=0.0, **more) for _ in range(2)]
        assert torch.equal(*kept)
        lost = [state.attend(q, k, v, mask, None, dropout=0.5, **more) for _ in range(2)]
        assert not torch.equal(*lost)


# --- cache ---------------------------------------------------------------------------------------


def run(state, q, k, v, cuts: list[int], real=None, window_mask=False):
    """Attention in steps that end at `cuts`, through a cache."""
    cache, parts, start = state.Cache(), [], 0
    for stop in cuts:
        tokens = torch.zeros(2, stop - start, dtype=torch.int64)
        past = cache.begin(stop - start)
        assert past == start
        mask = state.causal_mask(tokens, past, None if real is None else real[:, :stop])
        step = slice(start, stop)
        parts.append(state.attend(q[:, step], k[:, step], v[:, step], mask, cache))
        start = stop
    assert cache.length == q.shape[1]
    return torch.cat(parts, 1)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("real", [None, LEFT])
@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("cuts", [[6], [1, 2, 3, 4, 5, 6], [3, 4, 5, 6], [2, 5, 6]])
def test_steps_through_a_cache_are_one_pass(window, real, groups, cuts) -> None:
    view = StateView(masks=(MaskView(window=window),), attends=(AttendView(grouped=groups < 4),))
    state = package(state=view).state
    q, k, v = tensors(groups=groups)
    mask = state.causal_mask(torch.zeros(2, 6, dtype=torch.int64), 0, real)
    whole = state.attend(q, k, v, mask, None)
    stepped = run(state, q, k, v, cuts, real)
    real = torch.ones(2, 6).bool() if real is None else real
    torch.testing.assert_close(stepped[real], whole[real], atol=2e-6, rtol=1e-5)


def test_a_step_copies_only_its_own_tokens() -> None:
    cache = package(state=STATES["mixtral"]).state.Cache()
    homes = []
    for _ in range(1000):
        cache.begin(1)
        for _ in range(3):
            cache.append(torch.randn(2, 1, 2, 16))
        homes.append(cache.buffers[0].data_ptr())
    assert len(cache.buffers) == 3
    assert sum(a != b for a, b in itertools.pairwise(homes)) <= 10  # doubled, not copied each time
    assert cache.buffers[0].shape[1] == cache.capacity < 2048


def test_a_cache_with_room_never_moves_and_can_forget() -> None:
    cache = package(state=STATES["mixtral"]).state.Cache(capacity=10)
    x = torch.randn(1, 10, 2, 4)
    cache.begin(4)
    cache.append(x[:, :4])
    home = cache.buffers[0].data_ptr()
    cache.begin(4)
    cache.append(torch.randn(1, 4, 2, 4))
    cache.length = 4
    assert cache.begin(6) == 4
    assert torch.equal(cache.append(x[:, 4:]), x)
    assert cache.buffers[0].data_ptr() == home


def test_calls_of_a_forward_have_their_own_buffers() -> None:
    cache = package(state=STATES["mixtral"]).state.Cache()
    a, b = torch.randn(1, 3, 2, 4), torch.randn(1, 3, 8)
    for _ in range(2):
        cache.begin(3)
        seen = cache.append(a), cache.append(b)
    assert torch.equal(seen[0], torch.cat([a, a], 1))
    assert torch.equal(seen[1], torch.cat([b, b], 1))


def test_left_padded_rows_equal_lone_ones() -> None:
    state = package(state=STATES["mixtral"]).state
    q, k, v = tensors()
    context = SimpleNamespace(tokens=torch.zeros(2, 6, dtype=torch.int64))

    def forward(rows: slice, start: int, mask):
        tokens = context.tokens[rows, start:]
        table = state.rotary_table(state.positions(tokens, 0, mask))
        turned = [state.rotate(x[rows, start:], table) for x in (q, k)]
        return state.attend(*turned, v[rows, start:], state.causal_mask(tokens, 0, mask), None)

    batch = forward(slice(None), 0, LEFT)
    torch.testing.assert_close(batch[:1, 2:], forward(slice(0, 1), 2, None), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(batch[1:], forward(slice(1, 2), 0, None), atol=1e-6, rtol=1e-5)
