"""The checks of bench/models.py, as far as a CPU goes: what they see, and that they see what is wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

import model_checks  # noqa: E402
import small  # noqa: E402
from printed_models import Printed  # noqa: E402

import moedsl.pipeline  # noqa: E402
from tests.packages import source  # noqa: E402

CHECKED = ("switch_base", "mod_small", "lory", "vmoe_b32")


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    sys.path.insert(0, str(folder))
    for name in CHECKED:
        small.write(name, moedsl.pipeline.compile(source(name), small.SMALL[name]), folder)
    yield lambda name, device="cpu": Printed(Path(folder) / name, device)
    sys.path.remove(str(folder))
    for name in [n for n in sys.modules if n.partition(".")[0] in CHECKED]:
        del sys.modules[name]


@pytest.mark.parametrize("name", CHECKED)
def test_everything_stays_on_the_device(printed, name):
    """Tensors without data cannot be moved, read or looked at: neither can those of a GPU without waiting for it."""
    one = printed(name, "meta")
    for train in (True, False):
        with torch.device("meta"):
            model = one.model_class().train(train)
        given = one.batch(torch.float32, "meta", 0, padded=one.can_pad())
        output = model(**given)
        (output.logits.sum() + sum(output.losses.values())).backward()
        assert output.logits.is_meta


def test_a_wrong_product_is_seen(printed, monkeypatch):
    one = printed("switch_base")
    assert model_checks.float32(one)["error"] < 1e-5
    combine = one.module.reference.combine

    def off(y_RD, weight_NK, place_NK):
        y_ND = combine(y_RD, weight_NK, place_NK)
        return y_ND if y_ND.dtype == torch.float64 else y_ND * 1.001

    monkeypatch.setattr(one.module.reference, "combine", off)
    with pytest.raises(AssertionError, match=r"train=True, padded=False: .*logits"):
        model_checks.float32(one)


def test_a_wrong_choice_is_no_near_tie(printed, monkeypatch):
    one = printed("mod_small")
    reference = one.module.reference
    choose = reference.choose

    def second(key_NE, k):
        return choose(key_NE, k + 1)[:, -k:] if key_NE.dtype == torch.float32 else choose(key_NE, k)

    monkeypatch.setattr(reference, "choose", second)
    with pytest.raises(AssertionError, match="experts differ in all"):
        model_checks.float32(one)
