"""The `moedsl` command: parses arguments, calls the core, prints. Whatever is slow to import is imported when needed."""

from __future__ import annotations

import click

from moedsl import __version__
from moedsl.cli.check import check
from moedsl.cli.compile import compile
from moedsl.cli.emit import emit
from moedsl.cli.explain import explain
from moedsl.cli.info import info
from moedsl.cli.kinds import kinds
from moedsl.cli.trial import trial


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="moedsl")
def app() -> None:
    """A declarative language and a compiler for mixture-of-experts models.

    Exit codes: 0 clean, 1 findings, 2 wrong usage.
    """


for command in (check, compile, info, explain, kinds, emit, trial):
    app.add_command(command)
