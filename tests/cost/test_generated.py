"""Counts against the printed packages, as torch sees them run."""

from __future__ import annotations

import pytest

from moedsl.ir.cost import Sum, cost
from moedsl.pipeline import check
from tests.packages import model_class, package, source

torch = pytest.importorskip("torch")

TINY = ["tiny", "tiny_alternating", "tiny_pyramid", "tiny_shared", "tiny_shared_decision"]
TOKENS = 32


def counted(name: str, tokens: int = TOKENS) -> Sum:
    return cost(check(source(name)).graph, tokens).total


def grouped(name: str) -> dict:
    """torch counts no product of a custom operator: rows times the weight of one expert, forward and twice back."""

    def forward(x, weight, *_, **__) -> int:
        return 2 * x[0] * weight[1] * weight[2]

    def weights(rows, others, *_, **__) -> int:
        return 2 * rows[0] * rows[1] * others[1]

    formulas = {
        "grouped_linear": forward,
        "grouped_linear_dx": forward,
        "grouped_linear_dw": weights,
    }
    operators = getattr(torch.ops, package(name).__name__)
    return {getattr(operators, op): formula for op, formula in formulas.items()}


def measured(name: str, backward: bool) -> int:
    """One sequence, with attention as the products that it is made of."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    model = model_class(package(name))()
    model.init_weights(seed=0)
    tokens = torch.randint(0, 256, (1, TOKENS))
    mapping = grouped(name)
    with (
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False, custom_mapping=mapping) as counter,
    ):
        output = model(tokens)
        if backward:
            output.logits.square().mean().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", TINY)
def test_forward_is_what_torch_counts(name: str) -> None:
    assert counted(name).flops * TOKENS == measured(name, backward=False)


@pytest.mark.parametrize("name", TINY)
def test_training_is_what_torch_counts(name: str) -> None:
    assert counted(name).training_flops * TOKENS == measured(name, backward=True)


@pytest.mark.parametrize("name", TINY)
def test_parameters_are_those_of_the_module(name: str) -> None:
    model = model_class(package(name))()
    assert counted(name).total == sum(p.numel() for p in model.parameters())
    assert counted(name).trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
