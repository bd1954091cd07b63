"""README, Change and imports: edits come first, evaluation afterwards."""

from __future__ import annotations

import pytest

from moedsl.model import terms
from tests.model.specs import PARTS, answer, applied, model, resolved, stage

BASE = model("depth * layer(sparse)", "depth = 2", name="a")


def edited(edits: str, base: str = BASE):
    return resolved(base + f"model b = a with {{\n{edits}\n}}\n")


def test_everything_that_reads_a_changed_name_follows():
    found = edited("vocab = 300\nrouter top2 {\nselect = top_k(1)\n}")
    router = applied(stage(found.flow, "layer"), 1).setting("router")
    assert router.setting("select").setting("k") == terms.Number(1)
    assert stage(found.flow, "embed").setting("vocab") == terms.Number(300)
    assert found.model.name == "b"


def test_a_name_changes_inside():
    found = edited("own { heads = 8 }")
    own = applied(stage(found.flow, "layer"), 0)
    assert own.setting("heads") == terms.Number(8)
    assert own.setting("kv_heads") == terms.Number(8)
    assert own.setting("head_dim") == terms.Number(8)
    assert own.setting("mask") == terms.Word("causal")


def test_a_path_changes_inside():
    found = edited("sparse.experts = 2 * swiglu(8)")
    assert applied(stage(found.flow, "layer"), 1).setting("experts").count == 2


def test_none_removes():
    found = edited("sparse.loss = none")
    assert applied(stage(found.flow, "layer"), 1).setting("loss") == terms.Word("none")


def test_a_setting_that_is_a_recipe_changes_in_its_place_only():
    base = BASE.replace(
        "  block layer",
        "  moe other {\n router = top2\n experts = 4 * swiglu(8)\n }\n  block layer",
    )
    base = base.replace("depth * layer(sparse)", "layer(sparse) -> layer(other)")
    base = base.replace("depth = 2", "")
    found = edited("sparse.router { select = top_k(1) }", base)
    first, second = (s for s in found.flow if isinstance(s, terms.Recipe) and s.name == "layer")
    assert applied(first, 1).setting("router").setting("select").setting("k") == terms.Number(1)
    assert applied(second, 1).setting("router").setting("select").setting("k") == terms.Number(2)


def test_a_right_hand_side_sees_the_old_one():
    flow = edited("own = own with { heads = 8 }").flow
    assert applied(stage(flow, "layer"), 0).setting("heads") == terms.Number(8)


def test_an_old_one_may_be_followed():
    layer = stage(edited("sparse = sparse -> swiglu(8)").flow, "layer")
    value = layer.body[1].value
    assert [stage.name for stage in value.right.recipe.stages] == ["sparse", "swiglu"]


def test_a_recipe_with_changes_beside_it():
    more = "attention local = own with { window = 16 }"
    text = model("layer(sparse)", more).replace("x += own(", "x += local(")
    found = answer(text)
    own = applied(stage(found.flow, "layer"), 0)
    assert (own.name, own.setting("window")) == ("local", terms.Number(16))
    assert own.setting("heads") == terms.Number(4)


def test_edits_of_edits():
    text = BASE + "model b = a with { depth = 3 }\nmodel c = b with { depth = depth + 1 }\n"
    assert resolved(text).model.setting("depth") == terms.Number(4)


def test_there_must_be_something_to_change():
    found = answer(BASE + "model b = a with { sparce.experts = 2 * swiglu(8) }\n")
    assert found.codes == ["E0217"]
    assert found.diagnostics[0].edits[0].text == "sparse"


def test_model_parameters():
    base = PARTS.replace("4 * swiglu", "count * swiglu")
    text = model("layer(sparse)", parts=base, name="a").replace("model a", "model a(count = 8)")
    for more, count in (("", 8), ("model b = a with { count = 3 }", 3), ("model b = a(5)", 5)):
        found = resolved(text + more + "\n")
        assert applied(stage(found.flow, "layer"), 1).setting("experts").count == count


