"""What the graph asks of the files beside model.py: their views."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import cast

from moedsl.backend.checkpoint_view import plan_checkpoint
from moedsl.backend.losses_view import BalanceView, LossView, ZView
from moedsl.backend.naming import identifier
from moedsl.backend.plan_reads import Reads
from moedsl.backend.records_view import RecordView, Statistic
from moedsl.backend.route_view import RouteView
from moedsl.backend.routing_view import RoutingView
from moedsl.backend.runtime_view import GenerationView, GivenView, RuntimeView
from moedsl.backend.state_view import (
    AttendView,
    MaskView,
    MixView,
    RotaryView,
    ScoresView,
    StateView,
)
from moedsl.backend.statements import suffix
from moedsl.checks.causality import causality
from moedsl.ir import ops
from moedsl.ir.graph import Graph, Node
from moedsl.ir.ops_base import Op, dims_of
from moedsl.ir.shapes import MAIN, stream_of


def every_op(graph: Graph) -> Iterator[Op]:
    """The ops of all units, callees first, and what ambients are made of."""
    for unit in graph.units:
        for node in unit.nodes:
            yield node.op
            if isinstance(node.op, ops.Attend | ops.Mix):
                yield node.op.mask
            elif isinstance(node.op, ops.Rotate):
                yield node.op.table


# --- routing.py, experts.py, kernels.py, reference.py ----------------------------------------------


def wants(graph: Graph) -> list[str]:
    """What all operations import, each once, in order of use."""
    return list(dict.fromkeys(name for op in every_op(graph) for name in op.imports))


def losses_want(graph: Graph) -> list[str]:
    """What losses.py imports of the runtime library, and what goes with operations for people to use."""
    known = [(*getattr(op, "library", ()), *getattr(op, "beside", ())) for op in every_op(graph)]
    return [name for names in known for name in names]


def plan_routing(
    graph: Graph,
    header: str,
    package: str,
    records: tuple[RecordView, ...] = (),
    library: frozenset[str] = frozenset(),
) -> RoutingView | None:
    """None where nothing is routed, and nothing computed in float32. `library`: what its files import."""
    used = list(every_op(graph))
    plain = {tuple(map(str, r.statistics)): r.name for r in records if not r.bounded}
    routes = {op.name: route_view(op, plain[op.read]) for op in used if isinstance(op, ops.Route)}
    asked = {*wants(graph), *library}
    if not any(isinstance(op, ops.Route | ops.Routed | ops.Dispatch) for op in used):
        wide = ".reference:wide" in asked
        return RoutingView(header=header, package=package, routed=False) if wide else None
    bounds = [op.bounded for op in used if isinstance(op, ops.Dispatch)]
    return RoutingView(
        header=header,
        package=package,
        routes=tuple(routes.values()),
        records=records,
        expert_bias=any(isinstance(op, ops.Linear) and op.bank and op.bias for op in used),
        expert_scale=".experts:expert_scale" in asked,
        expert_affine=".experts:expert_affine" in asked,
        expert_vectors=".experts:expert_rows" in asked,
        loose=any(record.bounded for record in records)
        or any(_is_loose(node) for unit in graph.units for node in unit.nodes),
        bounded=any(bounds),
        unbounded=not all(bounds),
        lines=".routing:place_in_line" in asked,
        columns=".routing:take_rows" in asked,
    )


def _is_loose(node: Node) -> bool:
    """Does it put rows in order of which some are absent?"""
    return isinstance(node.op, ops.Dispatch) and dims_of(node.inputs[0].type).dims[-1].loose


def route_view(op: ops.Route, record: str) -> RouteView:
    return RouteView(
        record=record,
        name=op.name,
        num_experts=op.num_experts,
        top_k=op.top_k,
        score=op.score,  # type: ignore[arg-type]
        order="score_then_choose" if op.before else "choose_then_score",
        normalize=op.normalize,
        eps=op.eps,
        scale=op.scale,
        bias=op.bias,
        groups=op.groups,
        keep=op.keep,
        best=op.best,
        statistics=cast(tuple[Statistic, ...], op.statistics),
        devices=op.devices,
        heads=op.heads,
        distribution=op.distribution,  # type: ignore[arg-type]
    )


# --- state.py, losses.py, generation.py ------------------------------------------------------------


def plan_runtime(graph: Graph, header: str, once: bool = False) -> RuntimeView:
    """`once`: the cache keeps what other streams are read as."""
    state = plan_state(graph)
    state = replace(state, once=once) if state is not None else None
    generated = state is not None and state.cache and _is_language_model(graph)
    noisy = any(getattr(op, "drops", False) for op in every_op(graph))
    return RuntimeView(
        header=header,
        state=state,
        losses=tuple(_losses(graph)),
        generation=generation_view(graph, noisy) if generated else None,
        checkpoint=plan_checkpoint(graph),
    )


def _is_language_model(graph: Graph) -> bool:
    """Does it take tokens and give logits over them, causally when decoding?"""
    named = [v.name for v in graph.root.outputs] == ["logits"]
    return named and causality(graph).kind in ("causal", "decodes")


def generation_view(graph: Graph, noisy: bool) -> GenerationView:
    root, reads = graph.root, Reads()
    arguments = zip(root.ambients, root.wants, strict=True)
    masks = {op.stream: v for v, op in arguments if isinstance(op, ops.MaskArgument)}
    given = []
    for value in root.inputs:
        axis = stream_of(value)
        mask = masks.get(axis) if axis else None
        given.append(
            GivenView(
                name=f"{identifier(value.name)}_{suffix(value)}",
                main=axis == MAIN,
                mask=identifier(mask.name) if mask and reads.takes(root, mask) else "",
                axes=f"B, {axis.letter}" if axis else "",
            )
        )
    return GenerationView(noisy=noisy, inputs=tuple(given))


def plan_state(graph: Graph) -> StateView | None:
    """None where nothing depends on what came before."""
    used = list(every_op(graph))
    tables = {op.table: rotary_view(op) for op in used if isinstance(op, ops.RotaryTable)}
    masks = {
        op.function: mask_view(op) for op in used if isinstance(op, ops.AttentionMask) and op.padded
    }
    attends: dict[str, list[ops.Attend]] = {}
    for op in used:
        if isinstance(op, ops.Attend):
            attends.setdefault(op.function, []).append(op)
    # Without attention the cache still says how much of a mask belongs to earlier tokens.
    past = any(isinstance(op, ops.Past) for op in used)
    if not (tables or masks or attends or past):
        return None
    return StateView(
        rotaries=tuple(tables.values()),
        masks=tuple(masks.values()),
        attends=tuple(attend_view(name, alike) for name, alike in attends.items()),
        cache=past
        or any(
            isinstance(op, ops.Remember) or (isinstance(op, ops.Attend) and op.cached_keys)
            for op in used
        ),
        positions=any(isinstance(op, ops.Positions | ops.Temperature) for op in used),
        scores=scores_view(graph),
        remember=any(isinstance(op, ops.Remember) for op in used),
    )


def scores_view(graph: Graph) -> ScoresView | None:
    """None where every attention has a core of its own."""
    nodes = [node for unit in graph.units for node in unit.nodes]
    mixes = {n.op.function: n.op for n in nodes if isinstance(n.op, ops.Mix)}
    grouped = False
    for node in nodes:
        if isinstance(node.op, ops.Dot):
            q, k = (dims_of(value.type).dims[-2] for value in node.inputs)
            grouped = grouped or q.size != k.size
    if not mixes:
        return None
    return ScoresView(
        grouped=grouped,
        mixes=tuple(
            MixView(name=m.function, causal=m.causal, dropout=m.drops) for m in mixes.values()
        ),
    )


def rotary_view(op: ops.RotaryTable) -> RotaryView:
    return RotaryView(
        theta=op.theta,
        size=op.size,
        head=op.head,
        pairs=op.pairs,  # type: ignore[arg-type]
        stretch=op.stretch,
        table=op.table,
        rotate=op.rotate,
    )


def mask_view(op: ops.AttentionMask) -> MaskView:
    return MaskView(
        name=op.function, causal=op.causal, window=op.window, chunk=op.chunk, tensor=op.tensor
    )


def attend_view(name: str, alike: list[ops.Attend]) -> AttendView:
    """One core for all attentions that call it; they agree in everything but the number of heads."""
    first = alike[0]
    return AttendView(
        name=name,
        causal=first.causal,
        masked=first.mask.padded,
        grouped=any(op.grouped for op in alike),
        cached=first.cached_keys,
        scale=first.scale is not None,
        dropout=first.drops,
        soft_cap=first.soft_cap,
        sinks=first.sinks,
    )


def _losses(graph: Graph) -> Iterator[LossView]:
    """One function for each name in losses.py."""
    seen: set[str] = set()
    for op in every_op(graph):
        function = getattr(op, "function", "")
        if function in seen:
            continue
        match op:
            case ops.Balance():
                yield balance_view(op)
            case ops.ZLoss():
                yield z_view(op)
            case _:
                continue
        seen.add(function)


def z_view(op: ops.ZLoss) -> ZView:
    return ZView(
        name=op.function,
        coefficient=op.coefficient,
        of=_site(op.loss),
        layers=op.layers,  # type: ignore[arg-type]
    )


def balance_view(op: ops.Balance) -> BalanceView:
    return BalanceView(
        name=op.function,
        coefficient=op.coefficient,
        num_experts=op.num_experts,
        of=_site(op.loss),
        count=op.count,  # type: ignore[arg-type]
        over=op.over,  # type: ignore[arg-type]
        layers=op.layers,  # type: ignore[arg-type]
        groups=op.groups,
        average=op.average,
        light=op.light,
        eta=op.eta,
        buckets=op.buckets,
        top_k=op.top_k,
        limit=op.limit,
    )


def _site(loss: str) -> str:
    """Whose loss it is: `sparse` of `sparse.balance`."""
    return loss.rsplit(".", 1)[0] or loss
