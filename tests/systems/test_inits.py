"""How weights start: draws against torch.nn.init, sizes and experts of whole models, and what published models do."""

from __future__ import annotations

import importlib.util
import math
import re
from types import ModuleType

import pytest
import torch
from torch.nn import init as published

import moedsl
from moedsl import Source
from moedsl.ir.starts import starts
from tests.agree import agree
from tests.packages import ROOT, compiled, imported, model_class, package, source

torch.manual_seed(0)


def _library() -> ModuleType:
    file = ROOT / "templates/package/library/initial.py"
    spec = importlib.util.spec_from_file_location("initial", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LIBRARY = _library()


def drawn(name: str, *arguments, shape=(64, 48), seed=0, **more) -> torch.Tensor:
    weight = torch.empty(shape)
    getattr(LIBRARY, name)(weight, *arguments, torch.Generator().manual_seed(seed), **more)
    return weight


def torch_draws(fill, shape=(64, 48), **more) -> torch.Tensor:
    weight = torch.empty(shape)
    fill(weight, generator=torch.Generator().manual_seed(0), **more)
    return weight


# --- draws -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (drawn("normal_", 0.3), torch_draws(published.normal_, std=0.3)),
        (drawn("normal_", 48**-0.5), torch_draws(published.kaiming_normal_, nonlinearity="linear")),
        (drawn("uniform_", (3 / 56) ** 0.5), torch_draws(published.xavier_uniform_)),
        (drawn("orthogonal_", 0.1), torch_draws(published.orthogonal_, gain=0.1)),
        (
            drawn("orthogonal_", 0.1, shape=(48, 64)),
            torch_draws(published.orthogonal_, shape=(48, 64), gain=0.1),
        ),
    ],
    ids=["normal", "kaiming", "xavier", "orthogonal", "wide orthogonal"],
)
def test_equal_generators_draw_what_torch_draws(found, wanted):
    agree(found, wanted, 1e-6, "base_layers", "switch_base", "vmoe_b32")


@pytest.mark.parametrize("cut", [1.0, 2.0, 3.0])
def test_truncated(cut):
    """No number is further off than `cut` deviations; those of what is left are what `corrected` divides by."""
    weight = drawn("truncated_", 0.02, shape=(400, 500), cut=cut)
    assert 0.99 * cut * 0.02 < weight.abs().max() <= cut * 0.02
    result = moedsl.pipeline.compile(
        source("tiny"), (f"init = truncated(1, cut = {cut}, corrected = true)",)
    )
    shrinks = 1 / starts(result.graph).of["embed"].value
    points = torch.linspace(-cut, cut, 20001, dtype=torch.float64)
    density = (-(points**2) / 2).exp()
    wanted = ((points**2 * density).sum() / density.sum()).sqrt().item()
    assert shrinks == pytest.approx(wanted, rel=1e-3)
    assert weight.std().item() == pytest.approx(0.02 * shrinks, rel=0.01)


def test_truncated_is_spread_as_torch_spreads():
    shape = (400, 500)
    ours = drawn("truncated_", 0.3, shape=shape).flatten().sort().values
    theirs = torch_draws(published.trunc_normal_, shape=shape, std=0.3, a=-0.6, b=0.6)
    assert (ours - theirs.flatten().sort().values).abs().max() < 0.01
    naive = (
        (0.3 * torch.randn(shape)).clamp(-0.6, 0.6).flatten().sort().values
    )  # cut off, not drawn again
    assert (naive - theirs.flatten().sort().values).abs().max() > 0.02


def test_bounds_that_do_not_grow_with_the_deviation_cut_nothing():
    """torch's own bounds are -2 and 2, whatever `std` is."""
    naive = torch_draws(published.trunc_normal_, shape=(400, 500), std=0.02)
    assert naive.abs().max() > 3 * 0.02
    assert drawn("truncated_", 0.02, shape=(400, 500)).abs().max() <= 2 * 0.02


def test_orthogonal_experts_are_so_each_by_itself():
    weight = drawn("orthogonal_", 0.5, shape=(3, 8, 20))
    for one in weight:
        agree(one @ one.T, 0.25 * torch.eye(8), 1e-5)
    assert not torch.equal(weight[0], weight[1])


def test_equal_rows():
    """As in RobertCsordas/moeut, renorm_keep_std; what its attention does to rows leaves them as they were."""
    weight = drawn("normal_", 0.3, shape=(16, 256))
    wanted = weight / weight.norm(dim=1, keepdim=True)
    wanted = wanted * (weight.std() / wanted.std())
    before = weight.norm(dim=-1)
    found = weight.clone()
    LIBRARY.equal_rows_(found)
    agree(found, wanted, 1e-7, "moeut_small")
    assert found.norm(dim=-1).std() < 1e-5 < before.std()
    assert found.std().item() == pytest.approx(weight.std().item(), rel=1e-5)


