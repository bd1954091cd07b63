"""Coverage of checkpoints: every weight once, every entry somewhere, and what is said where that fails."""

from __future__ import annotations

import time

import pytest

from moedsl.checks.checkpoint import check_maps
from moedsl.diagnostics.model import Diagnostic, Sink
from moedsl.ir.graph import Storage
from tests.runtime.maps import (
    COMMON,
    DENSE,
    EACH,
    ENDS,
    FUSED,
    TEXTS,
    checkpoint,
    places,
    view,
    weights,
)


def found(text: str, stored: list[Storage] | None = None) -> list[Diagnostic]:
    sink = Sink()
    check_maps([checkpoint(text)], places(weights() if stored is None else stored), sink)
    return sink.found


def one(text: str, stored: list[Storage] | None = None) -> Diagnostic:
    (only,) = found(text, stored)
    return only


@pytest.mark.parametrize("name", TEXTS)
def test_whole_maps_are_silent(name: str) -> None:
    assert not found(TEXTS[name])


def test_a_pattern_covers_the_layers_that_have_the_path() -> None:
    assert not found(COMMON + DENSE + EACH + ENDS, weights(7, sparse=(1, 3, 5)))
    assert not found(COMMON.replace("layer[i].before_mix = model.layers.{i}", "layer[0].before_mix = first") + EACH
                     + "layer[1].before_mix = second\n" + ENDS)  # fmt: skip


def test_missing_weights_are_listed_once_for_all_layers() -> None:
    text = "\n".join(line for line in TEXTS["each"].splitlines() if "gqa.o" not in line)
    said = one(text.replace("last = model.norm.weight", ""))
    assert said.code == "E0602"
    assert said.message == "2 weights are in no tensor of `hub`: `layer[i].gqa.o`, `last`"


def test_experts_left_out_are_counted() -> None:
    text = TEXTS["each"].replace("experts[e].down = model.layers.{i}.block_sparse_moe.experts.{e}",
                                 "experts[2].down = model.layers.{i}.experts.2")  # fmt: skip
    said = one(text)
    assert said.message == (
        "1 weight is in no tensor of `hub`: `layer[i].sparse.experts.down of 3 experts`"
    )


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("layer[i].gqa.qq", "did you mean `layer[i].gqa.q`?"),
        ("layer[i].gqa.zzz", "there are: `k`, `o`, `q`, `v`"),
        ("layers[i].gqa.q", "did you mean `layer`?"),
        ("layer.gqa.q", "`layer` is numbered: write `layer[i]`"),
        ("layer[i].gqa[j].q", "`layer[i].gqa` takes no index"),
        ("layer[i].gqa", "it has several weights: `layer[i].gqa.k`, `layer[i].gqa.o`, "
                         "`layer[i].gqa.q`, `layer[i].gqa.v`"),
        ("layer[7].gqa.q", "its numbers are out of range"),
        ("layer[i].sparse.experts[9].down", "its numbers are out of range"),
    ],
)  # fmt: skip
def test_a_path_without_a_weight_says_what_is_there(path: str, hint: str) -> None:
    (said,) = found(
        TEXTS["each"] + f"{path} = x.{{i}}\n" if "[i]" in path else TEXTS["each"] + f"{path} = x\n"
    )
    assert said.code == "E0601"
    assert said.message == f"no weight is at `{path}`"
    assert said.help == hint


def test_a_weight_mapped_twice_shows_both_places() -> None:
    said = one(TEXTS["each"] + "layer[1].gqa.q = second.q\n")
    assert (said.code, said.message) == ("E0603", "`layer[1].gqa.q` is mapped twice")
    lines = [line for line in TEXTS["each"].splitlines() if line]
    first = next(n for n, line in enumerate(lines) if "gqa.q" in line)
    assert said.primary.span.start == len(lines)
    assert [label.span.start for label in said.secondary] == [first]
    said = one(TEXTS["each"] + "layer[i].sparse.experts[3].down = e3.{i}\n")
    assert said.message == "`layer[0].sparse.experts.down` is mapped twice"


def test_a_tensor_taken_twice_shows_both_places() -> None:
    said = one(TEXTS["each"].replace("self_attn.k_proj", "self_attn.q_proj"))
    assert (said.code, said.message) == (
        "E0603",
        "two places take the tensor `model.layers.0.self_attn.q_proj.weight`",
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("gate, up = fused", "2 places share one tensor; say how: `split(2)`"),
        ("gate, up = fused -> split(3)", "cut into 3 parts for 2 places"),
        ("gate, up = fused -> split(2, 3)", "axis 3 of a tensor with 3 axes"),
        ("gate, up = fused -> split(2) -> interleave(2)", "a tensor is cut once; this cuts it again"),
        ("gate, down = fused -> split(2)",
         "places of shapes [4, 12, 8], [4, 8, 12] cannot share a tensor along axis 0"),
        ("down = fused -> split(2)", "cut into 2 parts for 1 places"),
    ],
)  # fmt: skip
def test_steps_that_do_not_fit(line: str, message: str) -> None:
    left, right = line.split(" = ")
    left = ", ".join(f"layer[i].sparse.experts.{role}" for role in left.split(", "))
    said = one(COMMON + ENDS + f"{left} = {right.replace('fused', 'fused.{i}')}\n")
    assert (said.code, said.message) == ("E0604", message)


def test_one_axis_cannot_be_transposed() -> None:
    said = one(TEXTS["each"].replace("last = model.norm.weight", "last = norm -> transpose"))
    assert said.message == "a tensor with one axis cannot be transposed"


def test_an_index_that_the_name_lacks() -> None:
    said = one(TEXTS["each"].replace("model.layers.{i}.self_attn.q", "model.layers.self_attn.q"))
    assert said.code == "E0605"
    said = one(COMMON + FUSED.replace("experts.down", "experts[e].down") + ENDS)
    assert said.message == "4 places share one tensor; say how: `split(4)`"
    both = (
        "layer[i].sparse.experts[e].gate, layer[i].sparse.experts[e].up = fused.{i} -> split(2)\n"
    )
    said = one(COMMON + ENDS + both)
    assert said.code == "E0605"
    assert "`e`" in said.message


def test_interleaved_places_are_alike() -> None:
    said = one(TEXTS["together"].replace("split(3)", "interleave(3)"))
    assert (
        said.message == "places of shapes [8, 8], [4, 8], [4, 8] cannot share a tensor along axis 0"
    )


def test_a_large_map_is_checked_and_planned_fast() -> None:
    """94 layers of 128 experts: 36 thousand tensors, none of which is spelled out."""
    stored = weights(94, sparse=range(94), E=128)
    text = checkpoint(TEXTS["each"])

    def seconds(work) -> float:
        times = []
        for _ in range(3):
            start = time.process_time()
            work()
            times.append(time.process_time() - start)
        return min(times)

    sink = Sink()
    assert seconds(lambda: check_maps([text], places(stored), sink)) < 0.05
    assert not sink.found
    assert seconds(lambda: view(text, stored=stored)) < 0.1
