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
    """One model's run. Losses are in bits per unit (a byte, a picture); `window_bits` are the last evaluation's, one per
    window. `flops`: of training, for one unit; `tokens`: how many units were trained on."""

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
    spent alike, "flops" or "steps"; `steps` are those of the first. `about`: what they were trained on."""

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
    unit: str = "byte"
    units: str = "bytes"
    about: str = ""
    prompt: str = ""
    verdict: str = ""
    noise: str = ""
    contestants: list[ContestantRecord] = field(default_factory=list)

    def json(self) -> dict[str, Any]:
        return asdict(self)
