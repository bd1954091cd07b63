"""The resolved spec is a spec: read again, it means the same."""

from __future__ import annotations

import pytest

from moedsl.model.dump import dump_model
from tests.model.specs import answer
from tests.packages import SPECS

NAMES = sorted(path.stem for path in SPECS.glob("*.moe"))
# One recipe with several contents becomes several recipes; what was passed for a parameter stands at the setting it went to.
RENAMED = {"tiny_pyramid", "mod_small", "moeut_small", "switch_attention"}


def gallery(name: str):
    files = {path.name: path.read_text() for path in sorted(SPECS.glob("*.moe"))}
    return answer(files[f"{name}.moe"], files)


@pytest.mark.parametrize("name", NAMES)
def test_the_gallery_resolves(name):
    found = gallery(name)
    assert not found.diagnostics, found.diagnostics
    assert found.model is not None


@pytest.mark.parametrize("name", NAMES)
def test_reading_it_again_changes_nothing(name):
    model = gallery(name).model
    text = dump_model(model)
    again = answer(text)
    assert not again.errors, (again.errors, text)
    assert dump_model(again.model) == text
    if name not in RENAMED:
        assert again.model == model


def test_defaults_are_written_out():
    text = dump_model(gallery("tiny").model)
    for line in (
        "kv_heads = 4",
        "window   = none",
        "eps = 1e-05, weight = true",
        "q        = linear(",
    ):
        assert line in text
