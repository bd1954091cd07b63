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
from moedsl.trial.tasks import SHAPES, Continued, Pictures, Task, text_task

TRAINING_BYTES = 16  # of one parameter: weight, gradient and AdamW's two moments in float32


class Unfit(Exception):
    """A spec that cannot be tried; the message says why and what to change."""


@frozen
class Contestant:
    """A compiled model: its package in memory, and what the compiler knows of it. `flops`: of training, for a unit of its
    task. `decodes`: what looks ahead in training has a rule that takes its place with a cache."""

    name: str
    what: str
    total: int
    active: int
    package: ModuleType
    flops: int = 0
    task: Task | None = None
    decodes: bool = False

    def make(self, seed: int) -> Any:
        from moedsl.load import model_class

        model: Any = model_class(self.package)()
        model.init_weights(seed=seed)
        return model


def contestant(result: Result, length: int = 1) -> Contestant:
    """`result` is a compilation without errors; `length`: of the sequences that it will be trained on."""
    from moedsl.checks.causality import causality
    from moedsl.ir.info import info_table
    from moedsl.load import load_package

    verdict = causality(result.graph).kind
    task, times = _task(result, verdict)
    info = info_table(result.graph, length if times == 1 else times)
    _check_memory(result.model.name, info.total.total)
    banks = sorted(
        {(r.experts, r.picks) for row in info.rows for r in (row, *row.parts) if r.experts}
    )
    what = (
        ", ".join(f"{experts} experts, {picks:g} for each token" for experts, picks in banks)
        or "dense"
    )
    counts = info.total
    return Contestant(
        result.model.name,
        what,
        counts.total,
        counts.active,
        load_package(result.files, result.model.name),
        counts.training_flops * times,
        task,
        verdict == "decodes",
    )


def same_task(rivals: list[Contestant]) -> Task:
    """What all are trained on."""
    tasks = [rival.task for rival in rivals if rival.task is not None]
    if len({task.about() for task in tasks}) > 1:
        names = ", ".join(rival.name for rival in rivals)
        raise Unfit(
            f"{names} take different things (text, text in two streams, pictures of some size), so no batch is for all: "
            "try those together that take the same"
        )
    return tasks[0]


def _task(result: Result, verdict: str) -> tuple[Task, int]:
    """What its inputs ask for, and how many tokens of the model a unit of it takes."""
    name, inputs = result.model.name, result.model.inputs
    kinds = [one.recipe.construct for one in inputs]
    if kinds == ["pixels"]:
        return _pictures(result)
    if kinds not in (["ids"], ["ids", "ids"]):
        raise Unfit(
            f"{name} takes {' and '.join(kinds)}: a trial has text for one or two inputs of `ids`, and pictures for one "
            "of `pixels`"
        )
    return _text(result, len(kinds), verdict), 1


def _text(result: Result, inputs: int, verdict: str) -> Task:
    from moedsl.ir.shapes import MAIN, stream_of

    name, vocab = result.model.name, result.model.setting("vocab")
    if not isinstance(vocab, terms.Number) or vocab.value < VOCABULARY:
        raise Unfit(
            f"{name} is tried on bytes, which need a vocabulary of {VOCABULARY}: add --set vocab=256"
        )
    if verdict not in ("causal", "decodes"):
        raise Unfit(
            f"{name} is tried by what it predicts of the next byte, and "
            + ("it sees that" if verdict == "looks ahead" else "it predicts none")
        )
    text = text_task()
    if inputs == 1:
        return text
    main = [i for i, v in enumerate(result.graph.root.inputs) if stream_of(v) == MAIN]
    if len(main) != 1:
        raise Unfit(f"both inputs of {name} are of one stream, and a trial has text for one")
    return Continued(text.corpus, main[0])


def _pictures(result: Result) -> tuple[Task, int]:
    from moedsl.ir import ops
    from moedsl.ir.graph import TensorType

    name, root = result.model.name, result.graph.root
    logits = root.outputs[0].type
    classes = logits.dims[-1].size if isinstance(logits, TensorType) else None
    if not classes or len(logits.dims) != 2 or classes < len(SHAPES):
        raise Unfit(
            f"{name} is tried by which of {len(SHAPES)} shapes a picture shows, and has no logits of a picture for as "
            "many classes"
        )
    cut = [node.outputs[0].type for node in root.nodes if isinstance(node.op, ops.Patches)]
    patches = sum(type_.dims[1].size or 0 for type_ in cut)
    channels, height, width = (dim.size or 1 for dim in root.inputs[0].type.dims[1:])
    return Pictures(channels, height, width), max(1, patches)


def _check_memory(name: str, parameters: int) -> None:
    needed, there = parameters * TRAINING_BYTES, _memory()
    if needed > there / 2:
        raise Unfit(
            f"training {name} takes {needed / 2**30:,.0f} GiB and this machine has {there / 2**30:,.0f}: "
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
