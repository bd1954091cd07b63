"""`moedsl try` on specs of the gallery."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

pytest.importorskip("torch")

from moedsl.cli.app import app
from tests.packages import SPECS


def tried(out, *arguments, code=0):
    words = ["try", *map(str, arguments), "--batch", "2", "--length", "32", "-o", str(out)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == code, done.output
    return done.output


def test_one_spec_meets_its_dense_counterpart(tmp_path):
    said = tried(tmp_path, SPECS / "tiny.moe", "--steps", 4)
    results = json.loads((tmp_path / "results.json").read_text())
    sparse, dense = results["contestants"]
    assert (sparse["name"], dense["name"]) == ("tiny", "tiny_dense")
    assert results["steps"] == 4 == len(sparse["train_bits"]) == len(dense["train_bits"])
    assert sparse["routing"]["places"] == ["layer.0.sparse", "layer.1.sparse"]
    assert not dense["routing"]["places"]
    assert (
        results["verdict"] in said and results["verdict"] in (tmp_path / "index.html").read_text()
    )
    assert "--steps 4" in results["command"]


def test_a_number_of_steps_gives_the_same_numbers_again(tmp_path):
    for name in ("one", "two"):
        tried(tmp_path / name, SPECS / "tiny.moe", "--steps", 3, "--threads", 1)
    one, two = (json.loads((tmp_path / n / "results.json").read_text()) for n in ("one", "two"))
    for a, b in zip(one["contestants"], two["contestants"], strict=True):
        assert a["train_bits"] == b["train_bits"] and a["window_bits"] == b["window_bits"]


def test_several_specs_meet_each_other(tmp_path):
    tried(tmp_path, SPECS / "tiny.moe", SPECS / "tiny_shared.moe", "--steps", 2)
    results = json.loads((tmp_path / "results.json").read_text())
    assert [one["name"] for one in results["contestants"]] == ["tiny", "tiny_shared"]


def test_what_cannot_be_tried_says_why(tmp_path):
    assert "this machine has" in tried(tmp_path, SPECS / "mixtral_8x7b.moe", "--steps", 2, code=1)
    assert "--set vocab=256" in tried(
        tmp_path, SPECS / "tiny.moe", "--set", "vocab=100", "--steps", 2, code=1
    )
    tried(tmp_path, SPECS / "tiny.moe", "--steps", 2, "--seconds", 2, code=2)
    assert not list(tmp_path.iterdir())
