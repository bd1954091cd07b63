"""Images as streams. Oracle: transformers' ViT with every parameter randomised."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import moedsl.pipeline  # noqa: E402
from moedsl.checks.causality import causality  # noqa: E402
from moedsl.ir.cost import cost  # noqa: E402
from moedsl.source import Source  # noqa: E402
from tests.agree import agree  # noqa: E402
from tests.packages import compiled, imported, model_class, package  # noqa: E402

SMALL = (
    "width=32",
    "depth=2",
    "own.heads=4",
    "dense=mlp(48, activation = gelu, bias = true)",
    "image=pixels(3, 24, 40)",
    "patch=patches(8)",
    "head=linear(7, bias = true)",
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """transformers' model and ours, with the weights of its file."""
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=(24, 40),
        patch_size=8,
        num_labels=7,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    theirs = transformers.ViTForImageClassification(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("vit")
    theirs.save_pretrained(folder)
    module = package("vit_b32", SMALL)
    ours = model_class(module)()
    module.load_checkpoint(ours, folder)
    return theirs, module, ours.eval()


def images(batch=3):
    return torch.randn(batch, 3, 24, 40, generator=torch.Generator().manual_seed(1))


def test_logits(pair):
    theirs, _, ours = pair
    with torch.no_grad():
        expected, actual = theirs(images()).logits, ours(images()).logits
    assert expected.std() > 0.3
    agree(actual, expected, 1e-5, "vit_b32")


def test_every_gradient(pair, tmp_path):
    theirs, module, ours = copy.deepcopy(pair[0]), *pair[1:]
    label = torch.tensor([1, 5, 2])
    for model in (theirs, ours):
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(images()).logits, label).backward()
    twin = model_class(module)()
    with torch.no_grad():
        for own, source in zip(twin.parameters(), ours.parameters(), strict=True):
            own.copy_(source.grad)
    module.save_checkpoint(twin, tmp_path / "ours")
    for parameter in theirs.parameters():
        parameter.data = parameter.grad.clone()
    theirs.save_pretrained(tmp_path / "theirs")
    import safetensors.torch

    actual, expected = (
        safetensors.torch.load_file(next((tmp_path / who).glob("*.safetensors")))
        for who in ("ours", "theirs")
    )
    assert set(actual) == set(expected)
    largest = max(p.norm() for p in expected.values())
    for name, gradient in expected.items():
        if name.endswith("key.bias"):  # moves all scores of a query alike: zero but for rounding
            assert max(gradient.norm(), actual[name].norm()) < 1e-6 * largest
            continue
        agree(actual[name], gradient, 1e-5, "vit_b32", of="gradients")


def test_writes_a_file_that_transformers_loads(pair, tmp_path):
    theirs, module, ours = pair
    module.save_checkpoint(ours, tmp_path)
    theirs.config.save_pretrained(tmp_path)
    again, report = type(theirs).from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    with torch.no_grad():
        torch.testing.assert_close(again(images()).logits, theirs(images()).logits)


