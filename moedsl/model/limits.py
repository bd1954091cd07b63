"""How much a spec may ask for. A hostile one meets a located diagnostic, never a hang or a crash."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from moedsl.collector import paused

MAX_LAYERS = 10_000  # stages of one flow, after every count is multiplied out
MAX_COPIES = 1 << 20  # recipes side by side in one bank
MAX_NUMBER = float(1 << 53)  # beyond this, whole numbers stop being exact everywhere downstream
MAX_DEPTH = 150  # names within names within names
MAX_TERM = 200_000  # nodes of one term, written out as a tree
MAX_NAME = 100  # characters of a declared name
MAX_ERRORS = 200
MAX_FILES = 64
MAX_IMPORTED = 1_000_000  # characters of all imported texts
BASE_FUEL = 115_000
FUEL_PER_CHARACTER = 2
_FRAMES = 30 * MAX_DEPTH


class Stopped(Exception):
    """Raised after the diagnostic was made: nothing more can be said about this spec."""


class Fuel:
    """Steps that are left, and how deep evaluation stands. Grows with the text, so that long specs are not bombs."""

    def __init__(self, characters: int) -> None:
        self.left = BASE_FUEL + FUEL_PER_CHARACTER * characters
        self.depth = 0


@contextmanager
def undisturbed() -> Iterator[None]:
    """Python's own limit would strike before MAX_DEPTH does, and its collector walks a growing tree over and over."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, _FRAMES))
    try:
        with paused():
            yield
    finally:
        sys.setrecursionlimit(before)
