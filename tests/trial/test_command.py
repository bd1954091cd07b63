"""`moedsl try` on specs of the gallery."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

pytest.importorskip("torch")

from moedsl.cli.app import app
from moedsl.trial.contestants import Unfit, contestant, same_task
from tests.packages import SPECS, compiled


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


def test_contestants_spend_the_same(tmp_path):
    """A step of the wider model costs more, so it takes fewer on the same text."""
    wide = tmp_path / "wide.moe"
    wide.write_text((SPECS / "tiny.moe").read_text().replace("swiglu(96)", "swiglu(960)"))
    tried(tmp_path / "out", SPECS / "tiny.moe", wide, "--steps", 12)
    one, other = json.loads((tmp_path / "out" / "results.json").read_text())["contestants"]
    assert other["flops"] > 1.5 * one["flops"] and len(one["train_bits"]) == 12
    spent = [len(each["train_bits"]) * each["flops"] for each in (one, other)]
    assert abs(spent[0] - spent[1]) <= other["flops"]
    assert "teraFLOPs" in (tmp_path / "out" / "index.html").read_text()
    tried(tmp_path / "steps", SPECS / "tiny.moe", wide, "--steps", 3, "--equal", "steps")
    results = json.loads((tmp_path / "steps" / "results.json").read_text())
    assert [len(each["train_bits"]) for each in results["contestants"]] == [3, 3]


def test_numbers_with_state_follow_the_load(tmp_path):
    """A balancing bias is moved once after each step."""
    text = (SPECS / "tiny.moe").read_text()
    spec = tmp_path / "balanced.moe"
    spec.write_text(
        text.replace(
            "    select = top_k(2)\n",
            "    gate = score -> softmax\n    choose = gate + balancing(rate = 0.1)\n    select = top_k(2)\n",
        )
    )
    plain = tmp_path / "plain.moe"
    plain.write_text(spec.read_text().replace("rate = 0.1", "rate = 1e-9"))
    tried(tmp_path / "out", spec, plain, "--steps", 8)
    one, other = json.loads((tmp_path / "out" / "results.json").read_text())["contestants"]
    assert one["train_bits"][0] == other["train_bits"][0]
    assert one["train_bits"][-1] != other["train_bits"][-1]


TWO_STREAMS = (
    "vocab=256", "width=32", "count=2", "own.heads=2", "own.head_dim=16", "dense=mlp(32, activation = relu)",
    "sparse.experts=2 * mlp(32, activation = relu)",
    "memory=source -> embed -> encode(dense) -> encode(sparse) -> last_memory",
    "logits=tokens -> embed -> decode(dense, memory) -> decode(sparse, memory) -> last -> head", "hub=none",
)  # fmt: skip
IMAGES = (
    "width=32", "own.heads=2", "dense=mlp(32, bias = true)", "sparse.experts=4 * mlp(32, bias = true)",
    "image=pixels(3, 16, 16)", "patch=patches(4)", "head=linear(10, bias = true)",
    "logits=image -> patch -> prepend(1) -> position(learned) -> layer(dense) -> layer(sparse) -> last -> pool(first) -> head",
)  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "settings", "unit"),
    [("switch_base", TWO_STREAMS, "byte"), ("vmoe_b32", IMAGES, "picture")],
    ids=("two streams", "images"),
)
def test_other_inputs_have_tasks_of_their_own(tmp_path, spec, settings, unit):
    words = [word for each in settings for word in ("--set", each)]
    tried(tmp_path, SPECS / f"{spec}.moe", *words, "--steps", 3)
    results = json.loads((tmp_path / "results.json").read_text())
    sparse, dense = results["contestants"]
    assert results["unit"] == unit and len(sparse["train_bits"]) == 3 and sparse["flops"]
    assert sparse["routing"]["places"] and not dense["routing"]["places"]
    spent = [one["tokens"] * one["flops"] for one in (sparse, dense)]
    assert abs(spent[0] - spent[1]) <= 64 * max(sparse["flops"], dense["flops"])
    assert bool(sparse["sample"]) == (unit == "byte")
    assert f"bits per {unit}" in (tmp_path / "index.html").read_text()


def test_what_takes_different_things_is_not_compared(tmp_path):
    said = tried(tmp_path / "out", SPECS / "expert_gate.moe", "--steps", 2, code=1)
    assert "takes vector and label" in said
    text = contestant(compiled("tiny", settings=("width=32",)))
    images = contestant(compiled("vmoe_b32", settings=IMAGES))
    with pytest.raises(Unfit, match="tiny, vmoe_b32 take different things"):
        same_task([text, images])


def test_what_sees_the_future_is_not_tried_by_it(tmp_path):
    spec = tmp_path / "sees.moe"
    router = "    select = expert_choice\n    capacity = 2\n    lookahead = allowed"
    spec.write_text((SPECS / "tiny.moe").read_text().replace("    select = top_k(2)", router))
    assert "next byte" in tried(tmp_path / "out", spec, "--steps", 2, code=1)
