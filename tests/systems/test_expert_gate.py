"""Gates that rebuild what they know (Aljundi et al., 2017): formulas in float64, and what one task leaves untouched."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as F

import moedsl.pipeline
from moedsl.ir.cost import cost
from moedsl.source import Source
from tests.agree import agree
from tests.packages import SPECS, compiled, imported, package
from tests.systems.small import codes, model_of

SMALL = ("width=16", "classes=3", "closest.score=autoencoder(bottleneck = 5) -> scale(-1)",
         "lifelong.experts=tasks * (mlp(8, activation = relu) -> linear(classes))")  # fmt: skip
TEXT = (SPECS / "expert_gate.moe").read_text()


@pytest.fixture(scope="module")
def module():
    return package("expert_gate", SMALL)


def batch(rows: int = 12):
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(rows, 16, dtype=torch.float64, generator=generator)
    return features, torch.randint(4, (rows,), generator=generator)


def rebuilt(router, a, e):
    code = F.relu(router.score_code[e] @ a + router.score_code_bias[e])
    return router.score_back[e] @ code + router.score_back_bias[e]


def expert(experts, x, e):
    return experts.linear[e] @ (experts.mlp_down[e] @ F.relu(experts.mlp_up[e] @ x))


def test_each_row_teaches_the_gate_and_the_expert_of_its_task(module) -> None:
    model = model_of(module)
    features, task = batch()
    features.requires_grad_()
    output = model(features, task)
    router, experts = model.lifelong.router, model.lifelong.experts
    logits, losses, errors = [], [], []
    for x, t in zip(features, task.tolist(), strict=True):
        a = x.sigmoid()
        logits.append(expert(experts, x, t))
        p = rebuilt(router, a, t).sigmoid()
        losses.append(-(a * p.log() + (1 - a) * (1 - p).log()).sum())
        errors.append(torch.stack([((rebuilt(router, a, e).sigmoid() - a) ** 2).sum() for e in range(4)]))  # fmt: skip
    loss = torch.stack(losses).mean()
    agree(output.logits, torch.stack(logits), 1e-12, "expert_gate")
    agree(output.losses["lifelong.reconstruction"], loss, 1e-13, "expert_gate")
    agree(output.routing["lifelong"].logits_NE, -torch.stack(errors), 1e-12, "expert_gate")
    draw = torch.randn_like(output.logits)
    wanted = [features, *model.parameters()]
    ours = (output.logits * draw).sum() + output.losses["lifelong.reconstruction"]
    theirs = (torch.stack(logits) * draw).sum() + loss
    found, expected = (torch.autograd.grad(each, wanted) for each in (ours, theirs))
    agree(found, expected, 1e-11, "expert_gate", of="gradients")


def test_the_gate_that_rebuilds_best_names_the_expert(module) -> None:
    """Gotcha 38: gates learn by cross-entropy, and are compared by squared distance, which is not the same choice."""
    model = model_of(module).eval()
    features, task = batch(200)
    record = model(features, task).routing["lifelong"]
    router = model.lifelong.router
    a = features.sigmoid()
    code = F.relu(torch.einsum("nd,ehd->neh", a, router.score_code) + router.score_code_bias)
    p = (torch.einsum("neh,edh->ned", code, router.score_back) + router.score_back_bias).sigmoid()
    error = ((p - a[:, None]) ** 2).sum(2)
    assert torch.equal(record.expert_NK[:, 0], error.argmin(1))
    entropy = F.binary_cross_entropy(p, a[:, None].expand_as(p), reduction="none").sum(2)
    assert (entropy.argmin(1) != error.argmin(1)).any(), "they differ"
    own = torch.stack([(p[:, e] - (a - e / 4)).square().sum(1) for e in range(4)], 1)
    assert (own.argmin(1) != error.argmin(1)).any(), "each against another mean: no comparison"
    assert torch.equal(model(features, (task + 1) % 4).logits, model(features, task).logits)


def test_all_that_are_likely_enough() -> None:
    """p_i = exp(-er_i / 2) / sum, and every expert with p_i > 0.1."""
    settings = (*SMALL, "closest.choose=gate - 0.1",
                "closest.select=phase(train = labelled(by = task), eval = positive)")  # fmt: skip
    model = model_of(imported(compiled("expert_gate", settings).files))
    with torch.no_grad():
        model.lifelong.router.score_back.mul_(5)
    features, task = batch(40)
    record = model(features, task).routing["lifelong"]
    assert torch.equal(record.expert_NK, F.pad(task[:, None], (0, 3), value=4))
    model.eval()
    output = model(features, task)
    record = output.routing["lifelong"]
    share = (record.logits_NE / 2).softmax(1)
    assert torch.equal(record.expert_NK < 4, share > 0.1)
    assert len((record.expert_NK < 4).sum(1).unique()) > 1
    x, row = features[0], share[0] > 0.1
    wanted = sum(expert(model.lifelong.experts, x, e) for e in range(4) if row[e])
    torch.testing.assert_close(output.logits[0], wanted)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_tasks_learned_before_stay_as_they_are(module, decay: float) -> None:
    """An optimizer of its own for each task: what its label does not name gets no gradient, and moves by decay alone."""
    model = model_of(module)
    features, _ = batch()
    for stage in (0, 2):
        before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=decay)
        for _ in range(3):
            optimizer.zero_grad()
            output = model(features, torch.full((12,), stage))
            (output.logits.square().sum() + sum(output.losses.values())).backward()
            optimizer.step()
        others = [e for e in range(4) if e != stage]
        for name, weight in model.named_parameters():
            assert not torch.equal(weight[stage], before[name][stage]), name
            assert torch.equal(weight[others], before[name][others]) == (decay == 0), name


def test_relatedness(module) -> None:
    model = model_of(module).eval()
    features, task = batch()
    error = -model(features, task).routing["lifelong"].logits_NE.mean(0)
    relatedness = sys.modules[f"{module.__name__}.rebuilding"].relatedness
    found = relatedness(error, error[2])
    assert found[2] == 1
    torch.testing.assert_close(found[0], 1 - (error[0] - error[2]) / error[2])


def test_parameters_and_compilation(module) -> None:
    graph = moedsl.pipeline.compile(Source(TEXT, "m.moe"), SMALL).graph
    model = model_of(module, dtype=torch.float32)
    assert cost(graph).total.total == sum(weight.numel() for weight in model.parameters())
    compiled_model = torch.compile(model, fullgraph=True, backend="eager")
    features, task = batch()
    for training in (True, False):
        model.train(training)
        theirs = model(features.float(), task)
        torch.testing.assert_close(compiled_model(features.float(), task).logits, theirs.logits)
    for run in (model.train(), compiled_model):
        groups = module.begin(model, "new_expert", lr=0.1)
        run(features.float(), task).logits.square().sum().backward()
        grads = [part.grad.clone() for part in groups[0]["params"]]
        if run is model:
            wanted = grads
    assert len(grads) == 3 and all(grad.any() for grad in grads)
    torch.testing.assert_close(grads, wanted)


def test_findings() -> None:
    def found(*changes: tuple[str, str]) -> list[str]:
        text = TEXT
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        return codes(text)

    assert found() == []
    assert found(("label(tasks)", "label(5)")) == ["E0414", "E0414"]
    assert found(("autoencoder(bottleneck = 100) -> scale(-1)", "linear")) == ["E0506"]
    assert found(("    loss    = reconstruction(1.0, by = task)\n", "")) == ["E0501"]
    assert found(("loss    = reconstruction(1.0, by = task)", "loss = reconstruction(1.0, by = features)")) == ["E0506"]  # fmt: skip
    kept = ("features -> lifelong", "features -> own"), ("  input  features", "  attention own { heads = 4 }\n  input  features")  # fmt: skip
    assert "E0316" in found(*kept)


def test_rows_one_for_each_sequence_are_routed_as_tokens_are() -> None:
    text = (
        "model m {\n  width = 16\n  router pick {\n    gate = score -> softmax\n    select = top_k(2)\n  }\n"
        "  moe sparse {\n    router = pick\n    experts = [full = 3 * swiglu(8), skip = identity]\n"
        "    loss = balance(1e-2)\n  }\n  input x0 = vector(width)\n  output y = x0 -> sparse\n}\n"
    )
    result = moedsl.pipeline.compile(Source(text, "m.moe"))
    assert result.ok, [d.message for d in result.diagnostics]
    rows = model_of(imported(result.files))
    tokens = text.replace("vector(width)", "ids(9)").replace(
        "x0 -> sparse", "x0 -> embed -> sparse"
    )
    other = moedsl.pipeline.compile(
        Source(tokens.replace("  width", "  vocab = 9\n  width"), "m.moe")
    )
    assert other.ok, [d.message for d in other.diagnostics]
    by_token = model_of(imported(other.files))
    with torch.no_grad():
        for name, weight in rows.named_parameters():
            by_token.get_parameter(name).copy_(weight)
    x = torch.randn(7, 16, dtype=torch.float64)
    found, wanted = rows(x), by_token.sparse(x[None], None)
    torch.testing.assert_close(found[0], wanted[0][0])
