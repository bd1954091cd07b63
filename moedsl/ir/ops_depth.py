"""Blocks that serve some of the tokens: who is chosen, what is made of the chosen alone, and what becomes of it."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import ClassVar

from moedsl.frozen import frozen
from moedsl.ir.graph import Dim, RecordType, TensorType
from moedsl.ir.ops_attention import MASK, PAST, Ambient
from moedsl.ir.ops_base import Op, Type, dims_of, number
from moedsl.ir.ops_losses import LossTerm
from moedsl.ir.ops_scores import SEEN

BATCH = Dim("B")
CHOSEN = RecordType("Chosen")
DEPTH = RecordType("Depth")


@frozen(kw_only=True)
class RealTokens(Ambient):
    """Which tokens are real, [B, T] bool, or None where all are."""

    name: ClassVar[str] = "real_tokens"
    rank: ClassVar[int] = 3
    atom: ClassVar[bool] = False
    part: ClassVar[str] = "{1}.here_BA"
    optional: ClassVar[bool] = True

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return (MASK, PAST) if self.main else (MASK,)

    @property
    def code(self) -> str:  # type: ignore[override]
        return "None if {0} is None else {0}[:, {1}:]" if self.main else "{0}"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (TensorType((Dim("B"), self.stream), "bool"),)


@frozen(kw_only=True)
class Part(Op):
    """Of what is made once for all layers, the part of the chosen tokens: (whole, chosen), or (chosen) where who they are
    is all there is to it (`alone`)."""

    whole: Ambient
    stream: Dim
    alone: bool = False
    carries: ClassVar[tuple[int, ...] | None] = ()

    @property
    def spread(self) -> Fraction:
        return self.stream.mean or Fraction(1)

    @property
    def code(self) -> str:  # type: ignore[override]
        part = self.whole.part or ""
        return part.replace("{0}", "None").replace("{1}", "{0}") if self.alone else part

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        name = self.code.partition("(")[0]
        return (f".depth:{name}",) if name.isidentifier() else ()

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        (whole,) = self.whole.infer()
        if isinstance(whole, RecordType) or self.whole.stream not in whole.dims:
            return (whole,)
        dims = tuple(self.stream if d == self.whole.stream or d == SEEN else d for d in whole.dims)
        return (replace(whole, dims=dims if dims[0] == BATCH else (BATCH, *dims)),)


@frozen(kw_only=True)
class Rule:
    """Whom a block serves: the best `share` of a sequence, the best `number` of tokens, or those whose logit is above
    a `threshold`; all of them where none is given. `reads`: which of the operation's logits."""

    share: Fraction | None = None
    number: int | None = None
    threshold: float | None = None
    reads: int = 0

    @property
    def ranks(self) -> bool:
        return self.share is not None or self.number is not None

    def count(self, tokens: int) -> int | None:
        """How many of so many tokens; None where it tells them one by one."""
        if self.share is not None:
            return math.ceil(self.share * tokens)
        return None if self.number is None else min(self.number, tokens)

    @property
    def functions(self) -> tuple[str, ...]:
        if self.threshold is not None:
            return ("above", "in_place")
        if self.number is not None:
            return ("best_number",)
        return ("all_tokens",) if self.share is None else ("best_share",)

    def code(self, real: str, among: str, cache: str) -> str:
        function = self.functions[0]
        logit, eligible = f"{{{self.reads}}}", real if among == "None" else among
        match function:
            case "above":
                above = f"above({logit}, {number(self.threshold or 0)}, {eligible})"
                return f"in_place({above}, {cache})" if cache else f"at_once({above})"
            case "best_number":
                arguments = [logit, str(self.number), eligible]
            case "best_share":
                assert self.share is not None
                share = [str(self.share.numerator), str(self.share.denominator)]
                arguments = [logit, *share, real, *([] if among == "None" else [among])]
            case _:
                arguments = [eligible]
        return f"{function}({', '.join(arguments)})"


