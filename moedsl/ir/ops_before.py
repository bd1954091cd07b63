"""What was decided before: the record of the last decision of a router, handed from place to place."""

from __future__ import annotations

from dataclasses import field
from typing import ClassVar

from moedsl.frozen import frozen
from moedsl.ir.graph import RecordType, TensorType
from moedsl.ir.ops_attention import Ambient
from moedsl.ir.ops_base import Op, Type


@frozen(kw_only=True)
class Before(Ambient):
    """The last decision of the router of this name, on the same rows. Unlike other ambients nothing makes it at the root:
    whoever decided last hands it on (see `ir/thread.py`). `record` is its type here, `score` that of its score."""

    router: str
    record: RecordType = field(compare=False)
    score: TensorType = field(compare=False)
    name: ClassVar[str] = "previous"
    rank: ClassVar[int] = -1
    carries: ClassVar[tuple[int, ...] | None] = None

    @property
    def other_name(self) -> str:
        return f"previous_{self.router}"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (self.record,)


@frozen(kw_only=True)
class Latest(Op):
    """Of the decisions that layers handed up, the one that stands so many from the end."""

    back: int
    record: RecordType
    literal: ClassVar[bool] = True

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"{{0}}[-{self.back}]"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (self.record,)
