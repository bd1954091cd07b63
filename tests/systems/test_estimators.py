"""Choices drawn one after another, and gradients of drawing them: transformers' `sparsemixer` fed with the same draws,
formulas in float64, and what naive forms would be."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.agree import agree
from tests.packages import model_class, package
from tests.systems.small import built, codes, model_of, spec, tokens

E, WITHIN, PART = 6, 0.8, 0.3333
MIXER = "select = in_turn(2, near_ties(80%) -> gumbel)\nweigh = score -> near_ties(80%)\n"
HEUN = MIXER + "estimator = heun(part = 0.3333)\n"
FORMS = {
    "near ties": HEUN,
    "one draw for all": "choose = score -> gumbel\nselect = top_k(2)\nestimator = heun\n"
    "gate = score -> softmax\n",
    "straight through": "gate = score -> softmax\nselect = in_turn(2, gumbel(0.5))\n"
    "estimator = straight_through\n",
}


class Draws:
    """The same numbers for all who draw in the same order, whatever shape they ask for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begin()
        draws = self

        def exponential_(x: Tensor) -> Tensor:
            return x.copy_(-torch.rand(x.shape, generator=draws.noise, dtype=torch.float64).log())

        def rand_like(x: Tensor) -> Tensor:  # a column for each pick
            columns = [
                torch.rand(len(x), 1, generator=draws.chance, dtype=torch.float64)
                for _ in range(x.shape[1])
            ]
            return torch.cat(columns, 1).to(x)

        monkeypatch.setattr(torch.Tensor, "exponential_", exponential_)
        # What rand_like gave is drawn already.
        monkeypatch.setattr(torch.Tensor, "uniform_", lambda x, *bounds, **more: x)
        monkeypatch.setattr(torch, "rand_like", rand_like)

    def begin(self) -> None:
        self.noise = torch.Generator().manual_seed(3)
        self.chance = torch.Generator().manual_seed(4)


@pytest.fixture
def draws(monkeypatch) -> Draws:
    return Draws(monkeypatch)


def rows(count: int = 400) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, E, generator=generator, dtype=torch.float64).mul(1.5)


def router_of(text: str):
    """The first router, on logits instead of rows."""
    router = model_of(built(spec(text))).layer[0].sparse.router
    router.score = torch.nn.Identity()
    return router


# --- transformers --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def phi():
    pytest.importorskip("transformers")
    from tests.parity.families import PHI

    return PHI, PHI.reference().train()


def ours_of(theirs, settings: tuple[str, ...], folder):
    theirs.save_pretrained(folder)
    module = package("phi3_5_moe", settings)
    model = model_class(module)()
    module.load_checkpoint(model, folder)
    return module, model


def gradients(logits: Tensor, model) -> list[Tensor | None]:
    pull = torch.randn(logits.shape, generator=torch.Generator().manual_seed(9))
    model.zero_grad()
    (logits * pull.to(logits)).sum().backward()
    return [weight.grad for weight in model.parameters()]


def test_a_model_in_training_equals_transformers(phi, draws, tmp_path) -> None:
    family, theirs = phi
    module, ours = ours_of(theirs, family.settings, tmp_path)
    ids = torch.randint(2, 97, (3, 19), generator=torch.Generator().manual_seed(1))
    wanted = theirs(ids).logits
    pull = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(9))
    (wanted * pull).sum().backward()
    draws.begin()
    found = ours(ids).logits
    agree(found, wanted, 2e-6, "phi3_5_moe")
    (found * pull).sum().backward()
    # Theirs as ours: written to files by name, gradients in place of weights.
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.copy_(weight.grad)
            weight.grad = None
    theirs.save_pretrained(tmp_path)
    want = model_class(module)()
    module.load_checkpoint(want, tmp_path)
    pairs = [(w.grad, g) for w, g in zip(ours.parameters(), want.parameters(), strict=True)]
    agree([a for a, _ in pairs], [b for _, b in pairs], 2e-5, "phi3_5_moe", of="gradients")


def test_the_router_equals_sparsemixer(draws) -> None:
    modeling = pytest.importorskip("transformers.models.phimoe.modeling_phimoe")
    for training in (True, False):
        router = router_of(HEUN).train(training)
        theirs, ours = rows().requires_grad_(), rows().requires_grad_()
        draws.begin()
        weight, expert = modeling.sparsemixer(theirs, jitter_eps=WITHIN / 2, training=training)
        draws.begin()
        routing = router(ours)
        assert torch.equal(routing.expert_NK, expert)
        pull = torch.randn(weight.shape, generator=torch.Generator().manual_seed(9)).double()
        (weight * pull).sum().backward()
        (routing.weight_NK * pull).sum().backward()
        agree(routing.weight_NK, weight, 1e-7, "phi3_5_moe")
        agree(ours.grad, theirs.grad, 1e-7, "phi3_5_moe", of="gradients")
        part = (routing.weight_NK / weights_of(rows(), expert, WITHIN)).detach()
        thirds = (part - PART).abs() < 1e-6
        assert (0.1 < thirds.double().mean() < 0.6) if training else not thirds.any()


