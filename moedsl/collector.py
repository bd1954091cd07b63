"""Python's cyclic collector, out of the way of trees that only grow."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """Walking a growing tree over and over takes as long as making it; longer in a process that holds much else.

    What was made meanwhile counts as old from then on (what freezing and thawing leaves behind): as young things all of
    it would be walked once more, by the very next collection."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            if not gc.get_freeze_count():
                gc.freeze()
                gc.unfreeze()
            gc.enable()
