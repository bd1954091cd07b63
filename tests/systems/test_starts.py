"""First weights from another model: upcycling a dense one, larger vocabularies.

Sources: Komatsuzaki et al., 2022 (copies); He et al., 2024, and Megatron's `upcycling_utils.py` (shards, tiled routers);
Nakamura et al., 2025 (redraw); Chinese-Mixtral (new rows at the mean).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

import moedsl.pipeline
from moedsl.source import Source
from tests import packages
from tests.agree import agree

LAYERS, WIDTH, HIDDEN, VOCAB = 2, 64, 96, 256
TINY = packages.source("tiny").text


def dense(hidden: int = HIDDEN, vocab: int = VOCAB) -> dict[str, Tensor]:
    """The files of a dense model in a Llama's names."""
    torch.manual_seed(0)
    found = {
        "model.embed_tokens.weight": torch.randn(vocab, WIDTH),
        "model.norm.weight": torch.rand(WIDTH) + 0.5,
        "lm_head.weight": torch.randn(vocab, WIDTH),
    }
    for i in range(LAYERS):
        at = f"model.layers.{i}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            found[f"{at}.{norm}.weight"] = torch.rand(WIDTH) + 0.5
        for name in "qkvo":
            found[f"{at}.self_attn.{name}_proj.weight"] = torch.randn(WIDTH, WIDTH) / 8
        found[f"{at}.mlp.gate_proj.weight"] = torch.randn(hidden, WIDTH) / 8
        found[f"{at}.mlp.up_proj.weight"] = torch.randn(hidden, WIDTH) / 8
        found[f"{at}.mlp.down_proj.weight"] = torch.randn(WIDTH, hidden) / 8
    return found


def started(files: dict[str, Tensor], folder: Path, **change: str) -> Any:
    """The tiny mixture, started from the files; `change`: other text for parts of the spec."""
    text = packages.source("tiny_upcycled").text
    for old, new in change.items():
        text = text.replace(OLD[old], new)
    result = moedsl.pipeline.compile(Source(text, "up.moe", {"tiny.moe": TINY}), SETTINGS)
    assert result.ok, [d.message for d in result.diagnostics]
    module = packages.imported(result.files)
    save_file(files, folder / "model.safetensors")
    model = packages.model_class(module)()
    module.start_from_dense(model, folder, seed=3)
    return module, model


OLD = {
    "redraw": ", redraw = 50%",
    "fresh": "fresh(std = 0.02)",
    "embed": '"model.embed_tokens.weight"',
}
SETTINGS = ("sparse.loss = none",)


def test_copies_of_one_layer_are_that_layer(tmp_path: Path) -> None:
    """Weights that sum to 1 over equal experts: the mixture is the dense layer, whatever the router says."""
    files = dense()
    _, model = started(files, tmp_path, redraw="")
    x = torch.randn(1, 5, WIDTH)
    for i in range(LAYERS):
        gate, up, down = (
            files[f"model.layers.{i}.mlp.{n}_proj.weight"] for n in ("gate", "up", "down")
        )
        expected = F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)
        found, _ = model.layer[i].sparse(x)
        agree(found, expected, 1e-5, "tiny_upcycled")
    assert torch.equal(model.layer[1].own.q.weight, files["model.layers.1.self_attn.q_proj.weight"])


def test_redrawn_channels_agree_in_an_expert_and_differ_between_experts(tmp_path: Path) -> None:
    files = dense()
    _, model = started(files, tmp_path)
    kept = []
    for i in range(LAYERS):
        experts = model.layer[i].sparse.experts
        gate, up = experts.gate_up.chunk(2, dim=1)
        at = f"model.layers.{i}.mlp"
        for e in range(4):
            same_gate = (gate[e] == files[f"{at}.gate_proj.weight"]).all(1)
            same_up = (up[e] == files[f"{at}.up_proj.weight"]).all(1)
            same_down = (experts.down[e] == files[f"{at}.down_proj.weight"]).all(0)
            assert torch.equal(same_gate, same_up) and torch.equal(same_gate, same_down)
            assert same_gate.sum() == HIDDEN // 2
            redrawn = gate[e][~same_gate]
            original = files[f"{at}.gate_proj.weight"]
            assert abs(redrawn.std() / original.std() - 1) < 0.1
            kept.append(tuple(same_gate.tolist()))
    assert len(set(kept)) == len(kept)


