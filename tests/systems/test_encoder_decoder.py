"""Decoding beside another stream: it is read once, its keys and values are kept, and what is said stays the same."""

from __future__ import annotations

import pytest
import torch

from moedsl.ir.cost import cost
from moedsl.ir.info import info_table
from tests.systems.test_relative import SPEC as T5
from tests.systems.test_relative import batch as long_batch
from tests.systems.test_streams import CONDITIONED, SPEC, THREE, batch, made, result_of


class Counted:
    """How often a module ran."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.count = 0
        module.register_forward_hook(self)

    def __call__(self, *_: object) -> None:
        self.count += 1


def test_the_encoder_and_the_memorys_keys_are_computed_once():
    module, model = made()
    source, tokens, source_mask, _ = batch()
    once = [Counted(model.encode[1]), Counted(model.decode[0].cross.k), Counted(model.last_memory)]
    steps = Counted(model.decode[1].cross.q)
    said = module.generate(model, source, tokens[:, :1], 6, source_mask=source_mask)
    assert [each.count for each in once] == [1, 1, 1] and steps.count == 6
    assert said.shape == (3, 7)


@pytest.mark.parametrize("text", (SPEC, T5), ids=("rotary", "relative"))
def test_generation_is_the_greedy_loop_without_a_cache(text):
    module, model = made(text)
    source, tokens, source_mask, _ = batch()
    tokens = tokens % 40
    said = module.generate(model, source, tokens[:, :1], 6, source_mask=source_mask)
    plain = tokens[:, :1]
    for _ in range(6):
        logits = model(source, plain, source_mask=source_mask).logits
        plain = torch.cat([plain, logits[:, -1].argmax(1, keepdim=True)], 1)
    assert torch.equal(said, plain)


def test_prompts_of_different_lengths_beside_sources_of_different_lengths():
    """A batch says what each of its rows says alone, wherever padding is."""
    module, model = made()
    source, tokens, source_mask, mask = batch()
    together = module.generate(model, source, tokens, 4, source_mask=source_mask, mask=mask)
    for row in range(3):
        alone = module.generate(
            model, source[row][source_mask[row]][None], tokens[row][mask[row]][None], 4
        )
        assert torch.equal(together[row, -4:], alone[0, -4:])


def test_a_cache_belongs_to_one_batch():
    """A new one reads a new source; the old one goes on with what it read."""
    module, model = made()
    source, tokens, *_ = batch()
    cache = module.Cache()
    first = model(source, tokens[:, :3], cache=cache).logits
    other = (source + 1) % 40
    again = model(other, tokens[:, 3:], cache=cache).logits
    whole = model(source, tokens).logits
    torch.testing.assert_close(torch.cat([first, again], 1), whole)
    assert not torch.allclose(model(other, tokens, cache=module.Cache()).logits, whole)


def test_the_output_of_a_step_tells_of_both_stacks():
    module, model = made()
    source, tokens, source_mask, _ = batch()
    cache = module.Cache()
    model(source, tokens[:, :4], source_mask=source_mask, cache=cache)
    step = model(source, tokens[:, 4:], source_mask=source_mask, cache=cache)
    whole = model(source, tokens, source_mask=source_mask)
    assert step.routing.keys() == whole.routing.keys() and step.losses.keys() == whole.losses.keys()
    torch.testing.assert_close(
        step.routing["encode.1.feed_forward"].logits_NE,
        whole.routing["encode.1.feed_forward"].logits_NE,
    )


def test_gradients_flow_where_no_cache_is():
    _, model = made()
    source, tokens, *_ = batch()
    output = model(source, tokens)
    (output.logits.square().sum() + sum(output.losses.values())).backward()
    assert all(p.grad is not None for p in model.parameters())
    whole = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model.checkpoint_layers = True
    output = model(source, tokens)
    (output.logits.square().sum() + sum(output.losses.values())).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, whole[name], msg=name)


def test_generation_beside_two_streams_and_labels():
    module, model = made(THREE)
    source, tokens, source_mask, _ = batch()
    hint = torch.randint(20, (3, 4))
    said = module.generate(model, source, hint, tokens[:, :1], 3, source_mask=source_mask)
    logits = model(source, hint, said[:, :-1], source_mask=source_mask).logits
    assert torch.equal(said[:, -1], logits[:, -1].argmax(1))
    module, model = made(CONDITIONED)
    task, features = torch.tensor([1, 2, 3]), torch.randn(3, 3).double()
    said = module.generate(model, tokens[:, :2], task, features, 3)
    logits = model(said[:, :-1], task, features).logits
    assert torch.equal(said[:, -1], logits[:, -1].argmax(1))


def test_half_precision_and_compiled_steps():
    module, model = made(T5)
    model = model.bfloat16()
    source, tokens, source_mask = long_batch()
    said = module.generate(model, source, tokens[:, :1], 3, source_mask=source_mask)
    assert said.shape == (3, 4)


def test_a_model_of_one_stream_keeps_nothing_else():
    text = result_of(CONDITIONED).files
    assert "once" not in text["state.py"] and "kept" not in text["state.py"]


def test_counts_are_those_of_the_module():
    _, model = made()
    info = info_table(result_of(SPEC).graph)
    assert info.total.total == sum(p.numel() for p in model.parameters())


def flops_of(model, source_length: int, length: int) -> int:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    source = torch.zeros(1, source_length, dtype=torch.int64)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(source, torch.zeros(1, length, dtype=torch.int64))
    return counter.get_total_flops()


def test_flops_are_those_of_torch_at_both_lengths():
    """Equal lengths: as many tokens of each stream as are counted. Else: what one stream's length adds to a token."""
    _, model = made(T5)
    graph = result_of(T5).graph
    for n in (5, 9):
        assert flops_of(model, n, n) == n * cost(graph, n).total.flops
    near, far = (cost(graph, 6, {"source": n}).total.flops for n in (6, 7))
    heads, size, layers = 2, 6, 2
    across = (
        4 * heads * size * layers
    )  # products of queries with a key, and of weights with a value
    assert far - near == 2 * across, "one more token for the encoder's own, and for the decoder's"
    assert (
        flops_of(model, 7, 6) - flops_of(model, 6, 6)
        == (7 * stack(graph, "encode", 6, 7) - 6 * stack(graph, "encode", 6, 6))
        + across * 6
        + 2 * layers * 2 * 16 * heads * size
    )


def stack(graph, name: str, tokens: int, source: int) -> int:
    return dict(info_table(graph, tokens, {"source": source}).stacks)[name].flops


def test_a_cache_keeps_the_memorys_keys_and_values():
    graph, (module, model) = result_of(T5).graph, made(T5)
    source, tokens = torch.zeros(1, 8, dtype=torch.int64), torch.zeros(1, 8, dtype=torch.int64)
    cache = module.Cache(8)
    model(source, tokens, cache=cache)
    pairs = [kept for kept in cache.kept if isinstance(kept, tuple)]
    kept = sum(t.numel() for pair in pairs for t in pair) + sum(b.numel() for b in cache.buffers)
    assert 2 * kept == 8 * cost(graph).total.cache_bytes


def test_info_tells_the_lengths_and_the_stacks():
    told = info_table(result_of(T5).graph, 4, {"source": 9}).json()
    assert told["lengths"] == {"source": 9} and told["tokens"] == 4
    assert told["stacks"].keys() == {"encode", "decode"}
    alone = info_table(result_of(CONDITIONED).graph).json()
    assert "lengths" not in alone and "stacks" not in alone
