"""README, Targets: checkpoint maps and stages."""

from __future__ import annotations

import pytest

from moedsl.model import terms
from tests.model.specs import answer, model, resolved


def mapped(entries: str, more: str = "") -> str:
    return model(
        "layer(sparse)", f"checkpoint hub = huggingface(names = file) {{\n{entries}\n}}\n{more}"
    )


def rows(text: str) -> list[tuple[list[str], str]]:
    found = answer(text)
    assert not found.errors, found.errors
    return [
        ([".".join(map(str, path.parts)) for path in entry.paths], entry.file)
        for entry in found.model.checkpoints[-1].entries
    ]


def test_lists_pair_by_position():
    text = mapped('layer[i].own.[q, k] = "l.{i}.[query, key].weight"')
    assert rows(text) == [
        (["layer.('index', 'i').own.q"], "l.{i}.query.weight"),
        (["layer.('index', 'i').own.k"], "l.{i}.key.weight"),
    ]


def test_one_name_may_cover_several_places():
    text = mapped('own.[q, k, v] = "qkv.weight" -> split(3)')
    found = resolved(text)
    (entry,) = found.model.checkpoints[0].entries
    assert len(entry.paths) == 3
    assert [step.construct for step in entry.steps] == ["split"]


def test_the_source_has_settings():
    found = resolved(
        mapped('embed = "e"').replace("names = file", 'names = memory, ignore = ["*.bias"]')
    )
    source = found.model.checkpoints[0].source
    assert source.setting("names") == terms.Word("memory")
    assert source.setting("ignore").items[0][1] == terms.Text("*.bias")


def test_a_map_with_changes():
    more = 'checkpoint after = hub with { embed = "other"\nlast = none }'
    assert rows(mapped('embed = "e"\nlast = "l"\nhead = "h"', more)) == [
        (["embed"], "other"),
        (["head"], "h"),
    ]


@pytest.mark.parametrize(
    "entry, code",
    [
        ('own.[q, k] = "[a, b, c]"', "E0233"),
        ('own.[q, k] = "[a, b].[c, d, e]"', "E0233"),
        ('embed = "e.{i}"', "E0234"),
        ("embed = 3", "E0210"),
        ('embed = "e" -> splitt(2)', "E0201"),
        ('embed = "e"\nembed = "f"', "E0213"),
        ("norm a = rms()", "E0218"),
    ],
)
def test_what_a_map_refuses(entry, code):
    found = answer(mapped(entry))
    assert code in found.codes
    assert found.model is not None, "a map's mistakes are its own"


def test_stages():
    more = (
        "stage first { train = all }\n"
        "stage tune {\n init = first\n train = all - sparse.experts\n rate = [sparse = 0.1]\n"
        " sparse.experts.dropout = 0.4\n}"
    )
    first, tune = resolved(model("layer(sparse)", more)).model.stages
    assert (first.name, dict(first.settings)["train"]) == ("first", terms.Word("all"))
    settings = dict(tune.settings)
    assert settings["train"] == terms.Arithmetic(
        "-", terms.Word("all"), terms.Word("sparse.experts")
    )
    assert tune.edits == (("sparse.experts.dropout", "0.4"),)
    assert settings["rate"].items[0] == ("sparse", terms.Number(0.1))
