"""What the places of one unit are called.

A node's weights stand at a path of roles and recipes, `("q", "linear")`. A role with a single place in it is that
place, so the path is `q`; with two they are told apart, `q.linear` and `q.rms`, at attributes `q_linear` and `q_rms`.
"""

from __future__ import annotations

from dataclasses import field

from moedsl.frozen import record
from moedsl.ir.graph import Node

Parts = tuple[str, ...]


@record
class Places:
    """The drafted paths of a unit's nodes. `tied` maps the identity of a tied recipe to its one path."""

    drafts: list[tuple[Node, Parts]] = field(default_factory=list)
    tied: dict[str, Parts] = field(default_factory=dict)
    taken: dict[Parts, int] = field(default_factory=dict)

    def claim(self, prefix: Parts, name: str, tied: str = "") -> Parts:
        """A path of its own for each mention; one for all mentions of what is tied."""
        if tied and tied in self.tied:
            return self.tied[tied]
        parts = (*prefix, name)
        count = self.taken[parts] = self.taken.get(parts, 0) + 1
        if count > 1:
            parts = (*prefix, f"{name}_{count}")
        if tied:
            self.tied[tied] = parts
        return parts

    def draft(self, node: Node, parts: Parts) -> None:
        self.drafts.append((node, parts))

    def find(self, path: str) -> Node | None:
        """The first node whose draft is this path of names."""
        parts = tuple(path.split("."))
        return next((node for node, own in self.drafts if own[: len(parts)] == parts), None)

    def settle(self) -> None:
        """Decide every path and attribute; the unit is complete."""
        below: dict[Parts, set[str]] = {}
        for _, parts in self.drafts:
            for end in range(1, len(parts)):
                below.setdefault(parts[:end], set()).add(parts[end])
        for node, parts in self.drafts:
            kept = [p for i, p in enumerate(parts) if i == 0 or len(below[parts[:i]]) > 1]
            node.path = ".".join(kept)
            node.place = "_".join(kept).replace("[", "_").replace("]", "")
