"""Commands that look into the store of features."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli._app import JsonOption, app, show
from harness.errors import MissingError

__all__ = ["explain", "store_list", "verify"]

store_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look into the feature store.")
app.add_typer(store_app, name="store")
StoreOption = Annotated[Path | None, typer.Option("--store", help="the store's folder (default: .harness/store)")]


@store_app.command("list")
def store_list(store: StoreOption = None, json: JsonOption = False) -> None:
    """Every feature set in the store, oldest first."""
    rows = [[e["key"][:12], e["parts"]["subject"], e["parts"]["point"], e["parts"]["pooling"], "x".join(map(str, e["shape"])), e["parts"]["fault"] or ""] for e in _store(store).entries()]
    show(["key", "subject", "point", "pooling", "shape", "fault"], rows, json)


@store_app.command()
def explain(key: Annotated[str, typer.Argument(help="a key or its first digits")], store: StoreOption = None) -> None:
    """Why an entry was computed: which part of its key differs from the nearest older one, or what was damaged."""
    typer.echo(_store(store).explain(key))


@store_app.command()
def verify(store: StoreOption = None) -> None:
    """Read every entry and say what is wrong with the damaged ones; exit 1 if there are any."""
    opened = _store(store)
    wrong = opened.verify()
    for error in wrong:
        typer.echo(str(error))
    typer.echo(f"{len(wrong)} damaged entries in {opened.root}")
    if wrong:
        raise typer.Exit(1)


def _store(root: Path | None):  # noqa: ANN202 - the type would import numpy at start
    from harness import subjects
    from harness.store import Store

    opened = Store(root or subjects.home() / "store")
    if not opened.root.is_dir():
        raise MissingError("there is no store here", where=opened.root, next="make checks, or harness extract, fills one")
    return opened
