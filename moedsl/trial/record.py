"""What a run leaves behind, as plain values: the page and results.json are made of nothing else."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class RoutingRecord:
    """How the mixtures routed over time. `load[i][l][e]`: share of layer l's choices that expert e got around
    `steps[i]`; `entropy[i][l]` in 0..1 (1: the router is undecided); `dropped[i][l]`: share of choices not served."""

    places: list[str] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    load: list[list[list[float]]] = field(default_factory=list)
    entropy: list[list[float]] = field(default_factory=list)
    dropped: list[list[float]] = field(default_factory=list)


@dataclass
class ContestantRecord:
    """One model's run. Losses are in bits per byte; `window_bits` are the last evaluation's, one per window. `flops`: of
    training, for one token at this length; `tokens` were trained on."""

    name: str
    what: str
    parameters: int
    active: int
    train_bits: list[float] = field(default_factory=list)
    held_out_steps: list[int] = field(default_factory=list)
    held_out_bits: list[float] = field(default_factory=list)
    window_bits: list[float] = field(default_factory=list)
    seconds: float = 0.0
    routing: RoutingRecord = field(default_factory=RoutingRecord)
    sample: str = ""
    flops: int = 0
    tokens: int = 0


@dataclass
class TrialRecord:
    """A whole run: what was asked, on what machine, and how each contestant fared on the same batches. `equal`: what all
    spent alike, "flops" or "steps"; `steps` are those of the first."""

    specs: list[str]
    command: str
    seed: int
    rate: float
    batch: int
    length: int
    steps: int = 0
    seconds: float = 0.0
    threads: int = 0
    device: str = "cpu"
    equal: str = "steps"
    train_bytes: int = 0
    held_out_bytes: int = 0
    texts: int = 0
    prompt: str = ""
    verdict: str = ""
    noise: str = ""
    contestants: list[ContestantRecord] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return self.steps * self.batch * self.length

    def json(self) -> dict[str, Any]:
        return asdict(self)
