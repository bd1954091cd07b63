"""What published families differ in: a spec without it is another function, and full sizes are those of the paper.

The comparison with transformers itself is tests/parity.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS  # noqa: E402

from moedsl import pipeline  # noqa: E402
from moedsl.ir.cost import cost  # noqa: E402
from moedsl.source import Source  # noqa: E402
from tests.agree import agree  # noqa: E402
from tests.packages import imported, model_class, package, source  # noqa: E402
from tests.parity.families import FAMILIES  # noqa: E402

OF = {family.spec: family for family in FAMILIES}


def tokens(batch: int = 2, length: int = 19):
    return torch.randint(2, 97, (batch, length), generator=torch.Generator().manual_seed(1))


# --- what a family differs in --------------------------------------------------------------------

NAIVE = {
    # gpt-oss: the clamp, the shift of up, the sharper sigmoid, the window, YaRN's magnitude and untruncated ramp
    "no clamp": (
        "gpt_oss_20b",
        "sparse.experts=6 * swiglu(20, alpha = 1.702, up_shift = 1, bias = true)",
    ),
    "no shift of up": (
        "gpt_oss_20b",
        "sparse.experts=6 * swiglu(20, alpha = 1.702, limit = 1.5, bias = true)",
    ),
    "plain silu": (
        "gpt_oss_20b",
        "sparse.experts=6 * swiglu(20, limit = 1.5, up_shift = 1, bias = true)",
    ),
    "a window that does not count its token": ("gpt_oss_20b", "local.window=6"),
    "softmax before the choice": ("gpt_oss_20b", "top4.gate=score -> softmax; top4.weigh=gate"),
    # Llama 4: weights on what experts get, chunks, the norm after rotation, queries by position
    "weights on what experts give": ("llama4_scout", "sparse.weight=output"),
    "no chunks": ("llama4_scout", "local.chunk=none"),
    "a window for a chunk": ("llama4_scout", "local.chunk=none; local.window=6"),
    "no scale by position": ("llama4_scout", "full.q=linear"),
    "positions from 0": ("llama4_scout", "full.q=linear -> log_scale(4, by = 0.1, first = 0)"),
    # Qwen2: weights as the softmax over all gave them; the shared expert's gate
    "weights divided by their sum": ("qwen2_57b_a14b", "top8.weigh=gate -> normalize"),
    # DeepSeek: the pairing of turned channels, the temperature on whole scores
    "halves for neighbours": (
        "deepseek_v2_lite",
        "mla.rotate=rope(theta = 1e4, "
        "scaling = yarn(40, original = 4096, strength = 0.707, sharpen = all))",
    ),
    "temperature on turned channels": (
        "deepseek_v2_lite",
        "mla.rotate=rope(theta = 1e4, pairs = adjacent, "
        "scaling = yarn(40, original = 4096, strength = 0.707))",
    ),
    "temperature of full strength": (
        "deepseek_v2_lite",
        "mla.rotate=rope(theta = 1e4, pairs = adjacent, "
        "scaling = yarn(40, original = 4096, sharpen = all))",
    ),
    # Phi: weights are not a softmax over the picks
    "softmax over the picks": ("phi3_5_moe", "mixer.weigh=score -> softmax"),
    "a narrower tie": ("phi3_5_moe", "mixer.weigh=score -> near_ties(2%)"),
    # Granite: scores are scaled by a number of their own
    "the standard scale": ("granite_3_1b_a400m", "gqa.scores=dot"),
    # DeepSeek-V3: the bias in the choice and not in the weight, groups by two best, the factor after the sum
    "the bias in the weights": (
        "deepseek_v3",
        "limited.weigh=choose -> normalize(eps = 1e-20) -> scale(2.5)",
    ),
    "groups by their best": (
        "deepseek_v3",
        "limited.select=groups(4, keep = 2, rank = top(1)) -> top_k(3)",
    ),
    "no groups": ("deepseek_v3", "limited.select=top_k(3)"),
    "the factor before the sum": (
        "deepseek_v3",
        "limited.weigh=gate -> scale(2.5) -> normalize(eps = 1e-20)",
    ),
    "a factor on the shared expert too": (
        "deepseek_v3",
        "sparse.shared=swiglu(20) -> scale(2.5)",
    ),
    # DBRX
    "no clip": ("dbrx", "gqa.v=linear"),
}


@pytest.fixture(scope="module")
def exact():
    """A family's weights in a package of ours, and its logits, made once."""
    made: dict[str, tuple] = {}

    def of(spec: str):
        if spec not in made:
            theirs = OF[spec].reference()
            module = package(spec, OF[spec].settings)
            with torch.no_grad():
                made[spec] = (theirs, module, theirs(tokens()).logits)
        return made[spec]

    return of


