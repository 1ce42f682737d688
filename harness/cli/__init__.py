"""The `harness` command: parse, call one library function, write. Exit 0 holds, 1 it does not, 2 usage."""

from __future__ import annotations

import sys

import typer

from harness.cli import _findings, _extract, _dataset, _features, _rollout, _align, _compare, _checkpoints, _noise  # noqa: F401, I001 - each adds its commands, in the order of the help
from harness.cli._app import app
from harness.errors import HarnessError

__all__ = ["main"]


def main() -> None:
    """Entry point: a HarnessError is a message and exit code 2, never a traceback."""
    try:
        app()
    except HarnessError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
