"""From a resolved model to its graph."""

from __future__ import annotations

from moedsl.diagnostics.model import Label, Sink
from moedsl.ir.build import Builder
from moedsl.ir.graph import Dim, Graph, TensorType, Unit, Value
from moedsl.ir.losses import add_losses
from moedsl.ir.thread import thread
from moedsl.model import terms

BATCH, TOKENS = Dim("B"), Dim("T")


def lower(model: terms.Model, sink: Sink) -> Graph | None:
    """Never raises on a user's mistake: what is wrong is reported, and poisoned in the graph. None where an error has
    left nothing to compute from."""
    if not model.inputs:
        return None
    build = Builder(model, sink)
    root = Unit(model.name, "model", doc=model.doc, span=model.span)
    inputs = [(one.name, _input(one)) for one in model.inputs]
    for further in model.inputs[1:]:
        sink.error(
            "E0208",
            f"a second input, `{further.name}`, is part of the language, but not yet of this compiler",
            further.span,
            "a model takes one input so far",
            secondary=(Label(model.inputs[0].span, "the one that it takes"),),
        )
    with build.units.opened(root, inputs):
        build.run(model.lets, [output.value for output in model.outputs])
        root.outputs = [_output(build, output) for output in model.outputs]
    units = build.units.done
    thread(units)
    add_losses(root, build)
    return Graph(model.name, units, model)


def _input(one: terms.Input) -> Value:
    """Ids, the one kind of input there is so far."""
    return Value(one.name, TensorType((BATCH, TOKENS), "int"), one.span)


def _output(build: Builder, output: terms.Output) -> Value:
    build.spans.append(output.span)
    value = build.evaluate(output.value)
    build.spans.pop()
    if value not in build.scope.values():
        value.name = output.name
    return value
