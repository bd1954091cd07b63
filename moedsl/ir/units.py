"""Units: bodies that are lowered once, however often they stand in the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from moedsl.ir import before, expressions, ops
from moedsl.ir.frame import Frame, Hint
from moedsl.ir.graph import Dim, Node, RecordType, TensorType, Unit, Value
from moedsl.ir.names import Naming
from moedsl.ir.shapes import Axes, local_axes, relabelled, renamed, same, spell
from moedsl.ir.walk import walk
from moedsl.model import terms
from moedsl.model.terms import Term
from moedsl.source import Span

if TYPE_CHECKING:
    from moedsl.ir.build import Builder

Inputs = list[tuple[str, Value]]


class Units:
    """All units of one graph, callees before callers. Equal recipes on equal types are one unit."""

    def __init__(self, build: Builder) -> None:
        self.build = build
        self.done: list[Unit] = []
        self.memo: dict[Any, Unit] = {}
        self.names = Naming()
        self.met: set[str] = set()  # routers that find what they decided before
        self.missed: dict[str, Term] = {}  # and those that do not, where they first stand

    def call(
        self,
        recipe: terms.Recipe,
        x: Value,
        more: tuple[Value, ...] = (),
        named: dict[str, Value] | None = None,
        *,
        place: str = "",
        width: Dim | None = None,
        extra: Any = None,
    ) -> Value:
        """A unit at a place of its own. `width` is asked of it; `extra` is what else its lowering depends on."""
        from moedsl.constructs.registry import constructs

        build = self.build
        streams = constructs()[recipe.construct].streams
        extras = [*zip(streams, more, strict=False), *(named or {}).items()]
        inputs = [("x", x), *extras, *self.around([recipe])]
        axes = local_axes(value for _, value in inputs)
        unit = self.unit(recipe, inputs, width, extra, axes)
        before.outside(build, unit.decides, axes)
        if recipe.tied:
            first = build.frame.tied.setdefault(recipe.tied, unit)
            before.check_alike(build, unit, recipe, first)
        outputs = build.many(
            ops.Call(unit=unit, axes=renamed(axes)),
            *(value for _, value in inputs),
            place=place or recipe.place or recipe.name,
            tied=recipe.tied,
        )
        if any(value in build.bad for value in unit.outputs):
            build.bad.update(outputs)
        if isinstance(outputs[0].type, RecordType):
            build.named(outputs[0], "routing")
        return outputs[0]

    def stack(self, layers: Sequence[Term], x: Value, plain: bool = False) -> Value:
        """Layers in sequence: numbered under the name of the first."""
        build = self.build
        runs = list(_runs(layers))
        around = self.around([term for term, _ in runs])
        bound = self.bound(runs[0][0])
        axes = local_axes([x, *(value for _, value in [*bound, *around])])
        found: list[tuple[Unit, int]] = []
        order: list[int] = []
        tied: dict[str, int] = {}
        made = 0
        for term, count, unit in before.layers(self, runs, [("x", x)], bound, around, axes):
            self._keeps_stream(unit, x, term, axes)
            name = term.tied if isinstance(term, terms.Recipe) else ""
            if name and (name in tied or count > 1):
                self.comes_back(unit, term.span)
            if name in tied:
                before.check_alike(build, unit, term, layer_of(found, tied[name]))
                order += [tied[name]] * count
                continue
            if name:
                tied[name] = made
                self._stands_once(name, term.span)
            new = 1 if name else count
            order += [made] * count if name else range(made, made + count)
            made += new
            if found and found[-1][0] is unit:
                found[-1] = (unit, found[-1][1] + new)
            else:
                found.append((unit, new))
        build.named(x, "x")
        (out, *_) = build.many(
            ops.Stack(
                runs=tuple(found),
                axes=renamed(axes),
                order=tuple(order) if len(order) > made else (),
            ),
            x,
            *(value for _, value in [*bound, *around]),
            names=("x",),
            place=_place(runs[0][0]),
        )
        return out

    def comes_back(self, unit: Unit, span: Span) -> None:
        """What runs several times has one load to follow for each run, and numbers with state follow one."""
        if not any(getattr(node.op, "adapts", "") == "site" for node in _below(unit)):
            return
        self.build.sink.error(
            "E0208",
            "`balancing` follows the load of one place, and this block runs several times",
            span,
            "not yet in this compiler",
            help="balance it by a loss instead: `loss = balance(1e-2)`",
        )

    def _stands_once(self, tied: str, span: Span) -> None:
        """What is tied comes back in one sequence of the body that declares it."""
        seen = self.build.frame.stacked
        inside = "." not in tied and len(self.build.frames) > 1
        if inside:
            self.stands_inside(tied, span)
        elif tied in seen:
            self._not_shared(tied, "in two flows", span)
        seen.add(tied)

    def stands_inside(self, tied: str, span: Span) -> None:
        self._not_shared(tied, "inside another body", span)

    def _not_shared(self, tied: str, where: str, span: Span) -> None:
        self.build.sink.error(
            "E0208",
            f"`{tied.rpartition('.')[2]}` is tied, and stands {where}",
            span,
            "not yet in this compiler",
            help="layers come back within one flow of the body that declares them: `3 * (one -> two)`",
        )

    def unit(self, term: Term, inputs: Inputs, width: Dim | None, extra: Any, axes: Axes) -> Unit:
        """The unit of a term on inputs of these types, lowered now unless it was before."""
        said = term.said if isinstance(term, terms.Recipe) else term
        inside = {around: own for own, around in axes}
        own = [(name, relabelled(value.type, inside)) for name, value in inputs]
        known = before.inside(self.build, axes, term)
        key = (said, tuple(own), width, extra, self._shares(term), *before.told(known))
        unit = self.memo.get(key)
        if unit is None:
            values = [(n, Value(n, t, v.span)) for (n, t), (_, v) in zip(own, inputs, strict=True)]
            pairs = zip(values, inputs, strict=True)
            self.build.bad.update(mine for (_, mine), (_, v) in pairs if v in self.build.bad)
            unit = self.memo[key] = self._lower(term, values, width, extra, known)
        return unit

    def _shares(self, term: Term) -> bool:
        """Whether attentions in it read keys and values of a first round."""
        from moedsl.constructs.registry import constructs

        if not self.build.shares_keys:
            return False
        made = (found for found in walk(term) if isinstance(found, terms.Recipe))
        return any(constructs()[one.construct].kind == "attention" for one in made)

    # --- one unit -------------------------------------------------------------------------------

    def _lower(
        self, term: Term, values: Inputs, width: Dim | None, extra: Any, known: before.Known
    ) -> Unit:
        from moedsl.constructs.registry import construct_of

        recipe = term if isinstance(term, terms.Recipe) else None
        construct = construct_of(recipe) if recipe else None
        unit = Unit(
            name=recipe.name if recipe else "stage",
            kind=construct.kind if construct else "flow",
            doc=recipe.doc if recipe else "",
            recipe=recipe,
            span=term.span,
        )
        with self.opened(unit, values, Hint(width)):
            self.build.frame.before = known
            scope = dict(values)
            if construct is None:
                results = self.build.apply(term, scope["x"])
            else:
                named = {n: scope[n] for n in construct.streams if n in scope}
                more = () if extra is None else (extra,)
                results = expressions.lower(self.build, construct, scope["x"], *more, **named)
            unit.outputs = [results]
        return unit

    def opened(self, unit: Unit, values: Inputs, hint: Hint | None = None) -> _Opened:
        """A context in which nodes go to `unit`; at its end the unit is complete."""
        return _Opened(self, unit, values, hint)

    # --- what goes in ---------------------------------------------------------------------------

    def bound(self, term: Term) -> Inputs:
        """Tensors given to a block's parameters."""
        if not isinstance(term, terms.Recipe):
            return []
        return [(name, self.build.evaluate(value)) for name, value in term.bound]

    def around(self, bodies: list[Term]) -> Inputs:
        """Tensors of the body around that inner bodies mention: they are handed in by name."""
        scope = self.build.scope
        found = [self.names.of(body) for body in bodies]
        mentioned = set().union(*(names.mentioned for names in found)) - {"x"}
        own = set().union(*(names.own for names in found))
        return [(name, scope[name]) for name in scope if name in mentioned - own]

    def _keeps_stream(self, unit: Unit, x: Value, term: Term, axes: Axes) -> None:
        """A layer gives what it got: another one may follow."""
        out = unit.outputs[0]
        given = relabelled(out.type, dict(axes))
        if out in self.build.bad or x in self.build.bad:
            return
        if isinstance(given, TensorType) and isinstance(x.type, TensorType):
            gives, gets = given.dims, x.type.dims
            if len(gives) == len(gets) and all(map(same, gives, gets)):
                return
        self.build.mismatch(
            "E0309",
            f"`{unit.name}` gets {spell(x.type)} and gives {spell(given)}, so it cannot be a layer",
            (term.span, "a layer gives the shape that it got"),
            (out.span, "made here"),
            help=f"end it with `linear({self.build.model_width.size})`; what changes the width stands once, and is no block",
        )


