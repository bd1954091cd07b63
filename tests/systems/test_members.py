"""Stages that train some of what stands side by side: single experts of a bank, single rows of a router.

An optimizer gets a parameter for each member that trains, so decay and momentum know no other. The naive form, gradients
that are zero where nothing should move, is the control: it holds for plain gradient descent alone.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import moedsl.pipeline
from moedsl.ir.selections import every
from moedsl.ir.stages import phases
from moedsl.source import Source
from tests import packages
from tests.systems.small import codes, spec

ROUTER = "score = linear(bias = true)\ngate = score -> softmax\nselect = top_k(2)\nweigh = gate -> scale(learned, per = expert)"
STAGES = """stage some {
  train = sparse.experts[4] + sparse.router[1] + layer[1].sparse.experts[0].down + last
  rate  = [0.5 * sparse.experts[4], last = 2]
}
stage other { train = layer[0].sparse.experts[2] }
stage rest { train = all }
"""
TEXT = spec(ROUTER, more=STAGES)
E = 6


@pytest.fixture(scope="module")
def module() -> Any:
    result = moedsl.pipeline.compile(Source(TEXT, "m.moe"))
    assert result.ok, "\n".join(f"{d.code} {d.message}" for d in result.diagnostics)
    return packages.imported(result.files)


def model_of(module: Any) -> nn.Module:
    model = packages.model_class(module)().double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.5, generator=generator)
    return model


def loss_of(model: nn.Module, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    output = model(torch.randint(32, (4, 9), generator=generator))
    return output.logits.square().mean() + sum(output.losses.values(), torch.zeros(()))


def trained(name: str) -> list[int] | None:
    """The members that stage `some` trains; None where all of a weight do, [] where nothing does."""
    if name == "last.weight":
        return None
    if ".router." in name:
        return [1]
    if name == "layer.1.sparse.experts.down":
        return [0, 4]
    return [4] if ".experts." in name else []


def steps(optimizer: torch.optim.Optimizer, model: nn.Module, count: int = 3) -> None:
    for seed in range(count):
        optimizer.zero_grad()
        loss_of(model, seed).backward()
        optimizer.step()


MADE = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.1, weight_decay=0.1),
}


@pytest.mark.parametrize("kind", MADE)
def test_only_the_members_of_a_stage_move(module: Any, kind: str) -> None:
    model = model_of(module)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    groups = module.begin(model, "some", lr=0.1)
    steps(MADE[kind](groups), model)
    for name, weight in model.named_parameters():
        own = trained(name)
        if own is None:
            assert not torch.equal(weight, before[name])
            continue
        for number in range(len(weight)):
            same = torch.equal(weight[number], before[name][number])
            assert same == (number not in own), (name, number)
    assert {g["name"]: g["lr"] for g in groups} == {
        "sparse.experts[4]": 0.05, "last": 0.2, "the others": 0.1
    }  # fmt: skip


@pytest.mark.parametrize("kind", MADE)
def test_they_move_as_if_they_were_alone(module: Any, kind: str) -> None:
    """The same steps, written plainly: each member a tensor of its own, its gradient read off the whole weight's."""
    model, plain = model_of(module), model_of(module)
    groups = module.begin(model, "some", lr=0.1)
    steps(MADE[kind](groups), model)
    rates = {"sparse.experts[4]": 0.05, "last": 0.2}
    alone: list[tuple[nn.Parameter, int | None, Tensor, float]] = []
    for name, weight in plain.named_parameters():
        for number in trained(name) or ([None] if trained(name) is None else []):
            whose = "last" if number is None else "sparse.experts[4]" if number == 4 else ""
            part = weight.detach() if number is None else weight.detach()[number]
            alone.append((weight, number, part.clone().requires_grad_(), rates.get(whose, 0.1)))
    optimizer = MADE[kind]([{"params": [part], "lr": lr} for *_, part, lr in alone])
    for seed in range(3):
        plain.zero_grad()
        loss_of(plain, seed).backward()
        for weight, number, part, _ in alone:
            assert weight.grad is not None
            part.grad = weight.grad.clone() if number is None else weight.grad[number].clone()
        optimizer.step()
        with torch.no_grad():
            for weight, number, part, _ in alone:
                (weight if number is None else weight[number]).copy_(part)
    for (name, one), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14, msg=name)


@pytest.mark.parametrize(
    ("kind", "holds"), [("plain", True), ("decay", False), ("momentum", False)]
)
def test_gradients_of_zero_alone_hold_for_plain_descent_only(
    module: Any, kind: str, holds: bool
) -> None:
    """The control: the whole weight in the optimizer, its gradient zeroed but for expert 2."""
    model = model_of(module)
    weight = model.layer[0].sparse.experts.down
    start = weight.detach().clone()
    settings = {"decay": {"weight_decay": 0.1}, "momentum": {"momentum": 0.9}}.get(kind, {})
    optimizer = torch.optim.SGD([weight], lr=0.1, **settings)
    if kind == "momentum":  # of a stage before
        loss_of(model, 5).backward()
        optimizer.step()
        start = weight.detach().clone()
    weight.register_hook(lambda grad: grad * (torch.arange(E) == 2)[:, None, None])
    steps(optimizer, model)
    others = [e for e in range(E) if e != 2]
    assert not torch.equal(weight[2], start[2])
    assert torch.equal(weight[others], start[others]) == holds