@pytest.mark.parametrize("name", NAIVE)
def test_the_naive_form_is_another_function(name: str, exact, tmp_path) -> None:
    spec, settings = NAIVE[name]
    theirs, _, expected = exact(spec)
    theirs.save_pretrained(tmp_path)
    module = package(spec, (*OF[spec].settings, *settings.split("; ")))
    naive = model_class(module)().eval()
    module.load_checkpoint(naive, tmp_path)
    with torch.no_grad():
        difference = (naive(tokens()).logits - expected).abs().max() / expected.std()
    assert difference > 1e-3, name


# --- the loss of a sequence ----------------------------------------------------------------------


def balance_of_sequences(routing, rows, experts: int, kept: int):
    """DeepSeek-V3, 2024, equations 17 to 20, in float64: the mean over sequences of sum_i f_i P_i."""
    total = 0.0
    for real in rows:
        gate = routing.logits_NE[real].double().sigmoid()
        share = (gate / gate.sum(1, keepdim=True)).mean(0)
        count = torch.zeros(experts, dtype=torch.float64)
        count.scatter_add_(
            0, routing.expert_NK[real].flatten(), torch.ones(1).double().expand(real.numel() * kept)
        )
        total = total + (experts / (kept * real.numel()) * count * share).sum()
    return total / len(rows)


@pytest.mark.parametrize("padded", [False, True])
def test_balance_of_each_sequence(padded: bool) -> None:
    module = package("deepseek_v3", OF["deepseek_v3"].settings)
    model = model_class(module)()
    model.init_weights(seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    ids = tokens()
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[0, :7] = not padded
    output = model(ids, mask if padded else None)
    (routing,) = output.routing.values()
    (loss,) = output.losses.values()
    place = torch.arange(ids.numel()).view_as(ids)
    rows = [place[row][mask[row]] for row in range(2)]
    expected = 1e-4 * balance_of_sequences(routing, rows, 12, 3)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    whole = 1e-4 * balance_of_sequences(routing, [torch.cat(rows)], 12, 3)
    assert (whole - expected).abs() > 1e-4 * expected, "sequences are not pooled"
    weight = model.layer[3].feed_forward.router.score.weight
    (actual,) = torch.autograd.grad(loss, weight, retain_graph=True)
    (wanted,) = torch.autograd.grad(expected, weight)
    torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-10)


# --- latent attention in other company -----------------------------------------------------------

LATENT = """
model m {{
  vocab = 97
  width = 32
  norm before = rms()
  attention own = latent {{
    heads = 4
    kv_rank = 24
    head_dim = 12
    rope_dim = 8
    value_dim = 10
    {more}
  }}
  block layer {{
    x += own(before(x))
  }}
  input  tokens = ids(vocab)
  output logits = tokens -> embed -> 2 * layer -> head
}}
"""


@pytest.mark.parametrize(
    "more",
    [
        "window = 5",
        "chunk = 6\n    sinks = true",
        "scores = dot -> soft_cap(5)",
        "scores = dot + dot(scale = 0.1)",
        "q_rank = 16\n    dropout = 0.5",
    ],
)
def test_latent_attention_in_parts_is_the_whole(more: str) -> None:
    result = pipeline.compile(Source(LATENT.format(more=more), "m.moe", {}))
    assert result.ok, [d.message for d in result.diagnostics]
    module = imported(result.files)
    model = model_class(module)().eval()
    model.init_weights(seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
        ids = tokens()
        whole, cache = model(ids).logits, module.Cache()
        parts = [model(ids[:, a:b], cache=cache).logits for a, b in ((0, 8), (8, 14), (14, 19))]
        torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-4)
        later = ids.clone()
        later[:, 12:] = 5
        torch.testing.assert_close(model(later).logits[:, :12], whole[:, :12])
        mask = torch.ones_like(ids, dtype=torch.bool)
        mask[0, :6] = False
        alone = model(ids[:1, 6:]).logits
        torch.testing.assert_close(model(ids, mask).logits[:1, 6:], alone, rtol=1e-4, atol=1e-4)