# --- formulas ------------------------------------------------------------------------------------


def weights_of(logits_NE: Tensor, expert_NK: Tensor, within: float) -> Tensor:
    """Row by row: the softmax over the near ties of the best of what earlier picks left."""
    found = []
    for z, picks in zip(logits_NE.tolist(), expert_NK.tolist(), strict=True):
        left, weights = dict(enumerate(z)), []
        for pick in picks:
            best = max(left.values())
            near = {e: s for e, s in left.items() if (best - s) / max(abs(s), best) <= within}
            weights.append(math.exp(near[pick]) / sum(map(math.exp, near.values())))
            del left[pick]
        found.append(weights)
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("form", FORMS)
def test_it_is_the_formula(form: str, draws) -> None:
    """Of one pick of probability p, weighed w in forward: w is p, p / 3 or 1, and d w is dp."""
    router = router_of(FORMS[form])
    logits = rows(120).requires_grad_()
    routing = router(logits)
    expert = routing.expert_NK
    pull = torch.randn(expert.shape, generator=torch.Generator().manual_seed(9)).double()
    (routing.weight_NK * pull).sum().backward()
    clean = logits.detach().requires_grad_()
    if form == "near ties":
        p, left = [], clean
        for k in range(2):  # a softmax over what nearly ties, by the mask of the loop above
            best = left.amax(1, keepdim=True).detach()
            far = (best - left) / torch.maximum(left.abs(), best) > WITHIN
            p.append(left.masked_fill(far, -torch.inf).softmax(1).gather(1, expert[:, k : k + 1]))
            left = left.scatter(1, expert[:, k : k + 1], -torch.inf)
        p = torch.cat(p, 1)
        agree(p.detach(), weights_of(clean.detach(), expert, WITHIN), 1e-12)
    else:
        p = clean.softmax(1).gather(1, expert)
    (p * pull).sum().backward()
    agree(logits.grad, clean.grad, 1e-12)
    ratio = (routing.weight_NK / p).detach()
    first = expert[:, 0] == clean.argmax(1)
    second = expert[:, 1] == clean.detach().scatter(1, expert[:, :1], -torch.inf).argmax(1)
    best = torch.stack([first, second], 1)
    if form == "straight through":
        assert torch.equal(routing.weight_NK, torch.ones_like(p))
        return
    torch.testing.assert_close(ratio[best], torch.ones_like(ratio[best]))
    others, third = ratio[~best], PART if form == "near ties" else 1 / 3
    inner = (others - third).abs() < 1e-9
    assert ((others - 1).abs() < 1e-9).logical_xor(inner).all()
    assert 0.6 < inner.double().mean() < 0.9


def test_picks_are_drawn_from_the_near_ties_of_what_is_left() -> None:
    """Frequencies of pairs against their probabilities, p(i) p(j | i), over near ties anew for each pick."""
    router = router_of(HEUN)
    z = torch.tensor([1.0, 0.9, 0.3, 0.19, -2.0, 0.26], dtype=torch.float64)
    torch.manual_seed(0)
    expert = router(z.expand(20000, E)).expert_NK
    found = torch.zeros(E, E).index_put_((expert[:, 0], expert[:, 1]), torch.ones(20000), True)

    def shares(left: dict[int, float]) -> dict[int, float]:
        best = max(left.values())
        near = {e: s for e, s in left.items() if (best - s) / max(abs(s), best) <= WITHIN}
        total = sum(map(math.exp, near.values()))
        return {e: math.exp(s) / total for e, s in near.items()}

    wanted = torch.zeros(E, E)
    left = dict(enumerate(z.tolist()))
    for i, p in shares(left).items():
        for j, q in shares({e: s for e, s in left.items() if e != i}).items():
            wanted[i, j] = p * q
    assert wanted.sum() == pytest.approx(1)
    assert (found / 20000 - wanted).abs().max() < 0.012
    # One draw for both picks cannot know that the near ties of the second are others.
    once = z.masked_fill((z.max() - z) / z.abs().clamp(min=z.max()) > WITHIN, -torch.inf)
    assert wanted[:, 3].sum() > 0.02 and once[3] == -torch.inf


# --- what is not the same ------------------------------------------------------------------------


