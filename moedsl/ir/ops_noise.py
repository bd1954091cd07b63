"""Chance: what is drawn anew in each forward."""

from __future__ import annotations

from typing import ClassVar

from moedsl.frozen import frozen
from moedsl.ir.ops_base import Op, rate_code


@frozen(kw_only=True)
class Noise(Op):
    """x perturbed by `form`: jitter | gaussian | gumbel | hide | drop_tokens. `amount` in training, `eval_amount` else; where
    `learned`, in training alone, by a second input."""

    form: str
    amount: float = 0.0
    eval_amount: float = 0.0
    learned: bool = False
    drops: ClassVar[bool] = True

    @property
    def code(self) -> str:  # type: ignore[override]
        if self.learned:
            return f"{self.form}({{0}}, {{1}} if self.training else 0)"
        return f"{self.form}({{0}}, {rate_code(self.amount, self.eval_amount)})"

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        return (f".noise:{self.form}",)
