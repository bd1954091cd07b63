"""Run by test_interpreted.py in a process of its own, where Triton is its interpreter."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.kernels import agree

assert os.environ.get("TRITON_INTERPRET") == "1"
FOLDER = Path(os.environ["MOEDSL_PRINTED"])
PACKAGES = sorted(path.parent for path in FOLDER.glob("*/view.json"))
MIXTRAL = FOLDER / "moedsl_mixtral"


DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
# bf16 arithmetic in the interpreter is wrong beyond doubt: these cases also prove that every load is cast first. What
# follows the casts is the same for all, so that the narrow ones need no more than the hostile rows and some sequences.
NARROW = ((7, 1), (33, 3))


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
@DTYPES
def test_routes(package: Path, dtype: torch.dtype) -> None:
    agree.check_route(package, dtype, "cpu", agree.SHAPES if dtype is torch.float32 else NARROW)


@pytest.mark.parametrize("package", agree.kinds_of_rows(PACKAGES), ids=lambda path: path.name)
@DTYPES
def test_rows(package: Path, dtype: torch.dtype) -> None:
    agree.check_rows(package, dtype, "cpu")


@pytest.mark.parametrize("package", agree.kinds_of_picks(PACKAGES), ids=lambda path: path.name)
def test_room(package: Path) -> None:
    if agree.load(package)[0]["columns"]:
        agree.check_room(package, "cpu")


@pytest.mark.parametrize("package", agree.kinds_of_picks(PACKAGES), ids=lambda path: path.name)
def test_dispatch(package: Path) -> None:
    agree.check_dispatch(package, "cpu")


def test_operators_reach_the_kernels() -> None:
    routing = __import__(f"{MIXTRAL.name}.routing", fromlist=["routing"])
    assert routing.backend(torch.zeros(1)) is routing.kernels
    assert routing.backend(torch.zeros(1, dtype=torch.float64)) is routing.reference


@pytest.mark.parametrize("name", ["combine", "gather_rows_backward"])
def test_a_wrong_sum_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, reference = agree.load(MIXTRAL)
    right = getattr(reference, name)
    monkeypatch.setattr(reference, name, lambda *args: right(*args) + 1e-3)
    with pytest.raises(AssertionError, match=name):
        agree.check_rows(MIXTRAL, torch.float32, "cpu")


def test_a_wrong_place_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An order that is not stable must fail."""
    _, _, reference = agree.load(MIXTRAL)
    right = reference.dispatch
    monkeypatch.setattr(reference, "dispatch", lambda expert, n: right(expert.flip(0), n))
    with pytest.raises(AssertionError, match="dispatch"):
        agree.check_dispatch(MIXTRAL, "cpu")


def test_a_wrong_tie_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ties to the higher index, in the reference alone, must fail."""
    _, _, reference = agree.load(MIXTRAL)

    def choose(key, k):
        return (
            key.shape[1] - 1 - key.flip(1).sort(dim=1, descending=True, stable=True).indices[:, :k]
        )

    monkeypatch.setattr(reference, "choose", choose)
    with pytest.raises(AssertionError):
        agree.check_route(MIXTRAL, torch.float32, "cpu")
