"""Stages of training: what each selects is there, and every weight trains in one of them."""

from __future__ import annotations

from moedsl.checks.whole import is_whole
from moedsl.diagnostics.model import Sink
from moedsl.diagnostics.suggest import did_you_mean
from moedsl.ir.graph import Graph, Storage
from moedsl.ir.info import ranges
from moedsl.ir.selections import Fault, Selections, Weights, both, common, every, without
from moedsl.ir.stages import Phase, made_up, phases
from moedsl.model.terms import Stage

_MOST = 4  # weights that one message names


def check_stages(graph: Graph, sink: Sink) -> None:
    if graph.model is None or not graph.model.stages or not is_whole(graph, sink):
        return
    found, faults = phases(graph)
    for fault in faults:
        _report(fault, graph, found, sink)
    if not faults:
        _check_untrained(graph, found, sink)


def apart(graph: Graph) -> list[Stage]:
    """Stages that change the model: each is one more model with the same weights."""
    if graph.model is None:
        return []
    chosen = getattr(graph.model.setting("stage"), "text", "none")
    return [each for each in graph.model.stages if each.edits and each.name != chosen]


def check_same_weights(graph: Graph, changed: Graph, stage: Stage, sink: Sink) -> None:
    """What a stage sets may not make, drop or resize a weight: it goes on with those of another stage."""
    before = {path: one.shape for path, one in graph.storage().items()}
    after = {path: one.shape for path, one in changed.storage().items()}
    odd = [path for path in {**before, **after} if before.get(path) != after.get(path)]
    if odd:
        edits = ", ".join(f"`{edit}`" for edit, _ in stage.edits)
        sink.error(
            "E0608",
            f"the stage `{stage.name}` changes the weights themselves: `{odd[0]}`",
            stage.span,
            f"sets {edits}",
            help="a stage may change rates, losses and the like; another set of weights is another model",
        )


def _report(fault: Fault, graph: Graph, found: list[Phase], sink: Sink) -> None:
    if fault.kind == "nothing":
        close = did_you_mean(fault.word.split(".")[0], Selections(graph).words())
        help = "a selection is `all`, the path of a place, or a kind such as `router`"
        if close and close[0] != fault.word:
            help = f"did you mean `{close[0]}`?"
        sink.error("E0606", f"no weight is at `{fault.word}`", fault.term.span, help=help)
    elif fault.kind == "member":
        sink.error(
            "E0606",
            f"no weight is at `{fault.word}`",
            fault.term.span,
            help=f"{fault.members} stand side by side there: 0 to {fault.members - 1}",
        )
    elif fault.kind == "stage":
        names = [phase.stage.name for phase in found]
        sink.error(
            "E0607",
            f"no stage before this one is called `{fault.word}`",
            fault.term.span,
            "its weights would be where this one starts",
            help=f"the stages are {', '.join(f'`{name}`' for name in names)}, in this order",
        )
    else:
        sink.error(
            "E0210",
            "a stage trains places by name, at rates that are numbers",
            fault.term.span,
            help="as in `train = all - sparse.experts` and `rate = [router = 0.1]`",
        )


def _check_untrained(graph: Graph, found: list[Phase], sink: Sink) -> None:
    trained: Weights = {}
    for phase in found:
        trained = both(trained, phase.trained)
    trainable = {path for path, _, parameter, _ in graph.parameters() if parameter.trainable}
    stored = {path: one for path, one in graph.storage().items() if path in trainable}
    still = without({path: every(one.members) for path, one in stored.items()}, trained)
    still = common(still, made_up(graph))
    left = [_left(path, members, stored[path]) for path, members in still.items()]
    if not left:
        return
    shown = ranges(left)
    more = f" and {len(shown) - _MOST} more" if len(shown) > _MOST else ""
    named = ", ".join(f"`{path}`" for path in shown[:_MOST]) + more
    sink.warn(
        "W1004",
        f"no stage trains {named}",
        found[-1].stage.span,
        "the last of the stages",
        help="name them in the `train` of a stage, or leave them as they were loaded on purpose",
    )


def _left(path: str, members: int, weight: Storage) -> str:
    if members == every(weight.members):
        return path
    return f"{path} ({members.bit_count()} of {weight.members})"