def test_naive_forms_have_other_gradients(draws) -> None:
    module, plain = built(spec(HEUN)), built(spec(MIXER))
    found = []
    for each in (module, plain):
        draws.begin()
        model = model_of(each)
        found.append((model(tokens()), model))
    (ours, model), (exact, other) = found
    picks = [output.routing["layer.0.sparse"].expert_NK for output in (ours, exact)]
    assert torch.equal(*picks), "the estimator moves no choice"
    mine, theirs = gradients(ours.logits, model), gradients(exact.logits, other)
    apart = [(a - b).norm() / b.norm() for a, b in zip(mine, theirs, strict=True) if b is not None]
    assert max(apart) > 0.05, "the exact gradient is another"
    # A factor that scales the gradient too.
    logits = rows().requires_grad_()
    weight = router_of(HEUN)(logits)
    p = weights_of(rows(), weight.expert_NK, WITHIN)
    factor = (weight.weight_NK / p).detach()
    (gradient,) = torch.autograd.grad(weight.weight_NK.sum(), logits, retain_graph=True)
    (scaled,) = torch.autograd.grad((weight.weight_NK * factor).sum(), logits)
    assert (gradient - scaled).norm() / gradient.norm() > 0.1


# --- as every part of a model --------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_training_and_evaluation(form: str) -> None:
    """Equal seeds draw the same, activations made again too; evaluation takes the best."""
    module = built(spec(FORMS[form]))
    found = []
    for again in (False, True):
        model = model_of(module)
        model.checkpoint_layers = again
        torch.manual_seed(3)
        found.append(gradients(model(tokens()).logits, model))
    agree(*found, 1e-12)
    model.eval()
    routing = model(tokens()).routing["layer.0.sparse"]
    best = routing.logits_NE.sort(dim=1, descending=True, stable=True).indices[:, :2]
    assert torch.equal(routing.expert_NK, best)


@pytest.mark.parametrize("form", FORMS)
def test_compiled_whole(form: str) -> None:
    router = router_of(FORMS[form])
    compiled = torch.compile(router, fullgraph=True, backend="eager")
    found = []
    for call in (compiled, router):
        logits = rows(40).requires_grad_()
        torch.manual_seed(3)
        weight = call(logits).weight_NK
        (weight * torch.linspace(-1, 1, weight.numel()).view_as(weight)).sum().backward()
        found.append((weight, logits.grad))
    agree(*found, 1e-12)


def test_a_pick_that_stays_away_weighs_nothing() -> None:
    text = "gate = score -> softmax\nchoose = score -> gumbel\nestimator = straight_through\n"
    text += "select = top_k(2) -> thin(below = 0.5, keep = threshold)\n"
    for estimator in ("straight_through", "heun"):
        module = built(spec(text.replace("straight_through", estimator)))
        routing = model_of(module)(tokens()).routing["layer.0.sparse"]
        absent = routing.expert_NK == E
        assert absent.any() and not routing.weight_NK[absent].any()
        assert routing.weight_NK[~absent].all()


REFUSED = {
    "nothing is drawn": ("select = top_k(2)\nestimator = heun\n", "E0507"),
    "the gate has the noise too": (
        "score = linear -> gumbel\nselect = top_k(2)\nestimator = heun\n",
        "E0507",
    ),
    "picks that have no order": (
        "gate = score -> relu\nchoose = gate -> gumbel\nselect = positive\nestimator = heun\n",
        "E0507",
    ),
    "weights of its own": ("select = in_turn(2, scale(learned) -> gumbel)\n", "E0420"),
    "a pick in a pick": ("select = in_turn(2, top_k(1))\n", "E0420"),
    "another tensor": ("select = in_turn(2, gaussian(std = x -> linear))\n", "E0420"),
    "more picks than choices": ("select = in_turn(7, gumbel)\n", "E0401"),
    "near ties before they are left": ("select = near_ties(2%) -> top_k(2)\n", "E0211"),
    "no gradient": ("select = in_turn(2, gumbel)\nweigh = 1\nestimator = straight_through\n", "E0501"),
    "always 1": (
        "select = in_turn(1, gumbel)\nweigh = score -> softmax\nestimator = heun\n",
        "W1001",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_cannot_be(name: str) -> None:
    text, code = REFUSED[name]
    assert code in codes(spec(text))


def test_temperature_before_a_draw() -> None:
    text = "select = in_turn(2, scale(0.001) -> gumbel)\nweigh = score -> softmax\n"
    torch.manual_seed(0)
    expert = router_of(text)(rows()).expert_NK[:, 0]
    assert (expert == rows().argmax(1)).double().mean() < 0.3, "flat: nearly any of the six"


@pytest.mark.parametrize("estimator", ("exact", "heun", "straight_through"))
def test_an_estimator_stands_in_a_router_only(estimator: str) -> None:
    text = spec("score = linear\nselect = top_k(2)").replace(
        "-> last ->", f"-> last -> {estimator} ->"
    )
    assert codes(text) == ["E0211"]
