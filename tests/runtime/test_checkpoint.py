"""checkpoint.py: maps both ways, whatever the layout; streaming; exact errors; safe writing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from moedsl.backend.checkpoint_view import CheckpointView
from moedsl.ir.graph import Storage
from tests.runtime.maps import (
    COMMON,
    DENSE,
    EACH,
    ENDS,
    MAPS,
    TEXTS,
    E,
    F,
    checkpoint,
    view,
    weights,
)
from tests.runtime.views import package, printed


def module(stored: list[Storage], seed: int | None = 0, **make) -> nn.Module:
    """Modules with the parameters that hold `stored`, filled with noise."""
    generator = torch.Generator().manual_seed(seed or 0)
    shapes: dict[str, tuple[int, ...]] = {}
    for each in stored:
        shape = list(each.shape)
        if each.axis is not None:
            shape[each.axis] = each.start + each.length
        shapes[each.module] = max(shapes.get(each.module, ()), tuple(shape))
    root = nn.Module()
    for name, shape in shapes.items():
        *places, leaf = name.split(".")
        home = root
        for place in places:
            if not hasattr(home, place):
                home.add_module(place, nn.Module())
            home = getattr(home, place)
        noise = torch.empty(shape, **make)
        if not noise.is_meta:
            noise.copy_(torch.randn(shape, generator=generator))
        setattr(home, leaf, nn.Parameter(noise))
    return root


def meta(stored: list[Storage], **make) -> nn.Module:
    return module(stored, device="meta", **make)


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(n == m and torch.equal(x, y) for (n, x), (m, y) in pairs)


def tensors(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in folder.glob("*.safetensors"):
        found |= load_file(file)
    return found


STORED = {
    "mixed": weights(7, sparse=(1, 3, 5)),
    "pyramid": [
        *weights(2),
        *(w for w in weights(3, sparse=(0, 1, 2), F=20) if w.path.startswith("layer[2]")),
    ],
}


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("shard", [5 * 2**30, 700])
def test_out_and_back_is_the_same(name: str, shard: int, tmp_path: Path) -> None:
    code = package(checkpoint=MAPS[name]).checkpoint
    stored = STORED.get(name, weights())
    model, empty = module(stored), meta(stored)
    code.save_checkpoint(model, tmp_path, max_shard_bytes=shard)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard == 700)
    code.load_checkpoint(empty, tmp_path)
    assert same(model, empty)
    other = module(stored, seed=1)
    code.load_checkpoint(other, tmp_path)
    assert same(model, other)


def saved(name: str, tmp_path: Path) -> tuple[nn.Module, dict[str, Tensor]]:
    model = module(weights())
    package(checkpoint=MAPS[name]).checkpoint.save_checkpoint(model, tmp_path)
    return model, tensors(tmp_path)


def parts(model: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    bank = model.get_submodule("layer.1.sparse.experts")
    return bank.gate_up[:, :F].detach(), bank.gate_up[:, F:].detach(), bank.down.detach()


def test_each_expert_in_its_own_tensors(tmp_path: Path) -> None:
    model, file = saved("each", tmp_path)
    gate, up, down = parts(model)
    for e in range(E):
        at = f"model.layers.1.block_sparse_moe.experts.{e}"
        assert torch.equal(file[f"{at}.w1.weight"], gate[e])
        assert torch.equal(file[f"{at}.w2.weight"], down[e])
        assert torch.equal(file[f"{at}.w3.weight"], up[e])
    assert torch.equal(file["lm_head.weight"], model.get_parameter("head.weight"))
    assert len(file) == 3 + 2 * (7 + 3 * E)


def test_fused_experts_are_the_parameter_itself(tmp_path: Path) -> None:
    model, file = saved("fused", tmp_path)
    bank = model.get_submodule("layer.1.sparse.experts")
    assert torch.equal(file["model.layers.1.mlp.experts.gate_up_proj"], bank.gate_up)
    assert "joined" not in printed(checkpoint=MAPS["fused"])["checkpoint.py"]


def test_transposed_and_interleaved_as_gpt_oss(tmp_path: Path) -> None:
    model, file = saved("turned", tmp_path)
    gate, up, down = parts(model)
    fused = file["model.layers.1.mlp.experts.gate_up_proj"]
    assert torch.equal(fused[..., ::2], gate.mT)
    assert torch.equal(fused[..., 1::2], up.mT)
    assert torch.equal(file["model.layers.1.mlp.experts.down_proj"], down.mT)


def test_experts_below_one_another_as_dbrx(tmp_path: Path) -> None:
    model, file = saved("below", tmp_path)
    gate, up, down = parts(model)
    assert torch.equal(file["blocks.1.experts.w1"], gate.flatten(0, 1))
    assert torch.equal(file["blocks.1.experts.v1"], up.flatten(0, 1))
    assert torch.equal(file["blocks.1.experts.w2"], down.mT.flatten(0, 1))


def test_queries_keys_and_values_together(tmp_path: Path) -> None:
    model, file = saved("together", tmp_path)
    own = model.get_submodule("layer.0.gqa")
    rows = torch.cat([own.q.weight, own.k.weight, own.v.weight])
    assert torch.equal(file["model.layers.0.qkv.weight"], rows)


def test_the_map_reads_as_a_table() -> None:
    text = printed(checkpoint=MAPS["mixed"])["checkpoint.py"]
    body = text[text.index("def entries") : text.index("def load_checkpoint")].strip()
    assert (
        body
        == '''def entries() -> Iterator[tuple]:
    """Each tensor of the file, and what it fills."""
    yield "model.embed_tokens.weight", "embed.weight"
    for i in range(7):
        file, here = f"model.layers.{i}", f"layer.{i}"
        yield f"{file}.input_layernorm.weight", f"{here}.before_mix.weight"
        yield f"{file}.post_attention_layernorm.weight", f"{here}.before_ffn.weight"
        yield f"{file}.self_attn.q_proj.weight", f"{here}.gqa.q.weight"
        yield f"{file}.self_attn.k_proj.weight", f"{here}.gqa.k.weight"
        yield f"{file}.self_attn.v_proj.weight", f"{here}.gqa.v.weight"
        yield f"{file}.self_attn.o_proj.weight", f"{here}.gqa.o.weight"
    for i in range(1, 6, 2):
        yield (
            f"model.layers.{i}.block_sparse_moe.gate.weight",
            f"layer.{i}.sparse.router.score.weight",
        )
    for i in range(0, 7, 2):
        file, here = f"model.layers.{i}", f"layer.{i}"
        yield f"{file}.mlp.gate_proj.weight", f"{here}.dense.gate.weight"
        yield f"{file}.mlp.up_proj.weight", f"{here}.dense.up.weight"
        yield f"{file}.mlp.down_proj.weight", f"{here}.dense.down.weight"
    for i in range(1, 6, 2):
        file, here = f"model.layers.{i}", f"layer.{i}"
        for e in range(4):
            expert = f"{file}.block_sparse_moe.experts.{e}"
            yield f"{expert}.w1.weight", f"{here}.sparse.experts.gate_up", (e, GATE)
            yield f"{expert}.w2.weight", f"{here}.sparse.experts.down", e
            yield f"{expert}.w3.weight", f"{here}.sparse.experts.gate_up", (e, UP)
    yield "model.norm.weight", "last.weight"
    yield "lm_head.weight", "head.weight"'''
    )


# --- dtypes, buffers, formats --------------------------------------------------------------------


def test_values_take_the_dtype_of_the_parameter(tmp_path: Path) -> None:
    code = package(checkpoint=MAPS["each"]).checkpoint
    model = module(weights())
    code.save_checkpoint(model, tmp_path)
    low = meta(weights(), dtype=torch.bfloat16)
    code.load_checkpoint(low, tmp_path)
    assert same(low, model.bfloat16())
    code.save_checkpoint(low, tmp_path)
    assert {t.dtype for t in tensors(tmp_path).values()} == {torch.bfloat16}
    wide = meta(weights(), dtype=torch.float32)
    code.load_checkpoint(wide, tmp_path)
    assert same(wide, low.float())


def with_bias(model: nn.Module, **make) -> nn.Module:
    for i in range(2):
        score = model.get_submodule(f"layer.{i}.sparse.router.score")
        score.register_buffer("correction", torch.full((E,), float(i), **make))
    return model


def test_buffers_go_along(tmp_path: Path) -> None:
    stored = weights()
    for i in range(2):
        at = f"layer[{i}].sparse.router.score.correction"
        stored.append(Storage(at, f"layer.{i}.sparse.router.score.correction", (E,)))
    more = (
        "layer[i].sparse.router.score.correction = model.layers.{i}.gate.e_score_correction_bias\n"
    )
    for made in (view(checkpoint(TEXTS["each"] + more), stored=stored), CheckpointView()):
        code = package(checkpoint=made).checkpoint
        model = with_bias(module(weights()))
        code.save_checkpoint(model, tmp_path)
        empty = with_bias(meta(weights()), device="meta")
        code.load_checkpoint(empty, tmp_path)
        assert same(model, empty)
        assert empty.get_submodule("layer.1.sparse.router.score").correction.tolist() == [1.0] * E


def test_a_format_is_chosen_by_name(tmp_path: Path) -> None:
    code = package(checkpoint=MAPS["several"]).checkpoint
    model, empty = module(weights()), meta(weights())
    code.save_checkpoint(model, tmp_path, format="turned")
    assert "model.layers.0.mlp.experts.gate_up_proj" in tensors(tmp_path)
    with pytest.raises(ValueError, match="is unexpected"):
        code.load_checkpoint(empty, tmp_path)
    code.load_checkpoint(empty, tmp_path, format="turned")
    assert same(model, empty)


def test_tied_places_are_one_tensor(tmp_path: Path) -> None:
    code = package(checkpoint=CheckpointView()).checkpoint
    made = []
    for seed, device in ((0, "cpu"), (1, "meta")):
        torch.manual_seed(seed)
        near = nn.Linear(4, 4, device=device)
        made.append(nn.ModuleDict({"first": near, "second": near}))
    code.save_checkpoint(made[0], tmp_path)
    assert set(tensors(tmp_path)) == {"first.weight", "first.bias"}
    code.load_checkpoint(made[1], tmp_path)
    assert made[1]["first"].weight is made[1]["second"].weight
    assert same(*made)


def test_parameters_stay_parameters(tmp_path: Path) -> None:
    code = package(checkpoint=MAPS["each"]).checkpoint
    code.save_checkpoint(module(weights()), tmp_path)
    model = module(weights(), seed=1)
    before = dict(model.named_parameters())
    code.load_checkpoint(model, tmp_path)
    assert all(p is before[n] and p.requires_grad for n, p in model.named_parameters())
    empty = meta(weights())
    empty.get_parameter("embed.weight").requires_grad_(False)
    code.load_checkpoint(empty, tmp_path)
    assert not empty.get_parameter("embed.weight").requires_grad
    assert empty.get_parameter("head.weight").requires_grad


# --- errors --------------------------------------------------------------------------------------


def test_what_does_not_fit_is_named_and_nothing_is_loaded(tmp_path: Path) -> None:
    code = package(checkpoint=MAPS["each"]).checkpoint
    code.save_checkpoint(module(weights()), tmp_path)
    file = tensors(tmp_path)
    del file["model.layers.1.block_sparse_moe.experts.3.w1.weight"]
    file["model.layers.0.extra"] = torch.zeros(1)
    file["lm_head.weight"] = torch.zeros(8, 32)
    save_file(file, tmp_path / "model.safetensors")
    model = meta(weights())
    with pytest.raises(ValueError) as caught:
        code.load_checkpoint(model, tmp_path)
    assert str(caught.value) == (
        "the files do not fit the model:\n"
        "  lm_head.weight in model.safetensors is [8, 32], not [32, 8]\n"
        "  model.layers.0.extra in model.safetensors is unexpected\n"
        "  model.layers.1.block_sparse_moe.experts.3.w1.weight is missing, "
        "which fills layer.1.sparse.experts.gate_up"
    )
    assert all(p.is_meta for p in model.parameters())


def test_shapes_of_joined_tensors_are_checked(tmp_path: Path) -> None:
    for name in ("turned", "below", "together"):
        code = package(checkpoint=MAPS[name]).checkpoint
        code.save_checkpoint(module(weights()), tmp_path)
        file = tensors(tmp_path)
        key = max(file, key=lambda k: file[k].numel() if "layers.0" in k or "blocks" in k else 0)
        file[key] = file[key][..., :-1].contiguous()
        save_file(file, tmp_path / "model.safetensors")
        with pytest.raises(ValueError, match=r"in model\.safetensors is"):
            code.load_checkpoint(meta(weights()), tmp_path)


def test_ignored_names_are_passed_by(tmp_path: Path) -> None:
    model = module(weights())
    package(checkpoint=MAPS["each"]).checkpoint.save_checkpoint(model, tmp_path)
    file = tensors(tmp_path) | {"model.layers.0.rotary_emb.inv_freq": torch.zeros(4)}
    save_file(file, tmp_path / "model.safetensors")
    empty = meta(weights())
    package(checkpoint=MAPS["ignoring"]).checkpoint.load_checkpoint(empty, tmp_path)
    assert same(model, empty)
    with pytest.raises(ValueError, match=r"inv_freq in model\.safetensors is unexpected"):
        package(checkpoint=MAPS["each"]).checkpoint.load_checkpoint(empty, tmp_path)


def test_paths(tmp_path: Path) -> None:
    code = package(checkpoint=MAPS["each"]).checkpoint
    model, empty = module(weights()), meta(weights())
    with pytest.raises(FileNotFoundError, match="neither"):
        code.load_checkpoint(empty, tmp_path)
    code.save_checkpoint(model, tmp_path / "new" / "folder")
    code.load_checkpoint(empty, str(tmp_path / "new" / "folder" / "model.safetensors"))
    assert same(model, empty)
    code.save_checkpoint(model, tmp_path, max_shard_bytes=700)
    next(tmp_path.glob("model-00002-of-*")).unlink()
    with pytest.raises(FileNotFoundError, match="model-00002-of-"):
        code.load_checkpoint(empty, tmp_path)


def test_without_the_library_it_says_what_to_install(tmp_path: Path, monkeypatch) -> None:
    code = package(checkpoint=MAPS["each"]).checkpoint
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match="pip install"):
        code.save_checkpoint(module(weights()), tmp_path)


# --- writing -------------------------------------------------------------------------------------


def test_shards_and_index(tmp_path: Path) -> None:
    code = package(checkpoint=MAPS["each"]).checkpoint
    model = module(weights())
    code.save_checkpoint(model, tmp_path, max_shard_bytes=2000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(p.nbytes for p in model.parameters())
    shards = sorted(set(index["weight_map"].values()))
    assert shards == [
        f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)
    ]
    for shard in shards:
        file = load_file(tmp_path / shard)
        assert {n for n, s in index["weight_map"].items() if s == shard} == set(file)
        assert sum(t.nbytes for t in file.values()) <= 2000 or len(file) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == [*shards, "model.safetensors.index.json"]


def test_older_weights_go_and_other_files_stay(tmp_path: Path) -> None:
    code = package(checkpoint=MAPS["each"]).checkpoint
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model_of_mine.safetensors").write_text("")
    for shard, files in ((2000, None), (5 * 2**30, {"model.safetensors"}), (700, None)):
        code.save_checkpoint(module(weights()), tmp_path, max_shard_bytes=shard)
        left = {p.name for p in tmp_path.iterdir()} - {"config.json", "model_of_mine.safetensors"}
        counts = {name.rpartition("-of-")[2] for name in left if "-of-" in name}
        assert left == files if files else len(counts) == 1 and "model.safetensors" not in left
    assert (tmp_path / "config.json").exists()
    assert (tmp_path / "model_of_mine.safetensors").exists()


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch) -> None:
    code = package(checkpoint=MAPS["each"]).checkpoint
    old = module(weights())
    code.save_checkpoint(old, tmp_path, max_shard_bytes=2000)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    calls = []

    def full(*args, **more):
        calls.append(args)
        if len(calls) == 2:
            raise OSError("no space left on device")
        save_file(*args, **more)

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="no space"):
        code.save_checkpoint(module(weights(), seed=1), tmp_path, max_shard_bytes=2000)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


# --- memory --------------------------------------------------------------------------------------

MEASURE = """
import importlib, re, sys
sys.path.insert(0, sys.argv[1])
import torch
from torch import nn
torch.set_num_threads(1)
code = importlib.import_module("code_under_test")
with torch.device("meta"):
    model = nn.ModuleDict({f"m{i}": nn.Linear(1024, 4096, bias=False) for i in range(16)})
