"""Switch Transformer against transformers: logits, drops, losses, every gradient, files, greedy generation.

transformers counts capacity within each sequence, as a number of slots, and padding takes some of them: the spec says
the first two by settings, and padding is compared where nobody is dropped. Its jitter also perturbs what the experts
read (it multiplies in place); the paper's perturbs the router alone, and so does the spec: noise is left out here.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from moedsl.ir.info import info_table  # noqa: E402
from tests.agree import agree  # noqa: E402
from tests.packages import compiled, model_class, package  # noqa: E402

SMALL = (
    "vocab=60",
    "width=16",
    "drop=0",
    "own.heads=2",
    "own.head_dim=6",
    "dense=mlp(24, activation = relu)",
    "sparse.experts=4 * mlp(24, activation = relu)",
    "top1.within=sequence",
)
TIGHT = "top1.capacity=slots(3)"
WIDE = "top1.capacity=slots(64)"


def reference(layers: int, capacity: int):
    config = transformers.SwitchTransformersConfig(
        vocab_size=60,
        d_model=16,
        d_kv=6,
        d_ff=24,
        num_heads=2,
        num_layers=layers,
        num_decoder_layers=layers,
        num_sparse_encoder_layers=layers // 2,
        num_sparse_decoder_layers=layers // 2,
        num_experts=4,
        expert_capacity=capacity,
        router_jitter_noise=0.0,
        dropout_rate=0.0,
        router_aux_loss_coef=1e-2,
        router_z_loss_coef=1e-3,
        attn_implementation="eager",
        decoder_start_token_id=0,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    model = transformers.SwitchTransformersForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
            else:
                small = "shared" in name or "bias" in name
                parameter.normal_(std=1.0 if small else parameter.shape[-1] ** -0.5)
    return model


def memory_of(layers: int) -> tuple[str, ...]:
    """The stacks with fewer layers."""
    n = layers // 2
    return (
        f"memory=source -> embed -> {n} * (encode(dense) -> encode(sparse)) -> last_memory",
        f"logits=tokens -> embed -> {n} * (decode(dense, memory) -> decode(sparse, memory))"
        " -> last -> scale(width, power = -0.5) -> head",
    )


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    made: dict[tuple, tuple] = {}

    def pair(layers: int = 4, capacity: int = 3):
        """(reference, our module, our model) with equal weights, loaded from the reference's own file."""
        if (layers, capacity) not in made:
            theirs = reference(layers, capacity)
            folder = tmp_path_factory.mktemp("switch")
            theirs.save_pretrained(folder)
            room = f"top1.capacity=slots({capacity})"
            module = package("switch_base", (*SMALL, room, *memory_of(layers)))
            ours = model_class(module)().eval()
            module.load_checkpoint(ours, folder)
            made[layers, capacity] = theirs, module, ours
        return made[layers, capacity]

    return pair


def batch(rows: int = 3):
    torch.manual_seed(1)
    source, tokens = torch.randint(2, 60, (rows, 17)), torch.randint(2, 60, (rows, 11))
    length = torch.tensor([17, 9, 12])[:rows, None]
    return source, tokens, torch.arange(17) < length


def their_drops(theirs, source, tokens):
    """Of each sparse layer in order, which tokens no expert serves: read from the routers' own answers."""
    found = []

    def hook(_, __, output):
        expert, _, _ = output
        found.append(expert.sum(-1).flatten() == 0)

    kind = "SwitchTransformersTop1Router"
    routers = [m for m in theirs.modules() if type(m).__name__ == kind]
    handles = [router.register_forward_hook(hook) for router in routers]
    theirs(input_ids=source, decoder_input_ids=tokens)
    for handle in handles:
        handle.remove()
    return found


def test_logits_and_decisions_with_drops(pairs):
    theirs, _, ours = pairs()
    source, tokens, _ = batch()
    with torch.no_grad():
        wanted = theirs(input_ids=source, decoder_input_ids=tokens).logits
        got = ours(source, tokens)
        drops = their_drops(theirs, source, tokens)
    assert wanted.std() > 0.3
    agree(got.logits, wanted, 1e-5, "switch_base")
    mine = [(routing.expert_NK == 4).flatten() for routing in got.routing.values()]
    assert sum(each.sum() for each in drops) > 20, "drops must happen to be compared"
    for own, other in zip(mine, drops, strict=True):
        assert torch.equal(own, other)


def test_capacity_is_counted_in_each_sequence(pairs):
    """Counted over the batch instead, other tokens are dropped."""
    theirs, _, ours = pairs()
    source, tokens, _ = batch()
    settings = (*SMALL, TIGHT, "top1.within=batch", *memory_of(4))
    other = model_class(package("switch_base", settings))().eval()
    other.load_state_dict(ours.state_dict())
    with torch.no_grad():
        wanted = theirs(input_ids=source, decoder_input_ids=tokens).logits
        assert not torch.allclose(other(source, tokens).logits, wanted, atol=1e-2)


