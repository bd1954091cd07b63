"""Classes whose fields are set once: values.

    @frozen
    class Span:
        start: int
        end: int

A value is what `@dataclass(frozen=True)` makes, for less. On Python 3.11 a frozen dataclass compiles six methods of its
own, 1.5 ms a class: with the two hundred classes of this compiler that was a third of what a short command took. Here
the methods are shared, and `__init__` is compiled when the first instance is made: most commands need few classes. An
instance is made several times faster too, since nothing guards its fields at run time. mypy does: `dataclass_transform`
tells it that assigning to a field is a mistake.

`dataclasses.fields`, `replace`, `asdict`, `is_dataclass` and `match` work as with any dataclass, and so do
`field(compare=False, repr=False)` and methods that a class writes itself. `@record` is the same for what changes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from operator import attrgetter
from reprlib import recursive_repr
from typing import Any, TypeVar, dataclass_transform, overload

_Class = TypeVar("_Class", bound=type)


@overload
def frozen(cls: _Class) -> _Class: ...
@overload
def frozen(
    *, kw_only: bool = False, eq: bool = True, hash_once: bool = False
) -> Callable[[_Class], _Class]: ...


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def frozen(
    cls: Any = None, *, kw_only: bool = False, eq: bool = True, hash_once: bool = False
) -> Any:
    """`kw_only`: fields are given by name; without `eq` an instance is equal to itself only; with `hash_once` it keeps
    its hash, for what is deep and often looked up."""
    if cls is None:
        return lambda cls: _made(cls, kw_only, eq, hash_once)
    return _made(cls, kw_only, eq, hash_once)


@dataclass_transform(eq_default=False, field_specifiers=(dataclasses.field,))
def record(cls: _Class) -> _Class:
    """What has fields that change: made as cheaply, equal to itself only."""
    return _made(cls, kw_only=False, eq=False, hash_once=False)


def _made(cls: Any, kw_only: bool, eq: bool, hash_once: bool) -> Any:
    own = dict(cls.__dict__)
    cls.__doc__ = cls.__doc__ or cls.__name__  # dataclass would work out a signature to put there
    dataclasses.dataclass(init=False, repr=False, eq=False, kw_only=kw_only)(cls)
    cls.__doc__ = own.get("__doc__")
    methods: dict[str, Any] = {"__init__": _first_init(cls), "__repr__": _shown}
    if eq:
        compared = _getter(cls)
        methods["__eq__"] = _equality(compared)
        if own.get("__hash__") is None:  # absent, or taken away by an `__eq__` of its own
            own.pop("__hash__", None)
            methods["__hash__"] = _kept_hash(compared) if hash_once else _hash(compared)
    for name, method in methods.items():
        if name not in own:
            setattr(cls, name, method)
    return cls


def _first_init(cls: Any) -> Callable[..., None]:
    """Stands in for `__init__` until the first instance is made; a subclass of no fields then lends its own."""

    def __init__(self: Any, *args: Any, **named: Any) -> None:
        heir = type(cls.__name__, (cls,), {"__doc__": cls.__doc__ or cls.__name__})
        made = dataclasses.dataclass(repr=False, eq=False)(heir).__dict__["__init__"]
        cls.__init__ = made
        made(self, *args, **named)

    return __init__


def _getter(cls: Any) -> Callable[[Any], Any]:
    names = [field.name for field in dataclasses.fields(cls) if field.compare]
    return attrgetter(*names) if names else lambda self: ()


def _equality(compared: Callable[[Any], Any]) -> Callable[[Any, Any], bool]:
    def __eq__(self: Any, other: Any) -> bool:
        if self is other:
            return True
        if other.__class__ is not self.__class__:
            return NotImplemented
        return compared(self) == compared(other)

    return __eq__


def _hash(compared: Callable[[Any], Any]) -> Callable[[Any], int]:
    return lambda self: hash(compared(self))


def _kept_hash(compared: Callable[[Any], Any]) -> Callable[[Any], int]:
    def __hash__(self: Any) -> int:
        try:
            return self._hash
        except AttributeError:
            self._hash = found = hash(compared(self))
            return found

    return __hash__


@recursive_repr()
def _shown(self: Any) -> str:
    shown = (f"{f.name}={getattr(self, f.name)!r}" for f in dataclasses.fields(self) if f.repr)
    return f"{self.__class__.__qualname__}({', '.join(shown)})"
