"""What is asked of one printed model on a GPU; each check returns its figures, or raises.

Needs torch and the printed folder alone. The other side of a comparison is the same package on the CPU in float64.
"""

from __future__ import annotations

import itertools
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from model_graphs import captured
from printed_models import (
    BATCH,
    FLOAT32,
    TOKENS,
    Printed,
    Ran,
    compare,
    loss_of,
    loss_weight,
    ran,
    relative,
    shared_chance,
)
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

MANY = (8, 200)
FLIPS = 3


def float32(printed: Printed) -> dict:
    """Values and every gradient against float64 on the CPU, in training and evaluation, with and without padding.

    Scores that nearly tie may be ranked the other way round. Such a draw proves nothing: it is counted, and another
    takes its place; a kernel that chooses wrongly has no draw without.
    """
    assert printed.fused(), "its kernels do not run here"
    found: dict[str, Any] = {"error": 0.0, "gradient": 0.0, "flips": 0}
    for train, padded in itertools.product((True, False), (False, True)):
        if padded and not printed.can_pad():
            continue
        for seed in range(FLIPS):
            ours = ran(printed, torch.float32, printed.device, seed, train, padded)
            theirs = ran(printed, torch.float64, "cpu", seed, train, padded)
            if all(torch.equal(ours.choices[k], theirs.choices[k]) for k in theirs.choices):
                break
            found["flips"] += 1
        else:
            raise AssertionError(
                f"experts differ in all of {FLIPS} draws (train={train}, padded={padded})"
            )
        usual = partial(ran, printed, torch.float32, "cpu", seed, train, padded)
        where = f"train={train}, padded={padded}"
        compare(ours, theirs, found, where, None if printed.device == "cpu" else usual)
    return found


def bfloat16(printed: Printed) -> dict:
    """Half precision is finite, and about as near to float64 as the CPU's is. Choices flip there, on both sides."""
    theirs = ran(printed, torch.float64, "cpu", 0, False, False)
    found = {}
    for name, run in (("bfloat16", whole_half), ("autocast", autocast)):
        ours, cpu = run(printed, printed.device), run(printed, "cpu")
        assert ours.gradients.keys() == theirs.gradients.keys()
        for key, tensor in {**ours.values, **ours.gradients}.items():
            assert tensor.isfinite().all(), f"{name}: {key} is not finite"
        far, usual = distance(ours, theirs), distance(cpu, theirs)
        found[name] = far
        for what, one, other in zip(("values", "gradients"), far, usual, strict=True):
            assert one < 2 * other + 0.1, f"{name}: {what} are {one:.3g} off, the CPU's {other:.3g}"
    return found


def whole_half(printed: Printed, device: str) -> Ran:
    return ran(printed, torch.bfloat16, device, 0, False, False)


def autocast(printed: Printed, device: str) -> Ran:
    with torch.autocast(device, torch.bfloat16):
        return ran(printed, torch.float32, device, 0, False, False)


def distance(a: Ran, b: Ran) -> list[float]:
    """Relative distances of logits and of all gradients together."""
    both = [torch.cat([g.flatten() for g in one.gradients.values()]) for one in (a, b)]
    return [round(relative(a.values["logits"], b.values["logits"]), 4), round(relative(*both), 4)]


def no_sync(printed: Printed) -> dict:
    """Forward and backward never wait for the device; but for an auction in training."""
    if not printed.whole_groups():
        return {"left_out": "odd widths"}
    assert refuses(), "a sync passes unseen"
    for train, padded in itertools.product((True, False), (False, True)):
        if (padded and not printed.can_pad()) or (train and printed.waits):
            continue
        model = printed.model(torch.bfloat16, printed.device).train(train)
        given = printed.batch(torch.bfloat16, printed.device, 0, padded)
        output = model(**given)
        weight = loss_weight(output.logits.shape, output.logits.device)
        loss_of(output, weight).backward()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            loss_of(model(**given), weight).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return {"but": "an auction"} if printed.waits else {}


