"""What printed records of decisions hold beside the picks: statistics that losses and controllers read."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from moedsl.frozen import frozen
from moedsl.ir.readings import Statistic

# What the losses can ask for: the field of the printed Routing, and whether it has a gradient.
FIELDS: dict[Statistic, tuple[str, bool]] = {
    "choices": ("choices_SE", False),
    "first": ("first_SE", False),
    "probability": ("probability_SE", True),
    "z": ("z_S", True),
    "entropy": ("entropy_S", True),
    # Those that routes do not compute: they are for routers written out in steps.
    "weight": ("weight_SE", True),
    "gate": ("gate_SE", True),
    "clean": ("clean_SE", True),
    "load": ("load_SE", True),
    "rebuilt": ("rebuilt_S", True),
    # Counted from the picks, whoever made them.
    "visits": ("visits_SD", False),
}
FUSED = ("choices", "first", "probability", "z", "entropy")


@frozen(kw_only=True)
class RecordView:
    """What routers of one kind give: a named tuple with what is read of their decisions. `bounded`: they limit the rows
    that experts get; `makers`: the classes of the routers."""

    name: str = "Routing"
    statistics: tuple[Statistic, ...] = ()
    bounded: bool = False
    makers: tuple[str, ...] = ()

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(FIELDS[name][0] for name in self.statistics)

    @property
    def summary(self) -> str:
        by = f" by {listed(self.makers)}" if self.name != "Routing" else ""
        read = ", and what the losses read of it" if self.statistics else ""
        text = f"How rows were routed{by}{read}."
        return "\n    ".join(textwrap.wrap(text, 81, break_on_hyphens=False))


def listed(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


@frozen(kw_only=True)
class Parts:
    """Statistics as kernels make them: sums over blocks of rows first, then over these."""

    wants: tuple[Statistic, ...]

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(FIELDS[name][0] for name in self.wants)

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(map(part_of, self.fields))

    @property
    def smooth(self) -> bool:
        """Whether a gradient comes through one of them."""
        return any(FIELDS[name][1] for name in self.wants)

    @property
    def by_expert(self) -> bool:
        return any(field.endswith("E") for field in self.fields)


@frozen(kw_only=True)
class Sums(Parts):
    """The kernel that adds up the blocks of some routes."""

    kernel: str


def sums_of(routes: Iterable[Parts]) -> tuple[Sums, ...]:
    """One for each set of statistics."""
    sets = dict.fromkeys(route.wants for route in routes if route.wants)
    if len(sets) == 1:
        return tuple(Sums(wants=wants, kernel="sum_blocks_kernel") for wants in sets)
    return tuple(Sums(wants=wants, kernel=f"sum_{'_'.join(wants)}_kernel") for wants in sets)


def part_of(field: str) -> str:
    """The partial sums by block behind a field: of `z_S`, `z_SB`."""
    return field.replace("_S", "_SB")
