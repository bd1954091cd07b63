"""Packages from strings: imports, tracebacks, and two versions of one name in a process."""

from __future__ import annotations

import inspect
import traceback

import pytest

torch = pytest.importorskip("torch")

import moedsl  # noqa: E402
from moedsl.load import SpecError, load_package, model_class  # noqa: E402
from tests.packages import SPECS  # noqa: E402
from tests.trial.toy import FILES  # noqa: E402


def test_a_package_from_strings_runs():
    package = load_package(FILES, "toy")
    model = model_class(package)()
    model.init_weights(seed=0)
    assert model(torch.zeros(1, 3, dtype=torch.long)).logits.shape == (1, 3, 256)
    assert package is load_package({f"toy/{path}": text for path, text in FILES.items()}, "toy")


def test_operators_of_two_versions_stay_apart():
    tripled = FILES | {"model.py": FILES["model.py"].replace("FACTOR = 2", "FACTOR = 3")}
    one, other = load_package(FILES, "toy"), load_package(tripled, "toy")
    assert one is not other
    x = torch.ones(2)
    assert one.model.double_op(x).tolist() == [2, 2]
    assert other.model.double_op(x).tolist() == [3, 3]
    assert one.model.double_op(x).tolist() == [2, 2]


def test_tracebacks_and_inspect_show_lines():
    model = load_package(FILES, "toy").model
    assert "def init_weights" in inspect.getsource(model.Toy)
    try:
        model.Toy()(None)
    except Exception as error:
        assert "x_ND = self.embed(tokens_BT)" in "".join(traceback.format_exception(error))


def test_load_takes_settings_as_the_command_does():
    cls = moedsl.load(SPECS / "tiny.moe", width=32, **{"sparse.experts": "8 * swiglu(48)"})
    model = cls()
    assert model.embed.weight.shape == (256, 32)
    assert sum("experts" in name for name, _ in model.named_parameters()) > 0


def test_load_says_what_is_wrong(tmp_path):
    spec = tmp_path / "broken.moe"
    spec.write_text((SPECS / "tiny.moe").read_text().replace("top_k(2)", "top_k(9)"))
    with pytest.raises(SpecError) as refused:
        moedsl.load(spec)
    assert refused.value.diagnostics and "broken.moe" in str(refused.value)
