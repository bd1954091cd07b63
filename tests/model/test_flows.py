"""README, Ideas 3, Calls and Variation: connectives, counts, positions and plans."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moedsl.model import terms
from tests.model.specs import PARTS, answer, applied, model, resolved, stage

WIDE = PARTS.replace("own(before_mix(x))", "own(before_mix(x))\n    x += (swiglu(8))(x)")


def layers(flow: tuple[terms.Term, ...]) -> list[tuple[int, terms.Recipe]]:
    """(count, block) for each run of blocks."""
    found = []
    for term in flow:
        count, recipe = (term.count, term.recipe) if isinstance(term, terms.Copies) else (1, term)
        if recipe.construct == "block":
            found.append((count, recipe))
    return found


def widths(flow: tuple[terms.Term, ...]) -> list[int]:
    """The width of the feed-forward that each layer got."""
    return [
        applied(block, 1).setting("width").value
        for count, block in layers(flow)
        for _ in range(count)
    ]


def test_a_count_is_copies_in_sequence():
    assert [count for count, _ in layers(resolved(model("3 * layer(sparse)")).flow)] == [3]


def test_a_depth_plan():
    flow = answer(model("3 * layer(swiglu(8)) -> 5 * layer(swiglu(16))")).flow
    assert [count for count, _ in layers(flow)] == [3, 5]
    assert widths(flow) == [8] * 3 + [16] * 5


def test_equal_layers_are_one_run():
    flow = answer(model("2 * layer(swiglu(8)) -> layer(swiglu(8))")).flow
    assert [count for count, _ in layers(flow)] == [3]


def test_a_counted_flow_is_written_out():
    flow = answer(model("2 * (layer(swiglu(8)) -> 2 * layer(swiglu(16)))")).flow
    assert widths(flow) == [8, 16, 16, 8, 16, 16]


def test_index_is_a_position_in_the_flow():
    flow = answer(model("4 * layer(swiglu(8 * (index + 1)))")).flow
    assert widths(flow) == [8, 16, 24, 32]


def test_index_counts_over_the_whole_flow():
    flow = answer(model("2 * layer(swiglu(8)) -> 2 * layer(swiglu(8 + index))")).flow
    assert widths(flow) == [8, 8, 10, 11]


def test_index_is_read_where_a_declared_recipe_stands():
    flow = answer(model("3 * layer(grown)", "ffn grown = swiglu(8 + index)")).flow
    assert widths(flow) == [8, 9, 10]


def test_index_outside_of_a_flow():
    assert "E0201" in answer(model("layer(sparse)", "ffn grown = swiglu(8 + index)")).codes


def test_a_plan_gives_a_value_per_layer():
    flow = answer(model("4 * layer(by_layer(2 * (swiglu(8) -> swiglu(16))))")).flow
    assert widths(flow) == [8, 16, 8, 16]


def test_a_plan_of_numbers():
    flow = answer(model("3 * layer(swiglu(by_layer([8, 8, 2])))")).flow
    assert widths(flow) == [8, 8, 2]
    assert [count for count, _ in layers(flow)] == [2, 1]


def test_two_plans_zip():
    flow = answer(model("2 * layer(swiglu(by_layer([8, 9]) * by_layer([1, 2])))")).flow
    assert widths(flow) == [8, 18]


@pytest.mark.parametrize("plan, length", [("[8]", 1), ("[8, 8, 8]", 3), ("3 * [8, 9]", 6)])
def test_plans_are_as_long_as_their_flow(plan, length):
    found = answer(model(f"2 * layer(swiglu(by_layer({plan})))"))
    assert "E0232" in found.codes
    (error,) = (d for d in found.diagnostics if d.code == "E0232")
    assert f"{length} value" in error.message
    assert "2 blocks" in error.message
    assert error.secondary


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6))
def test_plans_and_written_flows_agree(plan):
    by_hand = " -> ".join(f"layer(swiglu({8 * n}))" for n in plan)
    by_plan = f"{len(plan)} * layer(swiglu(8 * by_layer({plan})))"
    assert answer(model(by_hand)).flow == answer(model(by_plan)).flow


def test_copies_of_a_bank_stand_side_by_side():
    flow = answer(
        model("layer(sparse)", "").replace("4 * swiglu(96)", "4 * (swiglu(96) -> linear)")
    ).flow
    experts = applied(layers(flow)[0][1], 1).setting("experts")
    assert experts.count == 4
    assert isinstance(experts.recipe, terms.Flow)


@pytest.mark.parametrize("bank", ["4 * swiglu(96) -> linear", "4 * swiglu(96) + linear"])
def test_a_bare_count_in_a_bank_shows_both_readings(bank):
    found = answer(model("layer(sparse)").replace("4 * swiglu(96)", bank))
    assert found.codes == ["E0216"]
    assert "or" in found.diagnostics[0].help


def test_kinds_of_a_bank_have_names():
    flow = resolved(
        model("layer(sparse)").replace("4 * swiglu(96)", "[full = 3 * swiglu(96), skip = zero]")
    ).flow
    experts = applied(layers(flow)[0][1], 1).setting("experts")
    assert [label for label, _ in experts.items] == ["full", "skip"]


def test_choices_is_the_size_of_the_bank():
    parts = PARTS.replace("score  = linear", "score  = linear -> soft_cap(2 * choices)")
    flow = resolved(model("layer(sparse)", parts=parts)).flow
    score = applied(layers(flow)[0][1], 1).setting("router").setting("score")
    assert score.stages[1].setting("limit") == terms.Number(8)


# --- pairs -------------------------------------------------------------------------------------

PAIRS = [
    ("(0.5 * x)", "E0214", "scale(0.5)"),
    ("(x * 2)", "E0214", "scale(2)"),
    ("(x / 4)", "E0214", "scale(0.25)"),
    ("(x -> 3)", "E0215", "scale"),
    ("(linear -> x)", "E0215", "tensor"),
    ("linear", "E0210", "apply it"),
    ("(linear * 2)", "E0214", "count * recipe"),
    ("(-x)", "E0214", "scale(-1)"),
]


@pytest.mark.parametrize("expression, code, mend", PAIRS, ids=[p[0] for p in PAIRS])
def test_pairs_that_do_not_go_have_a_mend(expression, code, mend):
    found = answer(model("layer(sparse)").replace("own(before_mix(x))", expression))
    error = next(d for d in found.diagnostics if d.code == code)
    assert mend in error.help


@pytest.mark.parametrize(
    "expression",
    [
        "x * (x -> linear)",
        "x + before_mix(x)",
        "1 - x",
        "(x -> linear) * x",
        "(linear + linear(8))(x)",
    ],
)
def test_tensors_combine(expression):
    assert not answer(model("layer(sparse)").replace("own(before_mix(x))", expression)).errors


def test_a_tensor_beside_a_recipe_is_a_recipe():
    parts = PARTS.replace(
        "x += own(before_mix(x))", "let h = before_mix(x)\n    x += (h * linear)(x)"
    )
    block = layers(answer(model("layer(sparse)", parts=parts)).flow)[0][1]
    value = block.body[1].value.right
    assert terms.type_of(value.recipe) == "recipe"


@pytest.mark.parametrize(
    "text, value", [("2 * 32", 64), ("65 - 1", 64), ("128 / 2", 64), ("6.4e1", 64)]
)
def test_numbers_are_computed(text, value):
    found = resolved(model("layer(sparse)").replace("width = 64", f"width = {text}"))
    assert found.model.setting("width") == terms.Number(value)
    assert isinstance(found.model.setting("width").value, int)


def test_a_flow_begins_with_a_tensor():
    found = answer(model("layer(sparse)").replace("tokens -> embed", "embed"))
    assert "E0210" in found.codes


def test_stage_names_in_order():
    flow = resolved(model("layer(sparse)")).flow
    assert [term.name for term in flow] == ["embed", "layer", "last", "head"]
    assert stage(flow, "last").place == "last"
