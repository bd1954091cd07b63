"""The trial itself, on a package by hand."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from moedsl.load import load_package  # noqa: E402
from moedsl.trial.contestants import Contestant, contestant  # noqa: E402
from moedsl.trial.data import Batches, python_reference  # noqa: E402
from moedsl.trial.record import TrialRecord  # noqa: E402
from moedsl.trial.tasks import SHAPES, Continued, Pictures, text_task  # noqa: E402
from moedsl.trial.train import Budget, Runner, run  # noqa: E402
from moedsl.trial.verdict import bits, verdict  # noqa: E402
from tests.packages import compiled  # noqa: E402
from tests.trial.toy import FILES  # noqa: E402


def trained(steps=30, seed=0, names=("toy", "toy_dense")):
    rivals = [
        Contestant(name, "4 experts, 2 for each token", 9000, 8000, load_package(FILES, "toy"))
        for name in names
    ]
    record = TrialRecord(["toy.moe"], "", seed=seed, rate=1e-2, batch=4, length=32)
    task = text_task()
    runners = [Runner(rival, seed, record.rate, "cpu") for rival in rivals]
    record.contestants = [r.record for r in runners]
    progress = list(run(runners, task, Budget(steps, None), record))
    record.about = task.about()
    record.prompt = "The "
    for runner in runners:
        runner.write(record.prompt, 40, seed)
    record.verdict, record.noise = verdict(record.contestants)
    return record, progress


def test_the_text_is_real_and_held_out_text_is_apart():
    corpus = python_reference()
    assert (
        corpus.train.numel() > 300_000
        and 20_000 < corpus.held_out.numel() < corpus.train.numel() / 4
    )
    held_out, train = (bytes(t.tolist()) for t in (corpus.held_out, corpus.train))
    assert held_out[:200] not in train
    assert corpus.windows(128, 64).shape == (64, 129)


def test_batches_follow_the_seed():
    text = torch.arange(1000)
    one, same, other = (Batches(text, 4, 16, seed) for seed in (1, 1, 2))
    first = one.next()
    assert torch.equal(first, same.next()) and not torch.equal(first, other.next())
    assert torch.equal(first[:, 1:] - first[:, :-1], torch.ones(4, 16, dtype=torch.long))


def test_losses_fall_and_everything_is_recorded():
    record, progress = trained()
    assert record.steps == 30 == len(progress) and progress[-1].done == 1.0
    for one in record.contestants:
        assert sum(one.train_bits[-5:]) < sum(one.train_bits[:5])
        assert (
            one.held_out_bits[-1] == pytest.approx(bits(one))
            and one.held_out_bits[-1] < one.held_out_bits[0]
        )
        assert one.routing.places == ["layer.0.sparse"] and one.routing.steps[-1] == 30
        assert all(
            sum(layer) == pytest.approx(1.0) for layers in one.routing.load for layer in layers
        )
        assert all(0 <= e <= 1 for es in one.routing.entropy for e in es)
        assert one.sample


def test_a_number_of_steps_is_repeatable_to_the_bit():
    first, _ = trained(8)
    second, _ = trained(8)
    assert first.contestants[0].train_bits == second.contestants[0].train_bits
    assert first.contestants[0].window_bits == second.contestants[0].window_bits


def test_equal_models_on_equal_batches_cannot_be_told_apart():
    record, _ = trained(5)
    one, other = record.contestants
    assert one.train_bits == other.train_bits
    assert "cannot be told apart" in record.verdict


def test_the_second_half_of_a_window_is_predicted():
    text = text_task()
    window = torch.arange(2 * 5 + 1)[None]
    for main in (1, 0):
        *streams, targets = Continued(text.corpus, main).cut(window)
        assert streams[1 - main].tolist() == [[0, 1, 2, 3, 4]]
        assert streams[main].tolist() == [[5, 6, 7, 8, 9]]
        assert targets.tolist() == [[6, 7, 8, 9, 10]]


def test_pictures_follow_the_seed_and_differ_by_shape():
    task = Pictures(3, 24, 32)
    one, same, other = (task.source(64, 1, seed) for seed in (1, 1, 2))
    (image, label), (image_again, _), (image_other, _) = one.next(), same.next(), other.next()
    assert image.shape == (64, 3, 24, 32) and set(label.tolist()) == set(range(len(SHAPES)))
    assert torch.equal(image, image_again) and not torch.equal(image, image_other)
    held_out = task.held_out(1)
    assert sum(len(targets) for _, targets in held_out) == 256
    assert not torch.equal(held_out[0][0], task.source(8, 1, 0).next()[0])


SMALL = ("vocab=256", "width=32", "count=1", "gqa.heads=4", "gqa.kv_heads=2", "mode.experts=[full = 3 * swiglu(16), skip = zero]")  # fmt: skip


def test_what_looks_ahead_in_training_is_measured_without_the_future():
    rival = contestant(compiled("mod_small", SMALL), 32)
    runner = Runner(rival, 0, 1e-2, "cpu")
    examples = text_task().source(4, 32, 0)
    runner.examples = examples
    for _ in range(3):
        runner.step(1e-2, "cpu")
    runner.model.eval()
    seen, _ = examples.next()
    other = torch.cat((seen[:, :20], seen[:, 20:].flip(1) ^ 1), 1)
    with torch.no_grad():
        one, two = (runner.predict(each)[:, :20] for each in (seen, other))
        torch.testing.assert_close(one, two)
        ahead = [runner.model(each).logits[:, :20] for each in (seen, other)]
    assert rival.decodes and not torch.allclose(*ahead, atol=1e-4)
