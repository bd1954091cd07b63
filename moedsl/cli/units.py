"""Numbers as people read them."""

from __future__ import annotations


def count_text(count: float) -> str:
    """46_702_792_704 -> `46.7 B`; three digits, exact below a thousand; `-` for nothing."""
    if not count:
        return "-"
    return _scaled(count, 1000, ("", " K", " M", " B", " T", " P"))


def bytes_text(count: float) -> str:
    """In powers of 1024: `87.0 GiB`."""
    if not count:
        return "-"
    return _scaled(count, 1024, (" B", " KiB", " MiB", " GiB", " TiB", " PiB"))


def _scaled(count: float, base: int, units: tuple[str, ...]) -> str:
    power = 0
    while abs(count) >= base * 0.9995 and power < len(units) - 1:
        count /= base
        power += 1
    digits = 0 if power == 0 or count >= 100 else 1 if count >= 10 else 2
    return f"{count:.{digits}f}{units[power]}"
