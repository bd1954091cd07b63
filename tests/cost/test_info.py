"""The table of a model: rows of equal places, and the same as JSON."""

from __future__ import annotations

import json

import pytest

from moedsl.ir.graph import Dim
from moedsl.ir.info import info_table
from moedsl.ir.ranges import ranges
from tests.checks import hand
from tests.checks.hand import Sizes


@pytest.mark.parametrize(
    ("paths", "closed"),
    [
        (["embed"], ["embed"]),
        (["layer[0]", "layer[1]", "layer[2]"], ["layer[0..2]"]),
        (["layer[3].moe", "layer[1].moe", "layer[2].moe"], ["layer[1..3].moe"]),
        (["layer[0]", "layer[1]", "layer[4]"], ["layer[0..1]", "layer[4]"]),
        (["layer[1]", "layer[3]", "layer[5]"], ["layer[1..5 by 2]"]),
        (["a[0].x", "a[1].y", "a[1].x"], ["a[0..1].x", "a[1].y"]),
        ([], []),
    ],
)
def test_ranges(paths: list[str], closed: list[str]) -> None:
    assert ranges(paths) == closed


def test_equal_layers_are_one_row() -> None:
    info = info_table(hand.decoder(Sizes(layers=5)), tokens=16)
    assert [(row.path, row.count) for row in info.rows] == [
        ("embed", 1), ("layer[0..4]", 5), ("last", 1), ("head", 1),
    ]  # fmt: skip
    layer = info.rows[1]
    assert (layer.experts, layer.picks) == (4, 2)
    assert [part.path for part in layer.parts] == ["before_mix", "own", "before_ffn", "sparse"]
    assert info.total.total == sum(row.count * row.counts.total for row in info.rows)


def test_layers_in_turn_are_two_rows() -> None:
    sizes, d = Sizes(), Dim("D", 64)
    mix = hand.attention(sizes, d)
    runs = [
        (hand.layer(sizes, d, mix, f), 1) for f in (hand.swiglu(sizes, d), hand.mixture(sizes, d))
    ]
    info = info_table(hand.decoder(sizes, *(runs * 3)))
    assert [row.path for row in info.rows[1:3]] == ["layer[0..4 by 2]", "layer[1..5 by 2]"]


def test_json_has_the_keys_that_tools_read() -> None:
    info = info_table(hand.decoder(Sizes()))
    data = json.loads(json.dumps(info.json()))
    assert data["parameters"] == {
        "total": info.total.total, "active": info.total.active, "trainable": info.total.trainable,
    }  # fmt: skip
    assert [layer["path"] for layer in data["layers"]] == ["embed", "layer[0..1]", "last", "head"]
