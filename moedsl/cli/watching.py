"""Runs a job whenever one of its files changes, by looking at their times: no dependency, same on every system."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import click

PERIOD = 0.3  # seconds


def watch_files(files: Callable[[], Iterable[Path]], job: Callable[[], object]) -> None:
    """Run `job` now and after each change, until interrupted. `files` is asked again every time: imports come and go."""
    seen = None
    try:
        while True:
            now = stamps(files())
            if now != seen:
                if seen is not None:
                    click.echo(f"--- {time.strftime('%H:%M:%S')} changed", err=True)
                seen = now
                job()
            time.sleep(PERIOD)
    except KeyboardInterrupt:
        click.echo("stopped", err=True)


def stamps(files: Iterable[Path]) -> dict[Path, tuple[int, int]]:
    found = {}
    for file in files:
        try:
            status = file.stat()
            found[file] = (status.st_mtime_ns, status.st_size)
        except OSError:
            found[file] = (0, 0)  # being replaced by an editor
    return found
