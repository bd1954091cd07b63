"""When shapes fit. A misfit is raised here, inside the compiler only; the builder turns it into a diagnostic that
shows where each of the two sizes was fixed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from moedsl.ir.graph import Dim, RecordType, TensorType, Value

Type = TensorType | RecordType

# The streams of a body, as it calls them: its `x` runs along the first, a second stream along the next, and so on. The
# model's own first one is what it predicts.
STREAMS = tuple(Dim(letter, stream=True) for letter in "TMLPUW")
MAIN = STREAMS[0]


class Mismatch(Exception):
    """Two axes that should be one. Caught by `Builder.op`, never seen by users."""

    def __init__(self, left: Dim, right: Dim, what: str) -> None:
        super().__init__(what)
        self.left, self.right, self.what = left, right, what


class NotATensor(Exception):
    """A record (a decision) where numbers are needed. Caught by `Builder.op` too."""


def is_image(x: Value) -> bool:
    return isinstance(x.type, TensorType) and x.type.letters == "BCHW"


def is_ids(value: Value) -> bool:
    return isinstance(value.type, TensorType) and value.type.dtype == "int"


def is_sequence(value: Value) -> bool:
    return stream_of(value) is not None


def stream_of(value: Value) -> Dim | None:
    """The axis of positions, where there is one."""
    return next(iter(streams_in(value.type)), None)


def per_sequence(value: Value) -> bool:
    """One row for each sequence, [B, D]."""
    return (
        isinstance(value.type, TensorType)
        and value.type.letters[:-1] == "B"
        and not streams_in(value.type)
    )


def is_whole(value: Value) -> bool:
    """A stream of a known length, such as an image's patches: all there at once, without padding or past."""
    stream = stream_of(value)
    return stream is not None and stream.size is not None


def rows_of(value: Value) -> Dim:
    """The axis of a stream's rows, all sequences together. Of a whole stream it says what it is made of."""
    if per_sequence(value):
        return Dim("N", None, (Dim("B"),))
    stream = stream_of(value)
    whole = stream is not None and stream.size is not None
    return Dim("N", None, (Dim("B"), stream)) if whole and stream else Dim("N")


def streams_in(type_: Type) -> list[Dim]:
    return [dim for dim in type_.dims if dim.stream]


Axes = tuple[tuple[Dim, Dim], ...]


def local_axes(inputs: Iterable[Value]) -> Axes:
    """(stream inside a body, stream around it) for what the body gets, `x` first: a body knows its streams by their
    order only, so that one that serves several is one. Rows without positions are the main stream's."""
    values = list(inputs)
    found = dict.fromkeys(dim for value in values for dim in streams_in(value.type))
    if values and not streams_in(values[0].type):
        found = dict.fromkeys([MAIN, *found])
    named = zip(STREAMS, found, strict=False)
    return tuple((replace(own, size=dim.size), dim) for own, dim in named)


def renamed(axes: Axes) -> Axes:
    """Those that are called otherwise inside."""
    return tuple((own, around) for own, around in axes if own != around)


def relabelled(type_: Type, axes: dict[Dim, Dim]) -> Type:
    """The type with its streams called otherwise."""
    if not any(dim in axes for dim in type_.dims):
        return type_
    dims = tuple(axes.get(dim, dim) for dim in type_.dims)
    if isinstance(type_, RecordType):
        return replace(type_, dims=dims)
    return replace(type_, dims=dims)


def same(left: Dim, right: Dim) -> bool:
    """Equal sizes; axes known only at run time are equal by letter."""
    if left.size is None or right.size is None:
        alike = left.letter == right.letter and left.part == right.part
        return left.size is right.size and alike
    return left.size == right.size


def agree(left: Dim, right: Dim, what: str) -> None:
    if not same(left, right):
        raise Mismatch(left, right, what)


def broadcast(left: TensorType, right: TensorType, what: str) -> TensorType:
    """The type of an elementwise product: aligned from the last axis, where 1 goes with anything."""
    longer, shorter = (left, right) if len(left.dims) >= len(right.dims) else (right, left)
    lead = len(longer.dims) - len(shorter.dims)
    dims = list(longer.dims)
    for index, (a, b) in enumerate(zip(longer.dims[lead:], shorter.dims, strict=True), lead):
        if a.size == 1:
            dims[index] = b
        elif b.size != 1:
            agree(*((a, b) if longer is left else (b, a)), what)
    dtype = "float32" if "float32" in (left.dtype, right.dtype) else left.dtype
    return TensorType(tuple(dims), dtype)


def rows_in(type_: Type) -> int:
    """Rows of the last axis per row of the stream: the product of the axes of known size before it (heads)."""
    assert isinstance(type_, TensorType)
    total = 1
    for dim in type_.dims[:-1]:
        total *= 1 if dim.stream else dim.size or 1
    return total


def spell(type_: Type) -> str:
    """`[B, T, D 64]`, for diagnostics and dumps."""
    if isinstance(type_, RecordType):
        return type_.name
    sizes = [
        d.letter if d.size is None or d.letter == str(d.size) else f"{d.letter} {d.size}"
        for d in type_.dims
    ]
    dtype = "" if type_.dtype == "float" else f" {type_.dtype}"
    return f"[{', '.join(sizes)}]{dtype}"
