"""Compares the kernels of a printed package with its reference, wherever Triton runs.

Needs torch, Triton and the package's folder, and nothing of moedsl: the same checks run under
the interpreter on a desk and on a GPU.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

SMOOTH = ("probability", "z", "entropy")
# (rows, sequences): none, one, odd, and several blocks of several sequences.
SHAPES = ((0, 1), (1, 1), (7, 1), (33, 3), (130, 2))
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def load(package: Path) -> tuple[dict, ModuleType, ModuleType]:
    """The view, the kernels and the reference of a printed package."""
    if str(package.parent) not in sys.path:
        sys.path.insert(0, str(package.parent))
    view = json.loads((package / "view.json").read_text())
    kernels = importlib.import_module(f"{package.name}.kernels")
    return view, kernels, importlib.import_module(f"{package.name}.reference")


def kinds_of_picks(packages: list[Path], *also: str) -> list[Path]:
    """One package for each way in which picks can be absent: each has a dispatch of its own."""
    views = {path: json.loads((path / "view.json").read_text()) for path in packages}
    flags = ("loose", "bounded", *also)
    return list({tuple(v[flag] for flag in flags): path for path, v in views.items()}.values())


def kinds_of_rows(packages: list[Path]) -> list[Path]:
    """One package for each form of the kernels that gather and combine; routes change nothing in them."""
    return kinds_of_picks(packages, "expert_bias")


def logits(rows: int, experts: int, dtype: torch.dtype, device: str) -> Tensor:
    """Normal logits; from seven rows on the first ones are hostile."""
    generator = torch.Generator().manual_seed(rows * 1000 + experts)
    z = torch.randn(rows, experts, generator=generator)
    if rows >= 7:
        z[0] = float("nan")
        z[1] = float("-inf")
        z[2, experts // 2] = float("nan")
        z[3] = 0.5
        z[4] = (z[4] * 2).round() / 2
        z[5, : experts // 2] = float("-inf")
        z[6, experts - 1] = 30.0
    return z.to(device, dtype)


def close(name: str, ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    assert ours.dtype == theirs.dtype, f"{name}: {ours.dtype} and {theirs.dtype}"
    torch.testing.assert_close(
        ours,
        theirs,
        rtol=tolerance,
        atol=tolerance,
        equal_nan=True,
        msg=lambda text: f"{name}: {text}",
    )


def check_route(
    package: Path,
    dtype: torch.dtype,
    device: str,
    shapes: tuple[tuple[int, int], ...] = SHAPES,
) -> None:
    """Forward and backward of every route, with and without padding."""
    view, kernels, reference = load(package)
    for route in view["routes"]:
        for rows, sequences in shapes:
            z = logits(rows, route["num_experts"], dtype, device)
            for inputs in route_inputs(route, route["statistics"], z, sequences):
                compare_route(
                    route, route["statistics"], kernels, reference, inputs, TOLERANCE[dtype]
                )


def route_inputs(route: dict, wants: list[str], z: Tensor, sequences: int) -> Iterator[tuple]:
    rows, experts = z.shape
    bias = (torch.linspace(-0.3, 0.3, experts, device=z.device),) if route["bias"] else ()
    real = torch.arange(rows, device=z.device) % 3 != 1
    if not wants:
        yield z, *bias
        return
    yield z, *bias, None, sequences
    yield z, *bias, real, sequences


def compare_route(
    route: dict,
    wants: list[str],
    kernels: ModuleType,
    reference: ModuleType,
    inputs: tuple,
    tolerance: float,
) -> None:
    name = f"route_{route['name']}"
    ours, theirs = getattr(kernels, name)(*inputs), getattr(reference, name)(*inputs)
    for field, a, b in zip(("weight", "expert", *wants), ours, theirs, strict=True):
        close(f"{name} {field} of {list(inputs[0].shape)}", a, b, 1e-5)
    smooth = [o for field, o in zip(wants, theirs[2:], strict=True) if field in SMOOTH]
    gradients = [torch.randn_like(o) for o in (theirs[0], *smooth)]
    segments = inputs[-2:] if smooth else ()
    args = (*gradients, inputs[0], theirs[1], *segments)
    a, b = (getattr(m, f"{name}_backward")(*args) for m in (kernels, reference))
    close(f"{name} gradient of {list(inputs[0].shape)}", a, b, tolerance)


def choices(kind: str, rows: int, experts: int, k: int, device: str) -> Tensor:
    """Which experts rows take: at random, all the same ones, or the upper half alone.

    Loose: some picks are absent, all are, or column e holds expert e where that took the row.
    """
    generator = torch.Generator().manual_seed(rows)
    order = torch.rand(rows, experts, generator=generator).argsort(1)
    if kind == "hot":
        order = torch.arange(experts).flip(0).repeat(rows, 1)
    if kind == "half" and experts >= 2 * k:
        order = experts // 2 + order.argsort(1)[:, : experts // 2].argsort(1)
    if kind == "columns":
        order = torch.arange(experts).repeat(rows, 1)
    order = order[:, :k].contiguous()
    if kind in ("some", "columns"):
        order[torch.rand(rows, k, generator=generator) < 0.4] = experts
    if kind == "absent":
        order[:] = experts
    return order.to(device)


LOOSE = ("some", "columns", "absent")


def bounds(view: dict, expert: Tensor, experts: int) -> list[tuple[int, ...]]:
    """What limits the rows: nothing, or exactly those that are there, some more, or more than all."""
    there = int((expert < experts).sum())
    most = [(there,), (there + 3,), (expert.numel() + 1,)] if view["bounded"] else [()]
    return most if experts == 3 else most[:1]


def check_dispatch(package: Path, device: str) -> None:
    view, kernels, reference = load(package)
    # The interpreter takes a while for each expert.
    few = (0, 130)
    # More than 2048 picks are counted before they are placed.
    for rows, experts, k in ((300, 20, 7), (130, 33, 17)):
        kind = "some" if view["loose"] else "random"
        expert = choices(kind, rows, experts, k, device)
        compare_dispatch(view, kernels, reference, kind, expert, experts)
    for experts, k in ((1, 1), (3, 2), (8, 8), (60, 4), *([] if view["loose"] else [(64, 8)])):
        for rows in (0, 1, 7, 130) if experts <= 8 else few:
            for kind in LOOSE if view["loose"] else ("random", "hot", "half"):
                expert = choices(kind, rows, experts, k, device)
                compare_dispatch(view, kernels, reference, kind, expert, experts)


def compare_dispatch(
    view: dict,
    kernels: ModuleType,
    reference: ModuleType,
    kind: str,
    expert: Tensor,
    experts: int,
) -> None:
    for most in bounds(view, expert, experts):
        ours = kernels.dispatch(expert, experts, *most)
        theirs = reference.dispatch(expert, experts, *most)
        case = f"{list(expert.shape)} picks of {experts}, {kind}"
        for field, a, b in zip(FIELDS, ours, theirs, strict=True):
            close(f"dispatch {field}, {case}, at most {most}", a, b, 0)


FIELDS = ("source", "place", "offset")


def check_rows(package: Path, dtype: torch.dtype, device: str) -> None:
    """Gathering, combining and their backward passes."""
    view, *_ = load(package)
    kinds = (*LOOSE, "random") if view["loose"] else ("random",)
    for rows, width, k in ((0, 16, 2), (1, 1, 1), (7, 40, 3), (33, 128, 2), (5, 1030, 2)):
        for kind in kinds if rows == 7 else kinds[:1]:
            expert = choices(kind, rows, 5, k, device)
            compare_rows(package, expert, width, bounds(view, expert, 5)[-1], dtype)


def compare_rows(
    package: Path, expert: Tensor, width: int, most: tuple[int, ...], dtype: torch.dtype
) -> None:
    view, kernels, reference = load(package)
    source, place, offset = reference.dispatch(expert, 5, *most)
    (rows, k), device = expert.shape, expert.device
    x = torch.randn(rows, width, device=device, dtype=dtype)
    y = torch.randn(source.shape[0], width, device=device, dtype=dtype)
    # Rows that are nobody's hold anything, and nobody reads them; so do the weights of absent picks.
    y[int(offset[-1]) :] = float("nan")
    weight = torch.rand(rows, k, device=device)
    calls = [
        ("gather_rows", (x, source) if view["loose"] else (x, source, place)),
        ("gather_rows_backward", (y, place)),
        ("combine", (y, weight, place)),
        ("combine_backward", (x, y, weight.masked_fill(place < 0, float("nan")), place)),
    ]
    if view["expert_bias"]:
        calls.append(("expert_bias_backward", (y, offset)))
    for name, args in calls:
        pair = [getattr(module, name)(*args) for module in (kernels, reference)]
        ours, theirs = ([o] if isinstance(o, Tensor) else o for o in pair)
        for a, b in zip(ours, theirs, strict=True):
            assert not b.isnan().any(), f"{name}: something that is nobody's was read"
            # A sum of `width` products, of unit scale, grows as its root.
            tolerance = TOLERANCE[dtype] * max(1, width**0.5 / 4)
            close(f"{name} of {rows} x {width}", a, b, tolerance)


def check_room(package: Path, device: str) -> None:
    """Lines for the room of experts, and experts that choose rows: in groups, with ties and absent picks."""
    _, kernels, reference = load(package)
    for groups, picks, experts in ((0, 4, 3), (1, 1, 1), (3, 7, 5), (2, 1500, 3)):
        generator = torch.Generator().manual_seed(picks)
        expert = torch.randint(experts + 1, (groups, picks), generator=generator).to(device)
        ours, theirs = (m.place_in_line(expert, experts) for m in (kernels, reference))
        close(f"place_in_line of {groups} x {picks}", ours, theirs, 0)
    for rows, experts, size, slots in (
        (0, 3, 1, 1),
        (1, 1, 1, 1),
        (7, 4, 3, 2),
        (1100, 1, 1050, 40),
    ):
        # Halves of whole numbers: many ties, zeros of both signs, and hostile ones.
        key = (logits(rows, experts, torch.float32, "cpu") * 2).round() / 2
        key[rows // 2 :, 0] *= -1
        for dtype in TOLERANCE if rows == 7 else (torch.float32,):
            for room in (slots, size + 1) if dtype == torch.float32 else (slots,):
                args = (key.to(device, dtype), size, room)
                ours, theirs = (m.take_rows(*args) for m in (kernels, reference))
                close(f"take_rows of {rows} in {size}, {room} slots", ours, theirs, 0)


def check(package: Path, dtype: torch.dtype, device: str) -> None:
    torch.manual_seed(0)
    check_route(package, dtype, device)
    check_rows(package, dtype, device)
    if load(package)[0]["columns"] and dtype == torch.float32:
        check_room(package, device)
