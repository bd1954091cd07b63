"""`python -m moedsl` and the `moedsl` command."""

from __future__ import annotations


def main() -> None:
    from moedsl.cli.app import app

    app(prog_name="moedsl")


if __name__ == "__main__":
    main()
