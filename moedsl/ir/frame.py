"""The state of one unit under construction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field

from moedsl.frozen import frozen, record
from moedsl.ir.graph import Dim, Init, Unit, Value
from moedsl.ir.kinds import Choices
from moedsl.ir.ops_base import Op
from moedsl.ir.ops_before import Before
from moedsl.ir.places import Parts, Places
from moedsl.model import terms


@frozen
class Hint:
    """What a place asks of the recipe that stands at it: the width of the result, and a bias."""

    width: Dim | None = None
    bias: bool = False


@record
class Frame:
    """One unit under construction. `rows`: in a bank, the order of routed rows, or what else
    they are `met` by (see `ops_weights.each`); `mixtures`: those that will use the
    decision of a router applied here."""

    unit: Unit
    scope: dict[str, Value] = field(default_factory=dict)
    places: Places = field(default_factory=Places)
    prefix: Parts = ()
    role: str = ""
    hint: Hint = field(default_factory=Hint)
    rows: Value | None = None
    met: str = "grouped"
    mixtures: Sequence[terms.Recipe] = ()
    kinds: tuple[Choices, ...] = ()  # of the bank that a router chooses from
    heads: Dim | None = None  # those that a router decides for
    ambients: dict[Op, Value] = field(default_factory=dict)
    stacked: set[str] = field(default_factory=set)  # tied layers that stand in a stack
    tied: dict[str, Unit] = field(default_factory=dict)  # what stands at several places
    before: dict[tuple[str, Dim], Before] = field(default_factory=dict)  # who decided last
    inits: tuple[Init, ...] = ()  # what is said here about how weights start, outermost first
