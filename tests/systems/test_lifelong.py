"""Tasks learned one after the other (Aljundi et al., 2017): what is known stays to the bit, and the gates know whose a row is.

Formulas in float64 from the paper's sections 3.1 to 3.3 and rahafaljundi/Expert-Gate.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests import packages
from tests.agree import agree
from tests.systems.small import built, codes, spec

WIDTH, CLASSES, TASKS = 16, 3, 3
SMALL = (f"width={WIDTH}", f"classes={CLASSES}", "closest.score=standardize -> autoencoder(bottleneck = 5) -> scale(-1)",
         "lifelong.experts=tasks * (mlp(8, activation = relu) -> linear(classes))")  # fmt: skip
FIRST = ("tasks=1", "before=none")


def module_of(tasks: int) -> Any:
    return packages.package(
        "expert_gate", (*SMALL, *(FIRST if tasks == 1 else (f"tasks={tasks}",)))
    )


def tool(module: Any, name: str) -> Any:
    """What the package has for a trainer to use."""
    return getattr(sys.modules[f"{module.__name__}.rebuilding"], name)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows(task: int, seed: int, count: int = 48) -> tuple[Tensor, Tensor]:
    """Features of a task, in a plane around a centre, and classes. Tasks 0 and 2 share the plane, and are near."""
    world = task % 2
    centre, plane = drawn(10 + world, WIDTH) + drawn(20 + task, WIDTH), drawn(30 + world, 2, WIDTH)
    angle = 2 * torch.pi * torch.arange(CLASSES, dtype=torch.float64) / CLASSES + task
    inner = drawn(seed, count, 2)
    label = (inner @ torch.stack([angle.cos(), angle.sin()])).argmax(1)
    return centre + inner @ plane, label


def steps(module: Any, model: nn.Module, stage: str, task: int, count: int) -> None:
    """AdamW with its decay and momentum, on batches of one task."""
    optimizer = torch.optim.AdamW(module.begin(model, stage, lr=0.05), weight_decay=0.1)
    for seed in range(count):
        features, label = rows(task, 100 + seed)
        output = model(features, torch.full_like(label, task))
        loss = sum(output.losses.values())
        if stage == "new_expert":
            loss = loss + F.cross_entropy(output.logits, label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@dataclass
class Life:
    """The models after each task, what each said of its own task then, and where its expert began."""

    models: list[nn.Module]
    said: list[Tensor]
    beginnings: list[Any]
    errors: list[Tensor]


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Life:
    found = Life([], [], [], [])
    folder = tmp_path_factory.mktemp("life")
    for task in range(TASKS):
        module = module_of(task + 1)
        model = packages.model_class(module)().double()
        if task:
            module.start_from_before(model, folder / str(task - 1), seed=task)
        else:
            model.init_weights(0)
            general = [rows(each, 7)[0] for each in range(TASKS)]
            model.lifelong.router.score_standardize.fit(general)
        steps(module, model, "new_gate", task, 40)
        if task:
            held_out, label = rows(task, 8)
            record = model.eval()(held_out, label * 0 + task).routing["lifelong"]
            error = -record.logits_NE.detach().mean(0)
            beginning = tool(module, "choose_beginning")(error[:task], error[task])
            tool(module, "copy_expert")(model.lifelong.experts, beginning.expert, task)
            found.beginnings.append(beginning)
            found.errors.append(error)
        steps(module, model.train(), "new_expert", task, 50)
        features, label = rows(task, 9)
        found.said.append(model(features, torch.full_like(label, task)).logits.detach())
        found.models.append(model)
        module.save_checkpoint(model, folder / str(task))
    return found


def test_tasks_learned_before_are_the_same_to_the_bit(life: Life) -> None:
    for later in range(1, TASKS):
        model = life.models[later].train()
        for task in range(later + 1):
            features, label = rows(task, 9)
            logits = model(features, torch.full_like(label, task)).logits
            assert torch.equal(logits, life.said[task]), (later, task)
        before = dict(life.models[later - 1].named_parameters())
        for name, weight in model.named_parameters():
            assert torch.equal(weight[:later], before[name]), name
        for name, state in model.named_buffers():
            assert torch.equal(state, life.models[0].get_buffer(name)), name


def test_rows_go_to_the_expert_of_their_task_and_are_classified(life: Life) -> None:
    model = life.models[-1].eval()
    for task in range(TASKS):
        features, label = rows(task, 9)
        output = model(features, torch.zeros_like(label))
        right = output.routing["lifelong"].expert_NK[:, 0] == task
        assert right.double().mean() > 0.9, task
        assert torch.equal(output.logits[right], life.said[task][right])
        assert (output.logits.argmax(1) == label).double().mean() > 0.7, task


def test_a_gate_that_has_learned_nothing_yet_takes_rows_of_others(
    tmp_path: Path, life: Life
) -> None:
    """Why the bank grows: a drawn autoencoder says the middle everywhere, and is often nearest."""
    module = module_of(2)
    module_of(1).save_checkpoint(life.models[0], tmp_path)
    model = packages.model_class(module)().double()
    module.start_from_before(model, tmp_path)
    strangers = 20 * drawn(1, 40, WIDTH)
    chosen = model.eval()(strangers, torch.zeros(40, dtype=torch.long)).routing["lifelong"]
    assert (chosen.expert_NK == 1).any()


def test_relatedness_chooses_where_an_expert_begins(life: Life) -> None:
    """Rel = 1 - (Er_a - Er_k) / Er_k, above 0.85 without forgetting; errors are of squared distance."""
    model = life.models[-1]
    features, _ = rows(2, 8)
    router = model.lifelong.router
    a = ((features - router.score_standardize.mean) / router.score_standardize.deviation).sigmoid()
    errors = []
    for e in range(TASKS):
        code = F.relu(
            a @ router.score_autoencoder_code[e].T + router.score_autoencoder_code_bias[e]
        )
        back = code @ router.score_autoencoder_back[e].T + router.score_autoencoder_back_bias[e]
        errors.append(((back.sigmoid() - a) ** 2).sum(1).mean())
    agree(life.errors[1], torch.stack(errors), 1e-12, "expert_gate")
    related = [(1 - (errors[a] - errors[2]) / errors[2]).item() for a in range(2)]
    expert, relatedness, _ = life.beginnings[1]
    assert (expert, related[0] > related[1]) == (0, True)
    assert relatedness == pytest.approx(max(related), rel=1e-12)
    choose = tool(module_of(3), "choose_beginning")
    new = torch.tensor(2.0)
    assert choose(torch.tensor([5.0, 2.2]), new) == (1, pytest.approx(0.9), True)
    assert choose(torch.tensor([5.0, 2.4]), new) == (1, pytest.approx(0.8), False)
    assert choose(torch.tensor([5.0, 2.4]), new, threshold=0.75).keeps
    upside_down = 1 - (errors[0] - errors[2]) / errors[0]
    assert abs(upside_down.item() - related[0]) > 1e-3, (
        "divided by the error of the task's own gate"
    )


def test_learning_without_forgetting_is_the_formula() -> None:
    """-sum y' log p', both softened by temperature 2; the recorded side has no gradient to give."""
    distillation = tool(module_of(1), "distillation")
    logits, recorded = drawn(2, 2, 5, 4)
    logits.requires_grad_()
    wanted = torch.zeros((), dtype=torch.float64)
    for z, r in zip(logits, recorded, strict=True):
        p, y = (z.exp() / z.exp().sum()) ** 0.5, (r.exp() / r.exp().sum()) ** 0.5
        wanted = wanted - ((y / y.sum()) * (p / p.sum()).log()).sum() / 5
    found = distillation(logits, recorded)
    agree(found, wanted, 1e-13, "expert_gate")
    agree(
        *(torch.autograd.grad(each, logits)[0] for each in (found, wanted)),
        1e-12,
        "expert_gate",
        of="gradients",
    )
    assert abs(distillation(logits, recorded, temperature=1.0) - wanted) > 1e-3


def test_a_copy_with_outputs_for_all_tasks_need_not_forget() -> None:
    """Classes 0 to 2 are of the task that the copied expert knows, 3 to 5 of the new one; each has a loss of its own."""
    module = packages.package("expert_gate", (*SMALL, "tasks=2", "classes=6"))
    distillation, copy_expert = tool(module, "distillation"), tool(module, "copy_expert")
    features, label = rows(2, 8)
    drift = []
    for keeps in (True, False):
        model = packages.model_class(module)().double()
        with torch.no_grad():
            for number, weight in enumerate(model.parameters()):
                weight.copy_(0.4 * drawn(number, *weight.shape))
        copy_expert(model.lifelong.experts, source=0, target=1)
        recorded = model(features, label * 0).logits.detach()
        optimizer = torch.optim.AdamW(module.begin(model, "new_expert", lr=0.02))
        for _ in range(20):
            logits = model(features, label * 0 + 1).logits
            loss = F.cross_entropy(logits[:, 3:], label)
            if keeps:
                loss = loss + 10 * distillation(logits[:, :3], recorded[:, :3])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        now = model(features, label * 0 + 1).logits
        drift.append((now[:, :3].softmax(1) - recorded[:, :3].softmax(1)).abs().mean().item())
        assert F.cross_entropy(now[:, 3:], label) < F.cross_entropy(recorded[:, 3:], label)
        assert torch.equal(model(features, label * 0).logits, recorded)
    assert drift[0] < drift[1] / 3, drift


def test_statistics_are_those_of_all_rows() -> None:
    module = module_of(1)
    model = packages.model_class(module)()
    place = model.lifelong.router.score_standardize
    all_rows = drawn(3, 50, WIDTH) * drawn(4, WIDTH).abs() * 30 + 1000
    all_rows[:, 3] = 7
    place.fit([all_rows[:1], all_rows[1:1], all_rows[1:20], all_rows[20:]])
    mean = all_rows.sum(0) / 50
    deviation = ((all_rows - mean) ** 2).sum(0).div(50).sqrt()
    deviation[3] = 1
    agree(place.mean, mean, 1e-7)
    agree(place.deviation, deviation, 1e-7)
    assert (place.deviation - all_rows.std(0)).abs().max() > 1e-3, "of a sample: another number"
    assert not {"mean", "deviation"} & {
        name.rpartition(".")[2] for name, _ in model.named_parameters()
    }
    with pytest.raises(ValueError, match="nothing"):
        place.fit([all_rows[:0]])
    model.init_weights(0)
    assert place.mean.eq(0).all() and place.deviation.eq(1).all()


IMAGE = """model m {
  width = 16
  input image = pixels(3, 8, 8)
  output logits = image -> standardize -> patches(4) -> pool(mean) -> linear(5)
}
"""


def test_images_are_standardized_by_colour() -> None:
    model = packages.model_class(built(IMAGE))()
    image = drawn(5, 6, 3, 8, 8).float() * torch.tensor([1.0, 2, 3])[:, None, None]
    model.standardize.fit([image[:2], image[2:]])
    torch.testing.assert_close(model.standardize.mean.flatten(), image.mean((0, 2, 3)))
    given = packages.model_class(built(IMAGE.replace("standardize", "standardize(0.5, 0.25)")))()
    given.load_state_dict({k: v for k, v in model.state_dict().items() if "standardize" not in k})
    model.standardize.mean.fill_(0.5)
    model.standardize.deviation.fill_(0.25)
    assert torch.equal(given(image).logits, model(image).logits)


@pytest.mark.parametrize(
    ("score", "code"),
    [
        ("standardize -> linear", ""),
        ("standardize(0.5, 0.25) -> linear", ""),
        ("standardize(mean = -0.5, deviation = 2) -> linear", ""),
        ("standardize(0.5) -> linear", "E0203"),
        ("standardize(deviation = 2) -> linear", "E0203"),
        ("standardize(0, 0) -> linear", "E0206"),
    ],
)
def test_settings(score: str, code: str) -> None:
    found = codes(spec(f"score = {score}\ngate = score -> softmax\nselect = top_k(2)"))
    assert found == ([code] if code else [])


def test_experts_have_no_statistics_of_their_own() -> None:
    text = spec(
        "gate = score -> softmax\nselect = top_k(2)", "experts = 4 * (standardize -> swiglu(8))"
    )
    assert codes(text) == ["E0306"]
