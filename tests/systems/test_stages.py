"""Stages of training: who moves, at what rate, in which package. Source of the recipe: Zoph et al., 2022, section 4."""

from __future__ import annotations

import pytest
import torch

import moedsl.pipeline
from moedsl.source import Source
from tests import packages
from tests.agree import agree

TINY = packages.source("tiny").text


def codes(stages: str) -> list[str]:
    """What is found in the tiny model with these stages."""
    text = f'import tiny from "tiny.moe"\nmodel staged = tiny with {{\n{stages}\n}}\n'
    result = moedsl.pipeline.check(Source(text, "staged.moe", {"tiny.moe": TINY}))
    return [d.code for d in result.diagnostics]


def stepped(settings: tuple[str, ...], stage: str) -> tuple[dict[str, bool], list[dict]]:
    """Which weights one step of plain gradient descent moves, and the groups that it ran on."""
    module = packages.package("tiny_stages", settings)
    model = packages.model_class(module)()
    model.init_weights(0)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    groups = module.begin(model, stage, lr=0.5)
    torch.manual_seed(0)
    output = model(torch.randint(0, 256, (2, 16)))
    (output.logits.square().mean() + sum(output.losses.values())).backward()
    torch.optim.SGD(groups).step()
    moved = {name: not torch.equal(before[name], w) for name, w in model.named_parameters()}
    return moved, groups


def test_everything_moves_before() -> None:
    moved, groups = stepped((), "pretrain")
    assert all(moved.values())
    assert [group["lr"] for group in groups] == [0.5]


def test_all_but_the_experts_move_after() -> None:
    moved, groups = stepped(("stage=tune",), "tune")
    assert {name for name, moves in moved.items() if not moves} == {
        f"layer.{i}.sparse.experts.{part}" for i in range(2) for part in ("gate_up", "down")
    }
    assert {group["name"]: group["lr"] for group in groups} == {"router": 0.05, "the others": 0.5}


def test_a_stage_that_changes_the_model_has_a_package_of_its_own() -> None:
    plain = packages.package("tiny_stages")
    assert list(plain.STAGES) == ["pretrain"]
    model = packages.model_class(plain)()
    with pytest.raises(ValueError, match="no stage 'tune'"):
        plain.begin(model, "tune", lr=1.0)
    tuned = packages.model_class(packages.package("tiny_stages", ("stage=tune",)))()
    model.init_weights(3)
    tuned.load_state_dict(model.state_dict())
    tokens = torch.arange(20).view(2, 10)
    torch.manual_seed(0)
    assert not torch.equal(tuned(tokens).logits, model(tokens).logits)  # dropout, in training
    agree(tuned.eval()(tokens).logits, model.eval()(tokens).logits, 1e-6, "tiny_stages")


def test_weights_that_train_apart_are_stored_apart() -> None:
    """Gate and up are one parameter where all stages treat them alike, and two where one does not."""
    joined = packages.compiled("tiny_stages").files["model.py"]
    assert "gate_up" in joined
    text = (
        'import tiny from "tiny.moe"\nmodel staged = tiny with {\n'
        "  stage a { train = all }\n  stage b { train = experts.gate }\n}\n"
    )
    result = moedsl.pipeline.compile(Source(text, "staged.moe", {"tiny.moe": TINY}))
    assert "gate_up" not in result.files["model.py"]
    module = packages.imported(result.files)
    model = packages.model_class(module)()
    (group,) = module.begin(model, "b", lr=1.0)
    assert len(group["params"]) == 2


@pytest.mark.parametrize(
    ("selection", "count"),
    [
        ("all", 23),
        ("router", 2),
        ("norm", 5),
        ("sparse", 8),
        ("moe", 8),
        ("attention", 8),
        ("layer[1]", 10),
        ("layer[1].sparse.experts", 3),
        ("[embed, head]", 2),
        ("all - layer + own.q", 5),
    ],
)
def test_selections(selection: str, count: int) -> None:
    """`tiny` has 2 layers of 4 projections, 2 norms, a router and experts of 3 weights; a norm, embed and head."""
    from moedsl.ir.stages import phases

    text = f'import tiny from "tiny.moe"\nmodel staged = tiny with {{\n  stage a {{ train = {selection} }}\n}}\n'
    result = moedsl.pipeline.check(Source(text, "staged.moe", {"tiny.moe": TINY}))
    (phase,), faults = phases(result.graph)
    assert not faults
    assert len(phase.trained) == count


@pytest.mark.parametrize(
    ("stages", "code"),
    [
        ("stage a { train = all - expert }", "E0606"),
        ("stage a { init = b }", "E0607"),
        ("stage a { sparse.experts = 8 * swiglu(96) }", "E0608"),
        ("stage a { sparse.experts.dropuot = 0.4 }", "E0202"),
        ("stage a { rate = [router = fast] }", "E0210"),
        ("stage a { train = 3 }", "E0210"),
        ("stage a { data = each(domain) }", "E0208"),
        ("stage a { train = router }", "W1004"),
    ],
)
def test_mistakes(stages: str, code: str) -> None:
    assert code in codes(stages)
