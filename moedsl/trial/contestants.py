"""From specs to models that can be trained side by side."""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

from moedsl.diagnostics.model import Sink
from moedsl.frozen import frozen
from moedsl.model import terms
from moedsl.pipeline import Result
from moedsl.source import Source
from moedsl.trial.data import VOCABULARY

TRAINING_BYTES = 16  # of one parameter: weight, gradient and AdamW's two moments in float32


class Unfit(Exception):
    """A spec that cannot be tried; the message says why and what to change."""


@frozen
class Contestant:
    """A compiled model: its package in memory, and what the compiler knows of it. `flops`: of training, for a token."""

    name: str
    what: str
    total: int
    active: int
    package: ModuleType
    flops: int = 0

    def make(self, seed: int) -> Any:
        from moedsl.load import model_class

        model: Any = model_class(self.package)()
        model.init_weights(seed=seed)
        return model


def contestant(result: Result, length: int = 1) -> Contestant:
    """`result` is a compilation without errors; `length`: of the sequences that it will be trained on."""
    from moedsl.ir.info import info_table
    from moedsl.load import load_package

    info = info_table(result.graph, length)
    _check_fit(result.model, info.total.total)
    banks = sorted(
        {(r.experts, r.picks) for row in info.rows for r in (row, *row.parts) if r.experts}
    )
    what = (
        ", ".join(f"{experts} experts, {picks:g} for each token" for experts, picks in banks)
        or "dense"
    )
    package = load_package(result.files, result.model.name)
    counts = info.total
    return Contestant(
        result.model.name, what, counts.total, counts.active, package, counts.training_flops
    )


def _check_fit(model: terms.Model, parameters: int) -> None:
    vocab = model.setting("vocab")
    if not isinstance(vocab, terms.Number) or vocab.value < VOCABULARY:
        raise Unfit(
            f"{model.name} is tried on bytes, which need a vocabulary of {VOCABULARY}: add --set vocab=256"
        )
    if len(model.inputs) != 1 or model.inputs[0].recipe.construct != "ids":
        raise Unfit(f"{model.name} takes more than token ids, and a trial has nothing but text")
    needed, there = parameters * TRAINING_BYTES, _memory()
    if needed > there / 2:
        raise Unfit(
            f"training {model.name} takes {needed / 2**30:,.0f} GiB and this machine has {there / 2**30:,.0f}: "
            "make it smaller, as in --set width=128 --set depth=4"
        )


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def dense_result(source: Source, result: Result, settings: tuple[str, ...]) -> Result:
    """The dense model of equal active size, compiled."""
    from moedsl.backend.plan import plan_package
    from moedsl.backend.render import render
    from moedsl.ir.lower import lower
    from moedsl.rewrites import rewrite
    from moedsl.trial.dense import dense_twin

    sink = Sink()
    model = dense_twin(result.model, result.graph)
    graph = lower(model, sink)
    assert graph is not None and not sink.has_errors, sink.found
    plan = plan_package(rewrite(graph), source, settings)
    return Result(result.tree, model, graph, plan, render(plan), sink.sorted())