def test_equal_seeds_start_equally(tmp_path: Path) -> None:
    module, model = started(dense(), tmp_path)
    other = packages.model_class(module)()
    module.start_from_dense(other, tmp_path, seed=3)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name]), name
    module.start_from_dense(other, tmp_path, seed=4)
    assert not torch.equal(model.layer[0].sparse.experts.down, other.layer[0].sparse.experts.down)


def test_shards_of_a_layer_chosen_together_are_that_layer(tmp_path: Path) -> None:
    """Two shards, two copies: equal scores in a copy, so top-2 takes a whole one; each weighs a half, times 2."""
    files = dense(hidden=2 * HIDDEN)
    _, model = started(files, tmp_path, redraw=", shards = 2", fresh="fresh(std = 0.5, runs = 2)")
    x = torch.randn(1, 9, WIDTH)
    gate, up, down = (files[f"model.layers.0.mlp.{n}_proj.weight"] for n in ("gate", "up", "down"))
    expected = F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)
    found, routing = model.layer[0].sparse(x)
    assert torch.equal(routing.expert_NK[:, 0] // 2, routing.expert_NK[:, 1] // 2)
    assert len(routing.expert_NK[:, 0].unique()) > 1
    agree(2 * found, expected, 1e-5, "tiny_upcycled")


def test_new_rows_start_at_the_mean(tmp_path: Path) -> None:
    files = dense(vocab=VOCAB - 56)
    files["lm_head.weight"] = torch.randn(VOCAB, WIDTH)
    _, model = started(files, tmp_path, embed='"model.embed_tokens.weight" -> extend(init = mean)')
    old = files["model.embed_tokens.weight"]
    assert torch.equal(model.embed.weight[: len(old)], old)
    torch.testing.assert_close(model.embed.weight[len(old) :], old.mean(0).expand(56, -1))


def test_meta_parameters_are_made(tmp_path: Path) -> None:
    module, model = started(dense(), tmp_path)
    with torch.device("meta"):
        other = packages.model_class(module)()
    module.start_from_dense(other, tmp_path, seed=3)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name]), name


@pytest.mark.parametrize("fault", ["missing", "unexpected", "misshapen"])
def test_files_that_do_not_fit_change_nothing(tmp_path: Path, fault: str) -> None:
    module, model = started(dense(), tmp_path)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    files = dense()
    name = "model.layers.1.mlp.up_proj.weight"
    match fault:
        case "missing":
            del files[name]
        case "unexpected":
            files["more"] = torch.zeros(1)
        case "misshapen":
            files[name] = torch.zeros(HIDDEN + 1, WIDTH)
    save_file(files, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="more" if fault == "unexpected" else name):
        module.start_from_dense(model, tmp_path)
    assert all(torch.equal(before[n], weight) for n, weight in model.state_dict().items())


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        ('layer[i].sparse.experts[e].gate = "m.{i}.{e}" -> copies', "E0604"),
        ('layer[i].own.q = "m.{i}" -> copies', "E0604"),
        ('embed = "m" -> extend -> transpose', "E0604"),
        ("embed = linear", "E0210"),
        ("embed = 3", "E0210"),
    ],
)
def test_maps_that_make_no_sense(entry: str, code: str) -> None:
    text = f'import tiny from "tiny.moe"\nmodel m = tiny with {{\n  checkpoint c = huggingface {{\n    {entry}\n  }}\n}}\n'
    result = moedsl.pipeline.check(Source(text, "m.moe", {"tiny.moe": TINY}))
    assert code in [d.code for d in result.diagnostics]
