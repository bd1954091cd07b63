"""Roles changed from their defaults, and parameters of recipes given by `with`."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402

from tests.generated import variants  # noqa: E402

DENSE = ("x += sparse(before_ffn(x))", "let h = before_ffn(x)\n    x += dense(h) + sparse(h)")


def dense(changes: str):
    declared = ("  block layer", f"  ffn dense = swiglu(32) {{ {changes} }}\n  block layer")
    _, model = variants.made(DENSE, declared)
    return model.layer[0].dense


def test_hidden_is_scaled():
    ffn = dense("hidden ->= scale(learned, per = channel)")
    x = torch.randn(3, 64, dtype=torch.float64, requires_grad=True)
    hidden = F.silu(x @ ffn.gate.weight.T) * (x @ ffn.up.weight.T) * ffn.hidden
    variants.agree(ffn, ffn(x), hidden @ ffn.down.weight.T, x)


def test_projections_get_something_beside_them():
    ffn = dense("gate, up, down += linear(8) -> linear")
    x = torch.randn(3, 64, dtype=torch.float64, requires_grad=True)
    weight = dict(ffn.named_parameters())
    names = ["linear", "linear_2", "linear_3"]

    def role(name, y):
        one, low, high = (weight[f"{name}_{n}.weight"] for n in names)
        return y @ one.T + y @ low.T @ high.T

    wanted = role("down", F.silu(role("gate", x)) * role("up", x))
    variants.agree(ffn, ffn(x), wanted, x)


def test_the_output_of_an_attention_is_scaled_at_its_projection():
    _, plain = variants.made()
    _, half = variants.made(("heads = 4", "heads = 4\n    o ->= scale(0.5)"))
    half.load_state_dict(plain.state_dict())
    x = torch.randn(2, 5, 64, dtype=torch.float64)
    rotary = (
        torch.ones(1, 5, 1, 8, dtype=torch.float64),
        torch.zeros(1, 5, 1, 8, dtype=torch.float64),
    )
    rotary = type("Rotary", (), {"cos": rotary[0], "sin": rotary[1]})
    found, wanted = (m.layer[0].own(x, rotary, None, None) for m in (half, plain))
    torch.testing.assert_close(found, 0.5 * wanted)


COUNTED = (
    ("moe sparse {", "moe sparse(count, inner = 96) {"),
    ("4 * swiglu(96)", "count * swiglu(inner)"),
)
USED = ("x += sparse(before_ffn(x))", "x += thin(before_ffn(x))")


@pytest.mark.parametrize(
    ("recipe", "shape"),
    [
        ("sparse(8) with { count = 3 }", (3, 192, 64)),
        ("sparse with { count = 3  inner = 40 }", (3, 80, 64)),
        ("sparse(8) with { inner = 40  loss = none }", (8, 80, 64)),
        ("(sparse with { count = 3 }) with { count = 5 }", (5, 192, 64)),
    ],
)
def test_parameters_are_given_by_with(recipe, shape):
    declared = ("  block layer", f"  moe thin = {recipe}\n  block layer")
    recipe = declared[1].replace("  inner", "\n inner").replace("  loss", "\n loss")
    _, model = variants.made(*COUNTED, USED, (declared[0], recipe))
    assert model.layer[0].thin.experts.gate_up.shape == shape
