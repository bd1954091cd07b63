"""A printed model of `bench/small.py`: how it is made and called, and what one forward and backward of it gave.

Weights, inputs and draws come from the CPU, so that they are the same numbers on every device and in every dtype.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BATCH, TOKENS = 4, 37  # an odd number of rows, more than one block of a kernel
FLOAT32 = 1e-4


class Printed:
    """A printed package, and how its model is called."""

    def __init__(self, folder: Path, device: str) -> None:
        if str(folder.parent) not in sys.path:
            sys.path.insert(0, str(folder.parent))
        self.name, self.folder, self.device = folder.name, folder, device
        self.module = importlib.import_module(folder.name)
        self.inputs = json.loads((folder / "call.json").read_text())["inputs"]
        named = (getattr(self.module, name) for name in self.module.__all__)
        (self.model_class,) = [one for one in named if hasattr(one, "init_weights")]
        self.asks = inspect.signature(self.model_class.forward).parameters
        texts = [file.read_text() for file in folder.glob("*.py")]
        # An auction ends when all rows have found an expert: it asks the device.
        self.waits = any("def auction(" in text for text in texts)
        self.decodes = "Cache" in self.module.__all__

    def model(self, dtype: torch.dtype, device: str, seed: int = 0) -> nn.Module:
        """Weights drawn in float32 on the CPU: equal numbers wherever the model is."""
        model = self.model_class()
        model.init_weights(seed=0)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.normal_(generator=generator)
                if weight.ndim == 1:
                    weight.mul_(0.3).add_(1.0)
                elif "embed" not in name:
                    weight.mul_(weight.shape[-1] ** -0.5)
        return model.to(device=device, dtype=dtype)

    def whole_groups(self) -> bool:
        """Whether every product of experts has rows of whole 16 bytes in half precision."""
        named = self.model_class().named_parameters()
        shapes = [weight.shape for name, weight in named if weight.ndim == 3 and "experts" in name]
        return all(size % 8 == 0 for shape in shapes for size in shape[1:])

    def fused(self) -> bool:
        """Whether its kernels serve the GPU; without routing there are none."""
        routing = getattr(self.module, "routing", None)
        return self.device == "cpu" or routing is None or self.device == routing.FUSED

    def batch(
        self,
        dtype: torch.dtype,
        device: str,
        seed: int,
        padded: bool = False,
        shape: tuple[int, int] = (BATCH, TOKENS),
    ) -> dict:
        """The arguments of a forward."""
        sequences, tokens = shape
        generator = torch.Generator().manual_seed(1000 + seed)
        given: dict[str, Any] = {}
        streams = [one for one in self.inputs if one["kind"] == "ids"]
        for one, name in zip(self.inputs, self.asks_after_self(), strict=False):
            match one["kind"]:
                case "ids":
                    x = torch.randint(0, one["size"], shape, generator=generator)
                case "label":
                    x = torch.randint(0, one["size"], (sequences * tokens,), generator=generator)
                case "vector":
                    x = torch.randn(sequences * tokens, one["size"], generator=generator)
                case "pixels":
                    size = (sequences, one["channels"], one["height"], one["width"])
                    x = torch.randn(size, generator=generator)
                case other:
                    raise ValueError(f"an input of kind {other}")
            given[name] = x.to(device, dtype if x.is_floating_point() else None)
            if padded and one["kind"] == "ids":
                mask = "mask" if one is streams[-1] else f"{one['name']}_mask"
                missing = torch.tensor([[0], [5], [20], [TOKENS - 1]])
                given[mask] = (torch.arange(TOKENS) >= missing).to(device)
        return given

    def asks_after_self(self) -> list[str]:
        return [name for name in self.asks if name != "self"]

    def can_pad(self) -> bool:
        return "mask" in self.asks


class Ran:
    """What one forward and backward gave, on the CPU in float64."""

    def __init__(self, model: nn.Module, given: dict, call: Callable | None = None) -> None:
        self.output = output = model(**given) if call is None else call(**given)
        loss_of(output).backward()
        values = {"logits": output.logits, **output.losses}
        self.values = {name: value.detach().double().cpu() for name, value in values.items()}
        self.gradients = {
            name: weight.grad.double().cpu()
            for name, weight in model.named_parameters()
            if weight.grad is not None
        }
        self.choices = {
            place: one.expert_NK.cpu()
            for place, one in output.routing.items()
            if hasattr(one, "expert_NK")
        }


def loss_of(output: Any, weight: Tensor | None = None) -> Tensor:
    """Every logit counts by a weight of its own, and every loss of the model."""
    if weight is None:
        weight = loss_weight(output.logits.shape, output.logits.device)
    logits = (output.logits * weight.to(output.logits.dtype)).sum()
    return logits + 10 * sum(output.losses.values())


def loss_weight(shape: torch.Size, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return (torch.randn(shape, generator=generator) / shape.numel() ** 0.5).to(device)


@contextmanager
def shared_chance(seed: int) -> Iterator[None]:
    """Draws of a forward come from the CPU, so that they are equal on all devices and in all dtypes."""
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand_like, torch.randn_like, torch.rand, Tensor.exponential_, F.dropout

    def rand_like(x: Tensor) -> Tensor:
        return kept[2](x.shape, generator=generator).to(x)

    def randn_like(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=generator).to(x)

    def rand(*shape: int, device: Any = None) -> Tensor:
        return kept[2](shape, generator=generator).to(device)

    def exponential_(x: Tensor) -> Tensor:
        return x.copy_(kept[3](torch.empty(x.shape), generator=generator))

    def dropout(x: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
        return (x / (1 - p)).where(rand_like(x) >= p, 0) if training else x

    torch.rand_like, torch.randn_like, torch.rand = rand_like, randn_like, rand
    Tensor.exponential_, F.dropout = exponential_, dropout
    try:
        yield
    finally:
        torch.rand_like, torch.randn_like, torch.rand = kept[:3]
        Tensor.exponential_, F.dropout = kept[3:]


def relative(a: Tensor, b: Tensor, floor: float = 0.0) -> float:
    """The Frobenius distance over the norm of b."""
    return ((a - b).norm() / b.norm().clamp(min=max(floor, 1e-30))).item()


def ran(
    printed: Printed, dtype: torch.dtype, device: str, seed: int, train: bool, padded: bool
) -> Ran:
    model = printed.model(dtype, device, seed).train(train)
    with shared_chance(seed):
        return Ran(model, printed.batch(dtype, device, seed, padded))


def compare(
    ours: Ran, theirs: Ran, found: dict, where: str, usual: Callable[[], Ran] | None = None
) -> None:
    """Raise where errors are too large: more than twice those of `usual`, where arithmetic itself makes large ones."""
    assert ours.values.keys() == theirs.values.keys()
    assert ours.gradients.keys() == theirs.gradients.keys()
    # What is zero in exact arithmetic (the bias of keys, say) is rounding on both sides.
    floor = 1e-3 * torch.stack([g.norm() for g in theirs.gradients.values()]).norm().item()
    errors = distances(ours, theirs, floor)
    found["error"] = max(found["error"], *(errors[name] for name in theirs.values))
    found["gradient"] = max(found["gradient"], *(errors[name] for name in theirs.gradients))
    wrong = {name: error for name, error in errors.items() if not error < FLOAT32}
    if wrong and usual is not None:
        found["usual"] = distances(usual(), theirs, floor)
        wrong = {n: e for n, e in wrong.items() if not e < FLOAT32 + 2 * found["usual"][n]}
        found["usual"] = max(found["usual"].values())
    assert not wrong, f"{where}: {wrong}"


def distances(ours: Ran, theirs: Ran, floor: float) -> dict[str, float]:
    values = {name: relative(ours.values[name], value) for name, value in theirs.values.items()}
    return values | {n: relative(ours.gradients[n], g, floor) for n, g in theirs.gradients.items()}
