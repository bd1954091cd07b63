"""The model itself."""

from __future__ import annotations

from typing import ClassVar

from moedsl.constructs.declare import INIT, Construct, Declared, Number
from moedsl.ir.graph import Dim

BATCH, TOKENS = Dim("B"), Dim("T")


class Model(Construct):
    """A whole model: its sizes, its recipes and blocks, what goes in and what comes out.

    `embed` and `head` stand there by default; a model that declares its own replaces them.
    """

    kind = "model"
    unit = True
    vocab = Number(low=1, whole=True, unit="tokens", doc="number of different tokens")
    width = Number(low=1, whole=True, unit="channels", doc="size of the stream between layers")
    context = Number(
        "none",
        low=1,
        whole=True,
        unit="tokens",
        words=("none",),
        doc="longest sequence the model was made for; `none` leaves it open",
    )
    stage = Declared(
        "none",
        by="stage",
        doc="the training stage that the package is for: what that stage changes is changed, as in `--set stage=tune`",
    )
    init = INIT
    implicit: ClassVar[dict[str, str]] = {"embed": "embedding(vocab)", "head": "linear(vocab)"}