class _Opened:
    """Pushes a frame; settles the unit at the end."""

    def __init__(self, units: Units, unit: Unit, values: Inputs, hint: Hint | None) -> None:
        self.units, self.unit, self.values, self.hint = units, unit, values, hint

    def __enter__(self) -> None:
        self.unit.inputs = [value for _, value in self.values]
        frame = Frame(self.unit, dict(self.values), hint=self.hint or Hint())
        self.units.build.frames.append(frame)
        self.units.build.spans.append(self.unit.span)

    def __exit__(self, *problem: object) -> None:
        build = self.units.build
        frame = build.frames.pop()
        build.spans.pop()
        frame.places.settle()
        self.unit.wants = list(frame.ambients)
        self.unit.ambients = list(frame.ambients.values())
        self.units.done.append(self.unit)


def layer_of(runs: list[tuple[Unit, int]], index: int) -> Unit:
    return [unit for unit, count in runs for _ in range(count)][index]


def _below(unit: Unit) -> Iterator[Node]:
    for node in unit.nodes:
        yield node
        for _, _, called in node.calls():
            yield from _below(called)


def _place(term: Term) -> str:
    return (term.place or term.name) if isinstance(term, terms.Recipe) else "stage"


def _runs(layers: Sequence[Term]) -> Iterator[tuple[Term, int]]:
    """Layers spelled out as (one layer, how many of it in a row)."""
    for layer in layers:
        match layer:
            case terms.Copies(count, terms.Flow(stages)):
                for _ in range(count):
                    yield from _runs(stages)
            case terms.Copies(count, terms.Copies() as inner):
                for _ in range(count):
                    yield from _runs([inner])
            case terms.Copies(count, recipe):
                yield recipe, count
            case _:
                yield layer, 1
