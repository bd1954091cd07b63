"""`moedsl compile`: print the package of a spec into a folder."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import click

from moedsl.cli import options


@click.command(short_help="Print the PyTorch package of a spec into a folder.")
@options.choosing(options.spec)
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Its folder goes in here.",
)
@options.choosing(options.settings, options.target, options.root, options.format)
@click.option(
    "--check",
    "only_check",
    is_flag=True,
    help="Write nothing; show what would change, and exit 1 if anything.",
)
@click.option(
    "--watch", is_flag=True, help="Do it again whenever the spec or one of its imports changes."
)
def compile(
    spec: Path,
    output: Path,
    settings: tuple[str, ...],
    target: str,
    root: Path | None,
    format: str,
    only_check: bool,
    watch: bool,
) -> None:
    """Compile SPEC to a standalone package in a folder of OUTPUT, named after the model.

    Only files that changed are written, each whole; files that moedsl did not write are never touched.
    """
    if watch and only_check:
        raise click.UsageError("--watch writes and --check does not: take one of them")
    job = Job(spec, output, settings, target, root, format, only_check)
    if watch:
        from moedsl.cli.watching import watch_files

        watch_files(job.watched, job.run)
    else:
        sys.exit(job.run())


@dataclass(frozen=True)
class Job:
    """One spec to one folder, as often as asked."""

    spec: Path
    output: Path
    settings: tuple[str, ...]
    target: str
    root: Path | None
    format: str
    only_check: bool

    def watched(self) -> list[Path]:
        """The files whose change asks for another run."""
        from moedsl.cli.reading import Unreadable, read_source

        folder = self.root or self.spec.parent
        try:
            return [folder / name for name in read_source(self.spec, self.root).files]
        except Unreadable:
            return [self.spec]

    def run(self) -> int:
        """Compile and write; the exit code."""
        from moedsl import pipeline
        from moedsl.cli.reading import Unreadable, read_source
        from moedsl.cli.reporting import Report
        from moedsl.cli.template_cache import template_cache

        try:
            source = read_source(self.spec, self.root)
        except Unreadable as error:  # while being watched a file may be gone for a moment
            click.echo(f"error: {error}", err=True)
            return 1
        result = pipeline.compile(source, self.settings, self.target, template_cache())
        report = Report(self.format)
        report.add(source, result, self.root or self.spec.parent, self.settings)
        report.show()
        if not result.ok:
            return 1
        return self._put(package_files(result))

    def _put(self, files: dict[str, str]) -> int:
        from moedsl.cli.writing import Foreign, difference, plan_changes, write

        try:
            changes = plan_changes(files, self.output)
        except Foreign as error:
            for path in error.paths:
                click.echo(
                    f"error: {path} was not written by moedsl, and stays; nothing was written",
                    err=True,
                )
            return 1
        if self.only_check:
            click.echo(difference(changes), nl=False)
            return int(bool(changes))
        write(changes)
        if self.format == "text":
            count = len(changes.new) + len(changes.changed)
            removed = f", {len(changes.stale)} removed" if changes.stale else ""
            click.echo(
                f"{self.output / next(iter(files)).split('/')[0]}: {count} of {len(files)} files written{removed}"
            )
        return 0


def package_files(result: object) -> dict[str, str]:
    """The printed files under a folder with the package's name."""
    files: dict[str, str] = result.files  # type: ignore[attr-defined]
    name = result.model.name  # type: ignore[attr-defined]
    return {
        path if path.startswith(f"{name}/") else f"{name}/{path}": text
        for path, text in files.items()
    }
