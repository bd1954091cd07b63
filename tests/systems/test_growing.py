"""Trained banks that grow: a model with more experts starts from the files of one with fewer.

The oracle is the concatenation written out: every stacked weight of the small model, then what is new.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import moedsl.pipeline
from moedsl.model.dump import dump_model
from moedsl.source import Source
from tests import packages
from tests.agree import agree
from tests.systems.small import spec

ROUTER = (
    "score = rms() -> linear(bias = true)\ngate = score -> sigmoid\nchoose = gate + balancing(rate = 1e-3)\n"
    "select = top_k(2)\nweigh = gate -> scale(learned, per = expert)"
)
BANK = "experts = {} * (rms() -> swiglu(8, bias = true))"
GROWN = """checkpoint older = native {
  experts = grow(4, like = given)
  router  = grow(4, like = given, noise = 0.01)
}
checkpoint anew = native {
  experts = grow(4)
  router  = grow(4)
}"""
MIXTRAL = ("width=16", "depth=1", "vocab=32", "sparse.loss=none", "gqa.heads=2", "gqa.kv_heads=1", "sparse.experts=4 * swiglu(8)")  # fmt: skip
NAMED = """import mixtral_8x7b from "mixtral_8x7b.moe"
model m = mixtral_8x7b with {
  checkpoint before = hub with {
    layer[i].sparse.router.score = "model.layers.{i}.block_sparse_moe.gate.weight" -> grow(4, like = 1, noise = 0.1)
    layer[i].sparse.experts[e].[gate, down, up] = "model.layers.{i}.block_sparse_moe.experts.{e}.[w1, w2, w3].weight" -> grow(4STEP)
  }
}
"""


def built(text: str, settings: tuple[str, ...] = ()) -> Any:
    result = moedsl.pipeline.compile(Source(text, "m.moe", packages.source("tiny").files), settings)
    assert result.ok, "\n".join(f"{d.code} {d.message}" for d in result.diagnostics)
    return packages.imported(result.files)


def drawn(module: Any) -> Any:
    model = packages.model_class(module)()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in (*model.parameters(), *model.buffers()):
            weight.normal_(std=0.5, generator=generator)
    return model


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    module = built(spec(ROUTER, BANK.format(4)))
    model, folder = drawn(module), tmp_path_factory.mktemp("four")
    module.save_checkpoint(model, folder)
    return model, folder


@pytest.fixture(scope="module")
def large() -> Any:
    return built(spec(ROUTER, BANK.format(6), GROWN))


def stacked(name: str) -> bool:
    return ".experts." in name or (".router." in name and "rms" not in name)


def test_old_members_stay_and_new_ones_are_copies(small: Any, large: Any) -> None:
    old, folder = small
    model = packages.model_class(large)()
    large.start_from_older(model, folder, like=2)
    other = packages.model_class(large)()
    state, wanted = model.state_dict(), {}
    assert any("rms" in name and stacked(name) for name in state)
    for name, weight in old.state_dict().items():
        wanted[name] = weight
        if stacked(name):
            new = torch.stack([weight[2]] * 2)
            if ".router." in name:
                new = state[name][4:]
                assert 0 < (new - weight[2]).abs().max() < 0.06
                assert not torch.equal(new[0], new[1]), "two rows that are equal never part"
            wanted[name] = torch.cat([weight, new])
    other.load_state_dict(wanted)
    assert state.keys() == wanted.keys()
    for name, weight in wanted.items():
        assert torch.equal(state[name], weight), name
    tokens = torch.arange(20).view(2, 10)
    agree(model(tokens).logits, other(tokens).logits, 1e-6)
    assert torch.equal(
        model.layer[0].sparse.router.score_linear.weight[:4],
        old.layer[0].sparse.router.score_linear.weight,
    )


def test_without_the_new_ones_it_is_the_model_before(small: Any, large: Any) -> None:
    old, folder = small
    model = packages.model_class(large)()
    large.start_from_anew(model, folder)
    with torch.no_grad():
        for layer in model.layer:
            layer.sparse.router.score_linear.bias[4:] = -100
            layer.sparse.router.bias.value_E[4:] = -100
    tokens = torch.arange(20).view(2, 10)
    found, wanted = model(tokens), old(tokens)
    agree(found.logits, wanted.logits, 1e-6)
    assert torch.equal(
        found.routing["layer.1.sparse"].expert_NK, wanted.routing["layer.1.sparse"].expert_NK
    )


def test_fresh_members_start_as_weights_do(small: Any, large: Any) -> None:
    """A norm at one, biases and numbers with state at zero, all else drawn; the same for equal seeds."""
    _, folder = small
    one, same, other = (packages.model_class(large)() for _ in range(3))
    for model, seed in ((one, 1), (same, 1), (other, 2)):
        large.start_from_anew(model, folder, seed=seed)
    start = packages.model_class(large)()
    start.init_weights(0)
    for name, weight in one.state_dict().items():
        if not stacked(name):
            continue
        new, first = weight[4:], start.state_dict()[name][4:]
        assert torch.equal(new, same.state_dict()[name][4:])
        if first.std() == 0:
            assert torch.equal(new, first), name
        else:
            assert not torch.equal(new, other.state_dict()[name][4:])
            assert 0 < new.abs().max() < 0.1


def test_given_members_are_there(small: Any, large: Any) -> None:
    model = packages.model_class(large)()
    for wrong in (4, -1):
        with pytest.raises(ValueError, match="the files have 0 to 3"):
            large.start_from_older(model, small[1], like=wrong)
    with torch.device("meta"):
        meta = packages.model_class(large)()
    large.start_from_older(model, small[1], like=0, seed=5)
    large.start_from_older(meta, small[1], like=0, seed=5)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, meta.state_dict()[name]), name


@pytest.mark.parametrize("change", ["members", "width", "missing", "more"])
def test_files_that_do_not_fit_change_nothing(
    small: Any, large: Any, tmp_path: Path, change: str
) -> None:
    model = drawn(large)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    name = "layer.1.sparse.experts.swiglu_down"
    files = load_file(small[1] / "model.safetensors")
    match change:
        case "members":
            files[name] = torch.cat([files[name], files[name][:1]])
        case "width":
            files[name] = files[name][..., 1:].contiguous()
        case "missing":
            del files[name]
        case "more":
            files["more"] = torch.zeros(1)
    save_file(files, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="more is unexpected" if change == "more" else name):
        large.start_from_older(model, tmp_path, like=0)
    assert all(torch.equal(before[n], weight) for n, weight in model.state_dict().items())


@pytest.mark.parametrize("step", [", like = 3", ", like = 3, noise = 0.1", ""])
def test_files_with_a_tensor_for_each_expert(tmp_path: Path, step: str) -> None:
    """Mixtral's names: the new experts read the file of the one that they copy."""
    old_module = packages.package("mixtral_8x7b", MIXTRAL)
    old = drawn(old_module)
    old_module.save_checkpoint(old, tmp_path)
    module = built(NAMED.replace("STEP", step), (*MIXTRAL[:-1], "sparse.experts=6 * swiglu(8)"))
    model = packages.model_class(module)()
    module.start_from_before(model, tmp_path)
    for name, weight in old.state_dict().items():
        found = model.state_dict()[name]
        if not stacked(name):
            assert torch.equal(found, weight)
            continue
        assert torch.equal(found[:4], weight), name
        like = weight[1] if ".router." in name else weight[3] if step else torch.zeros(())
        apart = (found[4:] - like).abs().max()
        exact = ".experts." in name and step == ", like = 3"
        assert apart == 0 if exact else 0 < apart < 1, name


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("experts = grow(6)", "E0604"),
        ("experts = grow(7)", "E0604"),
        ("experts = grow(4, like = 4)", "E0604"),
        ("last = grow(4)", "E0604"),
        ("experts = copies", "E0604"),
        ("", "E0604"),
        ("experts = grow(4)\n  sparse = grow(4)", "E0603"),
        ("expert = grow(4)", "E0601"),
        ('experts = "experts" -> grow(4)', "E0210"),
        ("experts = fresh", "E0210"),
        ("experts = grow(0)", "E0206"),
        ("experts = grow(4, like = old)", "E0201"),
        ("experts = grow(4)\n  embed = extend", ""),
        ("layer[1].sparse.experts = grow(4)", ""),
    ],
)
def test_maps_that_make_no_sense(body: str, code: str) -> None:
    text = spec(ROUTER, BANK.format(6), f"checkpoint older = native {{\n  {body}\n}}")
    found = [d.code for d in moedsl.pipeline.check(Source(text, "m.moe")).diagnostics]
    assert found[:1] == ([code] if code else []), found


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ('layer[i].sparse.experts[e].swiglu.down = "e.{i}" -> grow(4)', "without `[e]`"),
        ('layer[i].sparse.experts[0].swiglu.down = "e.{i}" -> grow(4)', "not number 0 alone"),
        ('layer[i].before = "b.{i}" -> grow(4)', "side by side"),
        ('layer[i].sparse.experts.swiglu.down = "e.{i}" -> grow(4) -> transpose', "last step"),
        ('layer[i].sparse.experts[e].rms = "n.{i}.{e}" -> grow(4)', "start at one"),
    ],
)
def test_entries_that_make_no_sense(entry: str, says: str) -> None:
    text = spec(ROUTER, BANK.format(6).replace("swiglu(8, bias = true)", "swiglu(8)"),
                f"checkpoint older = huggingface {{\n  {entry}\n}}")  # fmt: skip
    found = moedsl.pipeline.check(Source(text, "m.moe")).diagnostics
    assert any(d.code == "E0604" and says in d.message for d in found), [d.message for d in found]


