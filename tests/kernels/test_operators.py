"""The printed operators on a CPU: values, gradients, and what torch asks of an operator."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

torch = pytest.importorskip("torch")

from tests.kernels import agree, views  # noqa: E402

NAMES = [name for name, routes in views.ROUTES.items() if routes]


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("printed")
    for name in views.ROUTES:
        views.write(views.view(name), folder)
    return folder


def load(printed: Path, name: str) -> tuple[ModuleType, ...]:
    return views.load(printed / f"moedsl_{name}", "routing", "experts", "reference")


def arguments(name: str, route: views.RouteView, rows: int, sequences: int = 1) -> tuple:
    """Random logits, and what else the route takes, without padding."""
    generator = torch.Generator().manual_seed(rows)
    z = torch.randn(rows, route.num_experts, generator=generator, dtype=torch.float64)
    bias = [torch.linspace(-0.4, 0.4, route.num_experts)] if route.bias else []
    return z, *bias, *([None, sequences] if views.view(name).statistics else [])


def smooth(outputs: tuple) -> list[torch.Tensor]:
    return [o for o in outputs if o.is_floating_point()]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("rows", "sequences"), [(0, 1), (1, 1), (12, 2)])
def test_route_gradients_are_those_of_the_reference(
    name: str, rows: int, sequences: int, printed: Path
) -> None:
    routing, _, reference = load(printed, name)
    for route in views.ROUTES[name]:
        z, *rest = arguments(name, route, rows, sequences)
        if sequences == 2 and rest:
            rest[-2:] = (
                [torch.arange(rows) % 3 != 1, 2] if views.view(name).statistics else rest[-2:]
            )
        gradients = []
        for function in (
            getattr(routing, f"route_{route.name}_op"),
            getattr(reference, f"route_{route.name}"),
        ):
            leaf = z.clone().requires_grad_()
            outputs = smooth(function(leaf, *rest))
            # Unequal weights, so that no gradient cancels by symmetry.
            loss = sum((o * torch.arange(1, o.numel() + 1).view_as(o)).sum() for o in outputs)
            gradients.append(torch.autograd.grad(loss, leaf)[0])
        torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", NAMES)
def test_route_gradients_are_those_of_finite_differences(name: str, printed: Path) -> None:
    routing, _, _ = load(printed, name)
    for route in views.ROUTES[name]:
        z, *rest = arguments(name, route, 6)
        op = getattr(routing, f"route_{route.name}_op")
        # One expert has one weight and one probability, whatever its logit.
        assert torch.autograd.gradcheck(
            lambda z, op=op, rest=rest: smooth(op(z, *rest)), (z.requires_grad_(),)
        )


def experts_step(routing: ModuleType, experts: ModuleType, plan: tuple, *inputs: torch.Tensor):
    x, up, bias, weight = inputs
    rows = routing.gather_rows(x, plan)
    return routing.combine(experts.grouped_linear_bias(rows, up, bias, plan), weight, plan)


def experts_inputs(rows: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    shapes = ((rows, 6), (5, 4, 6), (5, 4), (rows, 2))
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def naive_experts(expert: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
    """One row and one choice at a time."""
    x, up, bias, weight = inputs
    return torch.stack(
        [
            sum(w * (up[e] @ row + bias[e]) for e, w in zip(chosen.tolist(), weights, strict=True))
            for row, chosen, weights in zip(x, expert, weight, strict=True)
        ]
    )


@pytest.mark.parametrize("hot", [False, True])
def test_experts_equal_a_loop_over_rows(hot: bool, printed: Path) -> None:
    """With one hot expert, three are empty and get a gradient of zeros."""
    routing, experts, _ = load(printed, "deepseek")
    expert = torch.tensor([[3, 1]] * 7) if hot else torch.rand(7, 5).argsort(1)[:, :2]
    plan = routing.dispatch(expert, 5)
    inputs = experts_inputs(7)
    ours, theirs = experts_step(routing, experts, plan, *inputs), naive_experts(expert, *inputs)
    torch.testing.assert_close(ours, theirs)
    d = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad(ours, inputs, d), torch.autograd.grad(theirs, inputs, d), strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", views.LOOSE)
@pytest.mark.parametrize("kind", ["some", "columns", "absent"])
def test_absent_picks_cost_nothing(name: str, kind: str, printed: Path) -> None:
    """Neither a row, nor a weight, nor a gradient; what rows that are nobody's hold is no one's matter."""
    routing, experts, _ = load(printed, name)
    expert = agree.choices(kind, 7, 5, 2, "cpu")
    here = expert < 5
    most = [int(here.sum()) + 2] if name == "bounded" else []
    plan = routing.dispatch(expert, 5, *most)
    inputs = experts_inputs(7)
    ours = experts_step(routing, experts, plan, *inputs)
    x, up, bias, weight = inputs
    # Each absent pick is one of a sixth expert, whose rows weigh nothing.
    padded = [torch.nn.functional.pad(p, (0, 0) * (p.dim() - 1) + (0, 1)) for p in (up, bias)]
    theirs = naive_experts(expert, x, *padded, weight.where(here, 0))
    torch.testing.assert_close(ours, theirs)
    d = torch.randn_like(ours)
    pairs = zip(
        torch.autograd.grad(ours, inputs, d), torch.autograd.grad(theirs, inputs, d), strict=True
    )
    for a, b in pairs:
        torch.testing.assert_close(a, b)
    torch.library.opcheck(routing.dispatch_op, (expert, 5, *most))


def test_no_rows_at_all(printed: Path) -> None:
    routing, experts, _ = load(printed, "deepseek")
    plan = routing.dispatch(torch.empty(0, 2, dtype=torch.int64), 5)
    inputs = experts_inputs(0)
    experts_step(routing, experts, plan, *inputs).sum().backward()
    assert plan.offset_E.tolist() == [0] * 5
    assert inputs[1].grad.abs().sum() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_follows_the_reference(dtype: torch.dtype, printed: Path) -> None:
    routing, experts, reference = load(printed, "deepseek")
    plan = routing.dispatch(torch.rand(33, 5).argsort(1)[:, :2], 5)
    x, up = torch.randn(66, 64, dtype=dtype), torch.randn(5, 32, 64, dtype=dtype)
    ours = experts.grouped_linear(x, up, plan)
    theirs = reference.grouped_linear(x.float(), up.float(), plan.offset_E)
    assert ours.dtype == dtype
    assert (ours - theirs).norm() / theirs.norm() < 1e-2


def test_hostile_logits_are_routed(printed: Path) -> None:
    """The documented results: an index is always valid, a fault in a weight is always seen."""
    routing, _, _ = load(printed, "mixtral")
    nan, inf = float("nan"), float("inf")
    z = torch.zeros(6, 8)
    z[0], z[1] = nan, -inf
    z[2, 0], z[2, 5] = nan, 1.0
    z[3, :7] = -inf
    z[4, 6] = inf
    routed = routing.route_sparse(z)
    assert routed.expert_NK.tolist() == [[0, 1], [0, 1], [5, 1], [7, 0], [6, 0], [0, 1]]
    assert routed.weight_NK[:2].isnan().all()
    torch.testing.assert_close(routed.weight_NK[2], torch.tensor([1.0, 0.0]).softmax(0))
    assert routed.weight_NK[3].tolist() == [1.0, 0.0]
    assert routed.weight_NK[4].isnan().any()
    assert routed.weight_NK[5].tolist() == [0.5, 0.5]


def test_statistics_leave_padding_out(printed: Path) -> None:
    routing, _, _ = load(printed, "olmoe")
    z, real = torch.randn(12, 64), torch.arange(12) % 2 == 0
    padded = routing.route_sparse(z, real, 2)
    alone = routing.route_sparse(z[real], None, 2)
    assert padded.tokens_S.tolist() == [3, 3]
    for field in ("choices_SE", "probability_SE", "z_S"):
        torch.testing.assert_close(getattr(padded, field), getattr(alone, field))


def test_routes_are_those_of_the_published_models(printed: Path) -> None:
    z = torch.randn(50, 60)
    deepseek = load(printed, "deepseek")[0].route_sparse(z, bias := torch.rand(60) / 8)
    scores = z.sigmoid()
    chosen = (scores + bias).topk(6).indices
    weight = scores.gather(1, chosen)
    weight = 2.5 * weight / (weight.sum(-1, keepdim=True) + 1e-20)
    assert torch.equal(deepseek.expert_NK, chosen)
    torch.testing.assert_close(deepseek.weight_NK, weight)
    mixtral = load(printed, "mixtral")[0].route_sparse(z[:, :8])
    weight, chosen = z[:, :8].softmax(-1).topk(2)
    assert torch.equal(mixtral.expert_NK, chosen)
    torch.testing.assert_close(mixtral.weight_NK, weight / weight.sum(-1, keepdim=True))


def operators(printed: Path) -> list[tuple]:
    """Every public operator with inputs that want gradients."""
    routing, experts, _ = load(printed, "deepseek")
    plan = routing.dispatch(torch.rand(7, 5).argsort(1)[:, :2], 5)
    x, up, bias, weight = experts_inputs(7, torch.float32)
    y = torch.randn(14, 6, requires_grad=True)
    logits = torch.randn(6, 60, requires_grad=True)
    return [
        (routing.route_sparse_op, (logits, torch.zeros(60), None, 2)),
        (routing.route_sparse_op, (logits, torch.zeros(60), torch.arange(6) > 2, 2)),
        (routing.dispatch_op, (torch.rand(7, 5).argsort(1)[:, :2], 5)),
        (routing.gather_rows_op, (x, plan.source_R, plan.place_NK)),
        (routing.combine_op, (y, weight, plan.place_NK)),
        (experts.grouped_linear_op, (y, up, plan.offset_E)),
        (experts.expert_bias_op, (bias, plan.offset_E, 14)),
    ]


@pytest.mark.parametrize("index", range(7))
def test_operators_keep_the_rules_of_torch(index: int, printed: Path) -> None:
    op, inputs = operators(printed)[index]
    torch.library.opcheck(op, inputs)


def layer(routing: ModuleType, experts: ModuleType):
    """A sparse layer as model.py has it."""

    def forward(x: torch.Tensor, router: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        routed = routing.route_sparse(torch.nn.functional.linear(x, router), None, 2)
        plan = routing.dispatch(routed.expert_NK, 8)
        y = experts.grouped_linear(routing.gather_rows(x, plan), up, plan)
        share = routed.choices_SE / routed.tokens_S[:, None]
        loss = (share * routed.probability_SE).sum()
        return routing.combine(y, routed.weight_NK, plan).sum() + loss

    return forward


def leaves(device: str = "cpu") -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = ((12, 16), (8, 16), (8, 16, 16))
    return [torch.randn(shape, device=device, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_compiles_whole(dynamic: bool, autocast: bool, printed: Path) -> None:
    forward = layer(*load(printed, "mixtral")[:2])
    compiled = torch.compile(forward, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    results = []
    for function in (forward, compiled):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = function(*(inputs := leaves()))
        results.append((loss, *torch.autograd.grad(loss, inputs)))
    for eager, whole in zip(*results, strict=True):
        torch.testing.assert_close(eager, whole)


def test_checkpointing_changes_nothing(printed: Path) -> None:
    forward = layer(*load(printed, "mixtral")[:2])
    plain = torch.autograd.grad(forward(*(inputs := leaves())), inputs)
    again = torch.utils.checkpoint.checkpoint(forward, *(inputs := leaves()), use_reentrant=False)
    for a, b in zip(plain, torch.autograd.grad(again, inputs), strict=True):
        assert torch.equal(a, b)


def test_runs_on_meta(printed: Path) -> None:
    forward = layer(*load(printed, "mixtral")[:2])
    loss = forward(*(inputs := leaves("meta")))
    loss.backward()
    assert [x.grad.shape for x in inputs] == [x.shape for x in inputs]


def test_a_second_derivative_is_refused(printed: Path) -> None:
    forward = layer(*load(printed, "mixtral")[:2])
    loss = forward(*(inputs := leaves()))
    gradient, *_ = torch.autograd.grad(loss, inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        gradient.sum().backward()


def test_frozen_experts_cost_no_gradient(printed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    routing, experts, _ = load(printed, "mixtral")
    monkeypatch.setattr(experts, "grouped_linear_dw_op", None)
    x, router, up = leaves()
    layer(routing, experts)(x, router, up.detach()).backward()
    assert x.grad is not None
    with pytest.raises(TypeError):
        layer(routing, experts)(x, router, up).backward()


def test_a_wrong_gradient_is_noticed(printed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    routing, _, reference = load(printed, "mixtral")
    right = reference.route_sparse_backward
    monkeypatch.setattr(reference, "route_sparse_backward", lambda *args: 1.01 * right(*args))
    z = torch.randn(4, 8, dtype=torch.float64, requires_grad=True)
    with pytest.raises(RuntimeError, match="Jacobian"):
        torch.autograd.gradcheck(lambda z: routing.route_sparse(z).weight_NK, (z,))
