"""`moedsl explain`: the page of a diagnostic's code."""

from __future__ import annotations

import click


@click.command(short_help="Explain a diagnostic's code.")
@click.argument("code")
def explain(code: str) -> None:
    """Explain a diagnostic's CODE, with an example and its mend."""
    from moedsl.diagnostics.explain import page, pages

    text = page(code.upper())
    if text is None:
        raise click.UsageError(f"there is no code {code}; known: {', '.join(pages())}")
    from moedsl.cli.tables import print_markdown

    print_markdown(text)
