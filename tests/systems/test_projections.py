"""Which heads share keys, and what may stand at a projection."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from tests.generated import variants  # noqa: E402

HEADS = ("heads = 4", "heads = 4\n    kv_heads = 2\n    share = %s\n    %s")


def sharing(share, more):
    return variants.made((HEADS[0], HEADS[1] % (share, more)))


FORMS = {
    "fused": "",
    "window": "window = 3",
    "capped": "scores = dot -> soft_cap(20)",
    "written out": "scores = dot + dot(scale = 0.3)",
    "sinks": "sinks = true",
}


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_tiled_heads_are_neighbours_in_another_order(form):
    """Query head h reads key head h mod 2 where tiled, h div 2 where interleaved."""
    _, tiled = sharing("tiled", form)
    module, plain = sharing("interleaved", form)
    with torch.no_grad():
        for weight in tiled.parameters():
            weight.normal_()
    plain.load_state_dict(tiled.state_dict())
    order = torch.tensor([0, 2, 1, 3])  # tiled head at each interleaved place
    ids = variants.tokens()
    wanted = tiled(ids).logits
    assert (plain(ids).logits - wanted).abs().max() > 1e-3
    with torch.no_grad():
        for layer in plain.layer:
            own = next(m for m in layer.children() if hasattr(m, "q"))
            own.q.weight.copy_(own.q.weight.unflatten(0, (4, -1))[order].flatten(0, 1))
            own.o.weight.copy_(own.o.weight.unflatten(1, (4, -1))[:, order].flatten(1))
            if form == "sinks = true":
                own.sinks.copy_(own.sinks[order])
    torch.testing.assert_close(plain(ids).logits, wanted, rtol=1e-9, atol=1e-9)
    module, tiled = sharing("tiled", form)
    variants.generates(module, tiled)


ROUTER = "router by_sigmoid {\n    score = linear\n    gate = score -> sigmoid\n    select = top_k(2)\n  %s}\n\n  router top2"
V = "heads = 4\n    v = moe(router = by_sigmoid, experts = 4 * linear, per = head)"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ((("router top2", ROUTER % ""), ("heads = 4", V)), None),
        (
            (
                ("router top2", ROUTER % "  capacity = 1\n    overflow = zero\n"),
                ("heads = 4", V),
            ),
            None,
        ),
        ((("router  = top2", "router  = top2\n    per = head"),), "E0307"),
        (
            (("heads = 4", "heads = 4\n    o = mixed * per_head(gates(x)) -> linear"),),
            "E0405",
        ),
        ((("heads = 4", "heads = 4\n    o = mixed -> part(0, of = 5) -> linear"),), "E0430"),
        (
            (
                (
                    "heads = 4",
                    "heads = 4\n    v = moe(router = top2, experts = 4 * linear(40))",
                ),
            ),
            "E0301",
        ),
    ],
    ids=["heads", "capacity of heads", "no heads", "no decision", "uneven", "width"],
)
def test_what_is_said(changes, code):
    found = variants.codes(*changes)
    assert found == ([] if code is None else [code])
