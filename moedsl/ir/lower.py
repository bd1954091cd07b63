"""From a resolved model to its graph."""

from __future__ import annotations

from moedsl.constructs.inputs import Input
from moedsl.constructs.registry import construct_of
from moedsl.diagnostics.model import Sink
from moedsl.ir import before
from moedsl.ir.build import Builder
from moedsl.ir.depth_losses import add_depth_losses
from moedsl.ir.graph import Graph, Unit, Value
from moedsl.ir.losses import Sites, add_losses
from moedsl.ir.shapes import MAIN, STREAMS
from moedsl.ir.thread import thread
from moedsl.model import terms


def lower(model: terms.Model, sink: Sink) -> Graph | None:
    """Never raises on a user's mistake: what is wrong is reported, and poisoned in the graph. None where an error has
    left nothing to compute from."""
    if not model.inputs:
        return None
    build = Builder(model, sink)
    root = Unit(model.name, "model", doc=model.doc, span=model.span)
    inputs = _inputs(build, model)
    with build.units.opened(root, inputs):
        build.run(model.lets, [output.value for output in model.outputs])
        root.outputs = [_output(build, output) for output in model.outputs]
    before.check_met(build)
    units = build.units.done
    thread(units)
    sites = Sites()
    add_losses(root, build, sites)
    add_depth_losses(root, sites)
    return Graph(model.name, units, model)


def _inputs(build: Builder, model: terms.Model) -> list[tuple[str, Value]]:
    """Each input by its name. The main stream is the one that an output is made from; others have letters of their own."""
    found: list[tuple[str, Value]] = []
    made = [(one, construct_of(one.recipe)) for one in model.inputs]
    streams = [one for one, construct in made if getattr(construct, "sequence", False)]
    main = _leading(model)
    ordered = sorted(streams, key=lambda one: one.name != main)
    axes = dict(zip((one.name for one in ordered), STREAMS, strict=False))
    for one in ordered[len(STREAMS) :]:
        build.sink.error(
            "E0208",
            f"a model with {len(ordered)} streams of tokens is more than this compiler takes",
            one.span,
            f"it takes {len(STREAMS)}",
        )
    for one, construct in made:
        assert isinstance(construct, Input)
        type_ = construct.tensor(build, axes.get(one.name, MAIN))
        found.append((one.name, Value(one.name, type_, one.span)))
    return found


def _leading(model: terms.Model) -> str:
    """The input that the first output begins with: `tokens -> embed -> ...`."""
    lets = {let.name: let.value for let in model.lets}
    term = model.outputs[0].value
    while True:
        match term:
            case terms.Apply(inputs=inputs):
                term = inputs[0]
            case terms.Arithmetic(left=left, right=right):
                term = right if isinstance(left, terms.Number) else left
            case terms.Tensor(name) if name in lets:
                term = lets[name]
            case terms.Tensor(name):
                return name
            case _:
                return ""


def _output(build: Builder, output: terms.Output) -> Value:
    build.spans.append(output.span)
    value = build.evaluate(output.value)
    build.spans.pop()
    if value not in build.scope.values():
        value.name = output.name
    return value
