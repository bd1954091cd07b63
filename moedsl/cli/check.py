"""`moedsl check`: everything that can be known of a spec without printing it."""

from __future__ import annotations

from pathlib import Path

import click

from moedsl.cli import options


@click.command(short_help="Check specs and report what is wrong with them.")
@options.choosing(options.specs, options.settings, options.target, options.root, options.format)
def check(
    specs: tuple[Path, ...], settings: tuple[str, ...], target: str, root: Path | None, format: str
) -> None:
    """Check each SPEC and report what is wrong with it."""
    from moedsl import pipeline
    from moedsl.cli.reporting import Report, read

    report = Report(format)
    for path in specs:
        source = read(path, root)
        report.add(source, pipeline.check(source, settings, target), root or path.parent, settings)
    report.close()