@frozen(kw_only=True)
class Choose(Op):
    """(score_BT1, .. other logits, real_BT, cache[, among_BT]) -> whom a block serves in this call.

    `lookahead`: the rule that holds when decoding, as the spec has it, where the others rank a whole sequence.
    `at_once`: the stream is all there, without padding or a cache, and nothing is decoded.
    """

    train: Rule
    eval: Rule
    decode: Rule
    logits: int = 1
    narrows: bool = False
    at_once: bool = False
    lookahead: str = ""
    form: str = ""
    carries: ClassVar[tuple[int, ...] | None] = ()
    atom: ClassVar[bool] = False

    @property
    def sees(self) -> str:  # type: ignore[override]
        return "all" if any(rule.ranks for rule in (self.train, self.eval)) else "row"

    @property
    def stays(self) -> bool:
        """Whether all tokens stay in their places, whoever is chosen."""
        return not any(rule.ranks for rule in (self.train, self.eval, self.decode))

    @property
    def looks(self) -> tuple[int, ...]:
        return tuple(range(self.logits))

    @property
    def causal_form(self) -> str:
        return self.form

    @property
    def code(self) -> str:  # type: ignore[override]
        real, cache = f"{{{self.logits}}}", f"{{{self.logits + 1}}}"
        among = f"{{{self.logits + 2}}}" if self.narrows else "None"
        alone = "" if self.at_once else "None"
        train, eval_ = (rule.code(real, among, alone) for rule in (self.train, self.eval))
        decode = self.decode.code(real, among, cache)
        if self.decode.ranks or (self.narrows and self.decode.threshold is None):
            decode = f"in_place(served({decode}, {{0}}), {cache})"
        plain = train if train == eval_ else f"({train} if self.training else {eval_})"
        if self.at_once:
            return plain
        if plain == decode.replace(cache, "None"):
            return decode
        return f"{plain} if {cache} is None else {decode}"

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        rules = (self.train, self.eval, self.decode)
        names = [name for rule in rules for name in rule.functions]
        names = [n for n in (*names, "in_place", "at_once", "served") if f"{n}(" in self.code]
        return tuple(f".depth:{name}" for name in dict.fromkeys(names))

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (CHOSEN,)


@frozen(kw_only=True)
class Served(Op):
    """(chosen, score_BT1) -> which tokens are served, [B, T] bool."""

    code: ClassVar[str] = "served({0}, {1})"
    imports: ClassVar[tuple[str, ...]] = (".depth:served",)
    carries: ClassVar[tuple[int, ...] | None] = ()

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (TensorType(dims_of(inputs[1]).dims[:2], "bool"),)


@frozen(kw_only=True)
class Decided(Op):
    """(served_BT, logit_BT1, among_BT) -> what is handed up of one choice."""

    code: ClassVar[str] = "Depth({0}, {1}.squeeze(-1), {2})"
    imports: ClassVar[tuple[str, ...]] = (".depth:Depth",)

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (DEPTH,)


@frozen(kw_only=True)
class TakeChosen(Op):
    """(x_BTD, chosen) -> the rows of the chosen tokens, [B, A, D]. The stream's `mean` is their share of all tokens."""

    stream: Dim
    code: ClassVar[str] = "chosen_rows({0}, {1})"
    imports: ClassVar[tuple[str, ...]] = (".depth:chosen_rows",)
    carries: ClassVar[tuple[int, ...] | None] = (0,)

    @property
    def spread(self) -> Fraction:
        return self.stream.mean or Fraction(1)

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        x = dims_of(inputs[0])
        return (TensorType((x.dims[0], self.stream, *x.dims[2:]), x.dtype),)


@frozen(kw_only=True)
class AddChosen(Op):
    """(x_BTD, x_BAD, y_BAD, gate_BT1, chosen) -> x, and for the chosen what the block added, times the gate.

    `whole`: (x_BTD, y_BAD, gate_BT1, chosen); all that came out of the block is added, times the gate."""

    whole: bool = False

    @property
    def code(self) -> str:  # type: ignore[override]
        return "add_result({args})" if self.whole else "add_chosen({args})"

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        return (f".depth:{self.code.partition('(')[0]}",)

    @property
    def carries(self) -> tuple[int, ...] | None:  # type: ignore[override]
        return (0, 1, 2) if self.whole else (0, 1, 2, 3)


@frozen(kw_only=True)
class Detached(Op):
    """The same numbers, and no gradient."""

    code: ClassVar[str] = "{0}.detach()"
    carries: ClassVar[tuple[int, ...] | None] = ()


@frozen(kw_only=True)
class Membership(LossTerm):
    """How well a block's logits tell whom it serves: a cross-entropy over each block's tokens, summed over blocks."""

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"membership({{0}}, {number(self.coefficient)})"

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        return (".depth:membership",)
