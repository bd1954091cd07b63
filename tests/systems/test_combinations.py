"""Any two constructs that make sense together combine: models drawn at random from all parts, each compiled, run forward
and backward, and held to what the compiler proved of it. MOEDSL_COMBINATIONS sets how many (500; thousands on demand).

A failure names its seed: `python -c "from tests.systems.combinations import drawn; print(drawn(17).text)"`.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import moedsl.pipeline
from moedsl.checks.causality import causality
from moedsl.ir.info import info_table
from moedsl.source import Source
from tests import packages
from tests.systems.combinations import VOCAB, drawn

TOTAL = int(os.environ.get("MOEDSL_COMBINATIONS", "500"))
CHUNK = 10
BATCH, TOKENS, CHANGED = 2, 13, 7  # tokens from CHANGED on are others in the second run


@pytest.mark.parametrize("start", range(0, TOTAL, CHUNK))
def test_combinations(start: int) -> None:
    for seed in range(start, min(start + CHUNK, TOTAL)):
        try:
            holds(seed)
        except Exception as problem:
            problem.add_note(f"seed {seed}:\n{drawn(seed).text}")
            raise


def holds(seed: int) -> None:
    model_drawn = drawn(seed)
    result = moedsl.pipeline.compile(Source(model_drawn.text, "drawn.moe"))
    assert result.ok, [f"{d.code} {d.message}" for d in result.diagnostics if d.severity == "error"]
    module = packages.imported(result.files)
    try:
        model = packages.model_class(module)()
        begins(model, seed)
        start(model, seed)
        counted(model, result.graph)
        routing = learns(model, seed, {d.code for d in result.diagnostics})
        assert routing or "whole" in model_drawn.tags
        if model_drawn.causal:
            verdict = causality(result.graph).kind
            assert verdict in ("causal", "decodes")
            # Where a rule takes the place of what looks ahead, it acts with a cache.
            run = Run(model.eval(), module if verdict == "decodes" else None)
            looks_back(run, seed, slice(-1, None) if "batch" in model_drawn.tags else slice(None))
            if "batch" not in model_drawn.tags:
                ignores_padding(run, seed)
                if "whole" not in model_drawn.tags:
                    goes_on(run, module, seed)
    finally:
        forget(module)


class Run:
    """A whole sequence at once; with `module` through a cache, as decoding begins."""

    def __init__(self, model: torch.nn.Module, module: ModuleType | None) -> None:
        self.model, self.module = model, module

    def __call__(self, ids: torch.Tensor, **more: Any) -> Any:
        if self.module is not None:
            more["cache"] = self.module.Cache()
        return self.model(ids, **more)


def begins(model: torch.nn.Module, seed: int) -> None:
    """Every weight has a start, the same for equal seeds."""
    first = []
    for _ in range(2):
        for weight in model.parameters():
            weight.data.fill_(torch.nan)
        model.init_weights(seed)
        first.append([weight.detach().clone() for weight in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*first, strict=True))
    assert all(weight.isfinite().all() for weight in first[0])


def start(model: torch.nn.Module, seed: int) -> None:
    """Weights far enough from zero that every path matters, norms and biases too."""
    torch.manual_seed(seed)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)


def tokens(seed: int, rows: int = BATCH, length: int = TOKENS) -> torch.Tensor:
    return torch.randint(0, VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


def counted(model: torch.nn.Module, graph: object) -> None:
    """What the compiler counts is what the module has."""
    total = info_table(graph).total  # type: ignore[arg-type]
    assert total.total == sum(weight.numel() for weight in model.parameters())
    assert 0 < total.active <= total.total
    assert total.trainable == total.total


def learns(model: torch.nn.Module, seed: int, warned: set[str]) -> bool:
    """Values and gradients are finite and everywhere; whether anything was routed."""
    output = model.train()(tokens(seed))
    assert output.logits.isfinite().all()
    assert all(loss.isfinite() and loss.ndim == 0 for loss in output.losses.values())
    (output.logits.square().mean() + sum(output.losses.values())).backward()
    missing = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert not missing or "W1001" in warned, missing
    for name, weight in model.named_parameters():
        assert weight.grad is None or weight.grad.isfinite().all(), name
    model.zero_grad()
    return bool(output.routing)


@torch.no_grad()
def looks_back(run: Run, seed: int, rows: slice) -> None:
    """Others from one token on: nothing before it moves, and something from it on does. Where sequences share room for
    experts those before come first, so only the last one is changed."""
    one = tokens(seed)
    other = one.clone()
    other[rows, CHANGED:] = (one[rows, CHANGED:] + 1) % VOCAB
    before, after = run(one).logits, run(other).logits
    torch.testing.assert_close(before[:, :CHANGED], after[:, :CHANGED], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before[rows, CHANGED:], after[rows, CHANGED:], atol=1e-5)


@torch.no_grad()
def goes_on(run: Run, module: ModuleType, seed: int) -> None:
    """Step by step with a cache gives what the whole sequence gives."""
    ids, cache = tokens(seed), module.Cache()
    whole = run(ids).logits
    steps = [run.model(ids[:, :5], cache=cache).logits]
    steps += [run.model(ids[:, i : i + 1], cache=cache).logits for i in range(5, TOKENS)]
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def ignores_padding(run: Run, seed: int) -> None:
    """Padding on the left and losses over real tokens only: as if each sequence stood alone."""
    ids = tokens(seed, rows=1)
    padded = torch.cat([torch.zeros(1, 3, dtype=ids.dtype), ids], 1)
    mask = torch.arange(TOKENS + 3).unsqueeze(0) >= 3
    alone, among = run(ids), run(padded, mask=mask)
    torch.testing.assert_close(among.logits[:, 3:], alone.logits, rtol=1e-3, atol=1e-4)
    for name, loss in alone.losses.items():
        torch.testing.assert_close(among.losses[name], loss, rtol=1e-3, atol=1e-6)


def forget(module: ModuleType) -> None:
    """Five hundred packages in one process would add up."""
    folder = Path(module.__file__ or "").parent
    for name in [n for n in sys.modules if n.split(".")[0] == module.__name__]:
        del sys.modules[name]
    shutil.rmtree(folder.parent, ignore_errors=True)
