"""What may stand in a block that serves some of the tokens: soft slots, merged experts, attention that sees both sides,
learned distances; and blocks that serve some patches of an image. Against formulas token by token."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import moedsl.pipeline
from moedsl.checks.causality import causality
from moedsl.ir.cost import cost
from moedsl.source import Source
from tests.agree import agree
from tests.systems import plain_depth as plain
from tests.systems.test_depth import HEADS, LENGTH, built, codes, model_of, stepped, tokens

Lists = list[Tensor]
TAUGHT = "select = phase(train = top(50%), decode = predicted(linear))"
TOKENS = "input tokens = ids(vocab)"
IMAGE = "input image = pixels(2, 12, 16)"


def spec(
    attention: str = "q, k = linear -> rope",
    feed: str = "dense",
    rule: str = TAUGHT,
    stream: str = "tokens -> embed",
    head: str = "head",
    more: str = "",
) -> str:
    image = "image" in stream
    return f"""
model m {{
  {"" if image else "vocab = 31"}
  width   = 8
  context = 64
  norm before, after, last = rms(eps = 1e-6)
  attention own {{ heads = {HEADS}
    {attention} }}
  ffn dense = swiglu(12)
  {more}
  block layer {{
    x += own(before(x))
    x += {feed}(after(x))
  }}
  block plain {{
    x += own(before(x))
    x += dense(after(x))
  }}
  block some = routed(layer) {{ {rule} }}
  {IMAGE if image else TOKENS}
  output logits = {stream} -> plain -> some -> last -> {head}
}}
"""


def slots(over: str = "sequence", most: str = "") -> str:
    return f"""router slots {{ score = linear
    select = soft(slots = 2, over = {over})
    {most} }}
  moe soft_moe {{ router = slots
    experts = 3 * swiglu(6) }}"""


# --- the formulas ----------------------------------------------------------------------------------

Sees = Callable[[int, int], bool]
BOTH: Sees = lambda s, t: True  # noqa: E731
PAST: Sees = lambda s, t: s <= t  # noqa: E731


def attention(
    w: dict[str, Tensor],
    at: str,
    xs: Lists,
    places: list[int],
    sees: Sees,
    turned: bool = True,
    bias: Callable[[int, int, int], Tensor] | None = None,
    factor: Callable[[int], float] = lambda place: 1.0,
) -> Lists:
    """By where tokens stand in the whole sequence; only those of the list are there."""
    found = []
    size = xs[0].shape[0] // HEADS
    for x, t in zip(xs, places, strict=True):
        mixed = []
        for h in range(HEADS):
            part = slice(h * size, (h + 1) * size)
            turn = plain.turned if turned else (lambda head, place: head)
            q = turn((w[f"{at}.q.weight"] @ x)[part], t) * factor(t)
            keys = [(y, s) for y, s in zip(xs, places, strict=True) if sees(s, t)]
            score = []
            for y, s in keys:
                dot = q @ turn((w[f"{at}.k.weight"] @ y)[part], s) / math.sqrt(size)
                score.append(dot if bias is None else dot + bias(h, t, s))
            weight = torch.stack(score).softmax(0)
            mixed.append(weight @ torch.stack([(w[f"{at}.v.weight"] @ y)[part] for y, _ in keys]))
        found.append(w[f"{at}.o.weight"] @ torch.cat(mixed))
    return found


def expert(w: dict[str, Tensor], at: str, number: int, x: Tensor, share: Tensor | None = None):
    """One swiglu of a bank, or the mean of all by their shares."""
    both, down = w[f"{at}.experts.gate_up"], w[f"{at}.experts.down"]
    if share is not None:
        both, down = (torch.einsum("e,eij->ij", share, part) for part in (both, down))
    else:
        both, down = both[number], down[number]
    gate, up = (both @ x).chunk(2)
    return down @ (gate * gate.sigmoid() * up)


def soft(w: dict[str, Tensor], at: str, xs: Lists, made_of: Sees = BOTH) -> Lists:
    """Puigcerver et al., 2023, equations (1) to (3), with slots made of what `made_of` (the j-th for the i-th) says."""
    score = torch.stack([w[f"{at}.router.score.weight"] @ x for x in xs])  # [token, slot]
    found = []
    for i in range(len(xs)):
        seen = [j for j in range(len(xs)) if made_of(j, i)]
        if not seen:
            found.append(torch.zeros_like(xs[0]))
            continue
        y = torch.zeros_like(xs[0])
        for z in range(6):
            filled = sum(p * xs[j] for p, j in zip(score[seen, z].softmax(0), seen, strict=True))
            y = y + score[i].softmax(0)[z] * expert(w, at, z // 2, filled)
        found.append(y)
    return found


def dense(w: dict[str, Tensor], at: str, xs: Lists) -> Lists:
    return [plain.swiglu(w, at, x) for x in xs]


def layer(
    w: dict[str, Tensor], at: str, xs: Lists, places: list[int], feed: Any, **more: Any
) -> Lists:
    mixed = attention(
        w, f"{at}.own", [plain.rms(x, w[f"{at}.before.weight"]) for x in xs], places, **more
    )
    xs = [x + y for x, y in zip(xs, mixed, strict=True)]
    given = feed([plain.rms(x, w[f"{at}.after.weight"]) for x in xs])
    return [x + y for x, y in zip(xs, given, strict=True)]


def formula(
    w: dict[str, Tensor],
    xs: Lists,
    feed: Any,
    share: float | list[int] = 0.5,
    compact: bool = False,
    outside: bool = False,
    names: tuple[str, str] = ("plain.0", "plain.1"),
    **more: Any,
) -> Lists:
    """A plain layer, and one for the best half (or for these tokens). `compact`, `outside`: mistakes."""
    first, some = names
    places = list(range(len(xs)))
    xs = layer(w, first, xs, places, lambda xs: dense(w, f"{first}.dense", xs), **more)
    scores = [w[f"{some}.score.weight"][0] @ x for x in xs]
    served = (
        share if isinstance(share, list) else plain.best(scores, math.ceil(share * len(xs)), places)
    )
    own = list(range(len(served))) if compact else served

    def run(own_xs: Lists, _: list[int]) -> Lists:
        at = f"{some}.layer"
        if outside:  # the feed-forward of all tokens, as if those left out were there
            whole = layer(w, at, xs, places, lambda h: feed(w, at, h), **more)
            return [whole[t] for t in served]
        return layer(w, at, own_xs, own, lambda h: feed(w, at, h), **more)

    return plain.mixture_of_depths(xs, scores, served, places, run)


def ended(w: dict[str, Tensor], xs: Lists) -> Tensor:
    return torch.stack([w["head.weight"] @ plain.rms(x, w["last.weight"]) for x in xs])


def same(found: Tensor, wanted: Tensor, model: Any) -> None:
    """Values, and every gradient of a drawn sum of them."""
    agree(found, wanted, 1e-6, "mod_small")
    drawn = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(3)).double()
    named = {n: p for n, p in model.named_parameters() if "predicted" not in n}
    mine = torch.autograd.grad((found * drawn).sum(), list(named.values()))
    theirs = torch.autograd.grad((wanted * drawn).sum(), list(named.values()))
    assert all(gradient.any() for gradient in theirs)
    agree(mine, theirs, 1e-6, "mod_small", of="gradients")


def embedded(w: dict[str, Tensor], ids: list[int]) -> Lists:
    return [w["embed.weight"][i] for i in ids]


# --- soft slots ------------------------------------------------------------------------------------


def in_slots(**more: Any) -> Any:
    return lambda w, at, xs: soft(w, f"{at}.soft_moe", xs, **more)


ENCODER = spec("q, k = linear -> rope\n    mask = none", "soft_moe", "select = top(50%)", head="linear(7)", more=slots())  # fmt: skip


def test_slots_are_made_of_the_tokens_that_are_served():
    """Attention to both sides, slots over the sequence, padding; as each sequence alone."""
    model = model_of(built(ENCODER))
    ids = tokens(2, 7)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, :2] = False
    w = dict(model.named_parameters())
    w["head.weight"] = next(p for n, p in w.items() if p.shape == (7, 8))
    found = model(ids, mask=mask)
    rows = [ended(w, formula(w, embedded(w, ids[b, mask[b]].tolist()), in_slots(), sees=BOTH))
            for b in range(2)]  # fmt: skip
    same(torch.cat([found.logits[b, mask[b]] for b in range(2)]), torch.cat(rows), model)
    assert found.depth["plain.1"].served_BT.sum(1).tolist() == [4, 3]
    for mistake in ({"outside": True}, {"compact": True}):
        wrong = ended(w, formula(w, embedded(w, ids[0].tolist()), in_slots(), sees=BOTH, **mistake))
        assert (found.logits[0] - wrong).abs().max() > 1e-3, mistake


SPANS = {
    "prefix": (lambda j, i: j <= i),
    "segment(2)": (lambda j, i: j // 2 <= i // 2 - 1),
}


@pytest.mark.parametrize("over", SPANS)
def test_causal_slots_among_those_that_are_served(over):
    text = spec(feed="soft_moe", more=slots(over))
    verdict = causality(moedsl.pipeline.check(Source(text, "m.moe")).graph)
    assert str(verdict) == "causal when decoding with select = predicted"
    module = built(text)
    model = model_of(module)
    ids = tokens(1, 8)
    w = dict(model.named_parameters())
    feed = in_slots(made_of=SPANS[over])
    wanted = ended(w, formula(w, embedded(w, ids[0].tolist()), feed, sees=PAST))
    same(model(ids).logits[0], wanted, model)
    # With a cache the rule decides, and steps are the whole; what comes later moves nothing.
    model.eval()
    whole = model(ids, cache=module.Cache())
    (served,) = whole.depth["plain.1"].served_BT
    assert 0 < served.sum() < 8
    chosen = served.nonzero()[:, 0].tolist()
    again = formula(w, embedded(w, ids[0].tolist()), feed, chosen, sees=PAST)
    torch.testing.assert_close(whole.logits[0], ended(w, again), rtol=1e-6, atol=1e-6)
    for sizes in ([1] * 8, [4, 1, 3]):
        torch.testing.assert_close(stepped(model, module, ids, sizes), whole.logits)
    other = ids.clone()
    other[:, 5:] = (other[:, 5:] + 7) % 31
    changed = model(other, cache=module.Cache()).logits
    torch.testing.assert_close(changed[:, :5], whole.logits[:, :5])


def test_slots_of_a_whole_sequence_look_ahead_inside_too():
    assert codes(spec(feed="soft_moe", more=slots())) == ["E0410"]
    allowed = spec(feed="soft_moe", more=slots(most="lookahead = allowed"))
    assert str(causality(moedsl.pipeline.check(Source(allowed, "m.moe")).graph)) == "looks ahead"


MERGED = """router merge { score = pool(mean, over = segment(2, lag = 1)) -> linear
    gate = score -> softmax
    select = all }
  moe merged { router = merge
    experts = 3 * swiglu(6)
    mix = parameters }"""


def test_experts_merged_for_segments_of_those_that_are_served():
    def feed(w: dict[str, Tensor], at: str, xs: Lists) -> Lists:
        at, found = f"{at}.merged", []
        for i, x in enumerate(xs):
            earlier = [y for j, y in enumerate(xs) if j // 2 == i // 2 - 1]
            mean = sum(earlier) / len(earlier) if earlier else torch.zeros_like(x)
            share = (w[f"{at}.router.score.weight"] @ mean).softmax(0)
            found.append(expert(w, at, 0, x, share))
        return found

    module = built(spec(feed="merged", more=MERGED))
    model = model_of(module)
    ids = tokens(1, 8)
    w = dict(model.named_parameters())
    wanted = ended(w, formula(w, embedded(w, ids[0].tolist()), feed, sees=PAST))
    same(model(ids).logits[0], wanted, model)
    model.eval()
    whole = model(ids, cache=module.Cache()).logits
    torch.testing.assert_close(stepped(model, module, ids, [3, 1, 1, 3]), whole)


# --- scores of positions ---------------------------------------------------------------------------


def bucket(distance: int, both: bool, count: int = 8, most: int = 16) -> int:
    """transformers t5/modeling_t5.py _relative_position_bucket; `distance` of a key to its query."""
    first = 0
    if both:
        count //= 2
        first, distance = (count if distance > 0 else 0), abs(distance)
    else:
        distance = max(-distance, 0)
    exact = count // 2
    if distance < exact:
        return first + distance
    far = exact + int(math.log(distance / exact) / math.log(most / exact) * (count - exact))
    return first + min(far, count - 1)


@pytest.mark.parametrize("mask", ("causal", "none"))
@pytest.mark.parametrize("tied", (False, True))
def test_distances_are_those_in_the_whole_sequence(mask, tied):
    relative = "relative(8, max_distance = 16)"
    written = "near" if tied else relative
    text = spec(
        f"mask = {mask}\n    scores = dot + {written}",
        head="linear(7)" if mask == "none" else "head",
        rule="select = top(50%)" if mask == "none" else TAUGHT,
        more=f"tied near = {relative}" if tied else "",
    )
    module = built(text)
    model = model_of(module)
    ids = tokens(2, 8)
    w = dict(model.named_parameters())
    w["head.weight"] = w.get(
        "head.weight", next((p for p in w.values() if p.shape == (7, 8)), None)
    )
    tables = [p for n, p in w.items() if p.shape == (8, HEADS)]
    assert len(tables) == (1 if tied else 2)

    def rows(**more: Any) -> Tensor:
        found = []
        for one in ids.tolist():
            first, some = (lambda h, t, s, table=table: table[bucket(s - t, mask == "none"), h]
                           for table in (tables[0], tables[-1]))  # fmt: skip
            found.append(ended(w, by_layer(w, embedded(w, one), mask, first, some, **more)))
        return torch.stack(found)

    found = model(ids).logits
    same(found, rows(), model)
    assert (found - rows(compact=True)).abs().max() > 1e-3
    if mask == "causal":
        model.eval()
        whole = model(ids, cache=module.Cache()).logits
        torch.testing.assert_close(stepped(model, module, ids, [3, 1, 4]), whole)


def by_layer(w, xs, mask, first, some, compact=False) -> Lists:
    """As `formula`, with scores of their own in the two layers."""
    sees = BOTH if mask == "none" else PAST
    places = list(range(len(xs)))
    more = {"sees": sees, "turned": False}
    xs = layer(w, "plain.0", xs, places, lambda h: dense(w, "plain.0.dense", h), bias=first, **more)
    scores = [w["plain.1.score.weight"][0] @ x for x in xs]
    served = plain.best(scores, math.ceil(len(xs) / 2), places)
    at = "plain.1.layer"
    where = list(range(len(served))) if compact else served
    return plain.mixture_of_depths(
        xs,
        scores,
        served,
        places,
        lambda own, _: layer(
            w, at, own, where, lambda h: dense(w, f"{at}.dense", h), bias=some, **more
        ),
    )


def test_queries_scaled_by_where_they_stand():
    model = model_of(built(spec("q = linear -> rope -> log_scale(2)\n    k = linear -> rope")))
    ids = tokens(1, 9)
    w = dict(model.named_parameters())

    def rows(**more: Any) -> Tensor:
        return ended(w, formula(w, embedded(w, ids[0].tolist()),
            lambda w, at, xs: dense(w, f"{at}.dense", xs), sees=PAST, **more))  # fmt: skip

    def by(place: int) -> float:
        return 1 + 0.1 * math.log(1 + (place + 1) // 2)

    found = model(ids).logits[0]
    same(found, rows(factor=by), model)
    assert (found - rows()).abs().max() > 1e-3


# --- images ----------------------------------------------------------------------------------------

PATCHES = "image -> patches(4) -> position(learned)"
SEEN = "mask = none"


def patches(w: dict[str, Tensor], image: Tensor) -> Lists:
    """Squares of 4 pixels, row by row, each through one matrix, plus what stands for its place."""
    weight = next(p for p in w.values() if p.ndim == 4)
    bias = w.get(next((n for n, p in w.items() if "patches" in n and p.ndim == 1), ""))
    places = next(p for p in w.values() if p.shape == (1, 12, 8))
    found = []
    for i in range(3):
        for j in range(4):
            square = image[:, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
            x = weight.flatten(1) @ square.flatten()
            found.append((x if bias is None else x + bias) + places[0, 4 * i + j])
    return found


@pytest.mark.parametrize("rule", ("top(40%)", "top(5)", "above(50%)"))
def test_some_patches_of_an_image(rule):
    text = spec(SEEN, "soft_moe", f"select = {rule}", PATCHES, "linear(7)", slots())
    model = model_of(built(text))
    w = dict(model.named_parameters())
    w["head.weight"] = next(p for p in w.values() if p.shape == (7, 8))
    images = torch.randn(2, 2, 12, 16, generator=torch.Generator().manual_seed(4)).double()
    found = model(images)
    served = found.depth["plain.1"].served_BT
    rows = []
    for b in range(2):
        chosen = served[b].nonzero()[:, 0].tolist()
        share = 5 / 12 if "top" in rule else chosen
        assert 0 < len(chosen) < 12
        rows.append(ended(w, formula(w, patches(w, images[b]), in_slots(), share,
                                     sees=BOTH, turned=False)))  # fmt: skip
    same(found.logits, torch.stack(rows), model)


def test_cost_of_some_patches():
    text = spec(SEEN, "sparse", "select = top(25%)", PATCHES, "linear(7)", SPARSE)
    graph = moedsl.pipeline.check(Source(text, "m.moe")).graph
    layers = {line.unit: line for line in cost(graph).layers}
    inner = next(part for part in layers["some"].parts if part.path == "layer").sum
    experts = 2 * (2 * 3 * 8 * 8 + 3 * 8)  # two of three, and the scores
    assert inner.flops == (2 * 4 * 64 + experts) // 4 + 3 * 4 * 8 // 4
    full = layers["plain"].sum
    assert full.flops == 2 * 4 * 64 + 2 * 3 * 8 * 12 + 12 * 4 * 8


SPARSE = """router pick { gate = score -> softmax
    select = top_k(2) }
  moe sparse { router = pick
    experts = 3 * swiglu(8)
    loss = balance(1e-2) }"""


def test_a_mixture_counts_the_patches_that_it_serves():
    text = spec(SEEN, "sparse", "select = top(40%)", PATCHES, "linear(7)", SPARSE)
    model = model_of(built(text))
    output = model(torch.randn(2, 2, 12, 16).double())
    (routing,) = output.routing.values()
    assert routing.expert_NK.shape == (10, 2) and routing.tokens_S.sum() == 10


def again(rule: str) -> str:
    text = spec(SEEN, "soft_moe", "", PATCHES, "linear(7)", slots())
    text = text.replace(
        "block some = routed(layer) {  }", f"block some = recur(layer) {{ {rule} }}"
    )
    return text.replace("plain -> some", "some")


@pytest.mark.parametrize("first", ("top(100%)", "top(11)"))
def test_rounds_for_ever_fewer_patches(first):
    model = model_of(built(again(f"keep = [{first}, top(50%), top(75%)]")))
    w = dict(model.named_parameters())
    w["head.weight"] = next(p for p in w.values() if p.shape == (7, 8))
    images = torch.randn(1, 2, 12, 16, generator=torch.Generator().manual_seed(5)).double()
    xs, among = patches(w, images[0]), list(range(12))
    for number, count in enumerate(
        (11 if first == "top(11)" else 12, 6, 9)
    ):  # nine are asked for, of six that are left
        scores = [w[f"some.0.score_{number}.weight"][0] @ x for x in xs]
        among = plain.best(scores, count, among)
        xs = plain.mixture_of_depths(xs, scores, among, range(12), in_layer(w), torch.sigmoid)
    same(model(images).logits[0], ended(w, xs), model)


def in_layer(w: dict[str, Tensor]) -> Any:
    at = "some.0.layer"
    feed = in_slots()
    return lambda own, places: layer(
        w, at, own, places, lambda h: feed(w, at, h), sees=BOTH, turned=False
    )


def test_patches_choose_how_many_rounds_they_take():
    router = "router(score = linear, gate = score -> softmax, select = top_k(1))"
    model = model_of(built(again(f"rounds = 3\n    router = {router}")), seed=4)
    w = dict(model.named_parameters())
    w["head.weight"] = next(p for p in w.values() if p.shape == (7, 8))
    images = torch.randn(1, 2, 12, 16, generator=torch.Generator().manual_seed(5)).double()
    xs = patches(w, images[0])
    shares = [(w["some.0.router.score.weight"] @ x).softmax(0) for x in xs]
    picks = [int(share.argmax()) for share in shares]
    assert set(picks) == {0, 1, 2}
    state = list(xs)
    for number in range(3):
        going = [t for t in range(12) if picks[t] >= number]
        given = in_layer(w)([state[t] for t in going], going)
        for t, y in zip(going, given, strict=True):
            state[t] = y
    out = [
        x + share[pick] * (y - x)
        for x, y, share, pick in zip(xs, state, shares, picks, strict=True)
    ]
    same(model(images).logits[0], ended(w, out), model)


def test_nothing_decodes_an_image():
    text = spec(SEEN, rule=TAUGHT, stream=PATCHES, head="linear(7)")
    assert codes(text) == ["E0350"]
    router = "router(score = linear, gate = score -> softmax, select = top_k(1))"
    assert codes(again(f"rounds = 2\n    keys = first\n    router = {router}")) == ["E0208"]
    text = again("keep = [top(100%), top(50%)]\n    decode = above(50%, membership = 1e-3)")
    assert codes(text) == ["E0350"]


def test_cost_of_slots_does_not_fall_with_those_that_are_served():
    """A sequence has so many slots, however many of its tokens fill them."""
    for share in ("100%", "25%"):
        graph = moedsl.pipeline.check(Source(ENCODER.replace("50%", share), "m.moe")).graph
        layers = {line.unit: line for line in cost(graph, LENGTH - 1).layers}
        inner = next(part for part in layers["some"].parts if part.path == "layer")
        bank = next(p for p in next(q for q in inner.parts if "soft_moe" in q.path).parts if "experts" in p.path)  # fmt: skip
        assert bank.sum.flops == 6 * 2 * 3 * 8 * 6 // 8, share