def test_half_precision_is_drawn_in_full():
    weight = torch.empty(64, 48, dtype=torch.bfloat16)
    LIBRARY.truncated_(weight, 0.3, torch.Generator().manual_seed(0))
    assert torch.equal(weight, drawn("truncated_", 0.3).bfloat16())


# --- whole models --------------------------------------------------------------------------------------

SAID = (
    "init = [all = truncated(scale = 0.1), router = zeros, experts = normal(scale = 1), down = by_depth, "
    "embed = uniform(0.5), last = fill(0.25), o = eye(2)]",
    "vocab = 512",
    "sparse.experts = 4 * swiglu(160)",
)


def started(name: str, *settings: str, seed: int = 0) -> dict[str, torch.Tensor]:
    model = model_class(package(name, settings))()
    model.init_weights(seed)
    return dict(model.state_dict())


def test_every_weight_has_its_size():
    weights = started("tiny", *SAID)
    experts = weights["layer.1.sparse.experts.gate_up"], weights["layer.1.sparse.experts.down"]
    for found, wanted in (
        (weights["head.weight"], (0.1 / 64) ** 0.5 * 0.87962566),
        (weights["layer.0.own.q.weight"], (0.1 / 64) ** 0.5 * 0.87962566),
        (experts[0], 64**-0.5),
        (experts[1], 160**-0.5 / 2),  # two layers of two branches
        (weights["embed.weight"], 0.5 / 3**0.5),
    ):
        assert found.std().item() == pytest.approx(wanted, rel=0.03)
    assert not weights["layer.0.sparse.router.score.weight"].any()
    assert torch.equal(weights["layer.0.own.o.weight"], 2 * torch.eye(64))
    assert (weights["last.weight"] == 0.25).all()
    assert (weights["layer.0.before_mix.weight"] == 1).all()


def test_a_fan_is_that_of_one_expert():
    """A fan over the stacked tensor, as torch counts it, is another number; so is one over gate and up together."""
    weight = torch.empty(4, 320, 64)
    stacked = published._calculate_fan_in_and_fan_out(weight)
    assert stacked != (64, 320)
    spread = started("tiny", "init = normal(scale = 1, fan = average)", *SAID[1:])
    found = spread["layer.0.sparse.experts.gate_up"].std().item()
    assert found == pytest.approx((2 / (64 + 160)) ** 0.5, rel=0.03)
    for other in ((2 / (64 + 320)) ** 0.5, (2 / sum(stacked)) ** 0.5):
        assert found != pytest.approx(other, rel=0.1)


def test_experts_alike():
    alike = started("tiny", "init = [experts = alike]")
    apart = started("tiny", "init = normal(0.02)")
    for part in ("gate_up", "down"):
        first, *others = alike[f"layer.0.sparse.experts.{part}"]
        assert all(torch.equal(first, other) for other in others)
        assert first.std().item() == pytest.approx(0.02, rel=0.05)
        first, *others = apart[f"layer.0.sparse.experts.{part}"]
        assert not any(torch.equal(first, other) for other in others)
    one, other = (alike[f"layer.{i}.sparse.experts.down"][0] for i in range(2))
    assert not torch.equal(one, other)


def test_equal_scores_give_every_expert_as_much():
    """Started at zero nothing is preferred; another start of the router prefers some experts from the first step."""
    for said, equal in (("zeros", True), ("normal(0.5)", False)):
        model = model_class(package("tiny", (f"init = [router = {said}]",)))()
        model.init_weights(0)
        routing = model(torch.arange(60).view(2, 30)).routing["layer.0.sparse"]
        share = routing.logits_NE.softmax(-1)
        assert torch.equal(share, torch.full_like(share, 0.25)) == equal


