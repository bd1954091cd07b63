"""One small mixture in two layers: what the tests of routing here are written in."""

from __future__ import annotations

from textwrap import indent
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

import moedsl.pipeline
from moedsl.source import Source
from tests.packages import imported, model_class


def spec(router: str, moe: str = "experts = 6 * swiglu(8)", more: str = "") -> str:
    return (
        "model m {\n  vocab = 32\n  width = 16\n  norm before, last = rms(eps = 1e-5)\n"
        f"  router pick {{\n{indent(router, '    ')}\n  }}\n"
        f"  moe sparse {{\n    router = pick\n{indent(moe, '    ')}\n  }}\n"
        "  block layer { x += sparse(before(x)) }\n"
        "  input tokens = ids(vocab)\n"
        "  output logits = tokens -> embed -> 2 * layer -> last -> head\n"
        f"{indent(more, '  ')}\n}}\n"
    )


def built(text: str) -> ModuleType:
    result = moedsl.pipeline.compile(Source(text, "m.moe"))
    assert result.ok, "\n".join(f"{d.code} {d.message}" for d in result.diagnostics)
    return imported(result.files)


def codes(text: str) -> list[str]:
    """The codes of all findings."""
    return [d.code for d in moedsl.pipeline.check(Source(text, "m.moe")).diagnostics]


def model_of(module: ModuleType, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    """The model with every parameter drawn, wide enough that nothing is near a tie."""
    model = model_class(module)().to(dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.5, generator=generator)
    return model


def tokens(batch: int = 3, length: int = 7, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(32, (batch, length), generator=generator)


def watched(model: nn.Module, tokens_BT: Tensor, **more: Tensor) -> tuple[list[Tensor], Any]:
    """What each layer's router reads, [N, D], and the output."""
    found: list[Tensor] = []
    hooks = [
        layer.sparse.router.register_forward_hook(lambda _, inputs, __: found.append(inputs[0]))
        for layer in model.layer
    ]
    output = model(tokens_BT, **more)
    for hook in hooks:
        hook.remove()
    return found, output
