"""How weights start: every name is that of some weight, and every start fits the weights that it is for."""

from __future__ import annotations

from moedsl.checks.whole import is_whole
from moedsl.diagnostics.model import Sink
from moedsl.diagnostics.suggest import did_you_mean
from moedsl.ir.graph import Graph
from moedsl.ir.starts import Fault, starts

_LACKS = {
    "matrix": (
        "is for rows and columns, and `{path}` is one row of numbers",
        "such weights take `zeros`, `fill(0.5)`, or a draw of a given size: `normal(0.02)`",
    ),
    "fan": (
        "divides by a fan, and `{path}` is one row of numbers: it has none",
        "say its size: `{word}(0.02)`",
    ),
    "bank": (
        "is for experts of a bank, and `{path}` is in none",
        "name what is: `init = [experts = alike]`",
    ),
    "branches": (
        "counts the branches that are added to a stream, and `{path}` is in none",
        "name the last matrix of each branch, `[o = by_depth, down = by_depth]`, or say how many there are: "
        "`by_depth(branches = 24)`",
    ),
}


def check_starts(graph: Graph, sink: Sink) -> None:
    if not is_whole(graph, sink):
        return
    found = starts(graph)
    for fault in found.faults:
        if fault.kind == "nothing":
            _report_idle(fault, found.names, sink)
        else:
            said, mend = _LACKS[fault.kind]
            words = {"word": fault.word, "path": fault.path}
            message = f"`{fault.word}` {said.format(**words)}"
            sink.error("E0333", message, fault.term.span, help=mend.format(**words))


def _report_idle(fault: Fault, names: set[str], sink: Sink) -> None:
    if fault.word == "all":
        sink.error(
            "E0237",
            "nothing here has weights that could start so",
            fault.term.span,
            help="leave `init` out, or say it where weights are",
        )
        return
    close = did_you_mean(fault.word, sorted(names))
    help = "a name is a part of a path (`down`), a kind (`router`), `bias`, or `all`"
    if close and close[0] != fault.word:
        help = f"did you mean `{close[0]}`?"
    sink.error(
        "E0237", f"no weight is called `{fault.word}`", fault.term.span, "its start", help=help
    )
