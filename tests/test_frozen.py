"""`@frozen` gives what `@dataclass(frozen=True)` gives, as far as this compiler uses it."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
from typing import ClassVar

import pytest

from moedsl.frozen import frozen, record


@frozen
class Point:
    x: int
    y: int = 0
    seen: str = dataclasses.field(default="", compare=False, repr=False)


@frozen
class Other(Point):
    z: int = 1


@frozen(kw_only=True)
class Named:
    """By name only."""

    kind: ClassVar[str] = "named"
    names: tuple[str, ...] = ()
    table: dict[str, int] = dataclasses.field(default_factory=dict, compare=False)


@frozen(eq=False)
class Alone:
    x: int


@frozen
class Own:
    x: int
    y: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Own) and other.x == self.x

    def __hash__(self) -> int:
        return hash(self.x)

    def __repr__(self) -> str:
        return "own"


@frozen(hash_once=True)
class Deep:
    parts: tuple[Point, ...] = ()


@record
class Counter:
    count: int = 0
    seen: list[int] = dataclasses.field(default_factory=list)


@frozen
class Empty:
    pass


def test_equal_by_the_fields_that_compare():
    assert Point(1, seen="a") == Point(1, 0, "b")
    assert hash(Point(1, seen="a")) == hash(Point(1, 0, "b"))
    assert Point(1) != Point(2)
    assert Point(1) != Other(1)
    assert Other(1) != Other(1, z=2)
    assert Empty() == Empty() and hash(Empty()) == hash(Empty())
    assert Alone(1) != Alone(1)
    assert Point(1) != 1


def test_a_kept_hash_is_the_same_hash():
    deep = Deep((Point(1), Point(2)))
    assert hash(deep) == hash(deep) == hash(Deep((Point(1), Point(2))))
    assert hash(dataclasses.replace(deep, parts=())) == hash(Deep())


def test_a_record_changes_and_is_itself():
    counter = Counter(1)
    counter.count += 1
    assert counter.count == 2 and counter != Counter(2) and {counter: 1}[counter] == 1
    assert repr(counter) == "Counter(count=2, seen=[])"


def test_methods_of_the_class_itself_stay():
    assert Own(1, 2) == Own(1, 3) and hash(Own(1, 2)) == hash(Own(1, 3))
    assert repr(Own(1, 2)) == "own"


def test_shown_as_a_dataclass():
    assert repr(Point(1, seen="a")) == "Point(x=1, y=0)"
    assert repr(Named(names=("a",))) == "Named(names=('a',), table={})"
    assert Point.__doc__ is None and Named.__doc__ == "By name only."


def test_made_by_its_fields():
    with pytest.raises(TypeError):
        Named(("a",))
    with pytest.raises(TypeError):
        Point()
    assert Named().table is not Named().table
    Other(1)
    assert list(inspect.signature(Other).parameters) == ["x", "y", "seen", "z"]
    assert Point.__init__ is not Other.__init__


def test_known_to_the_standard_library():
    point = Other(1, 2)
    assert dataclasses.is_dataclass(point)
    assert [field.name for field in dataclasses.fields(point)] == ["x", "y", "seen", "z"]
    assert dataclasses.replace(point, z=5) == Other(1, 2, z=5)
    assert dataclasses.asdict(point) == {"x": 1, "y": 2, "seen": "", "z": 1}
    assert pickle.loads(pickle.dumps(point)) == point
    match point:
        case Other(x, y):
            assert (x, y) == (1, 2)
