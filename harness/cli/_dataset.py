"""Commands about datasets: what one holds, and which samples of it to take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli._app import JsonOption, app, print_json, progress_bar, show
from harness.errors import UsageError

__all__ = ["plan", "stats"]

dataset_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look into a dataset and choose samples of it.")
app.add_typer(dataset_app, name="dataset")
SourceArgument = Annotated[str, typer.Argument(help="a dataset card, a path, or a name or address that a format knows")]
ReaderOption = Annotated[str | None, typer.Option(help="the format, where a path does not tell")]
_OPTION = "an option of the reader, such as split=train[:10%]; the value is JSON or text; repeatable"
OptionOption = Annotated[list[str] | None, typer.Option("--option", metavar="KEY=VALUE", help=_OPTION)]


@dataset_app.command()
def stats(
    source: SourceArgument,
    reader: ReaderOption = None,
    option: OptionOption = None,
    output: Annotated[Path | None, typer.Option(help="folder for stats.json and index.html")] = None,
    decode: Annotated[int, typer.Option(min=0, help="decode this many pictures, spread over the data")] = 0,
    json: JsonOption = False,
) -> None:
    """Counts by task and length, instructions, keys, ranges of actions; exit 1 when a record is broken or an id repeats."""
    from harness import readers, sampling
    from harness.report import style

    opened = readers.stream(source, reader=reader, options=_options(option or ()))
    with progress_bar() as report:
        found = sampling.stats(opened, decode=decode, progress=report)
    if output:
        _write(output, {"stats.json": _text(sampling.as_json(found)), "index.html": sampling.page(found, style())})
    if json:
        print_json(sampling.as_json(found))
    else:
        _show(sampling.tables(found))
    if output and not json:
        typer.echo(f"\n{output / 'index.html'}")
    if not found.holds:
        raise typer.Exit(1)


@dataset_app.command()
def plan(
    source: SourceArgument,
    output: Annotated[Path, typer.Option(help="the file to write, which harness extract --plan follows")],
    n: Annotated[int, typer.Option("--n", min=1, help="how many samples")] = 500,
    by: Annotated[str, typer.Option(help="fields to balance over, such as task,difficulty,pattern; an empty text for none")] = "task",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    per_episode: Annotated[int | None, typer.Option("--per-episode", "--per_episode", min=1, help="at most this many of an episode in a stratum")] = None,
    skip_blank: Annotated[bool, typer.Option("--skip-blank", "--skip_blank", help="choose no sample without an instruction")] = False,
    reader: ReaderOption = None,
    option: OptionOption = None,
    json: JsonOption = False,
) -> None:
    """Choose samples: balanced over strata, spread over episodes and steps, the same for the same seed; says what that many are worth."""
    from harness import readers, sampling

    opened = readers.stream(source, selection=readers.Selection(skip_blank=skip_blank), reader=reader, options=_options(option or ()))
    fields = [name.strip() for name in by.split(",") if name.strip()]
    with progress_bar() as report:
        found = sampling.plan(opened, n, fields, seed, per_episode=per_episode, progress=report)
    _write(output.parent, {output.name: _text(sampling.as_json(found))})
    if json:
        print_json(sampling.as_json(found))
        return
    _show(sampling.tables(found))
    for line in ("", *found.justification, "", str(output)):
        typer.echo(line)


def _options(pairs: Sequence[str]) -> dict[str, Any]:
    """The reader's options: a value that is JSON (a number, true, {"primary": "image"}) is that, any other is text."""
    import json

    found: dict[str, Any] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise UsageError("this is no option of a reader", got=pair, expected="--option KEY=VALUE")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def _text(value: object) -> str:
    import json

    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    """Each file whole or not at all. Raises UsageError where nothing can be written."""
    from harness.storage import storage

    try:
        for name, text in texts.items():
            storage(folder).write(name, text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise UsageError("the result cannot be written", where=folder, got=error, next="--output ELSEWHERE") from error


def _show(tables: Sequence[Any]) -> None:
    for title, header, rows in tables:
        typer.echo(f"\n{title}")
        show(header, rows, False)