def test_weights_that_start_apart_are_stored_apart() -> None:
    own = "checkpoint older = native {{\n  experts.gate = grow(4)\n  experts.up = grow(4{})\n}}"
    for like, names in (("", ["gate", "up"]), (", like = 0", ["gate", "up"])):
        text = spec(
            "gate = score -> softmax\nselect = top_k(2)",
            "experts = 6 * swiglu(8)",
            own.format(like),
        )
        result = moedsl.pipeline.compile(Source(text, "m.moe"))
        assert all(
            f'"layer.*.sparse.experts.{name}": Grow(4' in result.files["start.py"] for name in names
        )


def test_a_resolved_spec_says_it_again() -> None:
    text = spec(ROUTER, BANK.format(6), GROWN)
    once = moedsl.pipeline.check(Source(text, "m.moe"))
    again = moedsl.pipeline.check(Source(dump_model(once.model), "m.moe"))
    assert again.ok and again.model.checkpoints[0].entries[0].steps[0].construct == "grow"


@pytest.mark.parametrize(
    ("train", "left"),
    [
        ("experts[4] + experts[5] + router[4] + router[5]", ""),
        ("router + experts[5]", "sparse.experts.rms (1 of 6)"),
        ("experts[0] + router", "sparse.experts.rms (2 of 6)"),
    ],
)
def test_what_an_earlier_model_has_trained_needs_no_stage(train: str, left: str) -> None:
    text = spec(ROUTER, BANK.format(6), f"{GROWN}\nstage newest {{ train = {train} }}")
    found = moedsl.pipeline.check(Source(text, "m.moe")).diagnostics
    assert [d.code for d in found] == (["W1004"] if left else [])
    assert all(left in d.message for d in found)