def test_every_gradient_and_the_whole_loss(pairs, tmp_path):
    """One row and one sparse layer a stack: transformers averages its auxiliary losses over both otherwise."""
    import safetensors.torch

    theirs, module, ours = pairs(layers=2)
    source, tokens, _ = batch(1)
    labels = torch.roll(tokens, -1, 1)
    theirs.zero_grad()
    ours.zero_grad()
    wanted = theirs(
        input_ids=source, decoder_input_ids=tokens, labels=labels, output_router_logits=True
    )
    got = ours(source, tokens)
    loss = torch.nn.functional.cross_entropy(got.logits.flatten(0, 1), labels.flatten())
    whole = loss + sum(got.losses.values())
    agree(whole, wanted.loss, 1e-5, "switch_base")
    aux = 1e-2 * (wanted.encoder_aux_loss + wanted.decoder_aux_loss)
    torch.testing.assert_close(got.losses["sparse.balance"], aux, rtol=1e-5, atol=0)
    z = 1e-3 * (wanted.encoder_z_loss + wanted.decoder_z_loss)
    torch.testing.assert_close(got.losses["sparse.z"], z, rtol=1e-5, atol=0)
    whole.backward()
    wanted.loss.backward()
    twin = model_class(module)()
    with torch.no_grad():
        pairs_ = zip(twin.named_parameters(), ours.named_parameters(), strict=True)
        for (_, weight), (_, source_) in pairs_:
            weight.copy_(source_.grad)
    module.save_checkpoint(twin, tmp_path)
    gradients = safetensors.torch.load_file(next(tmp_path.glob("*.safetensors")))
    named = dict(theirs.named_parameters())
    assert gradients.keys() == named.keys()
    others = [named[name].grad for name in gradients]
    agree(list(gradients.values()), others, 1e-4, "switch_base", of="gradients")


@pytest.mark.parametrize("left", (False, True), ids=("right", "left"))
def test_padding(pairs, left):
    theirs, _, ours = pairs(capacity=64)
    source, tokens, mask = batch()
    mask = mask.flip(1) if left else mask
    with torch.no_grad():
        wanted = theirs(
            input_ids=source, attention_mask=mask.long(), decoder_input_ids=tokens
        ).logits
        got = ours(source, tokens, source_mask=mask)
        bare = ours(source, tokens).logits
    torch.testing.assert_close(got.logits, wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(bare, wanted, atol=1e-2)
    assert got.routing["encode.1.feed_forward"].tokens_S == mask.sum()


def test_padding_takes_no_room(pairs):
    """Unlike there: what stands in the padding changes nothing, however tight experts are."""
    _, _, ours = pairs()
    source, tokens, mask = batch()
    mask = mask.flip(1)
    with torch.no_grad():
        one = ours(source, tokens, source_mask=mask).logits
        other = ours(source.where(mask, 61 - source), tokens, source_mask=mask).logits
    torch.testing.assert_close(one, other)


def test_greedy_generation(pairs):
    theirs, module, ours = pairs(capacity=64)
    source, _, mask = batch()
    start = torch.zeros(3, 1, dtype=torch.int64)
    wanted = theirs.generate(
        input_ids=source, attention_mask=mask.long(), max_new_tokens=9, do_sample=False
    )
    got = module.generate(ours, source, start, 9, source_mask=mask)
    assert torch.equal(got, wanted)


def test_the_head_reads_a_smaller_stream(pairs):
    """Where it is the embedding, by the root of the width; left as it is, logits differ."""
    theirs, _, ours = pairs()
    source, tokens, _ = batch()
    plain = tuple(s.replace(" -> scale(width, power = -0.5)", "") for s in memory_of(4))
    other = model_class(package("switch_base", (*SMALL, TIGHT, *plain)))().eval()
    other.load_state_dict(ours.state_dict())
    with torch.no_grad():
        wanted = theirs(input_ids=source, decoder_input_ids=tokens).logits
        got = other(source, tokens).logits
    torch.testing.assert_close(got / 4, wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(got, wanted, atol=1e-1)


def test_published_sizes():
    """google/switch-base-8: every parameter, counted on both sides."""
    config = transformers.SwitchTransformersConfig(
        d_ff=3072,
        num_sparse_encoder_layers=6,
        num_sparse_decoder_layers=6,
    )
    with torch.device("meta"):
        theirs = transformers.SwitchTransformersForConditionalGeneration(config)
    total = sum(p.numel() for p in theirs.parameters())
    assert info_table(compiled("switch_base").graph).total.total == total


def test_the_papers_room():
    """floor(factor * tokens / experts), at least 4, in groups; none of it when decoding: nobody may be dropped late."""
    text = compiled("switch_base").files["model.py"]
    assert "share_down(size, 5, 32)" in text and "share_down(size, 1, 4)" in text


def test_training_is_noisy_and_evaluation_is_not():
    module = package("switch_base", (*SMALL[:2], *SMALL[3:], WIDE, *memory_of(2)))
    model = model_class(module)()
    model.init_weights(seed=0)
    source, tokens, _ = batch()
    assert not torch.equal(model(source, tokens).logits, model(source, tokens).logits)
    with pytest.raises(ValueError, match="eval"):
        module.generate(model, source, tokens[:, :1], 2)
    model.eval()
    assert torch.equal(model(source, tokens).logits, model(source, tokens).logits)


def test_one_graph():
    model = model_class(package("switch_base", (*SMALL, TIGHT, *memory_of(2))))().eval()
    model.init_weights(seed=0)
    source, tokens, _ = batch()
    compiled_ = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled_(source, tokens).logits, model(source, tokens).logits)
