"""Commands about features: taking them, and looking into the store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli._app import JsonOption, app, choice, show
from harness.errors import MissingError

__all__ = ["explain", "extract", "store_list", "verify"]

store_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look into the feature store.")
app.add_typer(store_app, name="store")
StoreOption = Annotated[Path | None, typer.Option("--store", help="the store's folder (default: .harness/store)")]


@app.command()
def extract(
    subject: Annotated[str, typer.Argument(metavar="MODEL:SCALE", help="such as smollm2:real")],
    dataset: Annotated[str, typer.Option(help="name of a dataset card")],
    points: Annotated[list[str], typer.Option("--point", help="extraction point such as lm.05.output; repeatable")],
    pooling: Annotated[str, typer.Option(help="mean, last, first, or one of them over spans: mean:image.0")] = "mean",
    checkpoint: Annotated[Path | None, typer.Option(help="checkpoint directory for MODEL:checkpoint")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16")] = "float32",
    attention: Annotated[str, typer.Option(help="eager or sdpa")] = "eager",
    batch_size: Annotated[int, typer.Option("--batch-size", "--batch_size", min=1)] = 16,
    store: StoreOption = None,
) -> None:
    """Take features of a dataset from a model into the store; what it already holds is not computed again."""
    from functools import cache

    from rich.progress import Progress

    from harness import readers, subjects
    from harness.extract import extract as run
    from harness.store import Store
    from harness.types import Point, Runtime

    runtime = Runtime(device, choice("dtype", dtype, ("float32", "bfloat16", "float16")), choice("attention", attention, ("eager", "sdpa")))
    resolved = subjects.resolve(subject, checkpoint=checkpoint)
    adapter = cache(lambda: subjects.load(resolved, runtime))
    wanted = [Point.parse(point) for point in points]
    rows = readers.read(dataset)
    with Progress() as bar:
        task = bar.add_task(subject, total=len(rows.samples))
        found = run(
            resolved,
            adapter,
            rows,
            [adapter().resolve(point) if (point.layer or 0) < 0 else point for point in wanted],
            store=Store(store or subjects.home() / "store"),
            runtime=runtime,
            pooling=pooling,
            batch_size=batch_size,
            progress=lambda done, total, label: bar.update(task, completed=done),
        )
        bar.update(task, completed=len(rows.samples))
    show(["point", "shape", "key"], [[str(point), str(features.values.shape), features.key] for point, features in found.items()], False)


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