def refuses() -> bool:
    """Whether torch sees a sync, and refuses it."""
    one = torch.ones(1, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        one.item()
    except RuntimeError:
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False


def twice(printed: Printed) -> dict:
    """Two runs agree bit for bit, and so does one that makes activations again in backward.

    Some of torch's own operations sum their gradients in any order: where runs differ, those gradients are named, and
    runs must agree once torch is asked for one order and attention for its plain form.
    """
    found: dict[str, Any] = {}
    for dtype in (torch.float32, torch.bfloat16):
        other = varying(printed, dtype)
        if not other:
            continue
        found[f"varies in {str(dtype).removeprefix('torch.')}"] = other[:8]
        with sdpa_kernel(SDPBackend.MATH), in_one_order():
            other = varying(printed, dtype)
            assert not other, f"{dtype}: two runs differ: {other}"
    return found


def varying(printed: Printed, dtype: torch.dtype) -> list[str]:
    """What differs between runs of a large batch; a last one has nan in all memory that nobody wrote."""
    model = printed.model(dtype, printed.device)
    given = printed.batch(dtype, printed.device, 0, shape=MANY)
    runs = []
    for again in (False, False, hasattr(model, "checkpoint_layers")):
        if again:
            model.checkpoint_layers = True
        runs.append(seeded(model, given))
    with in_one_order():
        filled = seeded(model, given)
    for name, value in {**filled.values, **filled.gradients}.items():
        assert value.isfinite().all(), f"{dtype}: {name} reads memory that nobody wrote"
    first, *others = ({**run.values, **run.gradients} for run in runs)
    return [name for name in first if any(not torch.equal(first[name], o[name]) for o in others)]


@contextmanager
def in_one_order() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(False)


def seeded(model: nn.Module, given: dict) -> Ran:
    model.zero_grad()
    torch.manual_seed(0)
    return Ran(model, given)


@torch.no_grad()
def steps(printed: Printed) -> dict:
    """Step by step with a cache gives what the whole sequence gives, where it does on the CPU in float64."""
    if not printed.decodes:
        return {"left_out": "no generation"}
    # Some decide by another rule from the first call with a cache on.
    cached = stepped(printed, torch.float64, "cpu", False) > 1e-9
    if cached and stepped(printed, torch.float64, "cpu", True) > 1e-9:
        return {"left_out": "what a token gets depends on others"}
    error = stepped(printed, torch.float32, printed.device, cached)
    assert error < FLOAT32, f"with a cache {error:.3g} off"
    generated(printed, torch.float32, cached)
    generated(printed, torch.bfloat16, cached)
    return {"error": error}


def stepped(printed: Printed, dtype: torch.dtype, device: str, cached: bool) -> float:
    model = printed.model(dtype, device).eval()
    given = printed.batch(dtype, device, 0)
    *others, tokens = given
    whole = model(**given, **({"cache": printed.module.Cache()} if cached else {})).logits
    cache, parts = printed.module.Cache(), []
    for start, stop in [(0, 5), *((i, i + 1) for i in range(5, TOKENS))]:
        fixed = {name: given[name] for name in others}
        step = given[tokens][:, start:stop]
        parts.append(model(**fixed, **{tokens: step}, cache=cache).logits)
    return relative(torch.cat(parts, 1).double(), whole.double())


def generated(printed: Printed, dtype: torch.dtype, cached: bool) -> None:
    """What generate() says is what a forward over all of it finds most probable, or nearly so."""
    model = printed.model(dtype, printed.device).eval()
    given = printed.batch(dtype, printed.device, 0)
    *others, tokens = given
    fixed = {name: given[name] for name in others}
    prompt = given[tokens][:, :7]
    said = printed.module.generate(model, *fixed.values(), prompt, max_new_tokens=6)
    assert said.shape == (BATCH, 13) and torch.equal(said[:, :7], prompt)
    if dtype == torch.float32:
        cache = {"cache": printed.module.Cache()} if cached else {}
        logits = model(**fixed, **{tokens: said}, **cache).logits[:, 6:-1]
        chosen = logits.gather(2, said[:, 7:, None]).squeeze(2)
        assert ((logits.amax(2) - chosen) < 1e-3 * logits.abs().amax()).all(), "generate() differs"
    drawn = [
        printed.module.generate(
            model, *fixed.values(), prompt, max_new_tokens=6, temperature=0.8, top_p=0.9, seed=3
        )
        for _ in range(2)
    ]
    assert torch.equal(*drawn), "equal seeds draw other tokens"
    mask = torch.arange(7, device=printed.device) >= torch.tensor([[0], [2], [0], [5]]).to(
        printed.device
    )
    printed.module.generate(model, *fixed.values(), prompt, max_new_tokens=6, mask=mask, stop=(1,))


def keeping(printed: Printed) -> dict:
    """Weights are made, written and read on the device; what adapts does so as on the CPU."""
    with torch.device(printed.device):
        model = printed.model_class()
    model.init_weights(seed=1)
    assert all(weight.isfinite().all() for weight in model.state_dict().values())
    assert all(str(w.device).startswith(printed.device) for w in model.state_dict().values())
    with tempfile.TemporaryDirectory() as folder:
        printed.module.save_checkpoint(model, folder)
        other = printed.model_class().to(printed.device)
        printed.module.load_checkpoint(other, folder)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name]), name
    if not hasattr(model, "adapt"):
        return {}
    adapted = []
    for dtype, device in ((torch.float32, printed.device), (torch.float64, "cpu")):
        model = printed.model(dtype, device).train()
        with shared_chance(0):
            run = Ran(model, printed.batch(dtype, device, 0))
        model.adapt(printed.module.tally(run.output.routing))
        adapted.append({name: value.double().cpu() for name, value in model.named_buffers()})
    for name, value in adapted[0].items():
        assert torch.allclose(value, adapted[1][name], rtol=1e-5, atol=1e-6), (
            f"{name} adapts otherwise"
        )
    return {"adapts": True}


CHECKS: dict[str, Callable[[Printed], dict]] = {
    "float32": float32,
    "bfloat16": bfloat16,
    "twice": twice,
    "steps": steps,
    "keeping": keeping,
    "no_sync": no_sync,
    "captured": captured,
}
NEED_GPU = ("no_sync", "captured")
