"""Printed models as one graph: traced, compiled by inductor, captured by CUDA."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from printed_models import BATCH, TOKENS, Printed, Ran, compare, relative


@torch.no_grad()
def captured(printed: Printed) -> dict:
    """The forward as a CUDA graph, replayed on other inputs."""
    if not printed.whole_groups():
        return {"left_out": "odd widths"}
    model = printed.model(torch.bfloat16, printed.device).eval()
    given = printed.batch(torch.bfloat16, printed.device, 0)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            model(**given)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = model(**given).logits
    for name, value in printed.batch(torch.bfloat16, printed.device, 1).items():
        given[name].copy_(value)
    graph.replay()
    expected = model(**given).logits
    error = relative(logits.double(), expected.double())
    assert error < 1e-2, f"replayed {error:.3g} off"
    return {"error": error}


def traced(printed: Printed) -> dict:
    """The whole model is one graph for all lengths."""
    found: dict[str, Any] = {"error": 0.0, "gradient": 0.0}
    lengths = ((BATCH, TOKENS), (3, 21)) if printed.can_pad() else ((BATCH, TOKENS),)
    compiled_as(printed, found, lengths, backend="eager", dynamic=True)
    return found


def inductor(printed: Printed, dynamic: bool = False) -> dict:
    """Compiled by inductor: values and gradients as without."""
    found: dict[str, Any] = {"error": 0.0, "gradient": 0.0}
    lengths = ((BATCH, TOKENS), (3, 21)) if dynamic else ((BATCH, TOKENS),)
    compiled_as(printed, found, lengths, dynamic=dynamic or None)
    if not dynamic:
        with torch.autocast(printed.device, torch.bfloat16):
            compiled_as(printed, {"error": 0.0, "gradient": 0.0}, lengths, backend="eager")
    return found


def compiled_as(printed: Printed, found: dict, shapes: Iterable, **how: Any) -> None:
    torch._dynamo.reset()
    model = printed.model(torch.float32, printed.device).eval()
    compiled = torch.compile(model, fullgraph=True, **how)
    for shape in shapes:
        given = printed.batch(torch.float32, printed.device, 0, shape=shape)
        runs = []
        for call in (model, compiled):
            model.zero_grad()
            runs.append(Ran(model, given, call))
        compare(runs[1], runs[0], found, f"{how}")


WHOLE: dict[str, Callable[[Printed], dict]] = {
    "traced": traced,
    "inductor": inductor,
    "inductor_dynamic": lambda printed: inductor(printed, dynamic=True),
}
