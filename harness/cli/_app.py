"""The command's application, the options that several commands have, and how they print."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer
from typer.core import TyperCommand

from harness.errors import UnknownNameError
from harness.types import Progress

__all__ = ["HELP", "JsonOption", "app", "choice", "listed", "print_json", "progress_bar", "show", "throughput"]

LINES = 30  # seconds
HELP = "The `harness` command: parse, call one library function, write. Exit 0 holds, 1 it does not, 2 usage."
app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]}, help=HELP)
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]


def listed(*options: str) -> type[TyperCommand]:
    """A command whose `options` take several words, as in `--streams input output`: they become one, joined by commas."""

    class Listed(TyperCommand):
        def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
            joined: list[str] = []
            for word in args:
                taking = len(joined) > 1 and joined[-2] in options
                if taking and not word.startswith("--"):
                    joined[-1] += f",{word}"
                else:
                    joined.append(word)
            return super().parse_args(ctx, joined)

    return Listed


def choice(option: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise UnknownNameError(option, value, known)
    return value


@contextmanager
def progress_bar() -> Iterator[Progress]:
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


@contextmanager
def throughput(label: str, shards: int) -> Iterator[tuple[Callable[[int], None], Callable[[], None]]]:
    """Two functions, for samples that are through and for a shard that is done: a bar with samples a second and the time left,
    or, where nobody watches, a line every LINES seconds.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console, started = Console(stderr=True), time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f} of {task.total} shards, {task.fields[rate]}"), TimeRemainingColumn())
    told = [started]
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=shards, rate="")

        def through(samples: int) -> None:
            now = time.monotonic()
            rate = f"{samples / max(1e-9, now - started):.1f} samples a second"
            bar.update(task, rate=rate)
            if not console.is_terminal and now - told[0] > LINES:
                told[0], done = now, bar.tasks[0].completed
                left = f", about {(now - started) * (shards - done) / done / 60:.0f} minutes left" if done else ""
                console.print(f"{label}: {done:.0f} of {shards} shards, {rate}{left}")

        yield through, lambda: bar.advance(task)


def print_json(value: object) -> None:
    import json

    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))


def show(header: Sequence[str], rows: Sequence[Sequence[str]], as_json: bool) -> None:
    if as_json:
        print_json([dict(zip(header, row, strict=True)) for row in rows])
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*header, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*map(Text, row))  # not markup: an extra such as .[ray] is no style
    Console(width=None if sys.stdout.isatty() else 240).print(table)
