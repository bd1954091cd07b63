"""specs/tiny.moe with something else written at a few places, as an imported package."""

from __future__ import annotations

from functools import cache

import torch

import moedsl.pipeline
from moedsl.source import Source
from tests.packages import SPECS, imported, model_class

Change = tuple[str, str]


def text(*changes: Change) -> str:
    found = (SPECS / "tiny.moe").read_text()
    for old, new in changes:
        assert old in found, old
        found = found.replace(old, new)
    return found


def codes(*changes: Change) -> list[str]:
    result = moedsl.pipeline.check(Source(text(*changes), "tiny.moe"))
    return [d.code for d in result.diagnostics]


@cache
def files(*changes: Change) -> dict[str, str]:
    result = moedsl.pipeline.compile(Source(text(*changes), "tiny.moe"))
    assert result.ok, [(d.code, d.message) for d in result.diagnostics]
    return result.files


def made(*changes: Change, dtype: torch.dtype = torch.float64):
    """(module, model); the model in double precision, for formulas to be compared with."""
    module = imported(files(*changes))
    model = model_class(module)()
    model.init_weights(seed=0)
    return module, model.to(dtype)


def tokens(batch: int = 2, length: int = 9) -> torch.Tensor:
    return torch.randint(0, 256, (batch, length), generator=torch.Generator().manual_seed(1))


def gradients(y: torch.Tensor, *of: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Of a sum in which every element counts differently."""
    weight = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    return torch.autograd.grad((y * weight).sum(), of)


def agree(
    model: torch.nn.Module, found: torch.Tensor, wanted: torch.Tensor, x: torch.Tensor
) -> None:
    """Equal values, and equal gradients of `x` and of every weight of the model that `found` reads."""
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)
    of = [x, *model.parameters()]
    for one, other in zip(gradients(found, *of), gradients(wanted, *of), strict=True):
        assert one.abs().sum() > 0
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-11)


def generates(module, model) -> None:
    """Decoding with the cache says what a forward without one says."""
    model.eval()
    ids = tokens()
    said = module.generate(model, ids, 5)
    with torch.no_grad():
        best = model(said).logits.argmax(-1)
    assert torch.equal(best[:, ids.shape[1] - 1 : -1], said[:, ids.shape[1] :])
