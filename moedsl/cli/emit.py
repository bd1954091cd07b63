"""`moedsl emit`: what the compiler knows after each stage, as text that stays the same from run to run."""

from __future__ import annotations

from pathlib import Path

import click

from moedsl.cli import options

STAGES = ("ast", "model", "graph", "plan")
FORMS = ("text", "dot", "mermaid", "svg")


@click.command(short_help="Show what the compiler knows after a stage.")
@options.choosing(options.spec)
@click.option("--stage", type=click.Choice(STAGES), default="graph", show_default=True)
@click.option(
    "--as",
    "form",
    type=click.Choice(FORMS),
    default="text",
    show_default=True,
    help="Drawings are of the graph.",
)
@options.choosing(options.settings, options.target, options.root)
def emit(
    spec: Path, stage: str, form: str, settings: tuple[str, ...], target: str, root: Path | None
) -> None:
    """Show what the compiler knows of SPEC after a stage: what was written (ast), what it means (model), what is
    computed (graph), what will be printed (plan)."""
    if form != "text" and stage != "graph":
        raise click.UsageError(f"--as {form} draws the graph; --stage {stage} is text")
    from moedsl import pipeline
    from moedsl.cli.dumps import dump
    from moedsl.cli.reporting import require

    run = pipeline.compile if stage == "plan" else pipeline.check
    text = dump(require(run, spec, root, settings, target), stage, form)
    click.echo(text, nl=not text.endswith("\n"))
