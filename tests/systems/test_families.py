"""What published families differ in: a spec without it is another function, and full sizes are those of the paper.

The comparison with transformers itself is tests/parity.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS  # noqa: E402

from moedsl import pipeline  # noqa: E402
from moedsl.ir.cost import cost  # noqa: E402
from moedsl.source import Source  # noqa: E402
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


# --- full sizes ----------------------------------------------------------------------------------

PUBLISHED = {
    # total and active billions as published; what a published "active" leaves out
    "deepseek_v2_lite": (15.7, 2.4, "embed"),
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


@pytest.mark.parametrize("name", ["deepseek_v2_lite", "gpt_oss_20b", "llama4_scout"])
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
