"""Trains contestants on the same batches, in turn, step by step."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from moedsl.frozen import frozen
from moedsl.trial.contestants import Contestant
from moedsl.trial.record import ContestantRecord, TrialRecord
from moedsl.trial.routing import Gauge
from moedsl.trial.tasks import Examples, Task

if TYPE_CHECKING:
    from torch import Tensor

    from moedsl.trial.tasks import Batch

READINGS = 48  # of the routing, over a run
EVALUATIONS = 8
WARM_UP = 0.05  # of the run
WEIGHT_DECAY = 0.1
CLIP = 1.0


@frozen
class Budget:
    """How long to train: a number of steps, or of seconds (then the schedule follows the clock)."""

    steps: int | None
    seconds: float | None

    def done(self, steps: int, seconds: float) -> float:
        """0 at the start, 1 when it is used up."""
        if self.steps is not None:
            return steps / self.steps
        assert self.seconds is not None
        return min(1.0, seconds / self.seconds)


@frozen
class Progress:
    """Where a run stands; `bits` are each contestant's latest losses."""

    done: float
    step: int
    bits: tuple[float, ...]
    tokens_per_second: float


class Runner:
    """One model in training."""

    def __init__(self, contestant: Contestant, seed: int, rate: float, device: str) -> None:
        import torch

        self.contestant = contestant
        self.model = contestant.make(seed).to(device)
        matrices = [p for p in self.model.parameters() if p.requires_grad and p.ndim > 1]
        others = [p for p in self.model.parameters() if p.requires_grad and p.ndim <= 1]
        groups = [
            {"params": matrices, "weight_decay": WEIGHT_DECAY},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=True)
        self.gauge = Gauge()
        self.record = ContestantRecord(
            contestant.name, contestant.what, contestant.total, contestant.active
        )
        self.record.flops = contestant.flops
        self.examples: Examples | None = None

    @property
    def steps(self) -> int:
        return len(self.record.train_bits)

    def step(self, rate: float, device: str) -> None:
        import torch

        assert self.examples is not None
        *inputs, targets = (tensor.to(device) for tensor in self.examples.next())
        started = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        output = self.model(*inputs)
        loss = _nats(output.logits, targets).mean()
        whole = loss + sum(output.losses.values())
        self.optimizer.zero_grad()
        whole.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        if hasattr(self.model, "adapt"):  # numbers that a rule moves, once after each step
            tally: Any = importlib.import_module(f"{self.contestant.package.__name__}.adapting")
            self.model.adapt(tally.tally(output.routing))
        self.record.tokens += targets.numel()
        self.record.train_bits.append(loss.item() / math.log(2))
        self.record.seconds += time.perf_counter() - started
        self.gauge.see(getattr(output, "routing", {}))

    def evaluate(self, held_out: list[Batch]) -> None:
        """Held-out bits per unit, one number for each example."""
        import torch

        self.model.eval()
        with torch.no_grad():
            bits = [
                _nats(self.predict(*inputs), targets).mean(1) / math.log(2)
                for *inputs, targets in held_out
            ]
        self.model.train()
        self.record.window_bits = torch.cat(bits).tolist()
        self.record.held_out_steps.append(self.steps)
        self.record.held_out_bits.append(
            sum(self.record.window_bits) / len(self.record.window_bits)
        )

    def predict(self, *inputs: Tensor) -> Tensor:
        """Logits of what may not be known yet: what looks ahead in training gives way to its rule, as in decoding."""
        if self.contestant.decodes:
            return self.model(*inputs, cache=self.contestant.package.Cache()).logits
        return self.model(*inputs).logits

    def write(self, prompt: str, length: int, seed: int, reads: bool = False) -> None:
        """Let the model go on from `prompt`."""
        import torch

        self.model.eval()
        device = next(self.model.parameters()).device
        tokens = torch.tensor([list(prompt.encode())], device=device)
        generate: Any = self.contestant.package.generate
        # Where there is a stream to read, that is the prompt, and what is written begins with its last byte.
        given = (tokens, tokens[:, -1:]) if reads else (tokens,)
        with torch.no_grad():
            out = generate(
                self.model, *given, max_new_tokens=length, temperature=0.7, top_p=0.95, seed=seed
            )
        self.record.sample = bytes(out[0, -length:].clamp(0, 255).tolist()).decode(errors="replace")


def _nats(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each target, [B, T]; of one for each example, [B, 1]."""
    import torch

    classes = logits.float().movedim(-1, 1)
    nats = torch.nn.functional.cross_entropy(classes, targets, reduction="none")
    return nats.view(targets.shape[0], -1)


def learning_rate(done: float) -> float:
    """A factor on the rate: a short ramp, then half a cosine down to a tenth."""
    return min(1.0, (done + 1e-3) / WARM_UP) * (0.55 + 0.45 * math.cos(math.pi * done))


def run(
    runners: list[Runner], task: Task, budget: Budget, record: TrialRecord
) -> Iterator[Progress]:
    """Train until the budget is used up, a round at a time: a step of the first contestant, and of the others as many
    as bring them level, in steps or in computation. All see the same batches in the same order, and none is ahead of
    another by more than a step, so that whatever else the machine does falls on all alike. Results are in the runners'
    records."""
    weights = [_weight(runner, runners[0], record.equal) for runner in runners]
    for runner in runners:
        runner.examples = task.source(record.batch, record.length, record.seed)
    held_out = [tuple(t.to(record.device) for t in some) for some in task.held_out(record.length)]
    started = time.perf_counter()
    done, read, evaluated = 0.0, 0, 0
    while done < 1.0:
        if done * EVALUATIONS >= evaluated:
            evaluated = int(done * EVALUATIONS) + 1
            for runner in runners:
                runner.evaluate(held_out)
        rate = record.rate * learning_rate(done)
        record.steps += 1
        for runner, weight in zip(runners, weights, strict=True):
            while runner.steps < max(1, round(record.steps / weight)):
                runner.step(rate, record.device)
        record.seconds = time.perf_counter() - started
        done = budget.done(record.steps, record.seconds)
        if done * READINGS >= read + 1 or done >= 1.0:
            read = int(done * READINGS)
            for runner in runners:
                runner.gauge.read(runner.steps, runner.record.routing)
        yield _progress(done, runners, record)
    for runner in runners:
        runner.evaluate(held_out)


def _weight(runner: Runner, first: Runner, equal: str) -> float:
    """What a step costs, in steps of the first contestant."""
    costs = runner.contestant.flops, first.contestant.flops
    return costs[0] / costs[1] if equal == "flops" and all(costs) else 1.0


def _progress(done: float, runners: list[Runner], record: TrialRecord) -> Progress:
    latest = tuple(runner.record.train_bits[-1] for runner in runners)
    return Progress(
        done, record.steps, latest, runners[0].record.tokens / max(1e-9, record.seconds)
    )
