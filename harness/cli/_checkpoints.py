"""Commands about checkpoints: what they hold, another layout of them, fetching one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli._app import JsonOption, app, choice, print_json, progress_bar, show
from harness.errors import UsageError

__all__ = ["convert", "download", "inspect"]


@app.command()
def inspect(
    checkpoint: Annotated[Path, typer.Argument(help="a checkpoint directory, or a folder of the hub's cache")],
    other: Annotated[Path | None, typer.Argument(help="a second one to compare with")] = None,
    family: Annotated[str | None, typer.Option(help="compare with this family instead of the one that recognises config.json")] = None,
    digest: Annotated[bool, typer.Option("--digest", help="read all bytes: content digest, and sha256 against the published ones")] = False,
    json: JsonOption = False,
) -> None:
    """What a checkpoint holds, by its headers alone; exit 1 when its keys do not fit its family or differ from OTHER's."""
    from harness import inspection, subjects

    with progress_bar() as report:
        options = {"family": family, "digest": digest, "memory": subjects.home() / "digests.json", "progress": report}
        first, second = (path and inspection.inspect(path, **options) for path in (checkpoint, other))
    difference = inspection.compare(first, second) if second else None
    found = {"checkpoint": first, "other": second, "difference": difference}
    if json:
        print_json({name: inspection.as_json(part) for name, part in found.items()})
    for title, header, rows in [] if json else (table for part in found.values() if part for table in inspection.tables(part)):
        typer.echo(f"\n{title}")
        show(header, rows, False)
    if not all(part.holds for part in found.values() if part):
        raise typer.Exit(1)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="a checkpoint folder")],
    destination: Annotated[Path, typer.Argument(help="the folder to make")],
    to: Annotated[str, typer.Option(help="openpi, lerobot_pi0 or pi0 (transformers)")],
    layout: Annotated[str | None, typer.Option("--from", help="layout of SOURCE (default: told by its files)")] = None,
    old_names: Annotated[bool, typer.Option("--old-names", "--old_names", help="lerobot's names and statistics of before October 2025")] = False,
    size: Annotated[list[str] | None, typer.Option(metavar="NAME=NUMBER", help="a size that no file tells, such as vision_heads=16; repeatable")] = None,
    asset: Annotated[str | None, typer.Option(help="whose statistics, where an openpi checkpoint has several")] = None,
) -> None:
    """Rewrite a π0 in another framework's layout, number for number; what that layout has no place for is kept beside it."""
    from harness import registry

    choice("layout", to, ("openpi", "lerobot_pi0", "pi0"))
    pairs = [entry.partition("=") for entry in size or ()]
    if wrong := [name for name, _, number in pairs if not number.isdecimal()]:
        raise UsageError("a size is not a number", got=", ".join(wrong), expected="--size NAME=NUMBER")
    options = {"layout": layout, "sizes": {name: int(number) for name, _, number in pairs}, "asset": asset}
    if old_names and to != "lerobot_pi0":
        raise UsageError("only lerobot has old names", got=f"--to {to}", expected="--to lerobot_pi0")
    registry.load("converters", to)(source, destination, **options, **({"old_names": True} if old_names else {}))
    typer.echo(destination)


@app.command()
def download(
    repo: Annotated[str, typer.Argument(help="ORGANISATION/NAME on the hub, or the name of a model card")],
    revision: Annotated[str | None, typer.Option(help="branch, tag or commit")] = None,
    to: Annotated[Path | None, typer.Option(help="folder to make (default: the hub's own cache)")] = None,
    include: Annotated[list[str] | None, typer.Option(help="pattern of files to fetch, such as *.json; repeatable (default: all)")] = None,
) -> None:
    """Fetch a published checkpoint and verify it; goes on where an earlier download stopped."""
    from harness.download import download as run

    with progress_bar() as report:
        typer.echo(run(repo, revision=revision, to=to, include=include or (), progress=report))
