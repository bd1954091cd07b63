"""Arguments that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import click

FORMATS = ("text", "json", "github", "sarif")

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)

spec = click.argument("spec", type=_FILE)
specs = click.argument("specs", type=_FILE, nargs=-1, required=True, metavar="SPEC...")

settings = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="PATH=EXPRESSION",
    callback=lambda _context, _option, given: tuple(map(_setting, given)),
    help='Change a setting, as in --set depth=2 or --set "sparse.experts=4 * swiglu(96)".',
)
root = click.option(
    "--root", type=_FOLDER, help="Imports may reach this folder. [default: the spec's own]"
)
target = click.option(
    "--model", "target", default="", help="The model to take. [default: the last of the file]"
)
format = click.option(
    "--format",
    type=click.Choice(FORMATS),
    default="text",
    show_default=True,
    help="How findings are written; github and sarif are for annotations in a code review.",
)


def choosing(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several decorators as one, top to bottom."""
    return lambda function: reduce(lambda f, option: option(f), reversed(options), function)


def _setting(text: str) -> str:
    path, equal, value = text.partition("=")
    if not equal or not path.strip() or not value.strip():
        raise click.BadParameter(f"{text!r} is not of the form PATH=EXPRESSION", param_hint="--set")
    return text
