"""Who sees the future, over hand-made models: a proof over the flow, not a list of names."""

from __future__ import annotations

import pytest

from moedsl.checks.causality import causality, check_causality
from moedsl.diagnostics.model import Diagnostic, Edit, Sink
from moedsl.ir.graph import Dim, Graph, TensorType, Unit, Value
from moedsl.ir.ops import Call, Combination, Embedding, Linear, Norm
from moedsl.model import terms
from moedsl.source import Span
from tests.checks import hand
from tests.checks.hand import Sizes

S, D, V = Sizes(), Dim("D", 64), Dim("V", 256)


def found(graph: Graph) -> list[Diagnostic]:
    sink = Sink()
    check_causality(graph, sink)
    return list(sink.sorted())


def decoder(attention: Unit | None = None, router: Unit | None = None) -> Graph:
    attention = attention or hand.attention(S, D)
    block = hand.layer(S, D, attention, hand.mixture(S, D, router))
    return hand.decoder(S, (block, 3))


def test_a_masked_decoder_is_causal() -> None:
    graph = decoder()
    assert found(graph) == []
    assert str(causality(graph)) == "causal"


def test_attention_without_a_mask_sees_the_future() -> None:
    graph = decoder(attention=hand.attention(S, D, sees="all"))
    (problem,) = found(graph)
    assert problem.code == "E0410"
    assert problem.message == "`logits` would see the future: `own` looks at the whole sequence"
    assert "mask = causal" in problem.help
    assert [label.text for label in problem.secondary] == [
        "`logits` predicts what follows each of `tokens`"
    ]
    assert str(causality(graph)) == "looks ahead"


def test_the_word_that_was_written_is_mended() -> None:
    attention = hand.attention(S, D, sees="all")
    origin = Span(30, 34, "spec")
    attention.recipe = terms.Recipe(
        "attention",
        "own",
        settings=(("mask", terms.Word("none", origin)),),
        given=frozenset({"mask"}),
    )
    (problem,) = found(decoder(attention=attention))
    assert problem.primary.span == origin
    assert problem.edits == (Edit(origin, "causal"),)


def test_a_router_that_ranks_the_sequence_is_shown_with_what_is_causal() -> None:
    (problem,) = found(decoder(router=hand.router(S, D, sees="all")))
    assert "`select`" in problem.message
    assert problem.primary.span.file == "pick"
    assert any("only what came before" in label.text for label in problem.secondary)


def test_a_rule_for_decoding_makes_it_causal_when_decoding() -> None:
    graph = decoder(router=hand.router(S, D, sees="all", lookahead="predicted(mlp(192))"))
    assert found(graph) == []
    assert str(causality(graph)) == "causal when decoding with predicted(mlp(192))"


def test_looking_ahead_may_be_allowed() -> None:
    graph = decoder(attention=hand.attention(S, D, sees="all"))
    node = next(n for u in graph.units for n in u.nodes if isinstance(n.op, hand.Attend))
    object.__setattr__(node.op, "lookahead", "allowed")
    assert found(graph) == []
    assert str(causality(graph)) == "looks ahead"


def test_every_cause_is_named_once_however_many_layers() -> None:
    problems = found(decoder(hand.attention(S, D, "all"), hand.router(S, D, sees="all")))
    assert [p.primary.span.file for p in problems] == ["own", "pick"]


def test_a_pooled_output_predicts_no_next_token() -> None:
    """A classifier: whatever it sees, its rows do not answer to tokens."""
    graph = decoder(attention=hand.attention(S, D, sees="all"))
    root = graph.root
    node = root.nodes[-1]
    pooled = Value("pooled", TensorType((hand.B, D)))
    root.nodes.insert(-1, hand.Node(hand.Pool(), node.inputs, (pooled,)))
    node.inputs = (pooled,)
    assert found(graph) == []
    assert str(causality(graph)) == "nothing to decode"


def test_an_output_that_is_not_over_the_vocabulary_predicts_no_next_token() -> None:
    graph = decoder(attention=hand.attention(S, D, sees="all"))
    graph.root.nodes.pop()
    graph.root.outputs = [graph.root.nodes[-1].outputs[0]]
    assert found(graph) == []


def cross_attention() -> Unit:
    x, memory = hand.stream(D), hand.stream(D, "memory")
    b = hand.body("cross", "attention", x, memory)
    wide = Dim("Q", 64)
    q = b.add(Linear(out=wide, inner=D), x, place="q")
    k, v = (b.add(Linear(out=wide, inner=D), memory, place=p) for p in ("k", "v"))
    mixed = b.add(hand.Attend(sees="all"), q, k, v, role="scores")
    b.unit.outputs = [b.add(Linear(out=D, inner=wide), mixed, place="o")]
    return b.unit


def translator(memory_of: str) -> Graph:
    """An encoder without a mask beside a decoder with one; `memory_of` is what the encoder reads."""
    inputs = {
        name: Value(name, TensorType((hand.B, hand.T), "int")) for name in ("source", "target")
    }
    b = hand.body("translator", "model", *inputs.values())
    embed = Embedding(vocab=V, width=D)
    memory = b.add(embed, inputs[memory_of], place="embed")
    memory = b.add(Call(unit=hand.attention(S, D, sees="all")), memory, place="encoder")
    x = b.add(embed, inputs["target"], place="embed")
    plus = Combination(operator="+")
    x = b.add(plus, x, b.add(Call(unit=hand.attention(S, D)), x, place="own"))
    x = b.add(plus, x, b.add(Call(unit=cross_attention()), x, memory, place="cross"))
    x = b.add(Norm(over=D, form="rms", eps=1e-6), x, place="last")
    b.unit.outputs = [b.add(Linear(out=V, inner=D), x, place="head", name="logits")]
    return hand.graph(b.unit)


def test_a_decoder_may_see_all_of_another_text() -> None:
    assert found(translator("source")) == []


def test_a_decoder_may_not_see_all_of_its_own_text_through_an_encoder() -> None:
    assert {p.primary.span.file for p in found(translator("target"))} == {"own", "cross"}


def test_poisoned_nodes_are_silent() -> None:
    graph = decoder(attention=hand.attention(S, D, sees="all"))
    for unit in graph.units:
        for node in unit.nodes:
            node.poisoned = node.poisoned or isinstance(node.op, hand.Attend)
    assert found(graph) == []


@pytest.mark.parametrize("layers", [1, 4000])
def test_the_work_does_not_grow_with_depth(layers: int) -> None:
    block = hand.layer(S, D, hand.attention(S, D), hand.mixture(S, D))
    assert found(hand.decoder(S, (block, layers))) == []
