"""ST-MoE and GShard as whole specs, against loops over tokens in float64: logits, losses, every gradient, drops.

Lepikhin et al., 2020, algorithm 1; Zoph et al., 2022, section 2 and appendix A. Random numbers are given to both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.agree import agree
from tests.packages import model_class, package
from tests.systems import plain_capacity as plain
from tests.systems.plain_depth import attention, rms

E, WIDTH, LENGTH, GROUP = 4, 16, 13, 16
SMALL = (
    "vocab=40",
    f"width={WIDTH}",
    "own.heads=2",
    "own.head_dim=8",
    f"top2.within=tokens({GROUP})",
)
SETTINGS = {
    "st_moe": (
        "dense=geglu(12)",
        f"sparse.experts={E} * geglu(12)",
        "logits=tokens -> embed -> 2 * (layer -> sparse_layer) -> last -> head",
    ),
    "gshard_lm": (
        "dense=mlp(12, activation = relu)",
        f"sparse.experts={E} * mlp(12, activation = relu)",
        "logits=tokens -> embed -> 2 * (layer(dense) -> layer(sparse)) -> last -> head",
    ),
}


@dataclass
class Loops:
    """The published layers in loops; what differs between the two systems is given."""

    p: dict[str, Tensor]
    training: bool
    real: list[bool]
    random: list[Tensor]  # a number for each token's second pick, layer by layer
    system: str
    below: float = 0.0
    priority: str = "first_come"
    eps: float = 0.0
    dropped: int = 0
    stayed_away: int = 0
    balance: Any = 0.0
    z: Any = 0.0

    def __post_init__(self) -> None:
        if self.system == "st_moe":
            self.below = 0.2
        else:
            self.below, self.priority, self.eps = 0.5, "by_rank", 1e-9

    @property
    def room(self) -> int:
        if self.system == "st_moe":
            factor = 1.25 if self.training else 2.0
            return plain.slots(factor, GROUP, 2, E, "token", "nearest", least=4)
        return plain.slots(2, GROUP, 2, E, "token", "down", least=4, multiple=4)

    def norm(self, x: Tensor, at: str) -> Tensor:
        if self.system == "st_moe":
            return rms(x, self.p[f"{at}.weight"])
        apart = x - x.mean()
        scaled = apart / (apart.square().mean() + 1e-6).sqrt()
        return scaled * self.p[f"{at}.weight"] + self.p[f"{at}.bias"]

    def feed_forward(self, x: Tensor, at: str, expert: int | None = None) -> Tensor:
        if self.system == "gshard_lm":
            names = f"{at}.up", f"{at}.down"
            up, down = (self.p[n if expert is not None else f"{n}.weight"] for n in names)
            if expert is not None:
                up, down = up[expert], down[expert]
            return down @ (up @ x).clamp(min=0)
        if expert is None:
            gate, up, down = (self.p[f"{at}.{n}.weight"] for n in ("gate", "up", "down"))
        else:
            gate, up = self.p[f"{at}.gate_up"][expert].chunk(2)
            down = self.p[f"{at}.down"][expert]
        return down @ (F.gelu(gate @ x) * (up @ x))

    def mixture(self, xs: list[Tensor], at: str) -> list[Tensor]:
        score = [self.p[f"{at}.router.score.weight"] @ x for x in xs]
        gates = [s.softmax(0) for s in score]
        picks: plain.Picks = [
            g.detach().argsort(descending=True, stable=True)[:2].tolist() for g in gates
        ]
        first = [row[0] for row in picks]
        both = [g[e].sum() + self.eps for g, e in zip(gates, picks, strict=True)]
        weights = [g / total for g, total in zip(gates, both, strict=True)]
        left: plain.Picks = [list(row) for row in picks]
        if self.training:
            drawn = self.random.pop(0).flatten().tolist()
            for n, (one, two) in enumerate(picks):
                # mesh and lingvo: the second stays with probability share / threshold.
                share = (gates[n][two] / (gates[n][one] + gates[n][two])).item()
                if drawn[n] >= share / self.below:
                    left[n][1] = None
                    self.stayed_away += self.real[n]
        served = plain.serve(self.priority, left, None, GROUP, self.room, self.real)
        asked = sum(
            e is not None for row, real in zip(left, self.real, strict=True) for e in row if real
        )
        found = sum(e is not None for row in served for e in row)
        self.dropped += asked - found
        real = [n for n, one in enumerate(self.real) if one]
        for e in range(E):
            share = sum(first[n] == e for n in real) / len(real)
            self.balance = self.balance + E * share * sum(gates[n][e] for n in real) / len(real)
        self.z = self.z + sum(score[n].logsumexp(0) ** 2 for n in real) / len(real)
        out = []
        for n, x in enumerate(xs):
            y = torch.zeros_like(x)
            for e in served[n]:
                if e is not None:
                    y = y + weights[n][e] * self.feed_forward(x, f"{at}.experts", e)
            out.append(y)
        return out

    def each(self, rows: list[list[Tensor]], of: Callable[[Tensor], Tensor]) -> list[list[Tensor]]:
        return [[x + of(x) for x in row] for row in rows]

    def mixed(self, rows: list[list[Tensor]], before: str, at: str) -> list[list[Tensor]]:
        """All sequences together: they share room."""
        flat = self.mixture([self.norm(x, before) for row in rows for x in row], at)
        return [
            [x + y for x, y in zip(row, flat[i * LENGTH : (i + 1) * LENGTH], strict=True)]
            for i, row in enumerate(rows)
        ]

    def __call__(self, ids: Tensor) -> Tensor:
        rows = [[self.p["embed.weight"][t] for t in row] for row in ids]
        reals = torch.tensor(self.real).view(ids.shape)
        for number in range(4):
            at, sparse = f"layer.{number}", number % 2 == 1
            for i, row in enumerate(rows):
                # Padding is seen by nobody; it may stand where it stands.
                seen = [t for t in range(LENGTH) if reals[i, t]]
                normed = [self.norm(row[t], f"{at}.before_mix") for t in seen]
                places = list(range(len(seen)))
                given = attention(self.p, f"{at}.own", normed, places, heads=2)
                for t, y in zip(seen, given, strict=True):
                    row[t] = row[t] + y
            if self.system == "gshard_lm":
                if sparse:
                    rows = self.mixed(rows, f"{at}.before_ffn", f"{at}.feed_forward")
                else:
                    rows = self.each(rows, lambda x, at=at: self.feed_forward(
                        self.norm(x, f"{at}.before_ffn"), f"{at}.feed_forward"))  # fmt: skip
                continue
            if sparse:
                rows = self.mixed(rows, f"{at}.before_ffn", f"{at}.sparse")
            dense = "before_dense" if sparse else "before_ffn"
            rows = self.each(rows, lambda x, at=at, dense=dense: self.feed_forward(
                self.norm(x, f"{at}.{dense}"), f"{at}.dense"))  # fmt: skip
        logits = [
            torch.stack([self.p["head.weight"] @ self.norm(x, "last") for x in row]) for row in rows
        ]
        return torch.stack(logits)


@pytest.fixture(scope="module", params=SETTINGS)
def system(request: pytest.FixtureRequest) -> tuple[str, nn.Module]:
    name = request.param
    model = model_class(package(name, (*SMALL, *SETTINGS[name])))().double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            # Sharp routers: some second picks have a small share.
            weight.normal_(std=1.5 if "score" in key else 0.4, generator=generator)
    return name, model


@pytest.mark.parametrize("case", ["training", "training, padded", "evaluation"])
def test_the_spec_is_the_loops(system, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, model = system
    model.train("training" in case)
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(40, (2, LENGTH), generator=generator)
    mask = torch.ones(2, LENGTH, dtype=torch.bool)
    if "padded" in case:
        mask[1, :4] = False
    random = [torch.rand(2 * LENGTH, 1, generator=generator).double() for _ in range(2)]
    given = iter(random)
    monkeypatch.setattr(torch, "rand_like", lambda like: next(given).to(like.dtype))
    model.zero_grad()
    output = model(ids, mask=mask if "padded" in case else None)
    monkeypatch.undo()
    weights = {key: p.detach().clone().requires_grad_() for key, p in model.named_parameters()}
    loops = Loops(weights, model.training, mask.flatten().tolist(), list(random), name)
    wanted = loops(ids)
    assert loops.dropped > 2, "some must find no room"
    assert (loops.stayed_away > 2) == model.training
    agree(output.logits[mask], wanted[mask], 1e-6, name)
    agree(output.losses["sparse.balance"], 1e-2 * loops.balance, 1e-7, name)
    loss = 1e-2 * loops.balance
    if name == "st_moe":
        agree(output.losses["sparse.z"], 1e-3 * loops.z, 1e-7, name)
        loss = loss + 1e-3 * loops.z
    probe = torch.randn(wanted.shape, generator=generator, dtype=torch.float64)
    ((output.logits * probe)[mask].sum() + sum(output.losses.values())).backward()
    ((wanted * probe)[mask].sum() + loss).backward()
    found = [p.grad for p in model.parameters()]
    agree(found, [w.grad for w in weights.values()], 1e-6, name, of="gradients")


def test_tuning_of_st_moe_leaves_the_experts_and_drops_in_them() -> None:
    """Zoph et al., 2022, section 4: all but the experts are trained, and dropout inside them is 0.4."""
    small = (*SMALL, *SETTINGS["st_moe"])
    plain_module, tuned = package("st_moe", small), package("st_moe", (*small, "stage=tune"))
    assert list(plain_module.STAGES) == ["pretrain"]
    model, other = model_class(plain_module)(), model_class(tuned)()
    model.init_weights(0)
    other.load_state_dict(model.state_dict())
    tuned.begin(other, "tune", lr=1e-3)
    frozen = {name for name, weight in other.named_parameters() if not weight.requires_grad}
    assert frozen == {
        f"layer.{i}.sparse.experts.{part}" for i in (1, 3) for part in ("gate_up", "down")
    }
    ids = torch.arange(2 * LENGTH).view(2, LENGTH)
    agree(other.eval()(ids).logits, model.eval()(ids).logits, 1e-6)
    ours, theirs = (Path(m.__file__ or "").with_name("model.py") for m in (plain_module, tuned))
    assert "dropout" not in ours.read_text() and "0.4" in theirs.read_text()