import safetensors.torch
def memory(what):
    return int(re.search(what + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024
def begin():
    open("/proc/self/clear_refs", "w").write("5")  # the peak so far is forgotten
    return memory("VmRSS")
start = begin()
if sys.argv[3] == "load":
    code.load_checkpoint(model, sys.argv[2])
else:
    model.to_empty(device="cpu")
    for p in model.parameters():
        p.data.fill_(1.0)
    start = begin()
    code.save_checkpoint(model, sys.argv[2], max_shard_bytes=48 * 2**20)
print(memory("VmHWM") - start)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read as Linux counts them")
def test_memory_stays_below_the_weights_and_a_shard(tmp_path: Path) -> None:
    """256 MiB of weights in shards of 48."""
    (tmp_path / "code_under_test.py").write_text(
        printed(checkpoint=CheckpointView())["checkpoint.py"]
    )

    def grown(what: str) -> int:
        command = [sys.executable, "-c", MEASURE, str(tmp_path), str(tmp_path / "model"), what]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert grown("save") < 48 + 24
    assert 256 <= grown("load") < 256 + 48 + 24


def test_maps_for_layers_that_differ() -> None:
    """Widths of experts differ: slices that share a name with others stand in place."""
    text = printed(checkpoint=MAPS["pyramid"])["checkpoint.py"]
    assert "GATE = slice(0, 12)" in text
    assert "(e, slice(20, 40))" in text
    assert "for i in range(2, 3):" in text
    dense = view(
        checkpoint(
            "".join(x + "\n" for x in COMMON.splitlines() if "sparse" not in x) + DENSE + ENDS
        ),
        stored=weights(2, sparse=()),
    )
    assert "part" not in printed(checkpoint=dense)["checkpoint.py"].split("def load")[0]
    assert EACH