SETS = [
    ("depth=5", lambda m, layer: m.setting("depth") == terms.Number(5)),
    ("width=32", lambda m, layer: applied(layer, 0).setting("head_dim") == terms.Number(8)),
    (
        "sparse.experts=2 * swiglu(8)",
        lambda m, layer: applied(layer, 1).setting("experts").count == 2,
    ),
    ("own.heads=2", lambda m, layer: applied(layer, 0).setting("kv_heads") == terms.Number(2)),
    ("context=128", lambda m, layer: m.setting("context") == terms.Number(128)),
    ("sparse.loss=none", lambda m, layer: applied(layer, 1).setting("loss") == terms.Word("none")),
]


@pytest.mark.parametrize("edit, holds", SETS, ids=[edit for edit, _ in SETS])
def test_the_command_line_makes_the_same_edits(edit, holds):
    found = resolved(BASE, sets=(edit,))
    assert holds(found.model, stage(found.flow, "layer"))


def test_the_command_line_speaks_of_itself():
    found = answer(BASE, sets=("depth=2", "own.heads=0.5"))
    assert found.codes == ["E0206"]
    assert found.diagnostics[0].primary.span.file == "--set 2"


@pytest.mark.parametrize("text", ["depth", "norm a = rms()", "depth=1\nwidth=2", "", "a { b = 1 }"])
def test_what_is_not_an_edit(text):
    assert answer(BASE, sets=(text,)).errors


# --- imports -----------------------------------------------------------------------------------


def test_an_import_is_relative_to_its_file():
    files = {
        "parts/one.moe": 'import a from "two.moe"\nmodel b = a with { depth = 3 }\n',
        "parts/two.moe": BASE,
    }
    found = resolved('import b from "parts/one.moe"\nmodel c = b with { width = 32 }\n', files)
    assert found.model.setting("depth") == terms.Number(3)
    assert found.model.setting("width") == terms.Number(32)


def test_an_edit_reads_its_own_file():
    files = {"a.moe": BASE + "norm there = rms(eps = 1e-2)\n"}
    text = 'import a from "a.moe"\nnorm here = rms(eps = 1e-3)\nmodel b = a with { last = here }\n'
    assert stage(resolved(text, files).flow, "last").setting("eps") == terms.Number(1e-3)
    text = 'import a from "a.moe"\nmodel b = a with { last = there }\n'
    assert answer(text, files).codes == ["E0201"]


@pytest.mark.parametrize(
    "path", ["../a.moe", "/a.moe", "x/../../a.moe", "C:a.moe", "..", "x\0", ""]
)
def test_imports_stay_inside(path):
    files = {"../a.moe": BASE, "/a.moe": BASE}
    assert answer(f'import a from "{path}"\nmodel b = a with {{ width = 8 }}\n', files).codes == [
        "E0220"
    ]


def test_a_path_inside_may_go_up():
    assert resolved('import a from "x/../a.moe"\nmodel b = a with { width = 8 }\n', {"a.moe": BASE})


def test_cycles_are_an_error():
    files = {"a.moe": 'import m from "spec.moe"\n' + BASE}
    found = answer('import a from "a.moe"\nmodel m = a with { width = 8 }\n', files)
    assert found.codes == ["E0221"]


def test_a_missing_file_and_a_missing_name():
    found = answer('import a from "aa.moe"\nmodel b = a with { width = 8 }\n', {"a.moe": BASE})
    assert found.codes == ["E0223"]
    assert "a.moe" in found.diagnostics[0].help
    found = answer('import aa from "a.moe"\nmodel b = aa with { width = 8 }\n', {"a.moe": BASE})
    assert found.codes == ["E0223"]


def test_a_file_is_read_once():
    files = {"a.moe": BASE}
    text = (
        'import a from "a.moe"\nimport top from "b.moe"\nmodel b = a with { router top2 = top }\n'
    )
    files["b.moe"] = 'import a from "a.moe"\nrouter top {\n  select = top_k(1)\n}\n'
    assert not answer(text, files).errors