def test_stages_follow_one_another(module: Any) -> None:
    model = model_of(module)
    steps(torch.optim.AdamW(module.begin(model, "some", lr=0.1)), model)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    groups = module.begin(model, "other", lr=0.1)
    assert [len(group["params"]) for group in groups] == [2]  # gate and up are one weight
    steps(torch.optim.AdamW(groups, weight_decay=0.1), model)
    for name, weight in model.named_parameters():
        moves = name.startswith("layer.0.sparse.experts")
        kept = [e for e in range(len(weight)) if not (moves and e == 2)]
        assert torch.equal(weight[kept], before[name][kept])
        assert not moves or not torch.equal(weight[2], before[name][2])
        assert weight.requires_grad == moves
    groups = module.begin(model, "rest", lr=0.1)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    loss_of(model, 1).backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in model.parameters())


def test_gradients_add_up_and_clear_and_clip(module: Any) -> None:
    model, whole = model_of(module), model_of(module)
    (group,) = module.begin(model, "other", lr=0.1)
    optimizer = torch.optim.SGD([group])

    def wanted(seeds: tuple[int, ...]) -> list[Tensor]:
        whole.zero_grad()
        for seed in seeds:
            loss_of(whole, seed).backward()
        return [w.grad[2] for w in whole.layer[0].sparse.experts.parameters()]

    for to_none, seeds in itertools.product((True, False), ((1, 2), (3,))):
        for seed in seeds:
            loss_of(model, seed).backward()
        for part, other in zip(group["params"], wanted(seeds), strict=True):
            torch.testing.assert_close(part.grad, other, rtol=1e-12, atol=1e-14)
        norm = torch.stack([part.grad.norm() for part in group["params"]]).norm()
        torch.testing.assert_close(nn.utils.clip_grad_norm_(model.parameters(), 1e-3), norm)
        clipped = torch.stack([part.grad.norm() for part in group["params"]]).norm()
        torch.testing.assert_close(clipped, clipped.new_tensor(1e-3), rtol=1e-3, atol=0)
        optimizer.zero_grad(set_to_none=to_none)


def test_saved_as_ever(module: Any) -> None:
    model, again = model_of(module), model_of(module)
    names = list(model.state_dict())
    steps(torch.optim.AdamW(module.begin(model, "some", lr=0.1)), model)
    assert list(model.state_dict()) == names
    again.load_state_dict(model.state_dict())
    assert torch.equal(loss_of(again, 3), loss_of(model, 3))


@pytest.mark.parametrize(
    ("selection", "wanted"),
    [
        ("experts[2]", {"experts": [2]}),
        ("sparse.experts[2] + experts[5]", {"experts": [2, 5]}),
        ("[experts[2], router[0]]", {"experts": [2], "score": [0], "weigh": [0]}),
        ("experts - experts[2]", {"experts": [0, 1, 3, 4, 5]}),
        ("router.score[3]", {"score": [3]}),
        ("experts.gate[1]", {"gate": [1]}),
        ("experts[1].gate", {"gate": [1]}),
        ("layer[1].sparse.experts[1]", {"layer[1].sparse.experts": [1]}),
    ],
)
def test_selections(selection: str, wanted: dict[str, list[int]]) -> None:
    result = moedsl.pipeline.check(
        Source(spec(ROUTER, more=f"stage a {{ train = {selection} }}"), "m.moe")
    )
    (phase,), faults = phases(result.graph)
    assert not faults
    stored = result.graph.storage()
    for path, one in stored.items():
        own = next((m for name, m in wanted.items() if name in path), [])
        assert phase.trained.get(path, 0) == sum(1 << m for m in own), path
        assert every(one.members) >= phase.trained.get(path, 0)


def test_a_hidden_layer_as_wide_as_the_choices_are_many_has_no_rows_of_theirs() -> None:
    text = spec("score = linear(6) -> tanh -> linear\ngate = score -> softmax\nselect = top_k(2)",
                more="stage a { train = router[1] }")  # fmt: skip
    (phase,), _ = phases(moedsl.pipeline.check(Source(text, "m.moe")).graph)
    assert len(phase.trained) == 2
    assert all(members == 2 for members in phase.trained.values())


def test_an_index_may_be_a_number_of_the_model() -> None:
    text = TEXT.replace("model m {", "model m(count = 6) {\n  newest = count - 1").replace(
        "6 *", "count *"
    )
    text = text.replace("layer[0].sparse.experts[2]", "experts[newest]")
    (_, other, _), faults = phases(moedsl.pipeline.check(Source(text, "m.moe")).graph)
    assert not faults
    assert set(other.trained.values()) == {1 << 5}


@pytest.mark.parametrize(
    ("stage", "code"),
    [
        ("train = experts[6]", "E0606"),
        ("train = last[0]", "E0606"),
        ("train = layer[2].sparse.experts[0]", "E0606"),
        ("train = sparse[0]", "E0606"),
        ("train = experts[newest]", "E0201"),
        ("train = experts[pick]", "E0210"),
        ("train = all - experts[2]", "W1004"),
        ("rate = [experts[2] * 0.1]", "E0210"),
    ],
)
def test_mistakes(stage: str, code: str) -> None:
    assert code in codes(spec(ROUTER, more=f"stage a {{ {stage} }}"))
