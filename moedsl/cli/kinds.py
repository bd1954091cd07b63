"""`moedsl kinds`: the reference, read from the constructs' own declarations."""

from __future__ import annotations

import click


@click.command(short_help="List the constructs, or show one with its settings.")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def kinds(name: str | None, as_json: bool) -> None:
    """List every construct by kind, or show the one called NAME (or all of a kind of that name)."""
    from moedsl.cli.reference import entries

    found = entries()
    if name is not None:
        chosen = [entry for entry in found if name in (entry.name, entry.kind)]
        if not chosen:
            raise click.UsageError(
                f"there is no construct or kind {name}{_meant(name, [e.name for e in found])}"
            )
        found = chosen
    if as_json:
        import json
        from dataclasses import asdict

        click.echo(json.dumps([asdict(entry) for entry in found], indent=2))
        return
    from moedsl.cli.tables import print_construct, print_constructs

    if len(found) == 1:
        print_construct(found[0])
    else:
        print_constructs(found)


def _meant(name: str, names: list[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, names, 1)
    return f"; did you mean {close[0]}?" if close else ""
