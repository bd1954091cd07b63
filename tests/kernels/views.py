"""The routes that the kernel tests print, one view per idea, and their printing."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

from moedsl.backend.records_view import RecordView
from moedsl.backend.render import environment
from moedsl.backend.route_view import RouteView
from moedsl.backend.routing_view import RoutingView, render_routing_files

ROUTES: dict[str, tuple[RouteView, ...]] = {
    # Softmax over the kept logits, a power of two of experts, the balance loss.
    "mixtral": (
        RouteView(name="sparse", num_experts=8, top_k=2, statistics=("choices", "probability")),
    ),
    # Softmax over all experts, kept as it is.
    "switch": (
        RouteView(
            name="sparse",
            num_experts=8,
            top_k=1,
            order="score_then_choose",
            statistics=("first", "probability", "z"),
        ),
    ),
    "olmoe": (
        RouteView(
            name="sparse",
            num_experts=64,
            top_k=8,
            order="score_then_choose",
            statistics=("choices", "probability", "z"),
        ),
    ),
    # Sigmoids, ranked with a correction, divided by their sum, scaled; every statistic.
    "deepseek": (
        RouteView(
            name="sparse",
            num_experts=60,
            top_k=6,
            score="sigmoid",
            order="score_then_choose",
            normalize=True,
            eps=1e-20,
            scale=2.5,
            bias=True,
            statistics=("choices", "first", "probability", "z", "entropy"),
            distribution="sigmoid",
        ),
    ),
    # Nothing asked: no statistics, no padding mask.
    "plain": (RouteView(name="sparse", num_experts=3, top_k=3, score="identity"),),
    "single": (
        RouteView(name="sparse", num_experts=1, top_k=1, score="sigmoid", statistics=("entropy",)),
    ),
    # A count alone: statistics without a gradient.
    "counted": (
        RouteView(
            name="sparse",
            num_experts=60,
            top_k=4,
            score="sigmoid",
            order="score_then_choose",
            normalize=True,
            statistics=("choices",),
        ),
    ),
    "z_loss": (RouteView(name="sparse", num_experts=5, top_k=2, scale=0.5, statistics=("z",)),),
    # Two routes of one package, each with statistics of its own.
    "mixed": (
        RouteView(
            name="attention",
            num_experts=16,
            top_k=4,
            order="score_then_choose",
            normalize=True,
            eps=1e-6,
            bias=True,
            statistics=("probability",),
            record="AttentionRouting",
        ),
        RouteView(
            name="feed_forward_of_the_upper_layers",
            num_experts=12,
            top_k=3,
            score="identity",
            normalize=True,
            bias=True,
            order="choose_then_score",
            statistics=("entropy",),
            distribution="sigmoid",
            record="FeedForwardRouting",
        ),
    ),
    # Only the experts of the best groups, ranked by two of theirs, or by one.
    "grouped": (
        RouteView(
            name="sparse",
            num_experts=256,
            top_k=8,
            score="sigmoid",
            order="score_then_choose",
            normalize=True,
            eps=1e-20,
            scale=2.5,
            bias=True,
            groups=8,
            keep=4,
            best=2,
            statistics=("choices", "probability"),
            distribution="sigmoid",
        ),
    ),
    # Groups of 20 do not fill their lanes.
    "grouped_unevenly": (
        RouteView(
            name="sparse",
            num_experts=160,
            top_k=6,
            order="score_then_choose",
            scale=16.0,
            groups=8,
            keep=3,
            statistics=("choices", "probability"),
        ),
        # Nor do three groups of two fill four of them; the sums of scores rank them.
        RouteView(
            name="few",
            num_experts=6,
            top_k=3,
            order="score_then_choose",
            groups=3,
            keep=2,
            best=2,
            statistics=("choices", "probability"),
        ),
        RouteView(
            name="odd",
            num_experts=9,
            top_k=2,
            score="identity",
            groups=3,
            keep=1,
            best=3,
            statistics=("choices", "probability"),
        ),
    ),
    "routeless": (),
    "stepped": (),
    # Picks may be absent: a choice among experts of several kinds.
    "loose": (RouteView(name="sparse", num_experts=6, top_k=2, statistics=("choices",)),),
    # A router limits the rows that experts get.
    "bounded": (),
}
LOOSE = ("loose", "bounded")
# Statistics of routers that model.py writes out in steps; it calls segment_sum itself.
STEPS = {"stepped": ("choices", "probability", "z")}


def records(name: str) -> tuple[RecordView, ...]:
    """What routes give, and what routers in steps do."""
    made = {route.record: route.statistics for route in ROUTES[name]}
    found = [
        RecordView(name=record, statistics=read, makers=(record,)) for record, read in made.items()
    ]
    if name in STEPS:
        found.append(RecordView(statistics=STEPS[name]))
    return tuple(found)


def view(name: str) -> RoutingView:
    return RoutingView(
        header="# Generated by moedsl for its tests.",
        package=f"moedsl_{name}",
        routes=ROUTES[name],
        records=records(name),
        expert_bias=name in ("deepseek", "plain", *LOOSE),
        loose=name in LOOSE,
        bounded=name == "bounded",
        lines=name == "bounded",
        columns=name == "bounded",
    )


def write(printed: RoutingView, folder: Path) -> Path:
    """Print a view as a package, with the view itself beside it as JSON."""
    package = folder / printed.package
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text("")
    (package / "view.json").write_text(json.dumps(dataclasses.asdict(printed), indent=2))
    for file, text in render_routing_files(printed, environment()).items():
        (package / file).write_text(text)
    return package


def load(package: Path, *modules: str) -> tuple[ModuleType, ...]:
    """Import modules of a printed package by its folder."""
    if str(package.parent) not in sys.path:
        sys.path.insert(0, str(package.parent))
    return tuple(importlib.import_module(f"{package.name}.{module}") for module in modules)