def test_numbers_do_not_depend_on_what_is_kept_as_one():
    """Gate and up stand in one weight, unless a stage of training tells them apart."""
    text = source("tiny").text.replace("context", "context")
    cut = text.rstrip().rstrip("}")
    apart = (
        cut
        + "  init = normal(scale = 2)\n  stage tune { train = all - up }\n  stage rest { train = up }\n}\n"
    )
    together = cut + "  init = normal(scale = 2)\n}\n"
    found = []
    for spec in (together, apart):
        result = moedsl.pipeline.compile(Source(spec, "tiny.moe"))
        assert result.ok, result.diagnostics
        model = model_class(imported(result.files))()
        model.init_weights(3)
        found.append(dict(model.named_parameters()))
    one, two = found
    for layer in range(2):
        path = f"layer.{layer}.sparse.experts"
        gate, up = one[f"{path}.gate_up"].chunk(2, dim=1)
        assert torch.equal(gate, two[f"{path}.gate"])
        assert torch.equal(up, two[f"{path}.up"])
    assert torch.equal(one["head.weight"], two["head.weight"])


def test_shared_experts_that_are_one_wide_one_start_as_two():
    shared = "sparse.shared = 2 * mlp(48)"
    weights = started("tiny", shared, "init = [all = normal(scale = 1), up = orthogonal(1)]")
    path = "layer.0.sparse.shared"
    wide = weights[f"{path}.up.weight"]
    for one in wide.chunk(2):
        agree(one @ one.T, torch.eye(48), 1e-5)
    assert weights[f"{path}.down.weight"].std().item() == pytest.approx(48**-0.5, rel=0.03)


def test_a_weight_does_not_depend_on_what_else_there_is():
    said = "init = normal(0.02)"
    shallow, deep = started("tiny", said), started("tiny", said, "top2.select = top_k(1)", seed=0)
    assert all(torch.equal(shallow[name], deep[name]) for name in shallow)
    other = started("tiny", said, seed=1)
    assert not torch.equal(shallow["head.weight"], other["head.weight"])
    names = [name for name in shallow if shallow[name].ndim > 1]
    assert len({shallow[name].flatten()[0].item() for name in names}) == len(names)


def test_nothing_said_changes_nothing():
    """`standard` is what a spec without a word about starts has."""
    said, plain = (
        compiled("tiny", settings).files["model.py"].split("\n", 1)[1]
        for settings in (("init = standard",), ())
    )
    assert said == plain


def test_what_is_further_in_holds():
    spec = source("tiny").text.replace(
        "experts = 4 * swiglu(96)", "experts = 4 * swiglu(96, init = [down = zeros])"
    )
    spec = spec.replace("score  = linear", "score  = linear(init = orthogonal(0.1))")
    settings = ("init = [all = normal(0.5), down = normal(2), router = normal(3)]",)
    graph = moedsl.pipeline.check(Source(spec, "tiny.moe"), settings).graph
    found = {path: (one.form, one.value) for path, one in starts(graph).of.items()}
    assert found["layer[0].sparse.experts.down"] == ("constant", 0)
    assert found["layer[0].sparse.experts.gate"] == ("normal", 0.5)
    assert found["layer[0].sparse.router.score"] == ("orthogonal", 0.1)
    assert found["layer[1].own.q"] == ("normal", 0.5)


@pytest.mark.parametrize("said", ["normal(0)", "orthogonal(0)", "uniform(scale = 0)"])
def test_draws_of_no_size_are_zeros(said):
    graph = moedsl.pipeline.check(source("tiny"), (f"init = {said} -> equal_rows",)).graph
    assert {one.form for one in starts(graph).of.values()} == {"constant"}


def test_weights_of_every_kind_can_be_told():
    """Tables, keys, slots, autoencoders, distances, looked-up experts: `init` beside them reaches them."""
    spec = """
model all {
  vocab = 64
  width = 16
  context = 32
  tied near = relative(init = fill(1))
  norm before, middle, last = layer_norm(init = [weight = fill(2), bias = fill(3)])
  attention own {
    heads = 2
    mask = causal
    sinks = false
    scores = dot + near
    init = [o = fill(4)]
  }
  router halves {
    score = linear(16) -> product_keys(init = fill(5))
    select = top_k(2)
    weigh = score -> softmax
  }
  router slots {
    score = cosine(scale = learned, init = [weight = fill(6), scale = fill(7)])
    select = soft(slots = 1, over = prefix)
  }
  moe many { router = halves
    experts = 16 * mlp(1, init = [up = fill(8), down = fill(9)]) }
  moe few { router = slots
    experts = 2 * (layer_norm(init = fill(10)) -> mlp(8)) }
  block layer {
    x += own(before(x))
    x += many(middle(x)) -> scale(learned, per = channel, init = fill(11))
    x += few(x) -> shift(init = fill(12))
  }
  embedding embed = embedding(vocab, init = fill(13))
  linear head = linear(vocab, bias = true, init = [bias = fill(14)])
  input tokens = ids(vocab)
  output logits = tokens -> embed -> position(learned, init = fill(15)) -> 2 * layer -> last -> head
}
"""
    result = moedsl.pipeline.compile(Source(spec, "all.moe"))
    assert result.ok, [(d.code, d.message) for d in result.diagnostics]
    model = model_class(imported(result.files))()
    model.init_weights(0)
    found: dict[float, set[str]] = {}
    for name, weight in model.named_parameters():
        if weight.unique().numel() == 1:
            found.setdefault(weight.flatten()[0].item(), set()).add(re.sub(r"\.\d", "", name))
    assert {value for value in found if value > 0} == set(map(float, range(1, 16)))
    assert found[4] == {"layer.own.o.weight"}
    assert found[10] == {"layer.few.experts.layer_norm"}


