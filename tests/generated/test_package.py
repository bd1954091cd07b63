"""What a generated package promises beyond parity: compile, autocast, meta, checkpointing, determinism, causality."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from tests.packages import SPECS, compiled, model_class, package  # noqa: E402

TINY = ("tiny", "tiny_shared", "tiny_shared_decision", "tiny_pyramid", "tiny_alternating")
each_tiny = pytest.mark.parametrize("name", TINY)


def made(name):
    module = package(name)
    model = model_class(module)()
    model.init_weights(seed=0)
    return module, model


def tokens(batch=2, length=21, seed=0):
    return torch.randint(0, 256, (batch, length), generator=torch.Generator().manual_seed(seed))


def total(output, ids):
    loss = torch.nn.functional.cross_entropy(
        output.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
    )
    return loss + sum(output.losses.values())


@each_tiny
def test_forward_and_backward(name):
    _, model = made(name)
    ids = tokens()
    output = model(ids)
    assert output.logits.shape == (2, 21, 256)
    assert output.losses and all(v.ndim == 0 and v.isfinite() for v in output.losses.values())
    total(output, ids).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().sum() > 0, f"{key} does not learn"


@each_tiny
def test_the_future_moves_nothing(name):
    """Perturb a token: nothing before it moves."""
    _, model = made(name)
    model.eval()
    ids = tokens()
    other = ids.clone()
    other[:, 12] = (other[:, 12] + 7) % 256
    with torch.no_grad():
        a, b = model(ids).logits, model(other).logits
    torch.testing.assert_close(a[:, :12], b[:, :12], rtol=0, atol=1e-6)
    assert (a[:, 12:] - b[:, 12:]).abs().max() > 1e-4


@each_tiny
def test_padding_moves_nothing(name):
    """A left-padded row gives what it gives alone, losses included."""
    _, model = made(name)
    model.eval()
    ids = tokens(1, 13)
    padded = torch.cat([torch.full((1, 5), 3), ids], 1)
    mask = torch.cat([torch.zeros(1, 5, dtype=torch.bool), torch.ones(1, 13, dtype=torch.bool)], 1)
    with torch.no_grad():
        alone, beside = model(ids), model(padded, mask)
    torch.testing.assert_close(beside.logits[:, 5:], alone.logits, rtol=1e-4, atol=1e-5)
    for key, value in alone.losses.items():
        torch.testing.assert_close(beside.losses[key], value, rtol=1e-4, atol=1e-6)


@each_tiny
def test_compiles_whole(name):
    _, model = made(name)
    ids = tokens()
    total(model(ids), ids).backward()
    expected = {k: p.grad.clone() for k, p in model.named_parameters()}
    model.zero_grad()
    torch.compiler.reset()
    fast = torch.compile(model, fullgraph=True, backend="aot_eager")
    total(fast(ids), ids).backward()
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[key], rtol=1e-4, atol=1e-6, msg=key)


@each_tiny
def test_activation_checkpointing_changes_nothing(name):
    _, model = made(name)
    ids = tokens()
    total(model(ids), ids).backward()
    expected = {k: p.grad.clone() for k, p in model.named_parameters()}
    model.zero_grad()
    model.checkpoint_layers = True
    total(model(ids), ids).backward()
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[key], msg=key)


@each_tiny
def test_autocast(name):
    _, model = made(name)
    ids = tokens()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(ids)
        total(output, ids).backward()
    with torch.no_grad():
        exact = model(ids).logits
    assert (output.logits.float() - exact).norm() / exact.norm() < 0.05


@each_tiny
def test_meta_device(name, tmp_path):
    module, model = made(name)
    with torch.device("meta"):
        empty = model_class(module)()
    assert all(p.is_meta for p in empty.parameters())
    module.save_checkpoint(model, tmp_path)
    module.load_checkpoint(empty, tmp_path)
    with torch.no_grad():
        assert torch.equal(empty(tokens()).logits, model(tokens()).logits)


@each_tiny
def test_initialisation_follows_the_seed(name):
    module = package(name)
    one, same, other = (model_class(module)() for _ in range(3))
    one.init_weights(seed=3)
    same.init_weights(seed=3)
    other.init_weights(seed=4)
    for (key, a), b, c in zip(
        one.named_parameters(), same.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(a, b), key
        if a.std() > 0:
            assert not torch.equal(a, c), key


@each_tiny
def test_sampling_follows_the_seed(name):
    module, model = made(name)
    prompt = tokens(2, 5)
    draw = lambda seed: module.generate(model, prompt, 12, temperature=1.0, top_p=0.9, seed=seed)  # noqa: E731
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


@pytest.mark.parametrize("name", sorted(p.stem for p in SPECS.glob("*.moe")))
def test_parameters_are_those_that_the_compiler_counts(name):
    from moedsl.ir.cost import cost

    result = compiled(name)
    with torch.device("meta"):
        model = model_class(package(name))()
    assert sum(p.numel() for p in model.parameters()) == cost(result.graph).total.total


@pytest.mark.parametrize("name", sorted(p.stem for p in SPECS.glob("*.moe")))
def test_same_text_same_bytes(name):
    assert compiled(name).files == compiled(name).files
    for path, text in compiled(name).files.items():
        assert text.isascii() and "moedsl" not in "".join(
            line for line in text.splitlines() if line.lstrip().startswith(("import", "from"))
        ), path
