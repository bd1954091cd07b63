"""Selections by what a token is, whatever it scores: by its number, by a label of its sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moedsl.constructs.declare import Number, TensorOf, Words
from moedsl.constructs.selection import Selection
from moedsl.ir import keyed, ops

if TYPE_CHECKING:
    from moedsl.ir.build import Builder
    from moedsl.ir.graph import Value


class Table(Selection):
    """The choices of a token are fixed by its number: a row of a table that is filled once, and never trained.

    With `score = 0` and `weigh = 1` nothing is learned, and nothing has to be balanced; with a learned `score` and
    `weigh = gate -> normalize` the table says which and the gate how much. What is looked up is an input (`by =
    tokens`), so it is known at every depth, and with a cache. The table is saved with the weights, at `router.table`;
    layers with one seed have one table, `seed = index` gives each its own.

    `random` draws the choices of each number with equal chance. `balanced` gives equally many numbers to each choice,
    among all numbers and among neighbours, which are about equally frequent where a vocabulary is sorted by frequency;
    the printed `balance(counts)` of the table fills it by the frequencies of a corpus.
    """

    source = "Roller et al., 2021 (hash layers), sections 3.1 and 3.2; transformers deepseek_v4, DeepseekV4HashRouter"
    takes = "any"
    by = TensorOf(doc="the ids that are looked up, an input")
    k = Number("1", low=1, whole=True, unit="choices", doc="how many choices a token keeps")
    fill = Words("random", choices=("random", "balanced"), doc="how the table is filled at first")
    seed = Number("0", low=0, whole=True, doc="of what is drawn; equal seeds give equal tables")

    def lower(self, build: Builder, x: Value) -> Value:
        ids = keyed.ids_of(build, self.recipe, self.by, x)
        choices = build.last(x)
        if ids in build.bad:
            return ids
        below = keyed.size_of(ids)
        if below is None:
            return keyed.no_size(build, self.recipe, ids)
        op = ops.TableRows(
            ids=below,
            kept=build.dim(self.k, self.recipe.origin("k"), letter="K"),
            choices=choices,
            fill=self.fill,
            seed=self.seed,
        )
        with build.outermost():
            return build.op(op, ids, name="expert", place="table")


class Labelled(Selection):
    """One choice, named by a label: that of the sequence, as a task or a language, or of each token.

    As a rule in training only, where the label is known: `phase(train = labelled(by = task), eval = top_k(1))`. The
    label must be an input with as many values as there are choices.
    """

    source = "Aljundi et al., 2017 (Expert Gate)"
    takes = "any"
    by = TensorOf(doc="the label, an input: `label(4)`")

    def lower(self, build: Builder, x: Value) -> Value:
        ids = keyed.ids_of(build, self.recipe, self.by, x)
        choices = build.last(x)
        if ids in build.bad or not keyed.are_choices(build, self.recipe, ids, choices):
            return build.poison(ids)
        return build.op(ops.OnePick(choices=choices), ids, name="expert")