# --- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "code", "help"),
    [
        ("init = alik", "E0201", "alike"),
        ("init = rms", "E0211", ""),
        ("init = 0.02", "E0210", ""),
        ("init = [zeros]", "E0210", "`all`"),
        ("init = [down = zeros, down = zeros]", "E0210", ""),
        ("init = phase(train = zeros, eval = zeros)", "E0210", ""),
        ("init = normal", "E0235", "normal(0.02)"),
        ("init = normal(0.02, fan = out)", "E0235", "scale = 1"),
        ("init = uniform(0.1, scale = 1)", "E0235", ""),
        ("init = normal(-1)", "E0206", ""),
        ("init = truncated(1, cut = 0)", "E0206", ""),
        ("init = alike -> normal(1)", "E0236", ""),
        ("init = [rooter = zeros]", "E0237", "router"),
        ("before_ffn.init = [bias = zeros]", "E0237", "path"),
        ("init = [last = orthogonal]", "E0333", "zeros"),
        ("init = [last = normal(scale = 1)]", "E0333", "normal(0.02)"),
        ("init = [o = alike]", "E0333", "experts"),
        ("init = [embed = by_depth]", "E0333", "branches"),
        ("own.q = linear -> rope(init = zeros)", "E0202", ""),
    ],
)
def test_what_is_refused(said, code, help):
    found = moedsl.pipeline.check(source("tiny"), (said,)).diagnostics
    assert [d.code for d in found] == [code]
    assert help in found[0].help


# --- published models ------------------------------------------------------------------------------------------


PUBLISHED = {
    "noisy_top_k": {"layer[0].sparse.router.score.linear": 0, "layer[0].sparse.router.score.std": 0},
    "base_layers": {"extra[6].base.router.score": 0.1, "extra[6].base.experts.mlp.down": 0},
    "switch_base": {
        "encode[1].feed_forward.experts.up": (0.1 / 768) ** 0.5,
        "encode[1].feed_forward.experts.down": (0.1 / 3072) ** 0.5,
        "decode[0].cross.q": (0.1 / 768 / 64) ** 0.5,
        "encode[1].feed_forward.router.score": 0.02,
        "embed": 1,
    },
    "remoe": {"layer[0].sparse.experts.down": 0.01 / (2 * 12) ** 0.5, "layer[0].own.o": 0.01 / 24**0.5},
    "vmoe_b32": {
        "layer[9].feed_forward.experts.up.weight": (3 / ((768 + 3072) / 2)) ** 0.5,
        "layer[9].feed_forward.router.score": 768**-0.5 / 0.87962566103423978,
        "head.weight": 0,
        "head.bias": -10,
        "prepend": 0,
    },
    "moeut_small": {
        "one[0].sparse.experts.down": (2 / 18) ** 0.5 / (387 * 128) ** 0.5,
        "two[1].switched.o.experts.linear": (2 / 18) ** 0.5 / (4 * 128) ** 0.5,
        "one[0].sparse.router.score": (2 / 18) ** 0.5 / 1024**0.5,
        "head.bias": 1024**-0.5,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_starts(name):
    found = starts(moedsl.pipeline.check(source(name)).graph).of
    assert {path: found[path].value for path in PUBLISHED[name]} == pytest.approx(PUBLISHED[name])
    experts = [one for path, one in found.items() if ".experts." in path]
    assert all(one.alike == (name == "vmoe_b32") for one in experts)
    assert any(one.equal_rows for one in found.values()) == (name == "moeut_small")


def test_amounts_are_what_they_say():
    """The printed number and the one that the compiler counts with."""
    for name in PUBLISHED:
        for one in starts(moedsl.pipeline.check(source(name)).graph).of.values():
            assert eval(one.amount, {"__builtins__": {}}) == pytest.approx(one.value)
            assert math.isfinite(one.value)