def test_compiles_whole(pair):
    _, _, ours = pair
    whole = torch.compile(ours, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(whole(images()).logits, ours(images()).logits)


def test_counts_what_torch_counts(pair):
    """Per patch; what is pooled is divided among them. torch does not count the fused attention of a CPU."""
    from torch.utils.flop_counter import FlopCounterMode

    _, _, ours = pair
    graph = compiled("vit_b32", SMALL).graph
    assert cost(graph).total.total == sum(p.numel() for p in ours.parameters())
    patches, positions, layers, width = 15, 16, 2, 32
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        ours(images(1))
    attention = layers * positions**2 * 4 * width
    expected = counter.get_total_flops() + attention
    assert abs(expected - patches * cost(graph).total.flops) < 20 * patches, (
        "rounded for each place"
    )


def test_takes_an_image_and_nothing_else():
    result = compiled("vit_b32", SMALL)
    assert "def forward(self, image_BCHW: Tensor) -> Output:" in result.files["model.py"]
    assert "generation.py" not in result.files and "Cache" not in result.files["state.py"]
    assert str(causality(result.graph)) == "nothing to decode"


def codes(text):
    return [d.code for d in moedsl.pipeline.check(Source(text, "t.moe")).diagnostics]


MODEL = """
model m {{
  width = 16
  attention own {{ heads = 2
    mask = {mask}
    q = {q} }}
  block layer {{ x += own(x) }}
  input image = pixels(3, 16, 16)
  output logits = image -> {first} -> layer -> {last} -> linear(5)
}}
"""


def spec(mask="none", q="linear", first="patches(4)", last="pool(mean)"):
    return MODEL.format(mask=mask, q=q, first=first, last=last)


def test_what_images_cannot():
    assert codes(spec()) == []
    assert codes(spec(mask="causal")) == ["E0350"]
    assert codes(spec(q="linear -> rope()")) == ["E0350"]
    assert codes(spec(first="patches(5)")) == ["E0351"]
    assert codes(spec(first="patches(4) -> patches(2)")) == ["E0351"]
    assert codes(spec(last="pool(mean) -> pool(mean)")) == ["E0316"]


@pytest.mark.parametrize("how", ("mean", "first"))
def test_pooling_patches(how):
    text = spec(last=f"pool({how})")
    model = model_class(imported(moedsl.pipeline.compile(Source(text, "t.moe")).files))()
    model.init_weights()
    seen = []
    model.layer[0].register_forward_hook(lambda *call: seen.append(call[-1]))
    logits = model(torch.randn(2, 3, 16, 16)).logits
    pooled = seen[0].mean(1) if how == "mean" else seen[0][:, 0]
    torch.testing.assert_close(logits, pooled @ model.linear.weight.T)


TEXT = """
model m {{
  vocab = 40
  width = 16
  context = 12
  attention own {{ heads = 2
    mask = none }}
  block layer {{ x += own(x) }}
  input tokens = ids(vocab)
  output logits = tokens -> embed -> position(learned) -> layer -> pool({how}) -> linear(5)
}}
"""


@pytest.mark.parametrize("how", ("mean", "first"))
def test_padding_has_no_part_in_a_pooled_text(how):
    """Learned positions and pooling: a padded batch gives what its sequences give by themselves."""
    files = moedsl.pipeline.compile(Source(TEXT.format(how=how), "t.moe")).files
    model = model_class(imported(files))()
    model.init_weights()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
    tokens = torch.randint(40, (2, 9), generator=torch.Generator().manual_seed(0))
    for left in (True, False):
        mask = torch.ones(2, 9, dtype=torch.bool)
        mask[1, slice(0, 4) if left else slice(5, 9)] = False
        alone = model(tokens[1:][mask[1:]][None]).logits
        torch.testing.assert_close(model(tokens, mask).logits[1:], alone)
    assert (model(tokens).logits[1:] - alone).abs().max() > 1e-3, "the mask must matter here"


def test_positions_of_a_language_model_go_on_with_the_cache():
    text = TEXT.format(how="mean").replace("mask = none", "mask = causal")
    text = text.replace("pool(mean) -> linear(5)", "head")
    module = imported(moedsl.pipeline.compile(Source(text, "t.moe")).files)
    model = model_class(module)()
    model.init_weights()
    tokens = torch.randint(40, (2, 9), generator=torch.Generator().manual_seed(0))
    cache = module.Cache()
    with torch.no_grad():
        parts = [model(tokens[:, a:b], cache=cache).logits for a, b in ((0, 4), (4, 5), (5, 9))]
        torch.testing.assert_close(torch.cat(parts, 1), model(tokens).logits)


def test_positions_want_a_context():
    assert codes(TEXT.format(how="mean").replace("context = 12", "")) == ["E0352"]


def test_counting_does_not_depend_on_how_many_images():
    graph = compiled("vit_b32", SMALL).graph
    assert cost(graph, tokens=1).total.flops == cost(graph, tokens=4096).total.flops