def test_only_rotations_turn() -> None:
    text = LATENT.format(more="rotate = log_scale(8)")
    found = pipeline.check(Source(text, "m.moe", {})).diagnostics
    assert [d.code for d in found] == ["E0211"]


# --- full sizes ----------------------------------------------------------------------------------

PUBLISHED = {
    # total and active billions as published; what a published "active" leaves out
    "deepseek_v2_lite": (15.7, 2.4, "embed"),
    "deepseek_v2": (235.7, 21.0, ""),
    "deepseek_v3": (671.0, 37.0, ""),
    "kimi_k2": (1026.4, 32.0, "embed"),
    "glm_4_5_air": (106.9, 13.4, ""),
    "minimax_m2": (228.7, 11.0, ""),
    "gpt_oss_20b": (20.9, 3.6, "embed"),
    "qwen2_57b_a14b": (57.4, 14.2, ""),
    "llama4_scout": (107.8, 17.2, ""),
    "phi3_5_moe": (41.9, 6.6, ""),
    "granite_3_1b_a400m": (1.3, 0.43, ""),
    "dbrx": (131.6, 36.5, ""),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_totals(name: str) -> None:
    counted = cost(pipeline.check(source(name)).graph)
    total, active, without = PUBLISHED[name]
    left_out = sum(line.sum.total for line in counted.layers if line.path == without)
    assert round(counted.total.total / 1e9, 1) == total
    assert (counted.total.active - left_out) / 1e9 == pytest.approx(active, rel=0.03)


def test_a_latent_cache_keeps_the_short_vector_alone() -> None:
    counted = cost(pipeline.check(source("deepseek_v2_lite")).graph)
    assert counted.total.cache_bytes == 2 * 27 * (512 + 64)


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_those_of_transformers(name: str) -> None:
    family = OF[name]
    graph = pipeline.check(source(name), family.settings).graph
    theirs = family.reference()
    assert cost(graph).total.total == sum(p.numel() for p in theirs.parameters())


# --- variants ------------------------------------------------------------------------------------


def same_logits(theirs, module, folder) -> None:
    theirs.save_pretrained(folder)
    ours = model_class(module)().eval()
    module.load_checkpoint(ours, folder)
    with torch.no_grad():
        expected, actual = theirs(tokens()).logits, ours(tokens()).logits
    assert (actual - expected).abs().max() < 1e-5 * max(1.0, expected.std().item())


def test_mixtral_with_a_window(tmp_path) -> None:
    family = OF["mixtral_8x7b"]
    windowed = replace(family, config=family.config | {"sliding_window": 5})
    same_logits(
        windowed.reference(),
        package(family.spec, (*family.settings, "gqa.window=5")),
        tmp_path,
    )


SPARSE_STEP = """
import qwen2_57b_a14b from "qwen2_57b_a14b.moe"

model every_other = qwen2_57b_a14b with {
  ffn dense = swiglu(48)
  output logits = tokens -> embed -> 4 * layer(by_layer(2 * (dense -> sparse))) -> last -> head
  checkpoint hub = hub with {
    layer[i].feed_forward.[gate, up, down] = "model.layers.{i}.mlp.[gate, up, down]_proj.weight"
  }
}
"""


def test_qwen_with_dense_layers_between(tmp_path) -> None:
    """`decoder_sparse_step = 2`: layers 1, 3, ... are sparse."""
    family = OF["qwen2_57b_a14b"]
    files = source(family.spec).files
    settings = tuple(s for s in family.settings if not s.startswith("depth"))
    result = pipeline.compile(Source(SPARSE_STEP, "every_other.moe", files), settings)
    assert result.ok, [d.message for d in result.diagnostics]
    theirs = replace(
        family, config=family.config | {"num_hidden_layers": 4, "decoder_sparse_step": 2}
    ).reference()
    same_logits(theirs, imported(result.files), tmp_path)


def test_a_larger_vocabulary_starts_at_the_mean(tmp_path) -> None:
    family = OF["mixtral_8x7b"]
    theirs = family.reference()
    theirs.save_pretrained(tmp_path)
    settings = ("vocab=120", *(s for s in family.settings if not s.startswith("vocab")))
    module = package("chinese_mixtral_8x7b", settings)
    model = model_class(module)().eval()
    module.start_from_before(model, tmp_path, seed=0)
    for ours, old in ((model.embed, theirs.model.embed_tokens), (model.head, theirs.lm_head)):
        assert torch.equal(ours.weight[:97], old.weight)
        mean = old.weight.mean(0).expand(23, -1)
        torch.testing.assert_close(ours.weight[97:], mean, atol=1e-6, rtol=1e-6)
    with torch.no_grad():
        logits = model(tokens()).logits
        agree(logits[..., :97], theirs(tokens()).logits, 1e-5, "chinese_mixtral_8x7b")
    module.save_checkpoint(model, tmp_path / "extended")
    again = model_class(module)()
    module.load_checkpoint(again, tmp_path / "extended")
    assert torch.equal(again.embed.weight, model.embed.weight)


# --- scaled positions ----------------------------------------------------------------------------

ROTATING = """
model m {{
  vocab = 97
  width = 64
  norm before = rms()
  attention own {{
    heads = 2
    q, k = linear -> rope(theta = 1e4, scaling = {scaling})
  }}
  block layer {{
    x += own(before(x))
  }}
  input  tokens = ids(vocab)
  output logits = tokens -> embed -> layer -> head
}}
"""

SCALINGS = {
    "interpolate(8)": {"rope_type": "linear", "factor": 8.0},
    "yarn(32, original = 64)": {
        "rope_type": "yarn",
        "factor": 32.0,
        "original_max_position_embeddings": 64,
    },
    "yarn(32, original = 64, truncate = false, slow = 2, fast = 8, strength = 0)": {
        "rope_type": "yarn",
        "factor": 32.0,
        "original_max_position_embeddings": 64,
        "truncate": False,
        "beta_slow": 2.0,
        "beta_fast": 8.0,
        "attention_factor": 1.0,
    },
    "bands(8, original = 64)": {
        "rope_type": "llama3",
        "factor": 8.0,
        "original_max_position_embeddings": 64,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    },
    "bands(16, original = 64, low = 1, high = 1)": {
        "rope_type": "llama3",
        "factor": 16.0,
        "original_max_position_embeddings": 64,
        "low_freq_factor": 1.0,
        "high_freq_factor": 1.0,
    },
}


@pytest.mark.parametrize("scaling", SCALINGS)
def test_scaled_angles_are_those_of_transformers(scaling: str) -> None:
    result = pipeline.compile(Source(ROTATING.format(scaling=scaling), "m.moe", {}))
    assert result.ok
    state = imported(result.files).state
    theirs = transformers.LlamaConfig(
        hidden_size=64,
        num_attention_heads=2,
        max_position_embeddings=2048,
        rope_parameters={"rope_theta": 1e4, **SCALINGS[scaling]},
    )
    kind = SCALINGS[scaling]["rope_type"]
    frequency, by = ROPE_INIT_FUNCTIONS[kind](theirs, torch.device("cpu"))
    position = torch.arange(0, 128, 3)[None]
    table = state.rotary_table(position)
    angle = position[..., None, None].float() * frequency
    torch.testing.assert_close(table.cos, by * angle.cos(), atol=1e-5, rtol=0)
    torch.testing.assert_close(table.sin, by * angle.sin(), atol=1e-5, rtol=0)


# --- compiled ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["deepseek_v2_lite", "llama4_scout"])
def test_one_graph(name: str) -> None:
    module = package(name, OF[name].settings)
    model = model_class(module)().eval()
    model.init_weights(seed=0)
    ids = tokens()
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[0, :3] = False
    whole = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        for given in (None, mask):
            expected, actual = model(ids, given).logits, whole(ids, given).logits
            torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
