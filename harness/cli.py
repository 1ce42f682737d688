"""The `harness` command: parse, call one library function, write. Exit 0 holds, 1 it does not, 2 usage."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from harness.errors import HarnessError, MissingError, UsageError
from harness.types import Progress

__all__ = ["main"]

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]}, help=__doc__)
store_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look into the feature store.")
app.add_typer(store_app, name="store")

StoreOption = Annotated[Path | None, typer.Option("--store", help="the store's folder (default: .harness/store)")]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]


@app.command()
def doctor(json: JsonOption = False) -> None:
    """What this machine can run, and the command that provides each missing part."""
    from harness.doctor import examine

    rows = examine()
    _show(["part", "state", "detail", "next command"], [[row.part, row.state, row.detail, row.next or ""] for row in rows], json)


@app.command()
def findings(
    name: Annotated[str | None, typer.Argument(help="one finding in full")] = None,
    points: Annotated[str | None, typer.Option("--points", metavar="MODEL:SCALE", help="list the extraction points of a subject")] = None,
    json: JsonOption = False,
) -> None:
    """The documented findings, one in full, or the extraction points of a subject."""
    from harness import findings as library

    if points is not None:
        from harness import subjects
        from harness.types import Runtime

        adapter = subjects.load(subjects.resolve(points), Runtime())
        rows = [[str(point), clause.module, clause.side, str(clause.width), clause.norm, str(clause.hidden_states_index)] for point, clause in adapter.clauses.items()]
        _show(["point", "module", "side", "width", "norm", "hidden_states"], rows, json)
        return
    listed = {finding.id: finding for document in library.load() for finding in document.finding}
    if name is None:
        _show(["finding", "status", "expected", "claim"], [[f.id, f.status, library.expectation(f), f.claim] for f in listed.values()], json)
        return
    if name not in listed:
        from harness.errors import UnknownNameError

        raise UnknownNameError("finding", name, listed, next="harness findings lists them")
    finding = listed[name]
    cases = ", ".join(case.id.removeprefix(f"{name}-") for case in library.cases([finding]))
    rows = [[key, str(value)] for key, value in finding.model_dump().items() if value not in (None, [], {}, "")] + [["cases", cases]]
    _show(["field", "value"], rows, json)


@app.command()
def faults(json: JsonOption = False) -> None:
    """The mistakes that can be injected, with the findings that catch each."""
    from harness import faults as library
    from harness import findings as known

    caught_by = {name: [f.id for document in known.load() for f in document.finding if name in f.broken_by] for name in library.summaries()}
    rows = [[name, summary, ", ".join(caught_by[name])] for name, summary in library.summaries().items()]
    _show(["fault", "mistake", "caught by"], rows, json)


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

    runtime = Runtime(device, _choice("dtype", dtype, ("float32", "bfloat16", "float16")), _choice("attention", attention, ("eager", "sdpa")))
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
    _show(["point", "shape", "key"], [[str(point), str(features.values.shape), features.key] for point, features in found.items()], False)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="a folder with report.json")] = Path("reports/latest"),
) -> None:
    """Render index.html and report.md again from a run's report.json."""
    from harness.report.files import read, write

    found = read(folder / "report.json")
    write(found, folder)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in found["counts"].items())
    typer.echo(f"{counts}: {folder / 'index.html'}")
    if found["counts"].get("drifted"):
        raise typer.Exit(1)


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

    with _progress() as report:
        options = {"family": family, "digest": digest, "memory": subjects.home() / "digests.json", "progress": report}
        first, second = (path and inspection.inspect(path, **options) for path in (checkpoint, other))
    difference = inspection.compare(first, second) if second else None
    found = {"checkpoint": first, "other": second, "difference": difference}
    if json:
        _print_json({name: inspection.as_json(part) for name, part in found.items()})
    for title, header, rows in [] if json else (table for part in found.values() if part for table in inspection.tables(part)):
        typer.echo(f"\n{title}")
        _show(header, rows, False)
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

    _choice("layout", to, ("openpi", "lerobot_pi0", "pi0"))
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

    with _progress() as report:
        typer.echo(run(repo, revision=revision, to=to, include=include or (), progress=report))


@store_app.command("list")
def store_list(store: StoreOption = None, json: JsonOption = False) -> None:
    """Every feature set in the store, oldest first."""
    rows = [[e["key"][:12], e["parts"]["subject"], e["parts"]["point"], e["parts"]["pooling"], "x".join(map(str, e["shape"])), e["parts"]["fault"] or ""] for e in _store(store).entries()]
    _show(["key", "subject", "point", "pooling", "shape", "fault"], rows, json)


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


def main() -> None:
    """Entry point: a HarnessError is a message and exit code 2, never a traceback."""
    try:
        app()
    except HarnessError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


def _store(root: Path | None):  # noqa: ANN202 - the type would import numpy at start
    from harness import subjects
    from harness.store import Store

    opened = Store(root or subjects.home() / "store")
    if not opened.root.is_dir():
        raise MissingError("there is no store here", where=opened.root, next="make checks, or harness extract, fills one")
    return opened


def _choice(option: str, value: str, known: tuple[str, ...]) -> str:
    from harness.errors import UnknownNameError

    if value not in known:
        raise UnknownNameError(option, value, known)
    return value


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on the error stream that appears with the first report."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    bar = Bar(console=Console(stderr=True), transient=True)

    def report(done: int, total: int, label: str) -> None:
        if not bar.tasks:
            bar.add_task("")
            bar.start()
        bar.update(bar.task_ids[0], description=label, completed=done, total=total)

    try:
        yield report
    finally:
        if bar.tasks:
            bar.stop()


def _print_json(value: object) -> None:
    import json

    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))


def _show(header: Sequence[str], rows: Sequence[Sequence[str]], as_json: bool) -> None:
    if as_json:
        _print_json([dict(zip(header, row, strict=True)) for row in rows])
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*header, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*map(Text, row))  # not markup: an extra such as .[ray] is no style
    Console(width=None if sys.stdout.isatty() else 240).print(table)
