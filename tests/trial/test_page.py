"""The page: one file, drawn from a record, whatever is in it."""

from __future__ import annotations

import itertools
import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from moedsl.trial.charts import Series, line_chart, smooth, ticks
from moedsl.trial.page import page
from moedsl.trial.record import ContestantRecord, RoutingRecord, TrialRecord
from moedsl.trial.verdict import paired, verdict


def routed(layers=2, experts=4, readings=6, dropped=0.0):
    return RoutingRecord(
        places=[f"layer.{i}.sparse" for i in range(layers)],
        steps=[10 * (i + 1) for i in range(readings)],
        load=[[[1 / experts] * experts for _ in range(layers)] for _ in range(readings)],
        entropy=[[0.9] * layers for _ in range(readings)],
        dropped=[[dropped] * layers for _ in range(readings)],
    )


def record(*, routing=True, dropped=0.0, sample="the <b>text</b> & more"):
    steps = 60
    contestants = []
    for i, name in enumerate(("sparse", "sparse_dense")):
        curve = [8 * math.exp(-step / 20) + 2 + 0.1 * i for step in range(steps)]
        windows = [curve[-1] + 0.01 * (w % 7) + 0.001 * i * (w % 3) for w in range(16)]
        one = ContestantRecord(
            name, "4 experts, 2 for each token", 1000 + i, 900, curve, [0, 30, 60], [8.0, 3.0, 2.0]
        )
        one.window_bits, one.seconds, one.sample = windows, 3.0, sample
        one.routing = routed(dropped=dropped) if routing and i == 0 else RoutingRecord()
        contestants.append(one)
    found = TrialRecord(["sparse.moe"], "moedsl try sparse.moe --steps 60", 0, 3e-3, 8, 128)
    found.steps, found.seconds, found.contestants, found.prompt = steps, 6.0, contestants, "The "
    found.verdict, found.noise = verdict(contestants)
    return found


def test_the_page_is_one_file_of_its_own():
    text = page(record())
    assert (
        not re.search(r'(?:src|href)="(?!#)', text) and "@import" not in text and "http" not in text
    )
    assert text.count("<svg") == 6  # loss, load, a history for each of two layers, entropy, drops


def test_what_a_model_writes_is_text():
    text = page(record(sample="</pre><script>alert(1)</script>"))
    assert "<script>" not in text and "&lt;script&gt;" in text


def test_pictures_are_well_formed():
    for svg in re.findall(r"<svg.*?</svg>", page(record(dropped=0.25)), re.DOTALL):
        root = ElementTree.fromstring(svg)
        assert len(root)


def test_drops_are_shown_where_there_are_any():
    assert "every choice is served" in page(record())
    assert "25.0 %" in page(record(dropped=0.25))


def test_dense_models_alone_have_a_page_too():
    text = page(record(routing=False))
    assert text.count("<svg") == 1


def test_the_verdict_says_how_sure_it_is():
    found = record()
    assert found.verdict.startswith("sparse beats sparse_dense: ") and "±" in found.noise
    same = [found.contestants[0], found.contestants[0]]
    assert "cannot be told apart" in verdict(same)[0]


def test_what_is_hard_for_both_cancels():
    hard = [2.0, 5.0, 9.0, 1.0]
    difference = paired([h + 0.1 for h in hard], hard)
    assert (
        difference.mean == pytest.approx(0.1)
        and difference.margin == pytest.approx(0, abs=1e-9)
        and difference.clear
    )


def test_ticks_are_round():
    assert ticks(0, 100, 5) == [0, 20, 40, 60, 80, 100]
    assert ticks(2.13, 3.9, 4) == [2.5, 3, 3.5]


def test_smoothing_keeps_the_mean():
    assert smooth([1, 2, 3, 4], 2) == [1, 1.5, 2.5, 3.5]


def test_labels_do_not_cover_each_other():
    series = [Series(f"line {i}", "one", [0, 1], [1.0, 1.0 + i / 1000]) for i in range(5)]
    places = [label.y for label in line_chart("t", "x", series, (0, 2), label_room=60).labels]
    assert all(b - a >= 15 for a, b in itertools.pairwise(places))
