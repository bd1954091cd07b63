"""The page of a trial: one file, nothing fetched, every picture drawn from the run's numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from moedsl.cli.units import count_text
from moedsl.resources import read_text
from moedsl.trial.charts import Grid, LineChart, Series, heat_map, line_chart, smooth
from moedsl.trial.record import ContestantRecord, RoutingRecord, TrialRecord
from moedsl.trial.verdict import bits

TONES = ("one", "two", "three", "four")
FULL = 2.0  # times the fair share at which a cell has its full colour
WIDEST = 636  # pixels of a heat map's cells


def page(record: TrialRecord) -> str:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(lambda name: read_text("templates", f"trial/{name}")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    return environment.get_template("page.html.j2").render(view(record))


def view(record: TrialRecord) -> dict[str, Any]:
    """Everything the templates print."""
    sparse = [one for one in record.contestants if one.routing.steps]
    return {
        "record": record,
        "title": " and ".join(one.name for one in record.contestants),
        "cards": [
            _card(record, one, tone)
            for one, tone in zip(record.contestants, _tones(record), strict=True)
        ],
        "loss": loss_chart(record),
        "spent": spent_chart(record),
        "mixtures": [_mixture(one) for one in sparse],
    }


def _tones(record: TrialRecord) -> list[str]:
    return [TONES[i % len(TONES)] for i in range(len(record.contestants))]


def _card(record: TrialRecord, one: ContestantRecord, tone: str) -> dict[str, Any]:
    best = min(record.contestants, key=bits)
    return {
        "name": one.name,
        "what": one.what,
        "tone": tone,
        "best": one is best and "beats" in record.verdict,
        "bits": f"{bits(one):.3f}",
        "facts": [
            (count_text(one.parameters), "parameters"),
            (count_text(one.active), f"active for a {record.unit}"),
            (f"{1000 * one.seconds / max(1, len(one.train_bits)):,.0f} ms", "a step"),
            (f"{one.tokens / max(1e-9, one.seconds):,.0f}", f"{record.units} a second"),
            (count_text(one.flops), f"FLOPs of training for a {record.unit}"),
            (f"{len(one.train_bits):,}", "steps"),
        ],
        "sample": one.sample,
    }


def loss_chart(record: TrialRecord) -> LineChart:
    """Training loss smoothed over a fortieth of the run; dots are held-out text. The first steep fall is cut off."""
    window = max(1, record.steps // 40)
    series: list[Series] = []
    for one, tone in zip(record.contestants, _tones(record), strict=True):
        steps = range(1, len(one.train_bits) + 1)
        series.append(
            Series(one.name, tone, list(steps), smooth(one.train_bits, window), faint=True)
        )
        series.append(Series(one.name, tone, one.held_out_steps, one.held_out_bits, dots=True))
    every = [y for s in series for y in s.y]
    early = max(1, record.steps // 16)
    high = max(max(smooth(one.train_bits, window)[early - 1 :]) for one in record.contestants)
    low = min(every)
    room = 0.06 * (high - low) or 0.1
    return line_chart(
        "Loss", "training step", series, (low - room, high + room), label_room=_room(record)
    )


def spent_chart(record: TrialRecord) -> LineChart | None:
    """Held-out loss over what was spent on training; None where the costs are not known."""
    if not all(one.flops for one in record.contestants):
        return None
    unit = 1e12
    series = [
        Series(
            one.name,
            tone,
            [
                step / len(one.train_bits) * one.tokens * one.flops / unit
                for step in one.held_out_steps
            ],
            one.held_out_bits,
        )
        for one, tone in zip(record.contestants, _tones(record), strict=True)
    ]
    later = [y for s in series for y in s.y[1:]] or [1.0]
    low, high = min(later), max(later)
    room = 0.06 * (high - low) or 0.1
    shown = [Series(s.name, s.tone, s.x[1:], s.y[1:], dots=False) for s in series if len(s.x) > 1]
    return line_chart(
        "Held-out loss by computation",
        "teraFLOPs spent on training",
        shown,
        (low - room, high + room),
        label_room=_room(record),
    )


def _room(record: TrialRecord) -> int:
    """Pixels for the longest name."""
    return 16 + 8 * max(len(one.name) for one in record.contestants)


def _mixture(one: ContestantRecord) -> dict[str, Any]:
    routing = one.routing
    layers = [_short(place) for place in routing.places]
    percent = [[100 * share for share in row] for row in routing.dropped]
    return {
        "name": one.name,
        "load": load_map(routing, layers),
        "histories": [_history(routing, i, name) for i, name in enumerate(layers)],
        "entropy": _per_layer("Router entropy", routing, layers, routing.entropy, (0.0, 1.0)),
        "dropped": _per_layer(
            "Dropped choices, in percent", routing, layers, percent, _range(percent)
        ),
        "dropped_any": any(map(any, percent)),
        "dropped_last": f"{max(percent[-1]):.1f} %",
    }


def _short(place: str) -> str:
    """`layer.3.sparse` -> `layer 3`; where places have no number, the place itself."""
    numbers = [part for part in place.split(".") if part.isdigit()]
    return f"layer {'.'.join(numbers)}" if numbers else place


def _relative(shares: Sequence[float]) -> list[float]:
    """Shares over the fair one."""
    return [share * len(shares) for share in shares]


def load_map(routing: RoutingRecord, layers: list[str]) -> Grid:
    """Layers by experts, over the last sixth of the run; 1 is a fair share."""
    late = routing.load[-max(1, len(routing.load) // 6) :]
    rows = []
    for i, name in enumerate(layers):
        rows.append(
            (
                name,
                [
                    sum(column) / len(late)
                    for column in zip(*(_relative(r[i]) for r in late), strict=True)
                ],
            )
        )
    most = max(len(values) for _, values in rows)
    rows = [(name, values) for name, values in rows if values]
    width = min(76.0, WIDEST / most)
    hints = [
        [f"{name}, expert {j}: {v:.2f} of a fair share" for j, v in enumerate(values)]
        for name, values in rows
    ]
    columns = (
        [str(j) for j in range(most)]
        if most <= 32
        else [str(j) if j % 8 == 0 else "" for j in range(most)]
    )
    return heat_map("Expert load", rows, columns, FULL, hints, (width, 34.0), numbers=most <= 12)


def _history(routing: RoutingRecord, layer: int, name: str) -> Grid:
    """Experts by time, one layer."""
    over_time = [_relative(reading[layer]) for reading in routing.load]
    experts = len(over_time[0])
    rows = [(f"expert {e}", [reading[e] for reading in over_time]) for e in range(experts)]
    hints = [
        [
            f"step {s}, expert {e}: {v:.2f} of a fair share"
            for s, v in zip(routing.steps, values, strict=True)
        ]
        for e, (_, values) in enumerate(rows)
    ]
    size = (318 / len(over_time), max(3.0, min(13.0, 140 / experts)))
    columns = [""] * len(over_time)
    shown = [(label if experts <= 12 else "", values) for label, values in rows]
    return heat_map(name, shown, columns, FULL, hints, size, left=0)


def _per_layer(
    title: str,
    routing: RoutingRecord,
    layers: list[str],
    values: list[list[float]],
    y_range: tuple[float, float],
) -> LineChart:
    """A line for each layer, from the first (light) to the last (dark)."""
    count = len(layers)
    series = [
        Series(
            name,
            f"depth-{round(4 * i / max(1, count - 1))}",
            routing.steps,
            [row[i] for row in values],
        )
        for i, name in enumerate(layers)
    ]
    labelled = [
        s if count <= 8 or i in (0, count - 1) else _unnamed(s) for i, s in enumerate(series)
    ]
    return line_chart(title, "training step", labelled, y_range, label_room=70)


def _unnamed(series: Series) -> Series:
    return Series("", series.tone, series.x, series.y)


def _range(percent: list[list[float]]) -> tuple[float, float]:
    return 0.0, max(5.0, 1.1 * max(map(max, percent)))
