"""README, Names: what a name means, and which names may be taken."""

from __future__ import annotations

import pytest

from moedsl.model import terms
from tests.model.specs import PARTS, answer, applied, model, resolved, stage


def test_a_name_is_a_recipe_and_each_mention_a_place():
    flow = resolved(model("2 * layer(sparse)")).flow
    layer = stage(flow, "layer")
    assert applied(layer, 0).name == "own"
    assert applied(layer, 1).name == "sparse"
    assert applied(layer, 1).place == "feed_forward"


def test_one_recipe_under_two_names():
    flow = resolved(model("layer(sparse)")).flow
    last = stage(flow, "last")
    assert (last.construct, last.name, last.place) == ("rms", "last", "last")
    assert last.setting("eps") == terms.Number(1e-5)


@pytest.mark.parametrize("name", ["x", "index", "choices", "q", "gate", "score", "hidden", "norm"])
def test_implicit_names_cannot_be_declared(name):
    found = answer(model("layer(sparse)", f"norm {name} = rms()"))
    assert "E0219" in found.codes


def test_a_right_hand_side_sees_the_outer_binding():
    text = model("layer(sparse)", "norm rms = rms(eps = 1e-3)").replace("-> last", "-> rms")
    found = answer(text)
    assert [d.code for d in found.errors] == []
    assert stage(found.flow, "rms").setting("eps") == terms.Number(1e-3)


def test_an_unknown_name_is_met_with_what_was_meant():
    found = answer(model("layer(spares)"))
    assert found.codes == ["E0201"]
    assert found.diagnostics[0].edits[0].text == "sparse"


def test_what_is_made_of_itself_is_refused_once():
    found = answer(model("layer(sparse)", "norm one = two\n  norm two = one"))
    assert found.codes == ["E0227"]


def test_tensors_come_in_the_order_they_are_computed():
    more = "let one = two -> embed\n  let two = tokens -> embed -> layer(sparse)"
    found = answer(model("layer(sparse)", more.replace("two -> embed", "two -> last")))
    assert [let.name for let in found.model.lets] == ["two", "one"]


def test_tensors_that_read_each_other():
    found = answer(model("layer(sparse)", "let one = two -> last\n  let two = one -> last"))
    assert "E0227" in found.codes
    assert found.model is None


def test_nothing_reads_what_could_not_be_made():
    found = answer(model("layer(sparse)").replace("ids(vocab)", "ids(vocap)"))
    assert found.codes == ["E0201"]
    assert found.model is None


def test_a_block_cannot_hold_itself():
    found = answer(model("layer(sparse)").replace("x += own(before_mix(x))", "x += layer(x)"))
    assert found.codes == ["E0201"]


def test_declared_twice_shows_both_places():
    found = answer(model("layer(sparse)", "norm last = rms()"))
    assert found.codes == ["E0213"]
    assert len(found.diagnostics[0].secondary) == 1


def test_set_twice():
    found = answer(model("layer(sparse)", "vocab = 3"))
    assert found.codes == ["E0213"]


def test_what_nothing_reads_is_a_warning():
    found = answer(model("layer(sparse)", "norm never = rms()"))
    assert found.codes == ["W1010"]
    assert found.model is not None


def test_what_nothing_reads_is_checked_all_the_same():
    assert "E0202" in answer(model("layer(sparse)", "norm never = rms(epsilon = 1)")).codes


def test_a_misspelt_setting_of_the_model():
    found = answer(model("layer(sparse)", "contxt = 12"))
    assert found.codes == ["E0202"]
    assert "context" in found.diagnostics[0].help


def test_a_model_has_numbers_of_its_own():
    found = resolved(model("depth * layer(sparse)", "depth = 3"))
    assert found.model.setting("depth") == terms.Number(3)
    assert terms.Copies(3, stage(found.flow, "layer")) in found.flow


def test_embed_and_head_stand_there_by_default():
    flow = resolved(model("layer(sparse)")).flow
    assert stage(flow, "embed").setting("vocab") == terms.Number(256)
    assert stage(flow, "head").setting("width") == terms.Number(256)


def test_a_model_may_declare_its_own_head():
    flow = resolved(model("layer(sparse)", "head = tied(embed)")).flow
    head = stage(flow, "head")
    assert (head.construct, head.name) == ("tied", "head")
    assert head.setting("place") == terms.Text("embed")


def test_tied_is_one_module_for_all_its_mentions():
    text = model("layer(sparse)").replace(
        "norm before_mix, before_ffn, last", "tied before_mix, before_ffn, last"
    )
    layer = stage(resolved(text).flow, "layer")
    value = layer.body[0].value
    norm = value.right.inputs[0].recipe
    assert norm.tied == "before_mix"


def test_two_places_take_two_names():
    found = answer(model("layer(sparse)").replace("before_ffn(x)", "before_mix(x)"))
    assert "E0209" in found.codes


def test_a_tied_recipe_may_stand_twice():
    text = PARTS.replace(
        "norm before_mix, before_ffn, last =", "tied before_mix = rms()\n  norm last ="
    )
    text = text.replace("before_ffn(x)", "before_mix(x)")
    assert not answer(model("layer(sparse)", parts=text)).errors


def test_the_wrong_kind_is_named():
    found = answer(model("layer(sparse)", "norm never = swiglu(8)"))
    assert "E0211" in found.codes
    assert "`never` is a ffn" in found.errors[0].message or "ffn" in found.errors[0].message


def test_an_unknown_kind_is_met_with_what_was_meant():
    found = answer(model("layer(sparse)", "nrom never = rms()"))
    assert "E0211" in found.codes
    assert "norm" in found.errors[0].help


@pytest.mark.parametrize("target, wanted", [("", "two"), ("one", "one"), ("two", "two")])
def test_the_last_model_of_a_file_unless_one_is_named(target, wanted):
    text = model("layer(sparse)", name="one") + model("layer(sparse)", name="two")
    assert answer(text, target=target).model.name == wanted


def test_a_file_without_a_model():
    assert answer("norm one = rms()\n").codes == ["E0224"]
    assert answer(model("layer(sparse)"), target="other").codes == ["E0224"]
