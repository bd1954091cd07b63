"""LongCat-Flash against transformers: experts that give back what they got, a mixture across two attentions.

transformers keeps gate and up weights for experts that compute nothing (one tensor has a row for each choice); files of
ours have none, so those rows are left out and put back here.
"""

from __future__ import annotations

import re

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import safetensors.torch  # noqa: E402

from moedsl import pipeline  # noqa: E402
from moedsl.ir.cost import cost  # noqa: E402
from tests.agree import agree  # noqa: E402
from tests.packages import model_class, package, source  # noqa: E402
from tests.parity.families import COMMON, Family  # noqa: E402
from tests.parity.test_transformers import (  # noqa: E402
    cross_entropy,
    left_padded,
    our_gradients,
    tokens,
)

LATENT = (
    "heads=4",
    "q_rank=20",
    "kv_rank=24",
    "head_dim=12",
    "rope_dim=8",
    "value_dim=10",
    "q_norm=rms(eps = 1e-6) -> scale(1.2649110640673518)",
    "kv_norm=rms(eps = 1e-6) -> scale(1.1547005383792515)",
)
LONGCAT = Family(
    spec="longcat_flash",
    settings=(
        "vocab=97",
        "width=32",
        "depth=2",
        "context=128",
        *(f"{name}.{setting}" for name in ("first", "second") for setting in LATENT),
        "near=swiglu(40)",
        "far=swiglu(40)",
        "sparse.experts=[full = 6 * swiglu(20), same = 3 * identity]",
        "balanced.select=top_k(4)",
        "balanced.choose=gate + balancing(1e-3, update = proportional, kinds = full, picks = 3)",
    ),
    cls="LongcatFlashForCausalLM",
    config_cls="LongcatFlashConfig",
    config={k: v for k, v in COMMON.items() if k != "num_hidden_layers"}
    | dict(
        num_layers=2,
        ffn_hidden_size=40,
        expert_ffn_hidden_size=20,
        q_lora_rank=20,
        kv_lora_rank=24,
        qk_nope_head_dim=12,
        qk_rope_head_dim=8,
        head_dim=8,
        v_head_dim=10,
        moe_topk=4,
        n_routed_experts=6,
        zero_expert_num=3,
        routed_scaling_factor=6.0,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1e7},
    ),
    experts=False,
)


def of_nothing(name: str) -> bool:
    """Weights of experts that compute nothing."""
    found = re.search(r"\.mlp\.experts\.(\d+)\.", name)
    return found is not None and int(found[1]) >= 6


def without_rows(folder) -> dict[str, torch.Tensor]:
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not of_nothing(name)}
    safetensors.torch.save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return {name: tensor for name, tensor in tensors.items() if of_nothing(name)}


@pytest.fixture
def pair(tmp_path):
    theirs = LONGCAT.reference()
    theirs.save_pretrained(tmp_path / "theirs")
    rows = without_rows(tmp_path / "theirs")
    module = package(LONGCAT.spec, LONGCAT.settings)
    ours = model_class(module)().eval()
    module.load_checkpoint(ours, tmp_path / "theirs")
    return theirs, module, ours, rows


def test_values_and_gradients(pair, tmp_path) -> None:
    theirs, module, ours, _ = pair
    ids = tokens()
    expected, output = theirs(ids).logits, ours(ids)
    chosen = output.routing["layer.0.sparse"].expert_NK
    assert (chosen >= 6).any() and (chosen < 6).any(), "both kinds are chosen"
    agree(output.logits, expected, 1e-5, "longcat_flash")
    cross_entropy(expected, ids).backward()
    cross_entropy(output.logits, ids).backward()
    actual = our_gradients(LONGCAT, module, ours, tmp_path / "ours")
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.data = parameter.grad.clone()
    theirs.save_pretrained(tmp_path / "gradients")
    without_rows(tmp_path / "gradients")
    wanted = safetensors.torch.load_file(tmp_path / "gradients" / "model.safetensors")
    assert set(actual) == set(wanted)
    names = list(wanted)
    found, want = [actual[n] for n in names], [wanted[n] for n in names]
    agree(found, want, 1e-4, "longcat_flash", of="gradients")


def test_generation_with_padding(pair) -> None:
    theirs, module, ours, _ = pair
    ids, mask = left_padded((9, 5, 2), 9)
    expected = theirs.generate(ids, attention_mask=mask.long(), max_new_tokens=8, do_sample=False)
    assert torch.equal(module.generate(ours, ids, max_new_tokens=8, mask=mask), expected)


def test_files_go_back(pair, tmp_path) -> None:
    theirs, module, ours, rows = pair
    module.save_checkpoint(ours, tmp_path / "written")
    theirs.config.save_pretrained(tmp_path / "written")
    file = tmp_path / "written" / "model.safetensors"
    safetensors.torch.save_file(
        {**safetensors.torch.load_file(file), **rows}, file, metadata={"format": "pt"}
    )
    again, report = type(theirs).from_pretrained(tmp_path / "written", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    with torch.no_grad():
        torch.testing.assert_close(again(tokens()).logits, theirs(tokens()).logits)


def test_weights_are_scaled_and_not_divided(pair) -> None:
    _, _, ours, _ = pair
    routing = ours(tokens()).routing["layer.0.sparse"]
    softmax = routing.logits_NE.softmax(-1).gather(1, routing.expert_NK)
    torch.testing.assert_close(routing.weight_NK, 6 * softmax)
    assert (routing.weight_NK.sum(1) - 6).abs().min() > 1e-3


def test_published_size() -> None:
    counted = cost(pipeline.check(source("longcat_flash")).graph).total
    assert round(counted.total / 1e9) == 561
    assert 18.6e9 < counted.active < 33e9, "experts that give back what they got cost nothing"
