"""`moedsl info`: what a model weighs and costs, from its graph."""

from __future__ import annotations

from pathlib import Path

import click

from moedsl.cli import options


@click.command(short_help="Show the layer table: experts, parameters, FLOPs, bytes.")
@options.choosing(options.spec, options.settings, options.target, options.root)
@click.option(
    "--tokens",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Context that attention runs over.",
)
@click.option(
    "--stream",
    "streams",
    multiple=True,
    metavar="NAME=TOKENS",
    help="Length of another input's stream, as in --stream source=512. [default: as --tokens]",
)
@click.option("--json", "as_json", is_flag=True, help="The same as one JSON object.")
def info(
    spec: Path,
    settings: tuple[str, ...],
    target: str,
    root: Path | None,
    tokens: int,
    streams: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show what SPEC is made of, per layer and in total."""
    from moedsl import pipeline
    from moedsl.checks.causality import causality
    from moedsl.cli.reporting import require
    from moedsl.ir.info import info_table
    from moedsl.ir.routers import routers
    from moedsl.rewrites import rewrite

    result = require(pipeline.check, spec, root, settings, target)
    table = info_table(result.graph, tokens, _lengths(streams))
    if unknown := set(_lengths(streams)) - {name for name, _ in table.lengths}:
        known = ", ".join(name for name, _ in table.lengths) or "none"
        raise click.BadParameter(f"no stream `{unknown.pop()}` beside the main one: {known}")
    notes = routers(rewrite(result.graph), tokens)
    verdict = str(causality(result.graph))
    if as_json:
        import json

        more = {"routers": [note.json() for note in notes], "causality": verdict}
        click.echo(json.dumps(table.json() | more, indent=2))
        return
    from moedsl.cli.tables import print_info

    print_info(table, notes, verdict)


def _lengths(streams: tuple[str, ...]) -> dict[str, int]:
    found: dict[str, int] = {}
    for text in streams:
        name, _, number = text.partition("=")
        if not number.isdigit() or int(number) < 1:
            raise click.BadParameter(f"`{text}` is not a name and a number: --stream source=512")
        found[name] = int(number)
    return found
